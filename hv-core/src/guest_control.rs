//! Small hypercalls by which a guest's kernel sets up its own CPU: callbacks, stack, segment bases, FPU, debug
//! registers and assists. Each changes the calling vCPU and nothing else.

use crate::{
    arch, guest_access,
    hypercall::{Arguments, Caller, HypercallResult},
    layout::is_canonical,
    trap::is_guest_code,
    vcpu::Callback,
};
use core::sync::atomic::Ordering;
use hypercall_abi::{
    Errno,
    arch_x86::{SEGBASE_FS, SEGBASE_GS_KERNEL, SEGBASE_GS_USER, SEGBASE_GS_USER_SEL},
    callback::{
        CALLBACKF_MASK_EVENTS, CALLBACKOP_REGISTER, CALLBACKOP_UNREGISTER, CALLBACKTYPE_EVENT,
        CALLBACKTYPE_FAILSAFE, CALLBACKTYPE_NMI, CALLBACKTYPE_SYSCALL, CALLBACKTYPE_SYSCALL32,
        CALLBACKTYPE_SYSENTER, CallbackRegister, CallbackUnregister,
    },
    xen::{
        VMASST_CMD_DISABLE, VMASST_CMD_ENABLE, VMASST_TYPE_4GB_SEGMENTS, VMASST_TYPE_4GB_SEGMENTS_NOTIFY,
        VMASST_TYPE_PAE_EXTENDED_CR3, VMASST_TYPE_RUNSTATE_UPDATE_FLAG, VMASST_TYPE_WRITABLE_PAGETABLES,
    },
};

/// A callback at `address`.
///
/// # Errors
/// `EINVAL` for an address the guest could not run at.
pub fn callback_at(address: u64, masks_events: bool) -> Result<Callback, Errno> {
    if address != 0 && !is_guest_code(address) {
        return Err(Errno::EINVAL);
    }
    Ok(Callback { address, masks_events })
}

/// `HYPERVISOR_set_callbacks(event, failsafe, syscall)`: guest addresses.
///
/// # Errors
/// `EINVAL` for an address the guest could not run at; nothing is changed then.
pub fn set_callbacks(caller: &mut Caller<'_>, arguments: &Arguments) -> HypercallResult {
    let event = callback_at(arguments[0], true)?;
    let failsafe = callback_at(arguments[1], true)?;
    let syscall = callback_at(arguments[2], false)?;
    caller.context.event_callback = event;
    caller.context.failsafe_callback = failsafe;
    caller.context.syscall_callback = syscall;
    Ok(0)
}

