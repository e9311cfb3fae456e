//! Free frames: a buddy allocator whose lists run through the frame table.
//!
//! The idea to hold: a free block of `2^order` frames is aligned to its size, its first frame says the order,
//! and its buddy is the block whose number differs in that one bit. Freeing merges a block with its buddy for as
//! long as that is free as a whole; allocating splits the smallest block that will do.
//!
//! A frame is zeroed when a domain gets it and not when it is freed: no frame reaches a domain by another way
//! than [`allocate_for_domain`], [`crate::frame::share_new`] and an exchange, so nobody ever sees what it held before. The
//! hypervisor's own frames are not zeroed; no domain sees those.
//!
//! Memory below 4 GiB is a zone of its own, used last, so that devices which can address no more find some.

use crate::lock::Mutex;
use crate::{
    direct_map,
    domain::Domain,
    frame::{FrameList, FrameState, info},
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

/// Free blocks of one zone, by order.
struct Zone {
    blocks: [FrameList; ORDERS],
}

impl Zone {
    const fn new() -> Self {
        Self { blocks: [const { FrameList::new() }; ORDERS] }
    }

    /// Takes a block of `order`, splitting a larger one if need be.
    fn take(&mut self, order: u32) -> Option<MachineFrame> {
        let found = (order..=MAX_ORDER).find(|order| self.blocks[*order as usize].first().is_some())?;
        let frame = self.blocks[found as usize].pop()?;
        // From here on it is no block that a buddy could merge with.
        info(frame)?.set_state(FrameState::FREE);
        for half in (order..found).rev() {
            self.insert(MachineFrame(frame.0 + (1 << half)), half);
        }
        Some(frame)
    }

    fn insert(&mut self, frame: MachineFrame, order: u32) {
        if let Some(info) = info(frame) {
            info.set_state(FrameState::free_head(order));
            self.blocks[order as usize].push(frame);
        }
    }

    /// Puts a block back, merged with its buddies.
    fn give(&mut self, mut frame: MachineFrame, mut order: u32) {
        while order < MAX_ORDER {
            let buddy = MachineFrame(frame.0 ^ (1 << order));
            let Some(buddy_info) = info(buddy) else { break };
            if buddy_info.state().free_order() != Some(order) {
                break;
            }
            self.blocks[order as usize].remove(buddy);
            buddy_info.set_state(FrameState::FREE);
            frame = MachineFrame(frame.0 & !(1 << order));
            order += 1;
        }
        self.insert(frame, order);
    }
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

    fn take(&mut self, order: u32, limit: Limit) -> Option<MachineFrame> {
        match limit {
            Limit::Any => self.high.take(order).or_else(|| self.low.take(order)),
            Limit::Below4G => self.low.take(order),
        }
    }
}

/// The machine's free frames.
pub struct FrameAllocator {
    zones: Mutex<Zones>,
    free: AtomicU64,
    total: AtomicU64,
    claimed: AtomicU64,
}

impl FrameAllocator {
    /// An allocator without frames.
    pub const fn new() -> Self {
        Self {
            zones: Mutex::new(Zones { low: Zone::new(), high: Zone::new() }),
            free: AtomicU64::new(0),
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
            (next..next + (1 << order)).filter_map(|frame| info(MachineFrame(frame))).for_each(|info| {
                info.set_state(FrameState::FREE);
            });
            self.total.fetch_add(1 << order, Ordering::Relaxed);
            self.free(MachineFrame(next), order);
            next += 1 << order;
        }
    }

    /// Takes a block off the lists; the caller sets the states of its frames.
    fn take(&self, order: u32, limit: Limit) -> Option<MachineFrame> {
        if order > MAX_ORDER {
            return None;
        }
        let frame = self.zones.lock().take(order, limit)?;
        self.free.fetch_sub(1 << order, Ordering::Relaxed);
        Some(frame)
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
    (first.0..first.0 + (1 << order)).filter_map(|frame| info(MachineFrame(frame))).for_each(|info| {
        info.set_state(state);
    });
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
    let frame = machine().allocator.take(order, Limit::Any)?;
    set_states(frame, order, FrameState::HYPERVISOR);
    Some(frame)
}

/// Takes `2^order` contiguous zeroed frames for the hypervisor, to be given to a domain that gives as many back.
pub(crate) fn allocate_zeroed(order: u32, limit: Limit) -> Option<MachineFrame> {
    let first = machine().allocator.take(order, limit)?;
    set_states(first, order, FrameState::HYPERVISOR);
    (first.0..first.0 + (1 << order)).for_each(|frame| direct_map::zero(MachineFrame(frame)));
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
        (first.0..first.0 + frames).for_each(|frame| direct_map::zero(MachineFrame(frame)));
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
    let frame = machine().allocator.take(order, limit)?;
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
    use crate::{frame::recount, machine::TestMachine};

    #[test]
    fn blocks_split_and_merge_again() {
        let _machine = TestMachine::new(2048);
        let before = free_frames();
        let frames: std::vec::Vec<_> = (0..100).map_while(|_| allocate_for_hypervisor(0)).collect();
        assert_eq!((free_frames(), recount().free, recount().hypervisor), (before - 100, before - 100, 100));
        frames.iter().for_each(|frame| free_from_hypervisor(*frame, 0));
        assert_eq!(recount().free, before);
        let whole = (0..2).map_while(|_| allocate_for_hypervisor(MAX_ORDER)).count();
        assert_eq!(whole, 2, "all hundred frames have merged into the two blocks they came from");
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
