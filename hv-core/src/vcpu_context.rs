//! A vCPU's whole state as the ABI lays it out (`vcpu_guest_context`): how it starts, and how it is read back.
//!
//! Everything in it is checked before anything is taken over: the page tables must be the domain's own and valid,
//! the descriptor table's frames likewise, and code can only be entered where a guest may run.

use crate::{
    arch,
    debug_registers::DebugRegisters,
    descriptor,
    domain::Domain,
    extended_state::LoadableState,
    guest_access,
    guest_control::{self, callback_at},
    hypercall::HypercallError,
    layout::is_canonical,
    mmu, scheduler, trap,
    vcpu::{Context, Vcpu, not_runnable},
};
use core::sync::atomic::Ordering;
use hypercall_abi::{
    Errno, MachineFrame,
    arch_x86::{
        CpuUserRegs, TrapInfo, VGCF_FAILSAFE_DISABLES_EVENTS, VGCF_I387_VALID, VGCF_IN_KERNEL, VGCF_ONLINE,
        VGCF_SYSCALL_DISABLES_EVENTS, VcpuGuestContext, xen_cr3_to_pfn, xen_pfn_to_cr3,
    },
};

/// Gives a vCPU that has never run the state at guest address `address`.
///
/// # Errors
/// `EEXIST` when it has a state already, `EFAULT`, and `EINVAL` for a state no vCPU may have; `Restart` while the control
/// domain works on the domain.
pub fn initialise(domain: &Domain, vcpu: &Vcpu, address: u64) -> Result<(), HypercallError> {
    let state: VcpuGuestContext = guest_access::read(address)?;
    let _control = domain.try_control()?;
    if vcpu.initialised.load(Ordering::Acquire) {
        return Err(Errno::EEXIST.into());
    }
    // Not initialised means never brought up, so nobody else has its context; the lock keeps others like us out.
    let context = vcpu.paused_context()?;
    apply(domain, vcpu, context, &state)
}

/// Replaces the state of a paused vCPU (`XEN_DOMCTL_setvcpucontext`).
///
/// # Errors
/// `EBUSY` while it may run, and as [`initialise`].
pub fn set(domain: &Domain, vcpu: &Vcpu, state: &VcpuGuestContext) -> Result<(), HypercallError> {
    let _control = domain.control.lock();
    let context = vcpu.paused_context()?;
    apply(domain, vcpu, context, state)
}

fn apply(
    domain: &Domain,
    vcpu: &Vcpu,
    context: &mut Context,
    state: &VcpuGuestContext,
) -> Result<(), HypercallError> {
    check(state)?;
    let fpu = if state.flags & VGCF_I387_VALID != 0 {
        Some(LoadableState::new(&state.fpu_ctxt, arch::mxcsr_mask())?)
    } else {
        None
    };
    let debug = debug_registers(state)?;
    let event = callback_at(state.event_callback_eip, true)?;
    let failsafe =
        callback_at(state.failsafe_callback_eip, state.flags & VGCF_FAILSAFE_DISABLES_EVENTS != 0)?;
    let syscall = callback_at(state.syscall_callback_eip, state.flags & VGCF_SYSCALL_DISABLES_EVENTS != 0)?;
    install_handlers(context, &state.trap_ctxt)?;
    install_tables(domain, context, state)?;
    context.event_callback = event;
    context.failsafe_callback = failsafe;
    context.syscall_callback = syscall;
    take_registers(context, state);
    context.own.set_debug(debug);
    match fpu {
        Some(fpu) => context.fpu.set_legacy(fpu),
        None => context.fpu.reset(),
    }
    // The assists are the domain's, and come with its first vCPU; others leave them as they are.
    if vcpu.id.0 == 0 {
        domain.vm_assist.store(state.vm_assist & guest_control::ASSISTS, Ordering::Relaxed);
    }
    vcpu.initialised.store(true, Ordering::Release);
    if state.flags & VGCF_ONLINE != 0 {
        scheduler::resume(vcpu, not_runnable::OFFLINE);
    }
    Ok(())
}

/// Enters the handlers of all vectors. Which vector is told by the place in the table: a kernel leaves the entries of
/// vectors that it does not handle empty, and an empty one is not another handler of vector 0.
fn install_handlers(context: &mut Context, handlers: &[TrapInfo; 256]) -> Result<(), Errno> {
    context.traps.clear();
    let there = (0..=u8::MAX).zip(handlers).filter(|(_, handler)| handler.address != 0);
    there
        .map(|(vector, handler)| TrapInfo { vector, ..*handler })
        .try_for_each(|handler| trap::set_handler(context, handler))
}

fn check(state: &VcpuGuestContext) -> Result<(), Errno> {
    let bases = [state.fs_base, state.gs_base_kernel, state.gs_base_user];
    let in_kernel = state.flags & VGCF_IN_KERNEL != 0;
    if !bases.into_iter().all(is_canonical) || !in_kernel || state.ldt_ents != 0 {
        return Err(Errno::EINVAL);
    }
    Ok(())
}