/// `HYPERVISOR_callback_op(command, argument)`.
///
/// # Errors
/// `ENOSYS` for a command or kind that is not there, `EINVAL` for a bad address.
pub fn callback_op(caller: &mut Caller<'_>, arguments: &Arguments) -> HypercallResult {
    let (kind, callback) = match arguments[0] as u32 {
        CALLBACKOP_REGISTER => {
            let register: CallbackRegister = guest_access::read(arguments[1])?;
            (register.r#type, callback_at(register.address, register.flags & CALLBACKF_MASK_EVENTS != 0)?)
        }
        CALLBACKOP_UNREGISTER => {
            let unregister: CallbackUnregister = guest_access::read(arguments[1])?;
            (unregister.r#type, Callback::default())
        }
        _ => return Err(Errno::ENOSYS.into()),
    };
    match kind {
        CALLBACKTYPE_EVENT => caller.context.event_callback = callback,
        CALLBACKTYPE_FAILSAFE => caller.context.failsafe_callback = callback,
        CALLBACKTYPE_SYSCALL => caller.context.syscall_callback = callback,
        CALLBACKTYPE_SYSCALL32 => caller.context.compatibility_callbacks.syscall = callback,
        CALLBACKTYPE_SYSENTER => caller.context.compatibility_callbacks.sysenter = callback,
        CALLBACKTYPE_NMI => return Err(Errno::ENOSYS.into()),
        _ => return Err(Errno::EINVAL.into()),
    }
    Ok(0)
}

/// `HYPERVISOR_stack_switch(ss, rsp)`: where the kernel is entered from user mode.
///
/// # Errors
/// None: a stack that cannot be written crashes the guest when it is first used.
pub fn stack_switch(caller: &mut Caller<'_>, arguments: &Arguments) -> HypercallResult {
    caller.context.kernel_stack = (arguments[0] & 0xffff | 3, arguments[1]);
    Ok(0)
}

/// `HYPERVISOR_set_segment_base(which, base)`; the fourth kind is a selector, and gives user mode the base that it has. A
/// selector that names nothing becomes null.
///
/// # Errors
/// `EINVAL` for a base that is not canonical or an unknown register.
pub fn set_segment_base(caller: &mut Caller<'_>, arguments: &Arguments) -> HypercallResult {
    let base = arguments[1];
    let which = arguments[0] as u32;
    if which != SEGBASE_GS_USER_SEL && !is_canonical(base) {
        return Err(Errno::EINVAL.into());
    }
    match which {
        SEGBASE_FS => arch::set_fs_base(caller.context, base),
        SEGBASE_GS_USER => caller.context.gs_base_user = base,
        SEGBASE_GS_KERNEL => arch::set_kernel_gs_base(caller.context, base),
        SEGBASE_GS_USER_SEL => arch::load_user_gs(caller.context, base as u16),
        _ => return Err(Errno::EINVAL.into()),
    }
    Ok(0)
}

/// `HYPERVISOR_fpu_taskswitch(set)`: sets or clears what the guest sees as CR0.TS.
///
/// # Errors
/// None.
pub fn fpu_taskswitch(caller: &mut Caller<'_>, arguments: &Arguments) -> HypercallResult {
    caller.context.task_switched = arguments[0] != 0;
    arch::apply_task_switched(caller.vcpu, caller.context);
    Ok(0)
}

/// `HYPERVISOR_set_debugreg(register, value)`.
///
/// # Errors
/// As [`crate::debug_registers::DebugRegisters::write`].
pub fn set_debugreg(caller: &mut Caller<'_>, arguments: &Arguments) -> HypercallResult {
    caller.context.own.write_debug(arguments[0], arguments[1])?;
    arch::load_own_registers(caller.context);
    Ok(0)
}

/// `HYPERVISOR_get_debugreg(register)`.
///
/// # Errors
/// `EINVAL` for a register that does not exist.
pub fn get_debugreg(caller: &mut Caller<'_>, arguments: &Arguments) -> HypercallResult {
    caller.context.own.debug().read(arguments[0]).ok_or(Errno::EINVAL.into())
}

/// Assists that a 64-bit guest may turn on. Only the last makes a difference: page tables are always writable by way
/// of emulation, and the others concern 32-bit guests.
pub const ASSISTS: u64 = 1 << VMASST_TYPE_4GB_SEGMENTS
    | 1 << VMASST_TYPE_4GB_SEGMENTS_NOTIFY
    | 1 << VMASST_TYPE_WRITABLE_PAGETABLES
    | 1 << VMASST_TYPE_PAE_EXTENDED_CR3
    | 1 << VMASST_TYPE_RUNSTATE_UPDATE_FLAG;

/// `HYPERVISOR_vm_assist(command, type)`.
///
/// # Errors
/// `EINVAL` for an assist that is not there, `ENOSYS` for an unknown command.
pub fn vm_assist(caller: &mut Caller<'_>, arguments: &Arguments) -> HypercallResult {
    let kind = arguments[1];
    if kind >= 64 || ASSISTS & 1 << kind == 0 {
        return Err(Errno::EINVAL.into());
    }
    match arguments[0] as u32 {
        VMASST_CMD_ENABLE => caller.domain.vm_assist.fetch_or(1 << kind, Ordering::Relaxed),
        VMASST_CMD_DISABLE => caller.domain.vm_assist.fetch_and(!(1 << kind), Ordering::Relaxed),
        _ => return Err(Errno::ENOSYS.into()),
    };
    Ok(0)
}
