//! Exceptions and upcalls: how the hypervisor enters a guest's kernel.
//!
//! A guest registers a handler for each exception and one for events. To enter one the hypervisor does what the
//! CPU would do for a native kernel: it switches to the kernel's stack if user mode was running, pushes a frame,
//! and continues at the handler. The frame is the CPU's with two words on top (rcx and r11, which SYSCALL spoils),
//! its interrupt flag is the inverse of the event mask, and its code selector has privilege 0 for the kernel and 3
//! for user mode although both run in ring 3: that is how `iret` knows where to return to.

use crate::{
    arch, emulate, guest_access,
    hypercall::{Caller, HypercallResult},
    layout::is_canonical,
    lifecycle, scheduler,
    vcpu::{Callback, Context, Vcpu},
};
use core::sync::atomic::Ordering;
use hypercall_abi::{
    Errno,
    arch_x86::{
        CpuUserRegs, FLAT_KERNEL_CS, FLAT_KERNEL_SS, IretContext, TI_MASK_EVENTS, TrapInfo, VGCF_IN_SYSCALL,
    },
};

/// The flag that stops after each instruction.
const SINGLE_STEP: u64 = 1 << 8;
/// Cause in debug register 6: an instruction was executed with that flag.
const STEPPED: u64 = 1 << 14;
/// Flags that a handler starts without: trap, nested task, resume, virtual-8086, alignment check.
const FLAGS_CLEARED: u64 = 1 << 8 | 1 << 14 | 1 << 16 | 1 << 17 | 1 << 18;
/// The interrupt flag.
const INTERRUPTS: u64 = 1 << 9;
/// Both bits of the I/O privilege level: always zero while a guest runs.
const IO_PRIVILEGE: u64 = 3 << 12;
/// Flags a guest may choose: arithmetic, direction, trap, nested task, resume, alignment check, identification.
const GUEST_FLAGS: u64 = 0xcd5 | 1 << 8 | 1 << 14 | 1 << 16 | 1 << 18 | 1 << 21;
/// Bit 1 reads as one.
const FLAGS_FIXED: u64 = 1 << 1;

/// Numbers of the exceptions treated specially.
pub mod vector {
    /// Debug.
    pub const DEBUG: u8 = 1;
    /// Non-maskable interrupt.
    pub const NON_MASKABLE: u8 = 2;
    /// Invalid instruction.
    pub const INVALID_OPCODE: u8 = 6;
    /// FPU not available.
    pub const NO_DEVICE: u8 = 7;
    /// General protection.
    pub const GENERAL_PROTECTION: u8 = 13;
    /// Page fault.
    pub const PAGE_FAULT: u8 = 14;
}

/// True for exceptions that push an error code.
const fn has_error_code(vector: u8) -> bool {
    matches!(vector, 8 | 10..=14 | 17 | 21)
}

/// The flags a guest runs with when it asks for `requested`: its own choice of the harmless ones, interrupts on.
pub fn guest_flags(requested: u64) -> u64 {
    requested & GUEST_FLAGS | INTERRUPTS | FLAGS_FIXED
}

/// An exception that a guest caused, with the CPU's error code.
pub fn handle_exception(caller: &mut Caller<'_>, vector: u8, error_code: u32) {
    match vector {
        vector::NO_DEVICE if !caller.context.task_switched => {
            return arch::fpu_restore(caller.vcpu, caller.context);
        }
        vector::INVALID_OPCODE if emulate::forced(caller) => return stepped(caller),
        vector::GENERAL_PROTECTION if error_code == 0 && emulate::privileged(caller) => {
            return stepped(caller);
        }
        vector::DEBUG => caller.context.own.stopped(arch::take_debug_status()),
        vector::GENERAL_PROTECTION if is_software_interrupt(error_code) => {
            return software_interrupt(caller, error_code);
        }
        vector::PAGE_FAULT => return page_fault(caller, error_code),
        vector::NO_DEVICE => caller.context.task_switched = false,
        _ => {}
    }
    raise(caller, vector, error_code);
}

/// An instruction was done for the guest: if it steps, it stops after this one too.
fn stepped(caller: &mut Caller<'_>) {
    if caller.context.registers.rflags & SINGLE_STEP != 0 {
        caller.context.own.stopped(STEPPED);
        raise(caller, vector::DEBUG, 0);
    }
}

