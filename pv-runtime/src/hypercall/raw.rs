#![expect(unsafe_code, reason = "the call instruction into the hypercall page")]
//! The call instruction.
//!
//! A hypercall is a call to `hypercall_page + 32 * number`: up to five arguments in `rdi`, `rsi`, `rdx`,
//! `r10` and `r8`, the result in `rax`. The hypervisor may change the argument registers and `rcx`, `r11`.

/// Bytes of code that the domain builder puts into the hypercall page for each number.
#[cfg(target_os = "none")]
const BYTES_PER_CALL: u64 = 32;

#[cfg(target_os = "none")]
unsafe extern "C" {
    /// Filled by the domain builder, declared by a note of the image.
    static hypercall_page: [u8; 4096];
}

/// Declares one function for each number of arguments, the hypercall's number being a constant.
macro_rules! define_calls {
    ($($name:ident($($argument:ident = $register:tt),*);)*) => {$(
        /// Calls hypercall `NUMBER`.
        ///
        /// # Safety
        ///
        /// Every pointer among the arguments must be valid for what the hypercall reads and writes through
        /// it, and the effect on this domain's memory must not break what Rust assumes of it.
        #[inline(always)]
        #[cfg(target_os = "none")]
        pub(super) unsafe fn $name<const NUMBER: u64>($($argument: u64),*) -> i64 {
            let result: i64;
            // SAFETY: the page holds the builder's code for every number; the code keeps to the register
            // contract above; the rest is the caller's promise.
            unsafe {
                core::arch::asm!(
                    "call {page} + {offset}",
                    page = sym hypercall_page,
                    offset = const NUMBER * BYTES_PER_CALL,
                    $(inlateout($register) $argument => _,)*
                    lateout("rax") result,
                    out("rcx") _,
                    out("r11") _,
                );
            }
            result
        }

        /// Reports that a host has no hypervisor beneath it.
        ///
        /// # Safety
        ///
        /// None is needed; the signature is that of the bare-metal twin.
        #[cfg(not(target_os = "none"))]
        pub(super) unsafe fn $name<const NUMBER: u64>($($argument: u64),*) -> i64 {
            $(let _ = $argument;)*
            super::NO_HYPERVISOR
        }
    )*};
}

define_calls! {
    call1(first = "rdi");
    call2(first = "rdi", second = "rsi");
    call3(first = "rdi", second = "rsi", third = "rdx");
    call4(first = "rdi", second = "rsi", third = "rdx", fourth = "r10");
}

/// Calls a hypercall by a number known only at run time, with all five arguments.
///
/// # Safety
///
/// As for a hypercall with a constant number; `number` must be below 128, the entries of the page.
#[cfg(target_os = "none")]
pub(super) unsafe fn call_number(number: u64, arguments: [u64; 5]) -> i64 {
    let result: i64;
    // SAFETY: `number` is below 128, so the target lies in the page; the rest is the caller's promise.
    unsafe {
        let entry = (&raw const hypercall_page).cast::<u8>().add((number * BYTES_PER_CALL) as usize);
        core::arch::asm!(
            "call {entry}",
            entry = in(reg) entry,
            inlateout("rdi") arguments[0] => _,
            inlateout("rsi") arguments[1] => _,
            inlateout("rdx") arguments[2] => _,
            inlateout("r10") arguments[3] => _,
            inlateout("r8") arguments[4] => _,
            lateout("rax") result,
            out("rcx") _,
            out("r11") _,
        );
    }
    result
}

/// Reports that a host has no hypervisor beneath it.
///
/// # Safety
///
/// None is needed; the signature is that of the bare-metal twin.
#[cfg(not(target_os = "none"))]
pub(super) unsafe fn call_number(_number: u64, _arguments: [u64; 5]) -> i64 {
    super::NO_HYPERVISOR
}
