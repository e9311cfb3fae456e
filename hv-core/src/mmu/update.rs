//! `mmu_update`: a batch of new page-table entries and machine-to-pseudo-physical entries.

use super::{
    BUDGET,
    batch::Batch,
    party::{Frames, Party},
};
use crate::{
    direct_map,
    frame::{self, HeldFrame, HeldWritableFrame},
    hypercall::{Arguments, Caller, HypercallError, HypercallResult},
    page_table::{Entry, TableSession, Write},
};
use core::sync::atomic::Ordering;
use hypercall_abi::{
    DomainId, Errno, MachineFrame, PseudoPhysicalFrame,
    xen::{MMU_MACHPHYS_UPDATE, MMU_PT_UPDATE_PRESERVE_AD, MmuUpdate},
};

/// The low bits of a request's address, which say what it is.
const COMMAND: u64 = 3;

/// What one request takes from the budget.
const REQUEST_COST: u32 = 8;

/// `HYPERVISOR_mmu_update(requests, count, completed, foreign domain)`. The last argument names the owner of frames in
/// its low half, and one more than the owner of tables in its high half.
///
/// # Errors
/// That of the first request that fails; the counter says how many were completed.
pub fn mmu_update(caller: &mut Caller<'_>, arguments: &Arguments) -> HypercallResult {
    let domain = caller.domain;
    let frames = Frames::named(domain, DomainId(arguments[3] as u16))?;
    let tables = match (arguments[3] >> 16) as u16 {
        0 => Party::Caller(domain),
        owner => Party::named(domain, DomainId(owner - 1))?,
    };
    let batch = Batch::new(arguments)?;
    let mut session = TableSession::open(&tables, BUDGET)?;
    session.set_mappable(frames.mappable_in(&tables)?);
    batch.run(caller, &mut session, |_, session, request: MmuUpdate| {
        session.spend(REQUEST_COST)?;
        perform(session, &frames, request)
    })
}

#[inline]
fn perform(
    session: &mut TableSession<'_>,
    frames: &Frames<'_>,
    request: MmuUpdate,
) -> Result<(), HypercallError> {
    let write = match request.ptr & COMMAND {
        MMU_MACHPHYS_UPDATE => return Ok(set_physical_number(frames, request)?),
        MMU_PT_UPDATE_PRESERVE_AD => Write::PreserveAccessedDirty,
        _ => Write::Plain,
    };
    let address = request.ptr & !COMMAND;
    if !address.is_multiple_of(8) {
        return Err(Errno::EINVAL.into());
    }
    let location = (MachineFrame::containing(address), (address % 4096 / 8) as usize);
    match session.update(location, Entry(request.val), write) {
        Some(outcome) => outcome,
        None => Ok(write_plain_memory(session, location, request.val)?),
    }
}

/// An "entry" in memory that is no table (yet): the guest could have written it itself.
fn write_plain_memory(
    session: &TableSession<'_>,
    (frame, index): (MachineFrame, usize),
    value: u64,
) -> Result<(), Errno> {
    let held = HeldWritableFrame::get(frame, session.domain().id)?;
    direct_map::words(held.frame())[index].store(value, Ordering::Relaxed);
    Ok(())
}

fn set_physical_number(frames: &Frames<'_>, request: MmuUpdate) -> Result<(), Errno> {
    let owner = frames.owner().ok_or(Errno::EINVAL)?;
    let held = HeldFrame::get(MachineFrame::containing(request.ptr), owner)?;
    frame::set_machine_to_physical(held.frame(), PseudoPhysicalFrame(request.val));
    Ok(())
}
