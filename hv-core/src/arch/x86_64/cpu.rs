#![expect(unsafe_code, reason = "finds the running CPU's own data from its stack pointer")]
//! A physical CPU and what belongs to it alone.
//!
//! Each CPU has one block of [`BLOCK_SIZE`] bytes, aligned to its size: a stack that grows down from just below
//! its [`Cpu`]. So the stack pointer says which CPU this is, and neither GS nor `swapgs` is needed: a guest's GS
//! base is never disturbed.

use crate::{cpu::Cpu, vcpu::Vcpu};
use core::{cell::UnsafeCell, mem::offset_of, ptr};

/// Bytes in a CPU's block.
pub const BLOCK_SIZE: usize = 32 * 1024;

/// A CPU's stack and its data.
#[repr(C, align(32768))]
pub struct CpuBlock {
    stack: UnsafeCell<[u8; BLOCK_SIZE - STACK_TAIL]>,
    cpu: Cpu,
}

/// Room for [`Cpu`], rounded so that the stack's top is 64-byte aligned.
const STACK_TAIL: usize = size_of::<Cpu>().next_multiple_of(64);

const _: () = assert!(size_of::<CpuBlock>() == BLOCK_SIZE);
const _: () = assert!(size_of::<Cpu>() < BLOCK_SIZE / 4);

// SAFETY: the stack is used by its CPU alone, and `Cpu` is made of atomics and locks.
unsafe impl Sync for CpuBlock {}

static BOOT_BLOCK: CpuBlock =
    CpuBlock { stack: UnsafeCell::new([0; BLOCK_SIZE - STACK_TAIL]), cpu: Cpu::new(0) };

/// Where the boot code's stack begins: the symbol's address plus the size of the stack is what it loads.
#[unsafe(no_mangle)]
pub static BOOT_STACK_TOP: BootStackTop = BootStackTop(&BOOT_BLOCK.cpu);

/// A pointer to the boot CPU's [`Cpu`], just below which its stack begins.
#[repr(transparent)]
pub struct BootStackTop(&'static Cpu);

/// The CPU this code runs on.
#[inline]
pub fn this_cpu() -> &'static Cpu {
    let stack_pointer: usize;
    // SAFETY: reads a register.
    unsafe {
        core::arch::asm!("mov {}, rsp", out(reg) stack_pointer, options(nomem, nostack, preserves_flags))
    };
    let block = (stack_pointer & !(BLOCK_SIZE - 1)) as *const CpuBlock;
    // SAFETY: the hypervisor runs only on stacks inside a `CpuBlock`, which are aligned to their size and live
    // for ever.
    unsafe { &(*block).cpu }
}

/// Top of this CPU's stack: where the entry code switches to.
pub fn stack_top() -> u64 {
    ptr::from_ref(this_cpu()) as u64
}

/// Byte offset of the [`Cpu`] in its block.
pub const CPU_OFFSET: usize = offset_of!(CpuBlock, cpu);
const _: () = assert!(CPU_OFFSET.is_multiple_of(64));

/// The CPU that was running when the machine started.
pub fn boot_cpu() -> &'static Cpu {
    &BOOT_BLOCK.cpu
}

/// Makes another CPU look at its [`crate::cpu::work`]. The one this code runs on does so anyway before it returns to a
/// guest, and there is no other yet.
pub fn kick(_cpu: &Cpu) {}

/// True when the vCPU is the one this CPU entered the hypervisor from.
pub fn runs_here(vcpu: &Vcpu) -> bool {
    this_cpu().current().is_some_and(|current| ptr::eq(current, vcpu))
}

/// Waits a moment for another CPU.
pub fn wait_politely() {
    core::hint::spin_loop();
}

/// Sleeps until an interrupt, which is handled before this returns.
pub fn wait_for_interrupt() {
    // SAFETY: nothing is held or half done when the hypervisor idles. `sti` takes effect after the next instruction,
    // so an interrupt that is already waiting ends the `hlt`.
    unsafe { core::arch::asm!("sti", "hlt", "cli", options(nostack)) };
}

/// Every CPU that is up.
pub fn all() -> impl Iterator<Item = &'static Cpu> {
    core::iter::once(&BOOT_BLOCK.cpu)
}

/// Stops this CPU for ever.
pub fn halt_for_ever() -> ! {
    loop {
        // SAFETY: interrupts are off, so nothing runs after it.
        unsafe { core::arch::asm!("cli", "hlt", options(nomem, nostack)) };
    }
}