/// `int n` through a gate the guest may not use directly: #GP with the gate's index and the "IDT" bit.
fn is_software_interrupt(error_code: u32) -> bool {
    error_code & 0x7 == 2
}

/// Length of `int n`.
const SOFTWARE_INTERRUPT_LENGTH: u64 = 2;

fn software_interrupt(caller: &mut Caller<'_>, error_code: u32) {
    let number = (error_code >> 3) as u8;
    let required = 3 * u8::from(!caller.context.in_kernel);
    let handler = caller.context.traps.get(number);
    if handler.flags & 3 < required || handler.address == 0 {
        return raise(caller, vector::GENERAL_PROTECTION, error_code);
    }
    caller.context.registers.rip = caller.context.registers.rip.wrapping_add(SOFTWARE_INTERRUPT_LENGTH);
    enter_handler(caller, &handler, &[]);
}

/// Page-fault error code: the access came from user mode. A guest's kernel is user mode to the CPU only.
const FAULT_FROM_USER: u32 = 1 << 2;

fn page_fault(caller: &mut Caller<'_>, error_code: u32) {
    let address = arch::fault_address();
    if emulate::table_write(caller, address, error_code) {
        return;
    }
    raise_page_fault(caller, address, error_code);
}

/// Gives the guest a page fault at `address`.
pub fn raise_page_fault(caller: &mut Caller<'_>, address: u64, error_code: u32) {
    caller.context.fault_address = address;
    if let Some(info) = caller.vcpu.info() {
        info.fault_address().store(address, Ordering::Relaxed);
    }
    let seen = if caller.context.in_kernel { error_code & !FAULT_FROM_USER } else { error_code };
    raise(caller, vector::PAGE_FAULT, seen);
}

/// Enters the guest's handler for `vector`; a guest that has none is crashed.
pub fn raise(caller: &mut Caller<'_>, vector: u8, error_code: u32) {
    let handler = caller.context.traps.get(vector);
    if handler.address == 0 {
        report(caller, vector, error_code);
        return lifecycle::crash(caller.domain, "it has no handler for an exception it caused");
    }
    let details: &[u64] = if has_error_code(vector) { &[u64::from(error_code)] } else { &[] };
    enter_handler(caller, &handler, details);
}

fn enter_handler(caller: &mut Caller<'_>, handler: &TrapInfo, details: &[u64]) {
    let callback = Callback { address: handler.address, masks_events: handler.flags & TI_MASK_EVENTS != 0 };
    enter_kernel(caller, callback, details);
}

/// True when the vCPU has events pending and does not mask them.
#[inline]
pub fn has_deliverable_events(vcpu: &Vcpu) -> bool {
    vcpu.info().is_some_and(|info| {
        info.upcall_pending().load(Ordering::Acquire) != 0 && info.upcall_mask().load(Ordering::Relaxed) == 0
    })
}

/// Enters the guest's event handler if events are pending and not masked.
pub fn deliver_events(caller: &mut Caller<'_>) {
    let callback = caller.context.event_callback;
    if callback.address != 0 && has_deliverable_events(caller.vcpu) {
        enter_kernel(caller, Callback { masks_events: true, ..callback }, &[]);
    }
}

/// Sends a vCPU a non-maskable interrupt. Several before it gets there are one.
pub fn request_nmi(vcpu: &Vcpu) {
    vcpu.nmi_pending.store(true, Ordering::Release);
    scheduler::wake(vcpu);
    scheduler::reconsider(vcpu);
}

/// Enters the guest's handler for a non-maskable interrupt that waits, unless it is in there. Only called when a vCPU
/// got the CPU or there was work: a request makes sure of one of the two.
pub fn deliver_nmi(caller: &mut Caller<'_>) {
    if !caller.vcpu.nmi_pending.load(Ordering::Acquire) || caller.context.in_nmi {
        return;
    }
    caller.vcpu.nmi_pending.store(false, Ordering::Relaxed);
    let handler = caller.context.traps.get(vector::NON_MASKABLE);
    if handler.address != 0 {
        caller.context.in_nmi = true;
        enter_handler(caller, &handler, &[]);
    }
}

