//! Free frames: a buddy allocator whose lists run through the frame table.
//!
//! The idea to hold: a free block of `2^order` frames is aligned to its size, its first frame says the order,
//! and its buddy is the block whose number differs in that one bit. Freeing merges a block with its buddy for as
//! long as that is free as a whole; allocating splits the smallest block that will do.
//!
//! A frame is zeroed before a domain gets it: no frame reaches a domain by another way than [`allocate_for_domain`],
//! [`crate::frame::share_new`] and an exchange, so nobody ever sees what it held before. The hypervisor's own frames
//! are not zeroed; no domain sees those. So that a new domain need not wait for that, CPUs with nothing to do zero free
//! frames in advance ([`scrub_some`]), as many as the next domain may need. Each frame's own state says whether it is
//! clean; a block is *swept* when all of it is known to be.
//!
//! Memory below 4 GiB is a zone of its own, used last, so that devices which can address no more find some.

use crate::lock::Mutex;
use crate::{
    direct_map,
    domain::Domain,
    frame::{FrameInfo, FrameList, FrameState, info},
    machine::machine,
};
use core::{
    ops::Range,
    sync::atomic::{AtomicU64, Ordering},
};
use hypercall_abi::{Errno, MachineFrame};

/// Largest block, as a power of two: 4 MiB.
pub const MAX_ORDER: u32 = 10;
const ORDERS: usize = MAX_ORDER as usize + 1;

/// First frame at or above 4 GiB.
const HIGH_ZONE_START: u64 = 1 << 20;

/// Where an allocation may lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// Anywhere.
    Any,
    /// Below 4 GiB.
    Below4G,
}

/// Frames that are zeroed in advance: 64 MiB.
const CLEAN_GOAL: u64 = 1 << 14;
/// Frames that are zeroed at a time, which takes a microsecond or two.
const SCRUB_STEP: usize = 8;

/// What frames are wanted for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    /// Zeroed.
    Domain,
    /// As they are.
    Hypervisor,
}

/// Free blocks of one zone, by order.
struct Zone {
    /// Blocks that may have frames which are not clean.
    unswept: [FrameList; ORDERS],
    swept: [FrameList; ORDERS],
}

impl Zone {
    const fn new() -> Self {
        Self { unswept: [const { FrameList::new() }; ORDERS], swept: [const { FrameList::new() }; ORDERS] }
    }

    fn list(&mut self, order: u32, is_swept: bool) -> &mut FrameList {
        let lists = if is_swept { &mut self.swept } else { &mut self.unswept };
        &mut lists[order as usize]
    }

    /// The order of the smallest block that will do, among those that are swept or those that are not.
    fn find(&self, order: u32, is_swept: bool) -> Option<u32> {
        let lists = if is_swept { &self.swept } else { &self.unswept };
        (order..=MAX_ORDER).find(|order| lists[*order as usize].first().is_some())
    }

    /// Takes a block of `order`, splitting a larger one if need be: for domains one that is swept, if there is any, and
    /// for the hypervisor one that is not.
    fn take(&mut self, order: u32, for_whom: Use) -> Option<MachineFrame> {
        let best = for_whom == Use::Domain;
        let (found, is_swept) =
            [best, !best].into_iter().find_map(|is_swept| Some((self.find(order, is_swept)?, is_swept)))?;
        let frame = self.list(found, is_swept).pop()?;
        let info = info(frame)?;
        // From here on it is no block that a buddy could merge with.
        info.set_state(info.state().as_free_inside());
        for half in (order..found).rev() {
            self.insert(MachineFrame(frame.0 + (1 << half)), half, is_swept);
        }
        Some(frame)
    }

    fn insert(&mut self, frame: MachineFrame, order: u32, is_swept: bool) {
        if let Some(info) = info(frame) {
            info.set_state(info.state().as_free_head(order, is_swept));
            self.list(order, is_swept).push(frame);
        }
    }

