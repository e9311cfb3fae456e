//! Growing and shrinking a domain's memory by extents: contiguous, aligned runs of `2^order` frames.

use super::{FRAMES_AT_ONCE, read, restart};
use crate::{
    frame,
    frame_allocator::{self, Limit, MAX_ORDER},
    guest_access,
    hypercall::{Caller, HypercallResult},
    page_table::TableSession,
};
use hypercall_abi::{Errno, MachineFrame, PseudoPhysicalFrame, memory::*};

/// What an address width means for a zone.
///
/// # Errors
/// `EINVAL` for widths that no zone guarantees.
pub(super) fn limit(reservation: &MemoryReservation) -> Result<Limit, Errno> {
    match reservation.address_bits() {
        0 | 44.. => Ok(Limit::Any),
        32..44 => Ok(Limit::Below4G),
        _ => Err(Errno::EINVAL),
    }
}

/// Does `step` for each extent from `done` on, and stops for interrupts now and then. A failing step ends the call
/// with what is done; it is the first one's error only if it was the very first. Of extents that are too large none
/// is done, which is no error.
fn for_each_extent(
    caller: &mut Caller<'_>,
    command: u32,
    reservation: &MemoryReservation,
    done: u64,
    mut step: impl FnMut(u64) -> Result<(), Errno>,
) -> HypercallResult {
    if reservation.extent_order > MAX_ORDER {
        return Ok(done);
    }
    let mut left = (FRAMES_AT_ONCE >> reservation.extent_order).max(1);
    for index in done..reservation.nr_extents {
        if left == 0 {
            return restart(caller, command, index);
        }
        left -= 1;
        match step(index) {
            Ok(()) => (),
            Err(Errno::EFAULT) if index == 0 => return Err(Errno::EFAULT.into()),
            Err(_) => return Ok(index),
        }
    }
    Ok(reservation.nr_extents)
}

/// `XENMEM_increase_reservation`: frames without a pseudo-physical place.
pub(super) fn increase(caller: &mut Caller<'_>, address: u64, done: u64) -> HypercallResult {
    let reservation: MemoryReservation = read(address)?;
    let domain = caller.target(reservation.domid)?;
    let limit = limit(&reservation)?;
    for_each_extent(caller, XENMEM_INCREASE_RESERVATION, &reservation, done, |index| {
        let frame = frame_allocator::allocate_for_domain(&domain, reservation.extent_order, limit)?;
        if reservation.extent_start == 0 {
            return Ok(());
        }
        guest_access::write_element(reservation.extent_start, index, &frame.0)
    })
}

/// `XENMEM_populate_physmap`: frames at the pseudo-physical places given, where machine-to-pseudo-physical entries are set.
pub(super) fn populate(caller: &mut Caller<'_>, address: u64, done: u64) -> HypercallResult {
    let reservation: MemoryReservation = read(address)?;
    let domain = caller.target(reservation.domid)?;
    let limit = limit(&reservation)?;
    for_each_extent(caller, XENMEM_POPULATE_PHYSMAP, &reservation, done, |index| {
        let place: u64 = guest_access::read_element(reservation.extent_start, index)?;
        let frame = frame_allocator::allocate_for_domain(&domain, reservation.extent_order, limit)?;
        set_places(frame, place, reservation.extent_order);
        guest_access::write_element(reservation.extent_start, index, &frame.0)
    })
}

/// Sets the machine-to-pseudo-physical entries of an extent that is put at `place`.
pub(super) fn set_places(first: MachineFrame, place: u64, order: u32) {
    for offset in 0..1 << order {
        let number = PseudoPhysicalFrame(place.wrapping_add(offset));
        frame::set_machine_to_physical(MachineFrame(first.0 + offset), number);
    }
}

/// `XENMEM_decrease_reservation`: frames given up. Those still in use somewhere are freed when they no longer are.
pub(super) fn decrease(caller: &mut Caller<'_>, address: u64, done: u64) -> HypercallResult {
    let reservation: MemoryReservation = read(address)?;
    let domain = caller.target(reservation.domid)?;
    // One flush for all of them; without it each would have its own.
    let mut session = TableSession::open_for_pages(&domain);
    session.flush_stale();
    for_each_extent(caller, XENMEM_DECREASE_RESERVATION, &reservation, done, |index| {
        let first: u64 = guest_access::read_element(reservation.extent_start, index)?;
        let end = first.checked_add(1 << reservation.extent_order).ok_or(Errno::EINVAL)?;
        (first..end).try_for_each(|frame| frame::give_up(&domain, MachineFrame(frame)))
    })
}
