//! Machine frames: who owns each one, what it is used as, and when it is free again.
//!
//! The idea to hold: everything about a frame's use is one word ([`FrameState`]), changed by compare-exchange
//! and by nothing else. Whoever uses a frame holds a *reference*; whoever uses it as something in particular
//! (writable memory, a page table, descriptors) holds a *typed use*, which is a reference too. A type can be
//! given only to a frame that has none, and it goes with its last use. So:
//!
//! - a frame is never writable for a domain and a table at once, because both are types;
//! - a frame is freed exactly when its last reference goes, whichever CPU and domain that was, because that is
//!   one transition of one word, which only one can make;
//! - a frame belongs to exactly one owner, because the owner is a field of that word.
//!
//! Possession is a reference as well ([`FrameState::is_allocated`]): a domain that gives a frame up, or dies,
//! drops it, and a frame that somebody else still uses *lingers* until they are done.
//!
//! Locks, outermost first: a domain's page tables ([`crate::page_table`]), a domain's lists of frames, the
//! allocator. The word itself needs none.

mod ledger;
mod list;
mod memory;
mod release;
mod state;
mod table;

pub use ledger::{DomainLedger, Ledger, recount, recount_domain};
pub use memory::DomainMemory;
pub use release::{Progress, give_up, release_some};
pub(crate) use release::{give_possessed, take_possessed};
pub use state::{FrameState, FrameType, MAX_REFERENCES, MAX_TYPED};
pub use table::{FrameInfo, METADATA_BYTES, info};

#[cfg(not(target_os = "none"))]
pub(crate) use table::HostTables;

pub(crate) use list::FrameList;
pub(crate) use memory::remove_foreign_mappings;

use crate::{direct_map, domain, frame_allocator, machine::machine};
use core::{ops::Range, sync::atomic::Ordering};
use hypercall_abi::{DomainId, Errno, MachineFrame, PseudoPhysicalFrame};

/// Machine-to-pseudo-physical entry of a frame that has no pseudo-physical number.
const NO_PHYSICAL_FRAME: u64 = u64::MAX;

/// Fills the tables from what the boot code found: `ram` are the ranges of frames that are memory, `used` those
/// among them that hold the hypervisor, its tables and its modules. The rest of memory becomes free; what is no
/// memory is I/O space.
pub fn set_up(ram: &[Range<u64>], used: &[Range<u64>]) {
    let frames = direct_map::frame_count();
    fill(0..frames, FrameState::IO);
    for range in ram {
        fill(range.start..range.end.min(frames), FrameState::HYPERVISOR);
    }
    for range in ram {
        for_each_gap(range.start..range.end.min(frames), used, &mut |gap| machine().allocator.adopt(gap));
    }
}

/// Makes the tables of a host machine of `frames` frames, all of them free.
#[cfg(not(target_os = "none"))]
pub fn set_up_host(frames: u64) {
    table::make(frames);
    let all = 0..frames;
    set_up(core::slice::from_ref(&all), &[]);
}

fn fill(frames: Range<u64>, state: FrameState) {
    for frame in frames.map(MachineFrame) {
        set_machine_to_physical_raw(frame, NO_PHYSICAL_FRAME);
        if let Some(info) = info(frame) {
            info.set_state(state);
        }
    }
}

/// Calls `visit` for each part of `range` that is not in `used`: what lies before the first used range, and then the
/// gaps of what lies behind it.
fn for_each_gap(range: Range<u64>, used: &[Range<u64>], visit: &mut impl FnMut(Range<u64>)) {
    if range.is_empty() {
        return;
    }
    let overlaps = |taken: &&Range<u64>| taken.start < range.end && range.start < taken.end;
    let Some(taken) = used.iter().filter(overlaps).min_by_key(|taken| taken.start) else {
        return visit(range);
    };
    if range.start < taken.start {
        visit(range.start..taken.start);
    }
    for_each_gap(taken.end.min(range.end)..range.end, used, visit);
}

