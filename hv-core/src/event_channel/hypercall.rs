//! `HYPERVISOR_event_channel_op`: from the guest's structures to the functions of this module and back.

use super::{
    alloc_unbound, bind_interdomain, bind_ipi, bind_pirq, bind_vcpu, bind_virq, close, close_all, end_fifo,
    expand_array, init_control, send, set_priority, status, unmask,
};
use crate::{
    domain,
    guest_access::{read, write},
    hypercall::{Arguments, Caller, HypercallError, HypercallResult},
};
use core::sync::atomic::Ordering;
use hypercall_abi::{
    DomainId, Errno, MachineFrame,
    event_channel::{
        EVTCHN_FIFO_LINK_BITS, EVTCHNOP_ALLOC_UNBOUND, EVTCHNOP_BIND_INTERDOMAIN, EVTCHNOP_BIND_IPI,
        EVTCHNOP_BIND_PIRQ, EVTCHNOP_BIND_VCPU, EVTCHNOP_BIND_VIRQ, EVTCHNOP_CLOSE, EVTCHNOP_EXPAND_ARRAY,
        EVTCHNOP_INIT_CONTROL, EVTCHNOP_RESET, EVTCHNOP_SEND, EVTCHNOP_SET_PRIORITY, EVTCHNOP_STATUS,
        EVTCHNOP_UNMASK, EvtchnAllocUnbound, EvtchnBindInterdomain, EvtchnBindIpi, EvtchnBindPirq,
        EvtchnBindVcpu, EvtchnBindVirq, EvtchnClose, EvtchnExpandArray, EvtchnInitControl, EvtchnReset,
        EvtchnSend, EvtchnSetPriority, EvtchnStatus, EvtchnUnmask,
    },
};

/// Ports that one `EVTCHNOP_reset` closes before it lets others run.
const RESET_BUDGET: u32 = 64;

/// Event-channel operation `arguments[0]` (`EVTCHNOP_*`) on the structure at guest address `arguments[1]`.
///
/// # Errors
/// As each operation; `EFAULT` when the structure cannot be read or the answer not be written (what was opened
/// then stays open), `ENOSYS` for an unknown operation.
pub fn event_channel_op(caller: &mut Caller<'_>, arguments: &Arguments) -> HypercallResult {
    let pointer = arguments[1];
    let done = match arguments[0] as u32 {
        EVTCHNOP_SEND => send(caller.domain, read::<EvtchnSend>(pointer)?.port),
        EVTCHNOP_UNMASK => unmask(caller.domain, read::<EvtchnUnmask>(pointer)?.port),
        EVTCHNOP_CLOSE => close(caller.domain, read::<EvtchnClose>(pointer)?.port),
        EVTCHNOP_BIND_VCPU => {
            let op: EvtchnBindVcpu = read(pointer)?;
            bind_vcpu(caller.domain, op.port, op.vcpu)
        }
        EVTCHNOP_ALLOC_UNBOUND => do_alloc_unbound(caller, pointer),
        EVTCHNOP_BIND_INTERDOMAIN => do_bind_interdomain(caller, pointer),
        EVTCHNOP_BIND_VIRQ => do_bind_virq(caller, pointer),
        EVTCHNOP_BIND_IPI => do_bind_ipi(caller, pointer),
        EVTCHNOP_BIND_PIRQ => do_bind_pirq(caller, pointer),
        EVTCHNOP_STATUS => do_status(caller, pointer),
        EVTCHNOP_INIT_CONTROL => do_init_control(caller, pointer),
        EVTCHNOP_EXPAND_ARRAY => {
            expand_array(caller.domain, MachineFrame(read::<EvtchnExpandArray>(pointer)?.array_gfn))
        }
        EVTCHNOP_SET_PRIORITY => {
            let op: EvtchnSetPriority = read(pointer)?;
            set_priority(caller.domain, op.port, op.priority)
        }
        EVTCHNOP_RESET => return do_reset(caller, pointer),
        _ => Err(Errno::ENOSYS),
    };
    done?;
    Ok(0)
}

/// The domain's number, when the guest may also say "myself".
fn resolve(caller: &Caller<'_>, id: DomainId) -> DomainId {
    if id == DomainId::SELF { caller.domain.id } else { id }
}

fn do_alloc_unbound(caller: &Caller<'_>, pointer: u64) -> Result<(), Errno> {
    let mut op: EvtchnAllocUnbound = read(pointer)?;
    let owner = caller.target(op.dom)?;
    op.port = alloc_unbound(&owner, resolve(caller, op.remote_dom))?;
    write(pointer, &op)
}

fn do_bind_interdomain(caller: &Caller<'_>, pointer: u64) -> Result<(), Errno> {
    let mut op: EvtchnBindInterdomain = read(pointer)?;
    let remote = domain::find(resolve(caller, op.remote_dom)).ok_or(Errno::ESRCH)?;
    op.local_port = bind_interdomain(caller.domain, &remote, op.remote_port)?;
    write(pointer, &op)
}

fn do_bind_virq(caller: &Caller<'_>, pointer: u64) -> Result<(), Errno> {
    let mut op: EvtchnBindVirq = read(pointer)?;
    op.port = bind_virq(caller.domain, op.virq, op.vcpu)?;
    write(pointer, &op)
}

fn do_bind_ipi(caller: &Caller<'_>, pointer: u64) -> Result<(), Errno> {
    let mut op: EvtchnBindIpi = read(pointer)?;
    op.port = bind_ipi(caller.domain, op.vcpu)?;
    write(pointer, &op)
}

fn do_bind_pirq(caller: &Caller<'_>, pointer: u64) -> Result<(), Errno> {
    let mut op: EvtchnBindPirq = read(pointer)?;
    op.port = bind_pirq(caller.domain, op.pirq, op.flags)?;
    write(pointer, &op)
}

fn do_status(caller: &Caller<'_>, pointer: u64) -> Result<(), Errno> {
    let op: EvtchnStatus = read(pointer)?;
    let owner = caller.target(op.dom)?;
    // The answer keeps the caller's own way of naming the domain.
    write(pointer, &EvtchnStatus { dom: op.dom, ..status(&owner, op.port)? })
}

fn do_init_control(caller: &Caller<'_>, pointer: u64) -> Result<(), Errno> {
    let mut op: EvtchnInitControl = read(pointer)?;
    init_control(caller.domain, op.vcpu, MachineFrame(op.control_gfn), op.offset)?;
    op.link_bits = EVTCHN_FIFO_LINK_BITS as u8;
    write(pointer, &op)
}

/// Closes all ports of a domain, and leaves it the two-level form: its own, or, for the control domain, those of one it has paused.
fn do_reset(caller: &Caller<'_>, pointer: u64) -> HypercallResult {
    let op: EvtchnReset = read(pointer)?;
    let target = caller.target(op.dom)?;
    if target.id != caller.domain.id && target.pause_count.load(Ordering::Acquire) == 0 {
        return Err(Errno::EINVAL.into());
    }
    if !close_all(&target, RESET_BUDGET) {
        return Err(HypercallError::Restart);
    }
    end_fifo(&target);
    Ok(0)
}
