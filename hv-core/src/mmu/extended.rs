//! `mmuext_op`: pinning, switching address spaces, flushing, and the LDT.

use super::{
    BUDGET,
    batch::Batch,
    party::Party,
    root::{switch_kernel, switch_user},
};
use crate::{
    arch, descriptor, direct_map,
    domain::Domain,
    frame::{HeldFrame, HeldWritableFrame},
    guest_access,
    hypercall::{Arguments, Caller, HypercallError, HypercallResult},
    page_table::TableSession,
};
use hypercall_abi::{DomainId, Errno, MachineFrame, xen::*};

/// What one operation takes from the budget, beside its tables.
const OPERATION_COST: u32 = 16;

/// `HYPERVISOR_mmuext_op(operations, count, completed, foreign domain)`.
///
/// # Errors
/// That of the first operation that fails; the counter says how many were completed. `ENOSYS` for unknown ones,
/// `EOPNOTSUPP` for superpage marks, `EACCES` for cache flushes by a domain without a device.
pub fn mmuext_op(caller: &mut Caller<'_>, arguments: &Arguments) -> HypercallResult {
    let target = Party::named(caller.domain, DomainId(arguments[3] as u16))?;
    let batch = Batch::new(arguments)?;
    let mut session = TableSession::open(&target, BUDGET)?;
    batch.run(caller, &mut session, |caller, session, operation: MmuextOp| {
        session.spend(OPERATION_COST)?;
        perform(caller, session, &operation)
    })
}

fn perform(
    caller: &mut Caller<'_>,
    session: &mut TableSession<'_>,
    operation: &MmuextOp,
) -> Result<(), HypercallError> {
    match operation.cmd {
        MMUEXT_PIN_L1_TABLE => session.pin(operation.mfn(), 1),
        MMUEXT_PIN_L2_TABLE => session.pin(operation.mfn(), 2),
        MMUEXT_PIN_L3_TABLE => session.pin(operation.mfn(), 3),
        MMUEXT_PIN_L4_TABLE => session.pin(operation.mfn(), 4),
        MMUEXT_UNPIN_TABLE => session.unpin(operation.mfn()),
        MMUEXT_CLEAR_PAGE => Ok(clear(session.domain(), operation.mfn())?),
        MMUEXT_COPY_PAGE => Ok(copy(session.domain(), operation.src_mfn(), operation.mfn())?),
        _ if session.domain().id != caller.domain.id => Err(Errno::EPERM.into()),
        MMUEXT_NEW_BASEPTR => switch_kernel(session, caller.context, operation.mfn()),
        MMUEXT_NEW_USER_BASEPTR => switch_user(session, caller.context, operation.mfn()),
        MMUEXT_SET_LDT => {
            Ok(descriptor::set_ldt(session, caller.context, operation.arg1, operation.nr_ents())?)
        }
        _ => Ok(flush(caller.domain, operation)?),
    }
}

fn flush(domain: &Domain, operation: &MmuextOp) -> Result<(), Errno> {
    let runs_once = domain.vcpu_count() == 1;
    match operation.cmd {
        MMUEXT_TLB_FLUSH_LOCAL => arch::tlb::flush_local(),
        MMUEXT_INVLPG_LOCAL => flush_address(operation.arg1),
        MMUEXT_TLB_FLUSH_MULTI | MMUEXT_TLB_FLUSH_ALL if runs_once => arch::tlb::flush_local(),
        MMUEXT_INVLPG_MULTI | MMUEXT_INVLPG_ALL if runs_once => flush_address(operation.arg1),
        MMUEXT_TLB_FLUSH_MULTI | MMUEXT_INVLPG_MULTI => flush_some(domain, operation.arg2)?,
        MMUEXT_TLB_FLUSH_ALL | MMUEXT_INVLPG_ALL => arch::tlb::flush_domain(domain),
        MMUEXT_FLUSH_CACHE | MMUEXT_FLUSH_CACHE_GLOBAL if domain.io_rights.is_none() => {
            return Err(Errno::EACCES);
        }
        MMUEXT_FLUSH_CACHE | MMUEXT_FLUSH_CACHE_GLOBAL => arch::cache::flush_all(),
        MMUEXT_MARK_SUPER | MMUEXT_UNMARK_SUPER => return Err(Errno::EOPNOTSUPP),
        _ => return Err(Errno::ENOSYS),
    }
    Ok(())
}

fn flush_address(address: u64) {
    // The hypervisor's own translations never change under a guest's feet, so there is nothing to flush.
    if !crate::layout::is_hypervisor_address(address) && crate::layout::is_canonical(address) {
        arch::tlb::flush_page_local(address);
    }
}

/// The mask only makes the flush smaller; flushing every CPU the domain runs on is always right.
fn flush_some(domain: &Domain, mask_address: u64) -> Result<(), Errno> {
    if guest_access::read::<u64>(mask_address)? != 0 {
        arch::tlb::flush_domain(domain);
    }
    Ok(())
}

fn clear(domain: &Domain, frame: MachineFrame) -> Result<(), Errno> {
    let frame = HeldWritableFrame::get(frame, domain.id)?;
    direct_map::zero(frame.frame());
    Ok(())
}

fn copy(domain: &Domain, source: MachineFrame, destination: MachineFrame) -> Result<(), Errno> {
    let source = HeldFrame::get(source, domain.id)?;
    let destination = HeldWritableFrame::get(destination, domain.id)?;
    direct_map::copy_between(
        (source.frame(), 0),
        (destination.frame(), 0),
        crate::layout::PAGE_SIZE as usize,
    );
    Ok(())
}
