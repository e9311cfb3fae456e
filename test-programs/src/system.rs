#![expect(unsafe_code, reason = "the program's first instructions, and system calls")]
//! Linux, as its system calls have it, and how the program begins.

use core::arch::{asm, global_asm};
use core::ffi::CStr;
use core::fmt;

/// Numbers of 64-bit system calls.
pub mod number {
    pub const WRITE: u64 = 1;
    pub const OPEN: u64 = 2;
    pub const CLOSE: u64 = 3;
    pub const YIELD: u64 = 24;
    pub const GETPID: u64 = 39;
    pub const FORK: u64 = 57;
    pub const EXECVE: u64 = 59;
    pub const EXIT: u64 = 60;
    pub const WAIT: u64 = 61;
    pub const KILL: u64 = 62;
    pub const PTRACE: u64 = 101;
    pub const MODIFY_LDT: u64 = 154;
    pub const PRCTL: u64 = 157;
    pub const ARCH_PRCTL: u64 = 158;
    pub const IOPL: u64 = 172;
    pub const IOPERM: u64 = 173;
    pub const CLOCK_GETTIME: u64 = 228;
}

global_asm!(
    ".global _start",
    "_start:",
    "xor ebp, ebp",
    "mov rdi, rsp",
    "and rsp, -16",
    "call {begin}",
    "ud2",
    begin = sym begin,
);

extern "C" fn begin(stack: *const u64) -> ! {
    exit(crate::main(&Arguments { stack }))
}

/// What the kernel left on the stack: a count, that many words, and then the environment.
pub struct Arguments {
    stack: *const u64,
}

impl Arguments {
    /// The word of this number; the first is the program's name.
    pub fn text(&self, index: u64) -> Option<&str> {
        // SAFETY: the kernel puts the number of arguments there, and pointers to that many strings behind it.
        unsafe {
            if index >= *self.stack {
                return None;
            }
            let text = *self.stack.add(1 + index as usize) as *const i8;
            CStr::from_ptr(text).to_str().ok()
        }
    }

    /// The number that the word of this number is.
    pub fn number(&self, index: u64) -> Option<u64> {
        self.text(index)?.parse().ok()
    }

    /// The value of this kind in the auxiliary vector, which lies behind the environment.
    pub fn auxiliary(&self, kind: u64) -> Option<u64> {
        // SAFETY: arguments and environment each end with a null pointer, the vector with kind zero.
        unsafe {
            let mut place = self.stack.add(2 + *self.stack as usize);
            while *place != 0 {
                place = place.add(1);
            }
            place = place.add(1);
            while *place != 0 && *place != kind {
                place = place.add(2);
            }
            (*place == kind).then(|| *place.add(1))
        }
    }
}

/// A system call with up to six arguments.
///
/// # Errors
/// The kernel's error number.
pub fn call(number: u64, arguments: &[u64]) -> Result<u64, u64> {
    let mut words = [0; 6];
    words[..arguments.len()].copy_from_slice(arguments);
    let result: i64;
    // SAFETY: what the call does to memory is the caller's intention; registers are as the ABI has them.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number => result,
            in("rdi") words[0],
            in("rsi") words[1],
            in("rdx") words[2],
            in("r10") words[3],
            in("r8") words[4],
            in("r9") words[5],
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack)
        );
    }
    if (-4095..0).contains(&result) { Err(result.unsigned_abs()) } else { Ok(result as u64) }
}

/// Ends the process.
pub fn exit(status: i32) -> ! {
    let _ = call(number::EXIT, &[status as u64]);
    unreachable!("a process cannot refuse to end")
}

/// Lets another process run.
pub fn yield_now() {
    call(number::YIELD, &[]).expect("sched_yield cannot fail");
}

/// Standard output, line by line.
pub struct Output;

impl fmt::Write for Output {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let written = call(number::WRITE, &[1, text.as_ptr() as u64, text.len() as u64]);
        written.map(drop).map_err(|_| fmt::Error)
    }
}

/// Prints a line in one piece.
pub fn say(text: fmt::Arguments<'_>) {
    let line = alloc::format!("{text}\n");
    let _ = fmt::Write::write_str(&mut Output, &line);
}

/// Prints a line.
#[macro_export]
macro_rules! say {
    ($($text:tt)*) => { $crate::system::say(format_args!($($text)*)) };
}
