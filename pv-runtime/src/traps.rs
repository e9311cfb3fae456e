//! Exceptions, and the entry points that the hypervisor calls.
//!
//! A kernel without user programs has no use for exceptions: each of them is an error. It is reported with
//! the registers, and the domain ends. Only tests that provoke faults on purpose survive them, by `catch`.
//! The assembly in `entry.s` makes a [`TrapFrame`] of each.

use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};

/// How often the event upcall ran; counted by the upcall itself.
pub(crate) static UPCALLS: AtomicU64 = AtomicU64::new(0);

/// How often the event upcall ran.
pub(crate) fn upcalls() -> u64 {
    UPCALLS.load(Ordering::Relaxed)
}

/// The vector that stands for the failsafe callback.
const FAILSAFE: u64 = 255;
/// The vector of page faults.
const PAGE_FAULT: u64 = 14;

/// The registers at an exception, as `entry.s` pushes them.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct TrapFrame {
    /// `r15`.
    pub r15: u64,
    /// `r14`.
    pub r14: u64,
    /// `r13`.
    pub r13: u64,
    /// `r12`.
    pub r12: u64,
    /// `r11`.
    pub r11: u64,
    /// `r10`.
    pub r10: u64,
    /// `r9`.
    pub r9: u64,
    /// `r8`.
    pub r8: u64,
    /// `rbp`.
    pub rbp: u64,
    /// `rdi`.
    pub rdi: u64,
    /// `rsi`.
    pub rsi: u64,
    /// `rdx`.
    pub rdx: u64,
    /// `rcx`.
    pub rcx: u64,
    /// `rbx`.
    pub rbx: u64,
    /// `rax`.
    pub rax: u64,
    /// The exception's number, or 255 for the failsafe callback.
    pub vector: u64,
    /// Its error code, or zero.
    pub error_code: u64,
    /// Where it happened.
    pub rip: u64,
    /// Code selector; the event mask of that moment is in bit 32.
    pub cs: u64,
    /// Flags.
    pub rflags: u64,
    /// Stack pointer.
    pub rsp: u64,
    /// Stack selector.
    pub ss: u64,
}

impl TrapFrame {
    /// What the exception is called.
    pub fn name(&self) -> &'static str {
        match self.vector {
            0 => "division error",
            1 => "debug exception",
            2 => "non-maskable interrupt",
            3 => "breakpoint",
            4 => "overflow",
            5 => "bound exceeded",
            6 => "invalid instruction",
            7 => "no floating-point unit",
            8 => "double fault",
            10 => "invalid task state",
            11 => "segment not present",
            12 => "stack fault",
            13 => "general protection fault",
            PAGE_FAULT => "page fault",
            16 => "floating-point error",
            17 => "unaligned access",
            18 => "machine check",
            19 => "vector floating-point error",
            FAILSAFE => "failsafe callback",
            _ => "unknown exception",
        }
    }
}

impl fmt::Display for TrapFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} (vector {}, error code {:#x})", self.name(), self.vector, self.error_code)?;
        if self.vector == PAGE_FAULT {
            let address = crate::shared_info::fault_address().load(Ordering::Relaxed);
            writeln!(f, "address {address:#018x}")?;
        }
        writeln!(f, "rip {:016x} rsp {:016x} rflags {:08x}", self.rip, self.rsp, self.rflags)?;
        writeln!(f, "rax {:016x} rbx {:016x} rcx {:016x}", self.rax, self.rbx, self.rcx)?;
        writeln!(f, "rdx {:016x} rsi {:016x} rdi {:016x}", self.rdx, self.rsi, self.rdi)?;
        writeln!(f, "rbp {:016x} r8  {:016x} r9  {:016x}", self.rbp, self.r8, self.r9)?;
        writeln!(f, "r10 {:016x} r11 {:016x} r12 {:016x}", self.r10, self.r11, self.r12)?;
        write!(f, "r13 {:016x} r14 {:016x} r15 {:016x}", self.r13, self.r14, self.r15)
    }
}

/// An exception that was caught.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The exception's number: 14 for a page fault, 13 for a general protection fault.
    pub vector: u64,
    /// Its error code, or zero.
    pub error_code: u64,
}

#[cfg(target_os = "none")]
pub use catch::catch;
#[cfg(target_os = "none")]
pub(crate) use catch::trap;

#[cfg(target_os = "none")]
mod catch {
    #![expect(unsafe_code, reason = "leaves a function in its middle")]

    use core::cell::Cell;
    use core::sync::atomic::{AtomicU64, Ordering};

    use hypercall_abi::arch_x86::{FLAT_KERNEL_CS, FLAT_KERNEL_SS};

    use super::{Fault, TrapFrame};
    use crate::kernel_local;
    use crate::power::{self, Shutdown};

    /// Flags of which none is set but the one that always is.
    const FIXED_FLAG: u64 = 1 << 1;

    /// The stack pointer to go on with after a fault; zero if faults are not to be caught.
    static LANDING_STACK: AtomicU64 = AtomicU64::new(0);

    kernel_local! {
        static CAUGHT: Cell<Option<Fault>> = Cell::new(None);
    }

    unsafe extern "C" {
        fn catch_call(
            function: unsafe extern "C" fn(u64),
            argument: u64,
            landing_stack: *const AtomicU64,
        ) -> u64;
        static catch_landing: u8;
    }

    /// Calls a function and returns the exception that it raised, if it did. For tests of the hypervisor.
    ///
    /// # Errors
    ///
    /// The exception; the function was left where it happened.
    ///
    /// # Safety
    ///
    /// The function must be sound to call with the argument, apart from faults, and sound to leave in its
    /// middle: it must own nothing that has to be dropped. It must not call this function.
    pub unsafe fn catch(function: unsafe extern "C" fn(u64), argument: u64) -> Result<(), Fault> {
        CAUGHT.with(|caught| caught.set(None));
        // SAFETY: the assembly calls the function as promised by the caller, and returns here either way.
        unsafe { catch_call(function, argument, &raw const LANDING_STACK) };
        LANDING_STACK.store(0, Ordering::Relaxed);
        CAUGHT.with(Cell::take).map_or(Ok(()), Err)
    }

    /// Called by `entry.s` for every exception.
    pub(crate) extern "C" fn trap(frame: &mut TrapFrame) {
        let landing_stack = LANDING_STACK.swap(0, Ordering::Relaxed);
        if landing_stack == 0 {
            crate::console::print_in_distress(format_args!("\n*** {frame}\n"));
            power::shutdown(Shutdown::Crash);
        }
        CAUGHT.with(|caught| caught.set(Some(Fault { vector: frame.vector, error_code: frame.error_code })));
        // Whatever the function did to its selectors and flags, this goes on as the kernel.
        (frame.rip, frame.rsp) = ((&raw const catch_landing) as u64, landing_stack);
        (frame.cs, frame.ss) = (u64::from(FLAT_KERNEL_CS), u64::from(FLAT_KERNEL_SS));
        frame.rflags = FIXED_FLAG;
    }
}
