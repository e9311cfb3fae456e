#![expect(
    unsafe_code,
    reason = "entered from assembly with raw registers, and loads the CPU for the next vCPU"
)]
//! What happens between entering the hypervisor and leaving it.
//!
//! Entry code calls in with the running vCPU's registers and leaves with the registers it gets back. In between the
//! cause is handled, then whatever work has come up for this CPU, then the scheduler decides, and the last thing is
//! to see whether the vCPU that will run has events to be told of.

use super::{
    clock,
    cpu::{self, this_cpu},
    descriptor_tables, entry, fpu, guest_memory, local_apic, own_registers, paging, tlb,
};
use crate::{
    console, counters,
    cpu::{Cpu, count, work},
    frame_allocator,
    hypercall::{self, Caller},
    interrupt, run_state, scheduler, time, trap,
    vcpu::{Context, Vcpu},
};
use core::{mem::offset_of, ptr, sync::atomic::Ordering};
use hypercall_abi::{MachineFrame, arch_x86::CpuUserRegs};

/// Loads one selector register, or null if the CPU refuses the value.
macro_rules! load_selector {
    ($register:literal, $value:expr) => {
        // SAFETY: the hypervisor uses none of these registers, and a fault goes on at label 3 with null.
        unsafe {
            core::arch::asm!(
                concat!("2: mov ", $register, ", {value:x}"),
                "jmp 4f",
                "3: xor {value:e}, {value:e}",
                concat!("mov ", $register, ", {value:x}"),
                "4:",
                ".pushsection .fixups, \"a\"",
                ".quad 2b, 3b",
                ".popsection",
                value = inout(reg) u64::from($value) => _,
                options(nostack)
            );
        }
    };
}

/// The running vCPU as its own hypercalls and exceptions see it.
///
/// # Safety
/// At most one `Caller` may exist on a CPU at a time.
unsafe fn caller<'a>(vcpu: &'a Vcpu) -> Caller<'a> {
    // SAFETY: `running` is set for this CPU, and the caller's promise.
    let context = unsafe { vcpu.context_mut() };
    Caller { context, vcpu, domain: vcpu.domain() }
}

/// An exception or interrupt struck in a guest.
pub extern "C" fn guest_trap(registers: &mut CpuUserRegs) -> *mut CpuUserRegs {
    guest_memory::guard();
    let vector = registers.entry_vector as u8;
    let error_code = registers.error_code;
    let cpu = this_cpu();
    counters::enter(cpu, cpu.current());
    if vector < 32 {
        if let Some(vcpu) = cpu.current() {
            // SAFETY: the only one: entry code has just come in, and this ends before `leave` makes its own.
            trap::handle_exception(&mut unsafe { caller(vcpu) }, vector, error_code);
        }
    } else {
        handle_interrupt(cpu, vector);
    }
    leave(cpu)
}

/// A guest executed SYSCALL.
pub extern "C" fn guest_syscall(registers: &mut CpuUserRegs) -> *mut CpuUserRegs {
    let cpu = this_cpu();
    counters::enter(cpu, cpu.current());
    let vector = registers.entry_vector;
    if let Some(vcpu) = cpu.current() {
        // SAFETY: as in `guest_trap`.
        let mut caller = unsafe { caller(vcpu) };
        if vector != entry::SYSCALL_VECTOR {
            trap::compatibility_call(&mut caller, vector == entry::SYSENTER_VECTOR);
        } else if caller.context.in_kernel {
            count(&cpu.counters.hypercalls);
            hypercall::dispatch(&mut caller);
        } else {
            trap::system_call(&mut caller);
        }
    }
    leave(cpu)
}

fn handle_interrupt(cpu: &Cpu, vector: u8) {
    match vector {
        local_apic::TIMER_VECTOR => {
            time::timer_interrupt(cpu);
            local_apic::end_of_interrupt();
        }
        local_apic::SERIAL_VECTOR => {
            console::input_interrupt();
            local_apic::end_of_interrupt();
        }
        local_apic::DATE_VECTOR => {
            clock::second_begins();
            local_apic::end_of_interrupt();
        }
        // To have come here is what was asked: work and events are looked at on the way out.
        local_apic::REQUEST_VECTOR => {
            tlb::serve_requests(cpu);
            local_apic::end_of_interrupt();
        }
        local_apic::SPURIOUS_VECTOR => {}
        vector
            if (vector as usize) < interrupt::FIRST_VECTOR as usize + interrupt::MOST_INTERRUPTS
                && vector >= interrupt::FIRST_VECTOR =>
        {
            interrupt::handle(cpu, vector);
        }
        _ => local_apic::end_of_interrupt(),
    }
}

