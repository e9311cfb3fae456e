#![expect(unsafe_code, reason = "saves and restores FPU registers")]
//! FPU, SSE and AVX registers, which the hypervisor itself never uses.
//!
//! They are saved when their vCPU leaves the CPU after using them. A vCPU whose kernel has turned XSAVE on gets them back
//! with the CPU: such kernels save and load them themselves all the time, and QEMU's CPU lets XSAVE and XRSTOR pass where
//! CR0.TS should make them trap. Any other vCPU gets them when it first uses them; until then CR0.TS makes the use trap,
//! and XSAVE is off. What was saved is wiped from the registers at once, because some CPUs compute ahead with registers
//! before they notice the trap. A CPU without XSAVE has x87 and SSE registers only.
//!
//! All kept components are saved and loaded together, whichever of them the guest has enabled in XCR0 right now: what it
//! has disabled again may still be in the registers.

use super::{cpu::this_cpu, own_registers, start::cpuid};
use crate::{
    cpu::Cpu,
    extended_state::{self, component, initial_legacy},
    vcpu::{Context, Vcpu},
};
use core::{
    arch::asm,
    ptr,
    sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
};

/// Components that are kept for vCPUs; none means that the CPU has `fxsave` only.
static COMPONENTS: AtomicU64 = AtomicU64::new(0);
/// The CPU can leave out of a save what has not changed.
static HAS_XSAVEOPT: AtomicBool = AtomicBool::new(false);
/// Bits of MXCSR that exist.
static MXCSR_MASK: AtomicU32 = AtomicU32::new(0);

/// The beginning of an area in which every component is initial.
#[repr(C, align(64))]
struct InitialArea {
    legacy: [u8; 512],
    header: [u8; 64],
}

static INITIAL: InitialArea = InitialArea { legacy: initial_legacy(), header: [0; 64] };

/// Prepares this CPU. The registers are nobody's yet.
pub fn set_up() {
    set_trap(false);
    let mut stored = InitialArea { legacy: [0; 512], header: [0; 64] };
    // SAFETY: the area is 512 bytes, aligned, and on this stack.
    unsafe { asm!("fxsave64 [{}]", in(reg) &raw mut stored, options(nostack)) };
    MXCSR_MASK.store(extended_state::mxcsr_mask(&stored.legacy), Ordering::Relaxed);
    let kept = find_components();
    COMPONENTS.store(kept, Ordering::Relaxed);
    if kept != 0 {
        HAS_XSAVEOPT.store(cpuid(0xd, 1)[0] & 1 != 0, Ordering::Relaxed);
    }
    set_trap(true);
}

fn find_components() -> u64 {
    const HAS_XSAVE: u32 = 1 << 26;
    if cpuid(1, 0)[2] & HAS_XSAVE == 0 {
        return 0;
    }
    let [low, _, _, high] = cpuid(0xd, 0);
    let kept = extended_state::kept(u64::from(low) | u64::from(high) << 32);
    let size = extended_state::size_of_area(kept, |number| cpuid(0xd, number));
    if size as usize <= extended_state::room_for(kept) {
        kept
    } else {
        kept & (component::X87 | component::SSE)
    }
}

/// Components of extended state that vCPUs have; none where there is no `xsave`.
pub fn components() -> u64 {
    COMPONENTS.load(Ordering::Relaxed)
}

/// Bits of MXCSR that exist.
pub fn mxcsr_mask() -> u32 {
    MXCSR_MASK.load(Ordering::Relaxed)
}

/// # Safety
/// The CPU must have XCR0, and the value be one it can have.
unsafe fn write_components(value: u64) {
    // SAFETY: the caller's promise.
    unsafe {
        asm!(
            "xsetbv",
            in("ecx") 0,
            in("eax") value as u32,
            in("edx") (value >> 32) as u32,
            options(nomem, nostack, preserves_flags)
        );
    }
}

/// Sets this CPU's XCR0, which says what can be used, saved and loaded. The CPU must have XSAVE.
pub fn load_components(cpu: &Cpu, value: u64) {
    own_registers::enable_xsave(cpu);
    if cpu.loaded.components.swap(value, Ordering::Relaxed) != value {
        cpu.loaded.are_usual.store(false, Ordering::Relaxed);
        // SAFETY: the value was checked where it was set, and XSAVE is on.
        unsafe { write_components(value) };
    }
}

