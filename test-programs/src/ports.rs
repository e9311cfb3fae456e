#![expect(unsafe_code, reason = "uses I/O ports")]
//! I/O ports: for whom the kernel allows them, and then they are as if nobody answered.

use core::arch::asm;

use crate::process::{Change, child, signal};
use crate::system::{Arguments, call, number};

/// A port that nothing listens to; what is read there where no device answers.
const PORT: u16 = 0x80;
const NOBODY: u8 = 0xff;

fn read(port: u16) -> u8 {
    let value: u8;
    // SAFETY: the guest has no device at any port.
    unsafe { asm!("in al, dx", "out dx, al", in("dx") port, out("al") value) };
    value
}

fn outcome(port: u16, ask: impl FnOnce()) -> Change {
    let child = child(|| {
        ask();
        i32::from(read(port) != NOBODY)
    });
    child.wait()
}

/// `ports`
pub fn by_right(_: &Arguments) {
    let allow = |port: u16, is_allowed: u64| {
        call(number::IOPERM, &[u64::from(port), 1, is_allowed]).expect("the first user may have ports");
    };
    assert_eq!(outcome(PORT, || ()), Change::Killed(signal::SEGMENTATION), "without any right");
    assert_eq!(outcome(PORT, || allow(PORT, 1)), Change::Exited(0), "with the right to it");
    assert_eq!(outcome(PORT + 1, || allow(PORT, 1)), Change::Killed(signal::SEGMENTATION), "its neighbour");
    let back = || {
        allow(PORT, 1);
        allow(PORT, 0);
    };
    assert_eq!(outcome(PORT, back), Change::Killed(signal::SEGMENTATION), "after the right was given back");
    let privileged = || {
        call(number::IOPL, &[3]).expect("the first user may have all ports");
    };
    assert_eq!(outcome(PORT, privileged), Change::Exited(0), "with the right to all");
    assert_eq!(outcome(PORT, || ()), Change::Killed(signal::SEGMENTATION), "others' rights are not ours");
}
