#![expect(unsafe_code, reason = "reads the time stamp counter")]
//! The kernel's clocks, against the time stamp counter of a machine in which it counts nanoseconds since the machine began.

use core::arch::x86_64::_rdtsc;

use crate::say;
use crate::system::{Arguments, call, number};

const REAL_TIME: u64 = 0;
const MONOTONIC: u64 = 1;
const NANOSECONDS: u64 = 1_000_000_000;
/// Ten milliseconds. Linux reads the wall clock once, and then counts ticks until it trusts its clock source: what it
/// misses meanwhile stays missing.
const TOLERANCE: u64 = 10_000_000;

/// A clock that no one sets.
pub fn now() -> u64 {
    read(MONOTONIC)
}

fn read(clock: u64) -> u64 {
    let mut time = [0u64; 2];
    call(number::CLOCK_GETTIME, &[clock, time.as_mut_ptr() as u64]).expect("there is such a clock");
    time[0] * NANOSECONDS + time[1]
}

/// `clock START`: the machine began at this many seconds since 1970.
pub fn agrees(arguments: &Arguments) {
    let start = arguments.number(2).expect("when the machine began") * NANOSECONDS;
    let mut before = now();
    let mut worst = 0;
    for _ in 0..2000 {
        let after = now();
        assert!(after >= before, "the clock went from {before} back to {after}");
        before = after;
        // SAFETY: every 64-bit processor has the instruction.
        let expected = start + unsafe { _rdtsc() };
        worst = worst.max(read(REAL_TIME).abs_diff(expected));
    }
    say!("the wall clock is {worst} ns off");
    assert!(worst < TOLERANCE);
}