/// The guest returned from its handler: the next non-maskable interrupt may come.
#[cold]
fn leave_nmi(caller: &mut Caller<'_>) {
    caller.context.in_nmi = false;
    scheduler::reconsider(caller.vcpu);
}

/// SYSCALL from the guest's user mode: enters the kernel's handler.
#[inline(never)]
pub fn system_call(caller: &mut Caller<'_>) {
    let callback = caller.context.syscall_callback;
    if callback.address == 0 {
        return raise(caller, vector::INVALID_OPCODE, 0);
    }
    enter_kernel(caller, callback, &[]);
}

/// Length of the SYSCALL instruction.
const SYSCALL_LENGTH: u64 = 2;

/// SYSCALL or SYSENTER from 32-bit code. Without a handler it is what it would be on a machine where it is off: an
/// invalid instruction, or for SYSENTER, which leaves no trace of where it was executed, a protection fault at address 0.
#[cold]
#[inline(never)]
pub fn compatibility_call(caller: &mut Caller<'_>, is_sysenter: bool) {
    let callbacks = &caller.context.compatibility_callbacks;
    let callback = if is_sysenter { callbacks.sysenter } else { callbacks.syscall };
    if callback.address != 0 {
        return enter_kernel(caller, callback, &[]);
    }
    if is_sysenter {
        return raise(caller, vector::GENERAL_PROTECTION, 0);
    }
    caller.context.registers.rip = caller.context.registers.rip.wrapping_sub(SYSCALL_LENGTH);
    raise(caller, vector::INVALID_OPCODE, 0);
}

/// The return to the guest faulted: its own selectors or addresses were bad. The handler finds the data selectors
/// that are in force, and then the frame that was refused.
pub fn failed_return(caller: &mut Caller<'_>) {
    let callback = caller.context.failsafe_callback;
    if callback.address == 0 {
        return lifecycle::crash(caller.domain, "it returns to a bad frame and has no failsafe handler");
    }
    arch::store_selectors(caller.context);
    let CpuUserRegs { ds, es, fs, gs, .. } = caller.context.registers;
    enter_kernel(caller, callback, &[ds, es, fs, gs].map(u64::from));
}

/// Pushes the interrupted state on the guest kernel's stack, with the `details` that the kind of entry has, and
/// continues at `callback`.
fn enter_kernel(caller: &mut Caller<'_>, callback: Callback, details: &[u64]) {
    let mask = caller.vcpu.info().map(|info| info.upcall_mask());
    let saved_mask = mask.map_or(0, |mask| mask.load(Ordering::Relaxed));
    let was_in_kernel = caller.context.in_kernel;
    let frame = interrupted_frame(&caller.context.registers, was_in_kernel, saved_mask);
    let top = if was_in_kernel { caller.context.registers.rsp } else { caller.context.kernel_stack.1 };
    if !was_in_kernel {
        arch::enter_kernel_mode(caller.context);
    }
    match push(top, &caller.context.registers, details, frame) {
        Ok(stack) => continue_at(caller.context, callback.address, stack),
        Err(_) => return lifecycle::crash(caller.domain, "its kernel stack cannot be written"),
    }
    if let Some(mask) = mask.filter(|_| callback.masks_events) {
        mask.store(1, Ordering::Relaxed);
    }
}

/// rip, cs with the event mask, flags, rsp, ss: as the CPU would push them for a native kernel.
fn interrupted_frame(registers: &CpuUserRegs, in_kernel: bool, mask: u8) -> [u64; 5] {
    let privilege = if in_kernel { 0 } else { 3 };
    let selector = u64::from(registers.cs & !3 | privilege) | u64::from(mask) << 32;
    let interrupts = if mask == 0 { INTERRUPTS } else { 0 };
    let flags = registers.rflags & !(INTERRUPTS | IO_PRIVILEGE) | interrupts;
    [registers.rip, selector, flags, registers.rsp, u64::from(registers.ss)]
}

/// Most words that one kind of entry adds to the frame: the selectors of a failed return.
const MOST_DETAILS: usize = 4;

