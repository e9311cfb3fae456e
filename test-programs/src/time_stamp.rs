#![expect(unsafe_code, reason = "reads the time stamp counter")]
//! The time stamp counter: a process can be denied it, and only that process is.

use core::arch::x86_64::_rdtsc;

use crate::process::{Change, child, signal};
use crate::system::{Arguments, call, number, yield_now};

const SET_TIME_STAMP: u64 = 26;
const DENIED: u64 = 2;

fn read() -> u64 {
    // SAFETY: every 64-bit processor has the instruction.
    unsafe { _rdtsc() }
}

/// `time-stamp`
pub fn can_be_denied(_: &Arguments) {
    let denied = child(|| {
        call(number::PRCTL, &[SET_TIME_STAMP, DENIED]).expect("a process can deny itself the counter");
        for _ in 0..100 {
            yield_now();
        }
        read();
        0
    });
    let mut before = read();
    for _ in 0..200 {
        yield_now();
        let after = read();
        assert!(after > before);
        before = after;
    }
    assert_eq!(denied.wait(), Change::Killed(signal::SEGMENTATION), "the counter was denied");
    assert!(read() > before);
}