/// Applies `change` to a frame for as long as `owner` owns it.
#[inline]
fn change_owned(
    frame: MachineFrame,
    owner: DomainId,
    change: impl Fn(FrameState) -> Option<FrameState>,
) -> Result<(), Errno> {
    // The reserved numbers are owners too, of what no domain may use.
    let info = info(frame).filter(|_| owner.is_ordinary()).ok_or(Errno::EINVAL)?;
    let change = |state: FrameState| if state.owner() == owner { change(state) } else { None };
    match info.change(change) {
        Ok(_) => Ok(()),
        Err(state) if state.owner() == owner => Err(Errno::EBUSY),
        Err(_) => Err(Errno::EINVAL),
    }
}

/// Takes a reference to a frame of `owner`: it will not be freed until [`put`].
///
/// # Errors
/// `EINVAL` when the frame is no memory of `owner`, `EBUSY` when the count is full or the frame is being freed.
#[inline]
pub fn get(frame: MachineFrame, owner: DomainId) -> Result<(), Errno> {
    change_owned(frame, owner, FrameState::with_reference)
}

/// Gives back a reference from [`get`]; the frame is freed if it was the last one.
///
/// A TLB that may hold a mapping made under this reference must have been flushed, unless the mapping was the
/// owner's own: those are noted as they go, and the owner's TLBs flushed before the frame is freed.
#[inline]
pub fn put(frame: MachineFrame) {
    drop_reference(frame, FrameState::without_reference);
}

/// Takes a reference to a frame of `owner` as writable memory: until [`put_writable`] it cannot become a page
/// table or a descriptor table.
///
/// # Errors
/// `EINVAL` when the frame is no memory of `owner`, `EBUSY` when it has another type or a count is full.
#[inline]
pub fn get_writable(frame: MachineFrame, owner: DomainId) -> Result<(), Errno> {
    change_owned(frame, owner, FrameState::with_writable_use)
}

/// Gives back what [`get_writable`] took; as to TLBs see [`put`].
#[inline]
pub fn put_writable(frame: MachineFrame) {
    drop_reference(frame, FrameState::without_writable_use);
}

/// Adds writable use to a reference that is already held.
///
/// # Errors
/// As [`get_writable`].
#[inline]
pub(crate) fn upgrade_to_writable(frame: MachineFrame, owner: DomainId) -> Result<(), Errno> {
    change_owned(frame, owner, FrameState::with_writable)
}

/// Takes the writable use away from a held reference, and leaves the reference.
#[inline]
pub(crate) fn downgrade_from_writable(frame: MachineFrame) {
    let Some(info) = info(frame) else { return };
    let changed = info.change(FrameState::without_writable);
    debug_assert!(changed.is_ok(), "downgraded a frame nobody holds as writable: {changed:?}");
}

#[inline]
pub(crate) fn drop_reference(frame: MachineFrame, change: impl Fn(FrameState) -> Option<FrameState>) {
    let Some(info) = info(frame) else { return };
    match info.change(change) {
        Ok(before) if before.references() == 1 => free(frame, info, before.owner()),
        Ok(_) => (),
        Err(state) => report_never_taken(frame, state),
    }
}

/// Our own mistake, and one that does no more harm than this: the frame keeps a reference too many.
#[cold]
fn report_never_taken(frame: MachineFrame, state: FrameState) {
    log::error!("frame {frame}: a use given back that was never taken: {state:?}");
}

/// The last reference to a frame is gone: nobody can take a new one, and this caller frees it.
#[cold]
fn free(frame: MachineFrame, info: &FrameInfo, owner: DomainId) {
    let Some(owner) = domain::find(owner) else {
        log::error!("frame {frame} outlived its owner, domain {owner}; it is lost");
        return;
    };
    owner.memory.flush_before_freeing(&owner);
    owner.memory.forget(frame);
    set_machine_to_physical_raw(frame, NO_PHYSICAL_FRAME);
    info.set_state(FrameState::FREE);
    machine().allocator.free(frame, 0);
}

/// The domain that owns a frame; `None` when no domain does.
pub fn owner(frame: MachineFrame) -> Option<DomainId> {
    let owner = info(frame)?.state().owner();
    owner.is_ordinary().then_some(owner)
}

