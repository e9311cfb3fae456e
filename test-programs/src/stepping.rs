#![expect(unsafe_code, reason = "executes instructions for its parent to count")]
//! Breakpoint instructions and single steps: a parent counts what its child executes.

use core::arch::global_asm;

use crate::process::{Change, signal, traced_child};
use crate::say;
use crate::system::Arguments;

const ROUNDS: u64 = 50;
/// Three instructions a round, and four around them; the processor's identification is one, and so is a system call.
const STEPS: u64 = 3 * ROUNDS + 6;

global_asm!(
    "counted:",
    "int3",
    "counted_start:",
    "mov ecx, {rounds}",
    "2: push rcx",
    "pop rcx",
    "loop 2b",
    "mov eax, 39",
    "syscall",
    "xor eax, eax",
    "push rbx",
    "cpuid",
    "counted_end:",
    "pop rbx",
    "int3",
    "ret",
    rounds = const ROUNDS,
);

unsafe extern "C" {
    fn counted();
    static counted_start: u8;
    static counted_end: u8;
}

const STOPPED: Change = Change::Stopped(signal::TRAP);

/// `step`
pub fn counts(_: &Arguments) {
    let child = traced_child(|| {
        // SAFETY: changes no register that a function must leave alone.
        unsafe { counted() };
        7
    });
    child.go();
    assert_eq!(child.wait(), STOPPED, "at the first breakpoint");
    assert_eq!(child.instruction_pointer(), &raw const counted_start as u64);
    let mut steps = 0;
    while child.instruction_pointer() != &raw const counted_end as u64 {
        child.step();
        assert_eq!(child.wait(), STOPPED, "after step {steps}");
        steps += 1;
        assert!(steps <= STEPS, "too many steps");
    }
    say!("{steps} steps");
    assert_eq!(steps, STEPS);
    child.go();
    assert_eq!(child.wait(), STOPPED, "at the second breakpoint");
    child.go();
    assert_eq!(child.wait(), Change::Exited(7));
}