/// The `iretq` to the running guest faulted: the guest is told, or crashes.
pub extern "C" fn failed_return(fault: &CpuUserRegs, registers: *mut CpuUserRegs) -> *mut CpuUserRegs {
    guest_memory::guard();
    // The general registers were popped before the fault, so the fault's own frame has them; it lies over theirs.
    let popped = *fault;
    let cpu = this_cpu();
    counters::enter(cpu, cpu.current());
    if let Some(vcpu) = cpu.current() {
        // SAFETY: as in `guest_trap`.
        let mut caller = unsafe { caller(vcpu) };
        debug_assert!(ptr::eq(&raw const caller.context.registers, registers));
        let kept = caller.context.registers;
        caller.context.registers = CpuUserRegs {
            rip: kept.rip,
            cs: kept.cs,
            _pad0: 0,
            saved_upcall_mask: 0,
            _pad1: [0; 3],
            rflags: kept.rflags,
            rsp: kept.rsp,
            ss: kept.ss,
            _pad2: [0; 3],
            es: kept.es,
            ds: kept.ds,
            fs: kept.fs,
            gs: kept.gs,
            ..popped
        };
        trap::failed_return(&mut caller);
    }
    leave(cpu)
}

/// An exception or interrupt struck in the hypervisor: while idle, in a copy from a guest, or by our own fault.
pub extern "C" fn hypervisor_trap(registers: &mut CpuUserRegs) {
    let vector = registers.entry_vector as u8;
    if vector >= 32 {
        return handle_interrupt(this_cpu(), vector);
    }
    match guest_memory::fixup(registers.rip) {
        Some(address) => registers.rip = address,
        None => broken(registers),
    }
}

/// A double fault, a machine check, or a non-maskable interrupt.
pub extern "C" fn special_trap(registers: &mut CpuUserRegs) {
    const NON_MASKABLE: u32 = 2;
    if registers.entry_vector == NON_MASKABLE && cpu::is_stopped() {
        cpu::halt_for_ever();
    }
    if registers.entry_vector != NON_MASKABLE {
        broken(registers);
    }
}

fn broken(registers: &CpuUserRegs) -> ! {
    // SAFETY: reads a register.
    let address = unsafe { x86::controlregs::cr2() };
    panic!(
        "exception {} (error {:#x}) at {:#x}, address {address:#x}, stack {:#x}, rax {:#x} rcx {:#x} rdi {:#x} rsi {:#x}",
        registers.entry_vector,
        registers.error_code,
        registers.rip,
        registers.rsp,
        registers.rax,
        registers.rcx,
        registers.rdi,
        registers.rsi
    );
}

/// The registers of whichever vCPU runs next. Nearly always that is the one that came in, with nothing to do and no
/// event to be told of; everything else is [`settle`]'s.
#[inline(always)]
fn leave(cpu: &'static Cpu) -> *mut CpuUserRegs {
    if cpu.work.load(Ordering::Relaxed) == 0
        && let Some(vcpu) = cpu.current()
        && !trap::has_deliverable_events(vcpu)
    {
        counters::leave(cpu);
        // SAFETY: the cause of entry has been handled, so its `Caller` is gone.
        return unsafe { &raw mut vcpu.context_mut().registers };
    }
    settle(cpu)
}

/// Does what has come up for this CPU until a vCPU can run, and tells it of its events.
#[cold]
#[inline(never)]
fn settle(cpu: &'static Cpu) -> *mut CpuUserRegs {
    loop {
        if cpu.work.load(Ordering::Relaxed) != 0 {
            do_work(cpu);
        }
        let Some(vcpu) = cpu.current() else {
            idle(cpu);
            continue;
        };
        // SAFETY: as in `leave`.
        let mut caller = unsafe { caller(vcpu) };
        trap::deliver_nmi(&mut caller);
        trap::deliver_events(&mut caller);
        if cpu.work.load(Ordering::Relaxed) == 0 {
            counters::leave(cpu);
            return &raw mut caller.context.registers;
        }
    }
}

fn do_work(cpu: &'static Cpu) {
    let pending = cpu.work.swap(0, Ordering::Acquire);
    if pending & work::RESCHEDULE != 0 {
        reschedule(cpu);
    }
    time::run_timers(cpu);
}