/// True for a frame of memory, whoever owns it.
pub fn is_ram(frame: MachineFrame) -> bool {
    info(frame).is_some_and(|info| info.state().owner() != DomainId::IO)
}

/// True for a frame that is no memory: devices, firmware, or nothing at all.
pub fn is_io(frame: MachineFrame) -> bool {
    !is_ram(frame)
}

/// The owner's number for a frame, as the owner last set it.
pub fn machine_to_physical(frame: MachineFrame) -> Option<PseudoPhysicalFrame> {
    let number = table::machine_to_physical_entry(frame)?.load(Ordering::Relaxed);
    (number != NO_PHYSICAL_FRAME).then_some(PseudoPhysicalFrame(number))
}

/// Sets the owner's number for a frame. Guests read this table and the hypervisor believes nothing in it.
pub fn set_machine_to_physical(frame: MachineFrame, number: PseudoPhysicalFrame) {
    set_machine_to_physical_raw(frame, number.0);
}

fn set_machine_to_physical_raw(frame: MachineFrame, number: u64) {
    if let Some(entry) = table::machine_to_physical_entry(frame) {
        entry.store(number, Ordering::Relaxed);
    }
}

/// A reference that is given back when it goes out of scope.
#[must_use = "the frame is held only while this lives"]
pub struct HeldFrame {
    frame: MachineFrame,
}

impl HeldFrame {
    /// Takes a reference to a frame of `owner`.
    ///
    /// # Errors
    /// As [`get`].
    pub fn get(frame: MachineFrame, owner: DomainId) -> Result<Self, Errno> {
        get(frame, owner)?;
        Ok(Self { frame })
    }

    /// The frame.
    pub fn frame(&self) -> MachineFrame {
        self.frame
    }
}

impl Drop for HeldFrame {
    fn drop(&mut self) {
        put(self.frame);
    }
}

/// A writable use that is given back when it goes out of scope.
#[must_use = "the frame is held only while this lives"]
pub struct HeldWritableFrame {
    frame: MachineFrame,
}

impl HeldWritableFrame {
    /// Takes a frame of `owner` as writable memory.
    ///
    /// # Errors
    /// As [`get_writable`].
    pub fn get(frame: MachineFrame, owner: DomainId) -> Result<Self, Errno> {
        get_writable(frame, owner)?;
        Ok(Self { frame })
    }

    /// The frame.
    pub fn frame(&self) -> MachineFrame {
        self.frame
    }
}

impl Drop for HeldWritableFrame {
    fn drop(&mut self) {
        put_writable(self.frame);
    }
}

/// A zeroed frame that belongs to `domain`, which may map it, and that the hypervisor uses as writable memory
/// until [`unshare`]: `shared_info`, grant table frames. It does not count towards the domain's maximum.
///
/// # Errors
/// `ENOMEM`; `EINVAL` when the domain is dying.
pub fn share_new(domain: &domain::Domain) -> Result<MachineFrame, Errno> {
    let frame = share_new_for(domain.id)?;
    match domain.memory.adopt(frame, domain) {
        Ok(()) => Ok(frame),
        Err(error) => {
            take_back(frame);
            Err(error)
        }
    }
}

/// [`share_new`] for a domain that is still being put together: [`DomainMemory::adopt_shared`] must follow, or
/// [`take_back`].
///
/// # Errors
/// `ENOMEM`.
pub fn share_new_for(owner: DomainId) -> Result<MachineFrame, Errno> {
    let frame = frame_allocator::allocate_zeroed(0, frame_allocator::Limit::Any).ok_or(Errno::ENOMEM)?;
    if let Some(info) = info(frame) {
        info.set_state(FrameState::shared_with(owner));
    }
    Ok(frame)
}

/// Frees a frame from [`share_new_for`] that no domain has adopted.
pub fn take_back(frame: MachineFrame) {
    if let Some(info) = info(frame) {
        info.set_state(FrameState::HYPERVISOR);
    }
    frame_allocator::free_from_hypervisor(frame, 0);
}