fn debug_registers(state: &VcpuGuestContext) -> Result<DebugRegisters, Errno> {
    let mut registers = DebugRegisters::new();
    for number in [0, 1, 2, 3, 6, 7] {
        registers.write(number, state.debugreg[number as usize])?;
    }
    Ok(registers)
}

/// Descriptor table first: the page tables are what makes the vCPU able to run at all.
fn install_tables(
    domain: &Domain,
    context: &mut Context,
    state: &VcpuGuestContext,
) -> Result<(), HypercallError> {
    let entries = u32::try_from(state.gdt_ents).map_err(|_| Errno::EINVAL)?;
    let frames = state.gdt_frames.map(MachineFrame);
    let count = (entries as usize).div_ceil(512);
    descriptor::install_gdt(domain, context, frames.get(..count).ok_or(Errno::EINVAL)?, entries)?;
    let user = (state.ctrlreg[1] != 0).then(|| MachineFrame(xen_cr3_to_pfn(state.ctrlreg[1])));
    mmu::install_root(domain, context, MachineFrame(xen_cr3_to_pfn(state.ctrlreg[3])), user)
}

/// Place of the I/O privilege level in the flags.
const IO_PRIVILEGE_SHIFT: u32 = 12;

fn take_registers(context: &mut Context, state: &VcpuGuestContext) {
    context.registers = CpuUserRegs {
        rflags: trap::guest_flags(state.user_regs.rflags),
        cs: state.user_regs.cs | 3,
        ss: state.user_regs.ss | 3,
        _pad0: 0,
        saved_upcall_mask: 0,
        _pad1: [0; 3],
        error_code: 0,
        entry_vector: 0,
        ..state.user_regs
    };
    // The level is virtual: the CPU's own stays zero, and the flags never show it again.
    context.io_privilege_level = (state.user_regs.rflags >> IO_PRIVILEGE_SHIFT) as u8 & 3;
    context.in_kernel = true;
    context.kernel_stack = (state.kernel_ss & 0xffff | 3, state.kernel_sp);
    context.fs_base = state.fs_base;
    context.gs_base_kernel = state.gs_base_kernel;
    context.gs_base_user = state.gs_base_user;
}