    /// Puts a block back that is not swept, merged with its buddies.
    fn give(&mut self, mut frame: MachineFrame, mut order: u32) {
        while order < MAX_ORDER {
            let buddy = MachineFrame(frame.0 ^ (1 << order));
            let Some(buddy_info) = info(buddy) else { break };
            let state = buddy_info.state();
            if state.free_order() != Some(order) {
                break;
            }
            self.list(order, state.is_swept()).remove(buddy);
            buddy_info.set_state(state.as_free_inside());
            frame = MachineFrame(frame.0 & !(1 << order));
            order += 1;
        }
        self.insert(frame, order, false);
    }

    /// Zeroes some frames of a block that is not swept, of the smallest first: those are given out next. Says how many;
    /// `None` when there is no such block.
    fn scrub(&mut self) -> Option<usize> {
        let (order, first) =
            (0..).zip(&self.unswept).find_map(|(order, list)| Some((order, list.first()?)))?;
        let mut scrubbed = 0;
        for (frame, info) in infos(first, order).filter(|(_, info)| !info.state().is_clean()) {
            if scrubbed == SCRUB_STEP {
                return Some(scrubbed);
            }
            direct_map::zero(frame);
            info.set_state(info.state().as_clean());
            scrubbed += 1;
        }
        self.list(order, false).remove(first);
        self.insert(first, order, true);
        Some(scrubbed)
    }
}

/// The frames of a block.
fn infos(first: MachineFrame, order: u32) -> impl Iterator<Item = (MachineFrame, &'static FrameInfo)> {
    (first.0..first.0 + (1 << order)).map(MachineFrame).filter_map(|frame| Some((frame, info(frame)?)))
}

/// Both zones.
struct Zones {
    low: Zone,
    high: Zone,
}

impl Zones {
    fn of(&mut self, frame: MachineFrame) -> &mut Zone {
        if frame.0 < HIGH_ZONE_START { &mut self.low } else { &mut self.high }
    }

    fn take(&mut self, order: u32, limit: Limit, for_whom: Use) -> Option<MachineFrame> {
        match limit {
            Limit::Any => self.high.take(order, for_whom).or_else(|| self.low.take(order, for_whom)),
            Limit::Below4G => self.low.take(order, for_whom),
        }
    }
}

/// The machine's free frames.
pub struct FrameAllocator {
    zones: Mutex<Zones>,
    free: AtomicU64,
    /// Free frames that are clean.
    clean: AtomicU64,
    total: AtomicU64,
    claimed: AtomicU64,
}

impl FrameAllocator {
    /// An allocator without frames.
    pub const fn new() -> Self {
        Self {
            zones: Mutex::new(Zones { low: Zone::new(), high: Zone::new() }),
            free: AtomicU64::new(0),
            clean: AtomicU64::new(0),
            total: AtomicU64::new(0),
            claimed: AtomicU64::new(0),
        }
    }

    /// Takes in frames that nobody uses, in the largest aligned blocks they make.
    pub(crate) fn adopt(&self, frames: Range<u64>) {
        let mut next = frames.start;
        while next < frames.end {
            let fits = (frames.end - next).ilog2();
            let order = next.trailing_zeros().min(fits).min(MAX_ORDER);
            set_states(MachineFrame(next), order, FrameState::FREE);
            self.total.fetch_add(1 << order, Ordering::Relaxed);
            self.free(MachineFrame(next), order);
            next += 1 << order;
        }
    }

    /// Takes a block off the lists, zeroed if it is for a domain; the caller sets the states of its frames.
    fn take(&self, order: u32, limit: Limit, for_whom: Use) -> Option<MachineFrame> {
        if order > MAX_ORDER {
            return None;
        }
        let first = self.zones.lock().take(order, limit, for_whom)?;
        self.free.fetch_sub(1 << order, Ordering::Relaxed);
        let mut clean = 0;
        for (frame, info) in infos(first, order) {
            if info.state().is_clean() {
                clean += 1;
            } else if for_whom == Use::Domain {
                direct_map::zero(frame);
            }
        }
        self.clean.fetch_sub(clean, Ordering::Relaxed);
        Some(first)
    }