/// The hypervisor is done with a frame it shares with `domain`. The frame is freed once the domain has no
/// mapping of it left; until then it counts as the domain's.
pub fn unshare(domain: &domain::Domain, frame: MachineFrame) {
    domain.memory.charge_lingering(1);
    let unpin = |state: FrameState| {
        if !state.is_shared() {
            return None;
        }
        state.with_pin(false).without_writable()?.without_reference()
    };
    drop_reference(frame, unpin);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{machine::TestMachine, page_table::test_guest::TestGuest};
    use std::{vec, vec::Vec};

    fn gaps(range: Range<u64>, used: &[Range<u64>]) -> Vec<Range<u64>> {
        let mut gaps = vec![];
        for_each_gap(range, used, &mut |gap| gaps.push(gap));
        gaps
    }

    #[test]
    #[expect(clippy::single_range_in_vec_init, reason = "a list of one range is what is meant")]
    fn memory_is_free_but_for_what_is_used() {
        assert_eq!(gaps(10..20, &[]), [10..20]);
        assert_eq!(gaps(10..20, &[12..14, 16..18]), [10..12, 14..16, 18..20]);
        assert_eq!(gaps(10..20, &[16..18, 5..14]), [14..16, 18..20], "in any order, from any start");
        assert_eq!(gaps(10..20, &[12..15, 14..30]), [10..12], "overlapping");
        assert_eq!(gaps(10..20, &[0..100]), []);
        assert_eq!(gaps(10..20, &[15..30]), [10..15], "nothing is left behind a used range that goes on");
        assert_eq!(gaps(10..20, &[0..10, 20..30]), [10..20]);
    }

    #[test]
    fn memory_that_is_in_use_to_its_last_frame_is_not_freed() {
        let _machine = TestMachine::new(0x400);
        // The first range ends inside what is used; used ranges touch, and an unused entry is empty.
        set_up(&[0..0x9f, 0x100..0x400], &[0..0, 0..0x100, 0x100..0x180, 0x3ff..0x400]);
        let ledger = recount();
        assert_eq!(ledger.free, 0x3ff - 0x180);
        assert!(is_io(MachineFrame(0x9f)), "the hole between the ranges");
        assert!(!is_io(MachineFrame(0)), "firmware's memory");
        assert_eq!(owner(MachineFrame(0)), None);
    }

    #[test]
    fn a_frame_is_held_by_its_owner_only() {
        let _machine = TestMachine::new(1024);
        let (one, other) = (TestGuest::new(1), TestGuest::new(2));
        let frame = one.frame();
        assert_eq!(get(frame, other.id()), Err(Errno::EINVAL));
        assert_eq!(get(MachineFrame(1 << 40), one.id()), Err(Errno::EINVAL));
        let hypervisors = frame_allocator::allocate_for_hypervisor(0).unwrap();
        for reserved in [DomainId::XEN, DomainId::IO, DomainId::INVALID, DomainId::SELF] {
            assert_eq!(get(frame, reserved), Err(Errno::EINVAL));
            assert_eq!(get(hypervisors, reserved), Err(Errno::EINVAL), "not even in its name");
        }
        let held = HeldWritableFrame::get(frame, one.id()).unwrap();
        assert_eq!(info(frame).unwrap().state().references(), 2);
        let read = HeldFrame::get(held.frame(), one.id()).unwrap();
        give_up(&one.domain, frame).unwrap();
        drop((held, read));
        assert_eq!(owner(frame), None);
    }

    #[test]
    fn numbers_of_frames_are_kept_until_they_are_freed() {
        let _machine = TestMachine::new(1024);
        let guest = TestGuest::new(1);
        let frame = guest.frame();
        assert_eq!(machine_to_physical(frame), None);
        set_machine_to_physical(frame, PseudoPhysicalFrame(5));
        assert_eq!(machine_to_physical(frame), Some(PseudoPhysicalFrame(5)));
        give_up(&guest.domain, frame).unwrap();
        assert_eq!(machine_to_physical(frame), None);
        assert_eq!(machine_to_physical(MachineFrame(u64::MAX)), None);
    }
}
