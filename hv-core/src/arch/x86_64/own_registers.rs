#![expect(unsafe_code, reason = "loads control and debug registers")]
//! Loading the registers that each vCPU has its own value of; see [`crate::own_registers`].

use super::{cpu::this_cpu, fpu, start::cpuid};
use crate::{
    cpu::Cpu,
    debug_registers::{CONTROL_RESET, STATUS_RESET},
    own_registers::control4,
    vcpu::Context,
};
use core::{arch::asm, sync::atomic::Ordering};

const TIME_STAMP_AUXILIARY: u32 = 0xc000_0103;

/// Remembers what this CPU has after it was set up.
pub fn set_up() {
    // SAFETY: reads a register.
    let value = unsafe { x86::controlregs::cr4() }.bits() as u64;
    this_cpu().loaded.control4.store(value, Ordering::Relaxed);
    load_breakpoints([0; 4], CONTROL_RESET);
}

/// Bits of CR4 that this machine has and a guest may set.
pub fn available_control4() -> u64 {
    let bases = if cpuid(7, 0)[1] & 1 != 0 { control4::SEGMENT_BASES } else { 0 };
    if fpu::components() == 0 { bases } else { bases | control4::XSAVE }
}

/// Loads a vCPU's values when it gets the CPU, if they or those of the one before are unusual.
#[inline]
pub fn switch_to(context: &Context) {
    if !(context.own.is_usual() && this_cpu().loaded.are_usual.load(Ordering::Relaxed)) {
        load(context);
    }
}

/// Loads the values of the vCPU that runs here, where they differ from what is loaded.
#[cold]
pub fn load(context: &Context) {
    let (cpu, own) = (this_cpu(), &context.own);
    if own.has_xsave() {
        fpu::load_components(cpu, own.components());
    }
    load_control4(cpu, own.control4() & control4::LOADED);
    if cpu.loaded.auxiliary.swap(own.auxiliary(), Ordering::Relaxed) != own.auxiliary() {
        // SAFETY: a CPU without the register never has another value than zero to load.
        unsafe { x86::msr::wrmsr(TIME_STAMP_AUXILIARY, u64::from(own.auxiliary())) };
    }
    let armed = own.debug().armed();
    if armed != CONTROL_RESET || cpu.loaded.armed.load(Ordering::Relaxed) != CONTROL_RESET {
        load_breakpoints(own.debug().addresses(), armed);
    }
    cpu.loaded.are_usual.store(own.is_usual(), Ordering::Relaxed);
}

/// Turns XSAVE on for the hypervisor's own use, until the next vCPU's values are loaded.
pub fn enable_xsave(cpu: &Cpu) {
    let before = cpu.loaded.control4.load(Ordering::Relaxed);
    if before & control4::XSAVE == 0 {
        cpu.loaded.are_usual.store(false, Ordering::Relaxed);
        load_control4(cpu, before & control4::LOADED | control4::XSAVE);
    }
}

fn load_control4(cpu: &Cpu, chosen: u64) {
    let before = cpu.loaded.control4.load(Ordering::Relaxed);
    let value = before & !control4::LOADED | chosen;
    if value != before {
        cpu.loaded.control4.store(value, Ordering::Relaxed);
        // SAFETY: a guest can choose only bits that exist and that change nothing for the hypervisor.
        unsafe { asm!("mov cr4, {}", in(reg) value, options(nomem, nostack, preserves_flags)) };
    }
}

fn load_breakpoints(addresses: [u64; 4], armed: u64) {
    let [first, second, third, fourth] = addresses;
    // SAFETY: the addresses are a guest's. The hypervisor may touch what lies there; the exception that follows is
    // dropped (see `super::entry`).
    unsafe {
        asm!(
            "mov dr7, {off}",
            "mov dr0, {first}",
            "mov dr1, {second}",
            "mov dr2, {third}",
            "mov dr3, {fourth}",
            "mov dr7, {armed}",
            off = in(reg) CONTROL_RESET,
            first = in(reg) first,
            second = in(reg) second,
            third = in(reg) third,
            fourth = in(reg) fourth,
            armed = in(reg) armed,
            options(nomem, nostack, preserves_flags)
        );
    }
    this_cpu().loaded.armed.store(armed, Ordering::Relaxed);
}

/// Why the CPU stopped the guest that runs here, from register 6, which is clear afterwards.
pub fn take_debug_status() -> u64 {
    let status: u64;
    // SAFETY: the register only reports.
    unsafe {
        asm!(
            "mov {status}, dr6",
            "mov dr6, {reset}",
            status = out(reg) status,
            reset = in(reg) STATUS_RESET,
            options(nomem, nostack, preserves_flags)
        );
    }
    status
}