    /// Takes a block in whose frames' states are [`FrameState::FREE`].
    pub(crate) fn free(&self, frame: MachineFrame, order: u32) {
        self.zones.lock().of(frame).give(frame, order);
        self.free.fetch_add(1 << order, Ordering::Relaxed);
    }
}

impl Default for FrameAllocator {
    fn default() -> Self {
        Self::new()
    }
}

fn set_states(first: MachineFrame, order: u32, state: FrameState) {
    infos(first, order).for_each(|(_, info)| info.set_state(state));
}

/// Zeroes a few free frames for domains to come, unless there are enough. Says whether it did, and may be called
/// again.
pub fn scrub_some() -> bool {
    let FrameAllocator { zones, clean, free, .. } = &machine().allocator;
    let enough = CLEAN_GOAL.min(free.load(Ordering::Relaxed));
    if clean.load(Ordering::Relaxed) >= enough {
        return false;
    }
    let Some(mut zones) = zones.try_lock() else { return false };
    let Some(scrubbed) = zones.high.scrub().or_else(|| zones.low.scrub()) else { return false };
    clean.fetch_add(scrubbed as u64, Ordering::Relaxed);
    true
}

/// Frames in the allocator.
pub fn free_frames() -> u64 {
    machine().allocator.free.load(Ordering::Relaxed)
}

/// Frames that ever were in the allocator: the machine's memory less what the boot code used.
pub fn total_frames() -> u64 {
    machine().allocator.total.load(Ordering::Relaxed)
}

/// Free frames set aside for domains.
pub fn claimed_frames() -> u64 {
    machine().allocator.claimed.load(Ordering::Relaxed)
}

/// Takes `2^order` contiguous frames for the hypervisor; their contents are undefined.
pub fn allocate_for_hypervisor(order: u32) -> Option<MachineFrame> {
    let frame = machine().allocator.take(order, Limit::Any, Use::Hypervisor)?;
    set_states(frame, order, FrameState::HYPERVISOR);
    Some(frame)
}

/// Takes `2^order` contiguous zeroed frames for the hypervisor, to be given to a domain that gives as many back.
pub(crate) fn allocate_zeroed(order: u32, limit: Limit) -> Option<MachineFrame> {
    let first = machine().allocator.take(order, limit, Use::Domain)?;
    set_states(first, order, FrameState::HYPERVISOR);
    Some(first)
}

/// Gives `2^order` frames of the hypervisor's back.
pub fn free_from_hypervisor(first: MachineFrame, order: u32) {
    set_states(first, order, FrameState::FREE);
    machine().allocator.free(first, order);
}

/// Takes `2^order` contiguous zeroed frames for a domain. The domain's claim shrinks by as many.
///
/// # Errors
/// `ENOMEM` when the domain has its maximum or memory is short or claimed by others; `EINVAL` when the domain is
/// dying.
pub fn allocate_for_domain(domain: &Domain, order: u32, limit: Limit) -> Result<MachineFrame, Errno> {
    let frames = 1u64 << order.min(MAX_ORDER + 1);
    domain.memory.charge(frames)?;
    let allocated = take_for(domain, order, limit).ok_or(Errno::ENOMEM).and_then(|first| {
        set_states(first, order, FrameState::allocated_to(domain.id));
        domain.memory.possess(first, frames, domain).inspect_err(|_| free_from_hypervisor(first, order))?;
        Ok(first)
    });
    allocated.inspect_err(|_| domain.memory.discharge(frames))
}

