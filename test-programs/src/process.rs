//! Child processes: made, waited for, and followed as a debugger does.

use crate::system::{call, exit, number};

/// Signals.
pub mod signal {
    pub const TRAP: u8 = 5;
    pub const KILL: u64 = 9;
    pub const SEGMENTATION: u8 = 11;
    pub const STOP: u64 = 19;
}

/// How a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The child ended with this status.
    Exited(u8),
    /// A signal ended it.
    Killed(u8),
    /// A signal stopped it.
    Stopped(u8),
}

/// A child of this process.
#[derive(Clone, Copy)]
pub struct Child(u64);

/// Requests of `ptrace`.
const TRACE_ME: u64 = 0;
const PEEK_USER: u64 = 3;
const POKE_USER: u64 = 6;
const CONTINUE: u64 = 7;
const SINGLE_STEP: u64 = 9;
/// Where `struct user` has the debug registers, and the instruction pointer.
const DEBUG_REGISTERS: u64 = 848;
const INSTRUCTION_POINTER: u64 = 128;

/// Runs `work` in a new process, which ends with the status it returns.
pub fn child(work: impl FnOnce() -> i32) -> Child {
    match call(number::FORK, &[]).expect("fork works") {
        0 => exit(work()),
        id => Child(id),
    }
}

/// Runs `work` in a new process that stops before it begins, for its parent to follow.
pub fn traced_child(work: impl FnOnce() -> i32) -> Child {
    let child = child(|| {
        call(number::PTRACE, &[TRACE_ME, 0, 0, 0]).expect("a child can be traced");
        let own = call(number::GETPID, &[]).expect("getpid cannot fail");
        call(number::KILL, &[own, signal::STOP]).expect("a process can stop itself");
        work()
    });
    assert_eq!(child.wait(), Change::Stopped(signal::STOP as u8), "a child stops at first");
    child
}

impl Child {
    /// Waits until something becomes of it.
    pub fn wait(self) -> Change {
        let mut status = 0u32;
        call(number::WAIT, &[self.0, &raw mut status as u64, 0, 0]).expect("the child is there");
        match (status & 0x7f, status >> 8 & 0xff) {
            (0, code) => Change::Exited(code as u8),
            (0x7f, signal) => Change::Stopped(signal as u8),
            (signal, _) => Change::Killed(signal as u8),
        }
    }

    fn trace(self, request: u64, address: u64, data: u64) -> Result<u64, u64> {
        call(number::PTRACE, &[request, self.0, address, data])
    }

    /// Lets it run on.
    pub fn go(self) {
        self.trace(CONTINUE, 0, 0).expect("a stopped child can go on");
    }

    /// Lets it execute one instruction.
    pub fn step(self) {
        self.trace(SINGLE_STEP, 0, 0).expect("a stopped child can be stepped");
    }

    fn word(self, offset: u64) -> u64 {
        let mut word = 0u64;
        self.trace(PEEK_USER, offset, &raw mut word as u64).expect("a stopped child can be looked at");
        word
    }

    /// Where it is.
    pub fn instruction_pointer(self) -> u64 {
        self.word(INSTRUCTION_POINTER)
    }

    /// One of its debug registers.
    pub fn debug_register(self, number: u64) -> u64 {
        self.word(DEBUG_REGISTERS + 8 * number)
    }

    /// Sets one of its debug registers.
    ///
    /// # Errors
    /// The kernel's error number.
    pub fn set_debug_register(self, number: u64, value: u64) -> Result<(), u64> {
        self.trace(POKE_USER, DEBUG_REGISTERS + 8 * number, value).map(drop)
    }

    /// Ends it.
    pub fn kill(self) {
        call(number::KILL, &[self.0, signal::KILL]).expect("the child is there");
        assert_eq!(self.wait(), Change::Killed(signal::KILL as u8));
    }
}