/// Pushes, from the top down, the frame, the details, r11 and rcx; returns the new stack pointer.
fn push(top: u64, registers: &CpuUserRegs, details: &[u64], frame: [u64; 5]) -> Result<u64, Errno> {
    let mut words = [0; 2 + MOST_DETAILS + 5];
    let count = 2 + details.len() + frame.len();
    words[..2].copy_from_slice(&[registers.rcx, registers.r11]);
    words[2..count - frame.len()].copy_from_slice(details);
    words[count - frame.len()..count].copy_from_slice(&frame);
    let stack = (top & !0xf).wrapping_sub(count as u64 * 8);
    guest_access::write_bytes(stack, zerocopy::IntoBytes::as_bytes(&words[..count]))?;
    Ok(stack)
}

fn continue_at(context: &mut Context, address: u64, stack: u64) {
    let registers = &mut context.registers;
    registers.rip = address;
    registers.cs = FLAT_KERNEL_CS;
    registers.ss = FLAT_KERNEL_SS;
    registers.rsp = stack;
    registers.rflags &= !FLAGS_CLEARED;
}

/// `HYPERVISOR_iret`: takes the frame on the kernel's stack and returns to where it says, kernel or user mode.
///
/// # Errors
/// `EFAULT` when the stack cannot be read, `EINVAL` for a return to user mode without a user page table; the guest
/// cannot go on after either, so it is crashed.
#[inline(never)]
pub fn iret(caller: &mut Caller<'_>) -> HypercallResult {
    let frame = match read_return_frame(caller) {
        Ok(frame) => frame,
        Err(errno) => {
            lifecycle::crash(caller.domain, "it returns to user mode from an unusable frame");
            return Err(errno.into());
        }
    };
    if caller.context.in_nmi {
        leave_nmi(caller);
    }
    let to_user = frame.cs & 3 == 3;
    restore_registers(&mut caller.context.registers, &frame);
    if let Some(info) = caller.vcpu.info() {
        info.upcall_mask().store(u8::from(frame.rflags & INTERRUPTS == 0), Ordering::Relaxed);
    }
    if to_user {
        arch::enter_user_mode(caller.context);
    }
    Ok(frame.rax)
}

fn read_return_frame(caller: &Caller<'_>) -> Result<IretContext, Errno> {
    let frame: IretContext = guest_access::read(caller.context.registers.rsp)?;
    let to_user = frame.cs & 3 == 3;
    if to_user && caller.context.user_page_table.is_none() {
        return Err(Errno::EINVAL);
    }
    Ok(frame)
}

fn restore_registers(registers: &mut CpuUserRegs, frame: &IretContext) {
    registers.rip = frame.rip;
    registers.cs = frame.cs as u16 | 3;
    registers.rflags = guest_flags(frame.rflags);
    registers.rsp = frame.rsp;
    registers.ss = frame.ss as u16 | 3;
    if frame.flags & VGCF_IN_SYSCALL == 0 {
        registers.r11 = frame.r11;
        registers.rcx = frame.rcx;
    }
}

fn report(caller: &Caller<'_>, vector: u8, error_code: u32) {
    let registers = &caller.context.registers;
    log::warn!(
        "domain {}: exception {vector} (error {error_code:#x}, address {:#x}) at {:#x}, stack {:#x}",
        caller.domain.id,
        caller.context.fault_address,
        registers.rip,
        registers.rsp
    );
}

/// `HYPERVISOR_set_trap_table`: handlers by vector, ended by one with address zero; a null table clears all.
///
/// # Errors
/// `EFAULT`, `ENOMEM`; handlers before the one in question are in force.
pub fn set_trap_table(caller: &mut Caller<'_>, arguments: &crate::hypercall::Arguments) -> HypercallResult {
    let table = arguments[0];
    if table == 0 {
        caller.context.traps.clear();
        return Ok(0);
    }
    for index in 0..256 {
        let handler: TrapInfo = guest_access::read_element(table, index)?;
        if handler.address == 0 {
            break;
        }
        set_handler(caller.context, handler)?;
    }
    Ok(0)
}

/// Enters a handler into a vCPU's table; a handler that is no address of the guest's is dropped.
///
/// # Errors
/// `ENOMEM`.
pub fn set_handler(context: &mut Context, handler: TrapInfo) -> Result<(), Errno> {
    let address = if is_guest_code(handler.address) { handler.address } else { 0 };
    context.traps.set(TrapInfo { address, ..handler })
}