/// CR0.TS.
const TASK_SWITCHED: usize = 1 << 3;

fn set_trap(trap: bool) {
    // SAFETY: changes only CR0.TS.
    unsafe {
        if !trap {
            return asm!("clts", options(nomem, nostack, preserves_flags));
        }
        let value = x86::controlregs::cr0().bits() | TASK_SWITCHED;
        x86::controlregs::cr0_write(x86::controlregs::Cr0::from_bits_truncate(value));
    }
}

/// Stores all kept components.
///
/// # Safety
/// `area` must have room for them, be aligned to 64 bytes, and hold a header that the CPU stored or that is zero.
unsafe fn store(cpu: &Cpu, area: *mut u8) {
    let kept = components();
    let (low, high) = (kept as u32, (kept >> 32) as u32);
    // SAFETY: the area is large enough for all that is kept and aligned; XCR0 has every component while it is stored.
    unsafe {
        if kept == 0 {
            return asm!("fxsave64 [{}]", in(reg) area, options(nostack, preserves_flags));
        }
        load_components(cpu, kept);
        if HAS_XSAVEOPT.load(Ordering::Relaxed) {
            asm!("xsaveopt64 [{}]", in(reg) area, in("eax") low, in("edx") high, options(nostack, preserves_flags));
        } else {
            asm!("xsave64 [{}]", in(reg) area, in("eax") low, in("edx") high, options(nostack, preserves_flags));
        }
    }
}

/// Loads all kept components.
///
/// # Safety
/// `area` must hold a state that the CPU can load.
unsafe fn load(cpu: &Cpu, area: *const u8) {
    let kept = components();
    let (low, high) = (kept as u32, (kept >> 32) as u32);
    // SAFETY: the caller's promise; XCR0 has every component while it is loaded.
    unsafe {
        if kept == 0 {
            return asm!("fxrstor64 [{}]", in(reg) area, options(nostack, readonly, preserves_flags));
        }
        load_components(cpu, kept);
        asm!("xrstor64 [{}]", in(reg) area, in("eax") low, in("edx") high, options(nostack, readonly, preserves_flags));
    }
}

/// Gives the running vCPU its registers, because it is about to use them.
pub fn restore(vcpu: &Vcpu, context: &mut Context) {
    let cpu = this_cpu();
    set_trap(false);
    let own = ptr::from_ref(vcpu).cast_mut();
    if cpu.fpu_owner.swap(own, Ordering::Relaxed) == own {
        return;
    }
    // SAFETY: an `ExtendedState` is always one that the CPU can load.
    unsafe { load(cpu, context.fpu.area()) };
    own_registers::load(context);
}

/// The vCPU gets the CPU, or its kernel has turned XSAVE on: gives it its registers if it can use them without a trap.
#[inline]
pub fn switch_to(vcpu: &Vcpu, context: &mut Context) {
    if context.own.has_xsave() {
        restore(vcpu, context);
        apply_task_switched(vcpu, context);
    }
}

/// `vcpu` leaves this CPU: saves its state if it is in the registers, which then hold nobody's.
pub fn save(vcpu: &Vcpu, context: &mut Context) {
    let cpu = this_cpu();
    if !ptr::eq(cpu.fpu_owner.load(Ordering::Relaxed), vcpu) {
        return;
    }
    set_trap(false);
    // SAFETY: the area has room for all that is kept, only the CPU and `ExtendedState` write; the initial state can be
    // loaded by every CPU, and the rest of its area is not looked at.
    unsafe {
        store(cpu, context.fpu.area());
        load(cpu, (&raw const INITIAL).cast());
    }
    cpu.fpu_owner.store(ptr::null_mut(), Ordering::Relaxed);
    set_trap(true);
}

/// The guest set or cleared its own CR0.TS.
pub fn apply_task_switched(vcpu: &Vcpu, context: &Context) {
    let owns = ptr::eq(this_cpu().fpu_owner.load(Ordering::Relaxed), vcpu);
    set_trap(context.task_switched || !owns);
}