/// Takes a block if others' claims leave one, and uses up `domain`'s own.
fn take_for(domain: &Domain, order: u32, limit: Limit) -> Option<MachineFrame> {
    let frames = 1u64 << order.min(MAX_ORDER + 1);
    let own = domain.memory.claimed.load(Ordering::Relaxed);
    if free_frames() + own < claimed_frames() + frames {
        return None;
    }
    let frame = machine().allocator.take(order, limit, Use::Domain)?;
    if own > 0 {
        use_claim(domain, frames);
    }
    Some(frame)
}

/// Lowers a domain's claim by `frames`, or to nothing, and the sum of claims by as much.
fn use_claim(domain: &Domain, frames: u64) {
    let lower = |claimed: u64| Some(claimed.saturating_sub(frames));
    let updated = domain.memory.claimed.fetch_update(Ordering::Relaxed, Ordering::Relaxed, lower);
    let before = updated.unwrap_or_default();
    machine().allocator.claimed.fetch_sub(before.min(frames), Ordering::Relaxed);
}

/// Sets frames aside so that `domain` can grow to `frames` altogether; zero drops the claim.
///
/// # Errors
/// `EINVAL` when that is less than it has or more than its maximum, or when it has a claim already; `ENOMEM` when
/// there is not as much memory.
pub fn claim(domain: &Domain, frames: u64) -> Result<(), Errno> {
    // The lock makes claims one at a time; allocations meanwhile can only make them fail later, not overdraw.
    let _zones = machine().allocator.zones.lock();
    if frames == 0 {
        use_claim(domain, u64::MAX);
        return Ok(());
    }
    // Looked at under the lock: who begins to die drops its claim under it, and gets no other.
    if domain.is_dying() {
        return Err(Errno::EINVAL);
    }
    let (total, maximum) = (domain.memory.total(), domain.memory.maximum());
    if domain.memory.claimed.load(Ordering::Relaxed) != 0 || frames < total || frames > maximum {
        return Err(Errno::EINVAL);
    }
    let more = frames - total;
    if free_frames().saturating_sub(claimed_frames()) < more {
        return Err(Errno::ENOMEM);
    }
    domain.memory.claimed.store(more, Ordering::Relaxed);
    machine().allocator.claimed.fetch_add(more, Ordering::Relaxed);
    Ok(())
}