/// True for an address the hypervisor may enter a guest at.
pub fn is_guest_code(address: u64) -> bool {
    is_canonical(address) && !crate::layout::is_hypervisor_address(address)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        direct_map,
        layout::PAGE_SIZE,
        page_table::{
            Entry,
            test_guest::{RW, write},
        },
        test_support::{Guest, machine_of},
    };
    use hypercall_abi::{MachineFrame, arch_x86::FLAT_RING3_CS64};
    use std::vec::Vec;

    /// Where the guest of these tests has its stack, and where its handler would be.
    const STACK: u64 = 4 * PAGE_SIZE;
    const HANDLER: u64 = 0x7000;

    /// A guest whose page below [`STACK`] is a stack.
    fn guest_with_stack() -> (Guest, MachineFrame) {
        let guest = Guest::new(1);
        let stack = guest.inner.frame();
        write(guest.branch.l1, 3, Entry::new(stack, RW));
        (guest, stack)
    }

    /// The last `count` words of the stack.
    fn top_words(stack: MachineFrame, count: usize) -> Vec<u64> {
        let words = &direct_map::words(stack)[512 - count..];
        words.iter().map(|word| word.load(Ordering::Relaxed)).collect()
    }

    #[test]
    fn a_failed_return_shows_the_selectors_and_what_was_refused() {
        let _machine = machine_of(256);
        let (guest, stack) = guest_with_stack();
        guest.as_caller(|caller| {
            caller.context.failsafe_callback = Callback { address: HANDLER, masks_events: true };
            caller.context.registers = CpuUserRegs {
                rcx: 1,
                r11: 2,
                ds: 3,
                es: 4,
                fs: 5,
                gs: 6,
                rip: 0x8000_0000_0000,
                cs: 0xe00b,
                rflags: 0x202,
                rsp: STACK,
                ss: 0x1237,
                ..zerocopy::FromZeros::new_zeroed()
            };
            failed_return(caller);
            let registers = &caller.context.registers;
            assert_eq!((registers.rip, registers.cs), (HANDLER, FLAT_RING3_CS64));
            assert_eq!(registers.rsp, STACK - 11 * 8);
        });
        let masked = 1 << 32;
        let refused = [0x8000_0000_0000, 0xe008 | masked, 0x2, STACK, 0x1237];
        assert_eq!(top_words(stack, 11), [&[1, 2, 3, 4, 5, 6][..], &refused].concat());
    }

    #[test]
    fn an_exception_shows_its_error_code_and_no_selectors() {
        let _machine = machine_of(256);
        let (guest, stack) = guest_with_stack();
        guest.as_caller(|caller| {
            let handler = TrapInfo { vector: 13, address: HANDLER, ..TrapInfo::default() };
            caller.context.traps.set(handler).unwrap();
            let registers = &mut caller.context.registers;
            (registers.rcx, registers.r11, registers.rip, registers.rsp) = (1, 2, 0x1234, STACK);
            raise(caller, 13, 0x18);
            assert_eq!(caller.context.registers.rsp, STACK - 8 * 8);
        });
        assert_eq!(top_words(stack, 8)[..4], [1, 2, 0x18, 0x1234]);
    }

    #[test]
    fn a_second_non_maskable_interrupt_waits_for_the_return_from_the_first() {
        let _machine = machine_of(256);
        let (guest, _stack) = guest_with_stack();
        guest.as_caller(|caller| {
            let handler = TrapInfo { vector: vector::NON_MASKABLE, address: HANDLER, ..TrapInfo::default() };
            caller.context.traps.set(handler).unwrap();
            (caller.context.registers.rsp, caller.context.registers.rip) = (STACK, 0x1234);
            deliver_nmi(caller);
            assert_eq!(caller.context.registers.rip, 0x1234, "none was sent");
            request_nmi(caller.vcpu);
            deliver_nmi(caller);
            assert_eq!(caller.context.registers.rip, HANDLER);
            request_nmi(caller.vcpu);
            caller.context.registers.rip = HANDLER + 1;
            deliver_nmi(caller);
            assert_eq!(caller.context.registers.rip, HANDLER + 1, "it is in the handler");
            leave_nmi(caller);
            deliver_nmi(caller);
            assert_eq!(caller.context.registers.rip, HANDLER);
        });
    }
}