fn reschedule(cpu: &'static Cpu) {
    let previous = cpu.current();
    let next = scheduler::choose(cpu);
    if same(previous, next) {
        return;
    }
    count(&cpu.counters.context_switches);
    if let Some(previous) = previous {
        // SAFETY: it ran here until now, and nobody else may have its context before `on_cpu` is clear.
        store(previous, unsafe { previous.context_mut() });
    }
    cpu.set_current(next);
    let Some(next) = next else {
        paging::load_root();
        return leave_vcpu(cpu, previous, None);
    };
    let previous =
        if next.on_cpu.load(Ordering::Acquire) { take_over(cpu, previous, next) } else { previous };
    next.on_cpu.store(true, Ordering::Relaxed);
    if previous.is_none_or(|previous| !ptr::eq(previous.domain(), next.domain())) {
        next.domain().cpus.fetch_or(cpu.bit(), Ordering::SeqCst);
    }
    // SAFETY: `choose` gave it to this CPU, and no other has its context: `on_cpu` was clear.
    load(next, unsafe { next.context_mut() });
    leave_vcpu(cpu, previous, Some(next));
}

/// The chosen vCPU is still being put away by another CPU. This one lets go of its own first, because the other may be
/// waiting for that.
#[cold]
fn take_over(cpu: &Cpu, previous: Option<&Vcpu>, next: &Vcpu) -> Option<&'static Vcpu> {
    paging::load_root();
    leave_vcpu(cpu, previous, None);
    while next.on_cpu.load(Ordering::Acquire) {
        cpu::wait_politely();
    }
    None
}

/// Nothing of the previous vCPU is on this CPU any more: neither registers nor translations. After this it may run
/// elsewhere, or be gone.
fn leave_vcpu(cpu: &Cpu, previous: Option<&Vcpu>, next: Option<&Vcpu>) {
    let Some(previous) = previous else { return };
    if next.is_none_or(|next| !ptr::eq(previous.domain(), next.domain())) {
        previous.domain().cpus.fetch_and(!cpu.bit(), Ordering::SeqCst);
    }
    previous.on_cpu.store(false, Ordering::Release);
}

fn same(one: Option<&Vcpu>, other: Option<&Vcpu>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => ptr::eq(one, other),
        (None, None) => true,
        _ => false,
    }
}

fn idle(cpu: &Cpu) {
    if cpu.work.load(Ordering::Relaxed) == 0 {
        counters::sleep(cpu, rest);
    }
}

/// Zeroes some memory that a domain may want later, or sleeps.
fn rest() {
    if frame_allocator::scrub_some() {
        cpu::let_interrupts_in();
    } else {
        cpu::wait_for_interrupt();
    }
}

/// Takes over from the CPU what a guest can change without the hypervisor noticing.
fn store(vcpu: &Vcpu, context: &mut Context) {
    fpu::save(vcpu, context);
    store_segment_bases(context);
    store_selectors(context);
}

/// Takes over the data selectors that the guest has loaded.
pub fn store_selectors(context: &mut Context) {
    // SAFETY: reads selector registers.
    unsafe {
        core::arch::asm!("mov {0:x}, ds", out(reg) context.registers.ds, options(nomem, nostack, preserves_flags));
        core::arch::asm!("mov {0:x}, es", out(reg) context.registers.es, options(nomem, nostack, preserves_flags));
        core::arch::asm!("mov {0:x}, fs", out(reg) context.registers.fs, options(nomem, nostack, preserves_flags));
        core::arch::asm!("mov {0:x}, gs", out(reg) context.registers.gs, options(nomem, nostack, preserves_flags));
    }
}

/// Makes the CPU ready to run a vCPU.
fn load(vcpu: &Vcpu, context: &mut Context) {
    context.hypervisor_stack = cpu::stack_top();
    let registers = &raw const context.registers as u64;
    let end_of_frame = registers + offset_of!(CpuUserRegs, es) as u64;
    descriptor_tables::set_entry_stack(end_of_frame);
    entry::set_syscall_frame(end_of_frame);
    descriptor_tables::show_guest_tables(context);
    load_page_tables(context);
    load_segments(context);
    own_registers::switch_to(context);
    fpu::switch_to(vcpu, context);
    run_state::publish(vcpu, context);
}

/// Loads the address space that the guest is in, kernel's or user's.
pub fn load_page_tables(context: &Context) {
    let root = if context.in_kernel { context.kernel_page_table } else { context.user_page_table };
    count(&this_cpu().counters.address_space_switches);
    match root {
        Some(MachineFrame(number)) => paging::load(number << 12),
        None => paging::load_root(),
    }
}

/// Shows the guest's descriptor tables to the CPU after they changed.
pub fn load_descriptor_tables(context: &Context) {
    descriptor_tables::show_guest_tables(context);
    tlb::flush_local();
}

/// Loads selectors, then bases, which loading a selector spoils. A selector that is no good any more becomes null.
fn load_segments(context: &mut Context) {
    load_selector!("ds", context.registers.ds);
    load_selector!("es", context.registers.es);
    load_selector!("fs", context.registers.fs);
    load_selector!("gs", context.registers.gs);
    load_segment_bases(context);
}

