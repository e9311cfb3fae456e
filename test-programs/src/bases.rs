#![expect(unsafe_code, reason = "sets segment bases, which this program uses for nothing else")]
//! Bases of FS and GS: each process has its own, however they are set.

use core::arch::asm;

use crate::process::{Change, child};
use crate::say;
use crate::system::{Arguments, call, number, yield_now};

const SET_GS: u64 = 0x1001;
const SET_FS: u64 = 0x1002;
const GET_FS: u64 = 0x1003;
const GET_GS: u64 = 0x1004;

/// The kernel's second word of features, and that bases can be set without it.
const HARDWARE_FEATURES_2: u64 = 26;
const BASE_INSTRUCTIONS: u64 = 1 << 1;

fn by_call(process: u64, round: u64) {
    let mut found = [0u64; 2];
    let wanted = [0x1000_0000 + (process << 20) + round, 0x2000_0000 + (process << 20) + round];
    call(number::ARCH_PRCTL, &[SET_FS, wanted[0]]).expect("FS can be set");
    call(number::ARCH_PRCTL, &[SET_GS, wanted[1]]).expect("GS can be set");
    yield_now();
    call(number::ARCH_PRCTL, &[GET_FS, &raw mut found[0] as u64]).expect("FS can be read");
    call(number::ARCH_PRCTL, &[GET_GS, &raw mut found[1] as u64]).expect("GS can be read");
    assert_eq!(found, wanted, "by system call");
}

fn by_instruction(process: u64, round: u64) {
    let wanted = [0x7000_0000_0000 + (process << 20) + round, 0x6000_0000_0000 + (process << 20) + round];
    let [mut fs, mut gs]: [u64; 2] = [0; 2];
    // SAFETY: the kernel says that there are these instructions; nothing here is reached by FS or GS.
    unsafe { asm!("wrfsbase {}", "wrgsbase {}", in(reg) wanted[0], in(reg) wanted[1]) };
    if !round.is_multiple_of(3) {
        yield_now();
    }
    for _ in 0..1000 {
        // SAFETY: as above.
        unsafe { asm!("rdfsbase {}", "rdgsbase {}", out(reg) fs, out(reg) gs) };
        assert_eq!([fs, gs], wanted, "by instruction");
    }
    // What the kernel knows of them is the same.
    call(number::ARCH_PRCTL, &[GET_FS, &raw mut fs as u64]).expect("FS can be read");
    call(number::ARCH_PRCTL, &[GET_GS, &raw mut gs as u64]).expect("GS can be read");
    assert_eq!([fs, gs], wanted, "by instruction, seen by the kernel");
}

/// `bases`
pub fn kept_apart(arguments: &Arguments) {
    let features = arguments.auxiliary(HARDWARE_FEATURES_2).unwrap_or(0);
    let has_instructions = features & BASE_INSTRUCTIONS != 0;
    say!("bases {}", if has_instructions { "by instruction and by call" } else { "by call" });
    let children = [1, 2, 3].map(|process| {
        child(|| {
            for round in 0..200 {
                by_call(process, round);
                if has_instructions {
                    by_instruction(process, round);
                }
            }
            0
        })
    });
    for child in children {
        assert_eq!(child.wait(), Change::Exited(0), "a process found another's bases");
    }
}