/// The state of a paused vCPU (`XEN_DOMCTL_getvcpucontext`).
///
/// # Errors
/// `EBUSY` while it may run.
pub fn get(domain: &Domain, vcpu: &Vcpu) -> Result<VcpuGuestContext, Errno> {
    let _control = domain.control.lock();
    let context = &*vcpu.paused_context()?;
    let mut state: VcpuGuestContext = zerocopy::FromZeros::new_zeroed();
    state.user_regs = context.registers;
    state.user_regs.rflags |= u64::from(context.io_privilege_level) << IO_PRIVILEGE_SHIFT;
    state.flags = VGCF_I387_VALID | if context.in_kernel { VGCF_IN_KERNEL } else { 0 };
    state.fpu_ctxt = context.fpu.legacy(arch::kept_components() != 0);
    if vcpu.paused.load(Ordering::Relaxed) & not_runnable::OFFLINE == 0 {
        state.flags |= VGCF_ONLINE;
    }
    for (vector, place) in (0..=u8::MAX).zip(&mut state.trap_ctxt) {
        *place = context.traps.get(vector);
    }
    for number in [0, 1, 2, 3, 6, 7] {
        state.debugreg[number as usize] = context.own.debug().read(number).unwrap_or(0);
    }
    state.ctrlreg[4] = context.own.control4();
    state.ctrlreg[3] = context.kernel_page_table.map_or(0, |frame| xen_pfn_to_cr3(frame.0));
    state.ctrlreg[1] = context.user_page_table.map_or(0, |frame| xen_pfn_to_cr3(frame.0));
    (state.kernel_ss, state.kernel_sp) = context.kernel_stack;
    state.event_callback_eip = context.event_callback.address;
    state.failsafe_callback_eip = context.failsafe_callback.address;
    state.syscall_callback_eip = context.syscall_callback.address;
    (state.fs_base, state.gs_base_kernel, state.gs_base_user) =
        (context.fs_base, context.gs_base_kernel, context.gs_base_user);
    state.gdt_ents = u64::from(context.gdt_entries);
    for (slot, frame) in state.gdt_frames.iter_mut().zip(&context.gdt_frames) {
        *slot = frame.map_or(0, |frame| frame.0);
    }
    Ok(state)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        extended_state::initial_legacy,
        lifecycle,
        test_support::{Guest, machine_of, vcpu},
    };
    use hypercall_abi::xen::{VMASST_TYPE_PAE_EXTENDED_CR3, VMASST_TYPE_RUNSTATE_UPDATE_FLAG};

    #[test]
    fn empty_entries_of_the_trap_table_take_no_handler_from_vector_0() {
        let _machine = machine_of(256);
        let guest = Guest::new(1);
        guest.as_caller(|caller| {
            let mut state: VcpuGuestContext = zerocopy::FromZeros::new_zeroed();
            state.trap_ctxt[0].address = 0x1000;
            state.trap_ctxt[14] = TrapInfo { vector: 14, address: 0x2000, ..state.trap_ctxt[14] };
            install_handlers(caller.context, &state.trap_ctxt).unwrap();
            let address = |vector: u8| caller.context.traps.get(vector).address;
            assert_eq!((address(0), address(14), address(13)), (0x1000, 0x2000, 0));
            assert_eq!(caller.context.traps.get(14).vector, 14);
        });
    }

    #[test]
    fn the_io_privilege_level_in_the_flags_is_virtual() {
        let _machine = machine_of(256);
        let guest = Guest::new(1);
        guest.as_caller(|caller| {
            let mut state: VcpuGuestContext = zerocopy::FromZeros::new_zeroed();
            state.user_regs.rflags = 1 << IO_PRIVILEGE_SHIFT;
            take_registers(caller.context, &state);
            assert_eq!(caller.context.io_privilege_level, 1);
            assert_eq!(caller.context.registers.rflags & 3 << IO_PRIVILEGE_SHIFT, 0, "the CPU's own is zero");
        });
        let state = get(guest.domain(), guest.domain().vcpu(hypercall_abi::VcpuId(0)).unwrap()).unwrap();
        assert_eq!(state.user_regs.rflags >> IO_PRIVILEGE_SHIFT & 3, 1);
    }

    /// A state in which a guest's vCPU can start.
    fn good_state(guest: &Guest) -> VcpuGuestContext {
        let mut state: VcpuGuestContext = zerocopy::FromZeros::new_zeroed();
        state.flags = VGCF_IN_KERNEL;
        state.ctrlreg[3] = xen_pfn_to_cr3(guest.branch.l4.0);
        state
    }

    #[test]
    fn only_assists_that_exist_are_taken_over_and_only_from_the_first_vcpu() {
        let _machine = machine_of(256);
        let guest = Guest::new(1);
        lifecycle::create_vcpus(guest.domain(), 2).expect("another vCPU");
        let assists = || guest.domain().vm_assist.load(Ordering::Relaxed);
        let flag = 1 << VMASST_TYPE_RUNSTATE_UPDATE_FLAG;
        let state = VcpuGuestContext { vm_assist: flag | 1 << 6 | 1 << 63, ..good_state(&guest) };
        set(guest.domain(), vcpu(guest.domain(), 0), &state).expect("a good state");
        assert_eq!(assists(), flag);
        let state = VcpuGuestContext { vm_assist: 1 << VMASST_TYPE_PAE_EXTENDED_CR3, ..good_state(&guest) };
        set(guest.domain(), vcpu(guest.domain(), 1), &state).expect("a good state");
        assert_eq!(assists(), flag);
    }

    #[test]
    fn registers_that_would_fault_when_loaded_are_refused() {
        let _machine = machine_of(256);
        let guest = Guest::new(1);
        let first = vcpu(guest.domain(), 0);
        let mut bad = good_state(&guest);
        bad.flags |= VGCF_I387_VALID;
        bad.fpu_ctxt[26] = 1;
        assert_eq!(set(guest.domain(), first, &bad), Err(Errno::EINVAL.into()), "a reserved bit of MXCSR");
        let mut bad = good_state(&guest);
        bad.debugreg[1] = 0xffff_8300_0000_0000;
        assert_eq!(set(guest.domain(), first, &bad), Err(Errno::EPERM.into()), "a watch on the hypervisor");
    }

    #[test]
    fn what_is_read_back_is_what_was_set() {
        let _machine = machine_of(256);
        let guest = Guest::new(1);
        let first = vcpu(guest.domain(), 0);
        let mut state = good_state(&guest);
        state.flags |= VGCF_I387_VALID;
        state.fpu_ctxt = initial_legacy();
        state.fpu_ctxt[200] = 9;
        (state.debugreg[0], state.debugreg[7]) = (0x1234_5678, 1);
        set(guest.domain(), first, &state).expect("a good state");
        let read = get(guest.domain(), first).expect("it is paused");
        assert_eq!((read.fpu_ctxt, read.debugreg[0]), (state.fpu_ctxt, 0x1234_5678));
        assert_eq!((read.debugreg[6], read.debugreg[7]), (0xffff_0ff0, 0x401));
        state.flags &= !VGCF_I387_VALID;
        set(guest.domain(), first, &state).expect("a good state");
        let read = get(guest.domain(), first).expect("it is paused");
        assert_eq!(read.fpu_ctxt, initial_legacy(), "registers without the flag are not looked at");
    }
}