/// Loads the bases of FS and GS for the mode the guest is in.
pub fn load_segment_bases(context: &Context) {
    let gs = if context.in_kernel { context.gs_base_kernel } else { context.gs_base_user };
    // SAFETY: the bases are canonical: they are checked where they are set.
    unsafe {
        x86::msr::wrmsr(x86::msr::IA32_FS_BASE, context.fs_base);
        x86::msr::wrmsr(x86::msr::IA32_GS_BASE, gs);
    }
}

/// Sets the base of FS of the guest that runs here.
pub fn set_fs_base(context: &mut Context, base: u64) {
    context.fs_base = base;
    // SAFETY: the base is canonical: the caller has checked it.
    unsafe { x86::msr::wrmsr(x86::msr::IA32_FS_BASE, base) };
}

/// Sets the base of GS of the guest's kernel that runs here.
pub fn set_kernel_gs_base(context: &mut Context, base: u64) {
    context.gs_base_kernel = base;
    // SAFETY: as in `set_fs_base`.
    unsafe { x86::msr::wrmsr(x86::msr::IA32_GS_BASE, base) };
}

/// Loads GS for user mode while the guest's kernel runs here: the selector is in force at once, its base is kept for the
/// return to user mode. One that names nothing becomes null.
pub fn load_user_gs(context: &mut Context, selector: u16) {
    // SAFETY: reads a register that every 64-bit CPU has.
    context.gs_base_kernel = unsafe { x86::msr::rdmsr(x86::msr::IA32_GS_BASE) };
    load_selector!("gs", selector);
    // SAFETY: as above; the hypervisor does not use GS, and what is written is what the guest's kernel had.
    unsafe {
        context.gs_base_user = x86::msr::rdmsr(x86::msr::IA32_GS_BASE);
        x86::msr::wrmsr(x86::msr::IA32_GS_BASE, context.gs_base_kernel);
    }
}

/// Takes over bases that the guest changed, by loading a selector or by an instruction for the purpose.
pub fn store_segment_bases(context: &mut Context) {
    // SAFETY: reads registers that every 64-bit CPU has.
    let (fs, gs) =
        unsafe { (x86::msr::rdmsr(x86::msr::IA32_FS_BASE), x86::msr::rdmsr(x86::msr::IA32_GS_BASE)) };
    context.fs_base = fs;
    if context.in_kernel {
        context.gs_base_kernel = gs;
    } else {
        context.gs_base_user = gs;
    }
}

/// The guest goes from its user mode to its kernel. The base of FS stays as it is: the two share it.
pub fn enter_kernel_mode(context: &mut Context) {
    context.in_kernel = true;
    load_page_tables(context);
    context.gs_base_user = change_gs_base(context.gs_base_kernel);
}

/// The guest goes from its kernel to its user mode.
pub fn enter_user_mode(context: &mut Context) {
    context.in_kernel = false;
    load_page_tables(context);
    context.gs_base_kernel = change_gs_base(context.gs_base_user);
}

/// Loads a base of GS; returns the one it had.
fn change_gs_base(base: u64) -> u64 {
    // SAFETY: the base is canonical: it was checked where it was set.
    unsafe {
        let before = x86::msr::rdmsr(x86::msr::IA32_GS_BASE);
        x86::msr::wrmsr(x86::msr::IA32_GS_BASE, base);
        before
    }
}

/// The address of the last page fault.
pub fn fault_address() -> u64 {
    // SAFETY: reads a register.
    unsafe { x86::controlregs::cr2() as u64 }
}

/// A vCPU goes for good: nothing of it may stay on any CPU.
pub fn forget(vcpu: &Vcpu) {
    for cpu in cpu::all() {
        let _ = cpu.fpu_owner.compare_exchange(
            ptr::from_ref(vcpu).cast_mut(),
            ptr::null_mut(),
            Ordering::Relaxed,
            Ordering::Relaxed,
        );
    }
}

/// The hypervisor cannot go on.
pub fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    cpu::stop_others();
    // SAFETY: the lock's holder, if there is one, is this CPU or one just stopped, and will not go on.
    unsafe { console::LOG.force_unlock() };
    let message = info.message();
    match info.location() {
        Some(place) => log::error!("WEIR PANIC: {message} ({place})"),
        None => log::error!("WEIR PANIC: {message}"),
    }
    super::power::failed()
}

/// Starts the first vCPU that can run; never returns.
pub fn run() -> ! {
    let cpu = this_cpu();
    cpu.request(work::RESCHEDULE);
    let registers = leave(cpu);
    // SAFETY: the registers are those of the vCPU that was just made ready.
    unsafe {
        core::arch::asm!("jmp leave_to_guest", in("rax") registers, options(noreturn));
    }
}
