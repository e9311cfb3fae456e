//! The time stamp counter.

use core::arch::asm;

/// The counter now, not before everything in front of it is done.
#[inline(always)]
pub fn now() -> u64 {
    let (low, high): (u64, u64);
    // SAFETY: reads a counter that every 64-bit CPU has.
    unsafe { asm!("lfence", "rdtsc", out("rax") low, out("rdx") high, options(nomem, nostack)) };
    high << 32 | low
}