/// A domain that begins to die needs no more memory.
pub fn drop_claim(domain: &Domain) {
    let _zones = machine().allocator.zones.lock();
    use_claim(domain, u64::MAX);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        frame::{self, recount},
        machine::TestMachine,
        page_table::test_guest::TestGuest,
    };
    use proptest::prelude::*;
    use std::vec::Vec;

    /// Clean frames, counted anew.
    fn recount_clean() -> u64 {
        let infos = (0..direct_map::frame_count()).filter_map(|frame| info(MachineFrame(frame)));
        infos.filter(|info| info.state().is_clean()).count() as u64
    }

    fn clean_frames() -> u64 {
        machine().allocator.clean.load(Ordering::Relaxed)
    }

    fn is_zero(frame: MachineFrame) -> bool {
        direct_map::words(frame).iter().all(|word| word.load(Ordering::Relaxed) == 0)
    }

    fn write_secret(frame: MachineFrame) {
        direct_map::words(frame).iter().for_each(|word| word.store(0x5ec5_e75e_c5e7, Ordering::Relaxed));
    }

    #[test]
    fn blocks_split_and_merge_again() {
        let _machine = TestMachine::new(2048);
        let before = free_frames();
        let frames: Vec<_> = (0..100).map_while(|_| allocate_for_hypervisor(0)).collect();
        assert_eq!((free_frames(), recount().free, recount().hypervisor), (before - 100, before - 100, 100));
        frames.iter().for_each(|frame| free_from_hypervisor(*frame, 0));
        assert_eq!(recount().free, before);
        let whole = (0..2).map_while(|_| allocate_for_hypervisor(MAX_ORDER)).count();
        assert_eq!(whole, 2, "all hundred frames have merged into the two blocks they came from");
    }

    #[test]
    fn a_guest_finds_nothing_of_the_one_before_it_scrubbed_or_not() {
        for steps in [0, 1, 7, usize::MAX] {
            let _machine = TestMachine::new(600);
            let (before, after) = (TestGuest::new(1), TestGuest::new(2));
            let take = |guest: &TestGuest| allocate_for_domain(&guest.domain, 0, Limit::Any).ok();
            let secrets: Vec<_> = core::iter::from_fn(|| take(&before)).collect();
            assert!(secrets.len() > 500, "it has nearly all of the machine");
            for frame in secrets {
                write_secret(frame);
                frame::give_up(&before.domain, frame).unwrap();
            }
            (0..steps).take_while(|_| scrub_some()).for_each(drop);
            assert_eq!(clean_frames(), recount_clean());
            assert_eq!(
                (clean_frames() > 0, clean_frames() == free_frames()),
                (steps > 0, steps == usize::MAX)
            );
            let found: Vec<_> = core::iter::from_fn(|| take(&after)).collect();
            assert!(found.len() > 500 && found.into_iter().all(is_zero), "after {steps} steps");
        }
    }

    #[test]
    fn no_more_is_scrubbed_than_the_goal() {
        let _machine = TestMachine::new(2 * CLEAN_GOAL);
        while scrub_some() {}
        assert!((CLEAN_GOAL..CLEAN_GOAL + SCRUB_STEP as u64).contains(&clean_frames()));
        let used = allocate_for_hypervisor(0).unwrap();
        assert_eq!(clean_frames(), recount_clean());
        assert!(!scrub_some(), "the hypervisor takes what is not clean");
        free_from_hypervisor(used, 0);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Domain(u32),
        Hypervisor(u32),
        Free(prop::sample::Index),
        Scrub,
    }

    fn any_step() -> impl Strategy<Value = Step> {
        prop_oneof![
            2 => (0..5u32).prop_map(Step::Domain),
            2 => (0..5u32).prop_map(Step::Hypervisor),
            3 => any::<prop::sample::Index>().prop_map(Step::Free),
            3 => Just(Step::Scrub),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

        /// Whatever is taken, written and given back in whatever order: what is said to be clean is, and what a domain
        /// gets is.
        #[test]
        fn clean_frames_are_clean(steps in prop::collection::vec(any_step(), 1..120)) {
            let _machine = TestMachine::new(256);
            let mut taken = Vec::new();
            for step in steps {
                match step {
                    Step::Domain(order) => {
                        let Some(first) = allocate_zeroed(order, Limit::Any) else { continue };
                        prop_assert!(infos(first, order).all(|(frame, _)| is_zero(frame)));
                        taken.push((first, order));
                    }
                    Step::Hypervisor(order) => taken.extend(allocate_for_hypervisor(order).map(|first| (first, order))),
                    Step::Free(_) if taken.is_empty() => {}
                    Step::Free(index) => {
                        let (first, order) = taken.swap_remove(index.index(taken.len()));
                        infos(first, order).for_each(|(frame, _)| write_secret(frame));
                        free_from_hypervisor(first, order);
                    }
                    Step::Scrub => drop(scrub_some()),
                }
                prop_assert_eq!(recount_clean(), clean_frames());
                prop_assert_eq!(recount().free, free_frames());
            }
            for (frame, info) in infos(MachineFrame(0), 8) {
                prop_assert!(!info.state().is_clean() || is_zero(frame));
            }
        }
    }

    #[test]
    fn blocks_are_aligned_and_run_out() {
        let _machine = TestMachine::new(1500);
        let first = allocate_for_hypervisor(9).unwrap();
        assert!(first.0.is_multiple_of(512));
        assert!(allocate_for_hypervisor(MAX_ORDER).is_none() || free_frames() < 512);
        assert_eq!(allocate_for_hypervisor(MAX_ORDER + 1), None);
        assert_eq!(allocate_for_hypervisor(63), None);
    }
}
