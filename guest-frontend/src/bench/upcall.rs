#![expect(unsafe_code, reason = "an event handler of its own that takes the time before anything else")]
//! When an event arrives, to the instruction.
//!
//! The runtime's handler only ends a wait. For a measurement another is put before it, which takes the time and goes on
//! to the runtime's.

use core::arch::global_asm;
use core::sync::atomic::{AtomicU64, Ordering};

use hypercall_abi::Errno;
use hypercall_abi::callback::{
    CALLBACKF_MASK_EVENTS, CALLBACKOP_REGISTER, CALLBACKTYPE_EVENT, CallbackRegister,
};
use hypercall_abi::xen::HYPERVISOR_CALLBACK_OP;
use pv_runtime::hypercall::raw;

/// When the last upcall arrived.
#[unsafe(no_mangle)]
static UPCALL_ARRIVED: AtomicU64 = AtomicU64::new(0);
#[unsafe(no_mangle)]
static UPCALL_SCRATCH: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];

/// Instructions of the handler before it reads the counter.
const BEFORE: u64 = 2;

#[cfg(target_os = "none")]
global_asm!(
    "timed_upcall:",
    "mov [rip + UPCALL_SCRATCH], rax",
    "mov [rip + UPCALL_SCRATCH + 8], rdx",
    "rdtsc",
    "shl rdx, 32",
    "or rax, rdx",
    "mov [rip + UPCALL_ARRIVED], rax",
    "mov rax, [rip + UPCALL_SCRATCH]",
    "mov rdx, [rip + UPCALL_SCRATCH + 8]",
    "jmp event_upcall",
);

#[cfg(target_os = "none")]
unsafe extern "C" {
    /// The handler above.
    fn timed_upcall();
    /// The runtime's handler.
    fn event_upcall();
}

/// While it lives, upcalls are timed.
pub struct TimedUpcalls(());

impl TimedUpcalls {
    /// Puts the timing handler in place.
    ///
    /// # Errors
    /// What the hypervisor says.
    #[cfg(target_os = "none")]
    pub fn start() -> Result<Self, Errno> {
        register(timed_upcall as *const () as u64)?;
        Ok(Self(()))
    }

    /// There are no upcalls on a host.
    ///
    /// # Errors
    /// Always `ENOSYS`.
    #[cfg(not(target_os = "none"))]
    pub fn start() -> Result<Self, Errno> {
        Err(Errno::ENOSYS)
    }

    /// The counter at the first instruction of the last upcall.
    pub fn arrived(&self) -> u64 {
        UPCALL_ARRIVED.load(Ordering::Relaxed).wrapping_sub(BEFORE)
    }
}

#[cfg(target_os = "none")]
impl Drop for TimedUpcalls {
    fn drop(&mut self) {
        if let Err(errno) = register(event_upcall as *const () as u64) {
            log::error!("the event handler cannot be put back: {errno}");
        }
    }
}

#[cfg(target_os = "none")]
fn register(address: u64) -> Result<(), Errno> {
    let callback =
        CallbackRegister { r#type: CALLBACKTYPE_EVENT, flags: CALLBACKF_MASK_EVENTS, _pad: 0, address };
    let arguments = [u64::from(CALLBACKOP_REGISTER), &raw const callback as u64, 0, 0, 0];
    // SAFETY: both handlers keep every register and end in the runtime's, which is made for upcalls.
    Errno::from_return(unsafe { raw(HYPERVISOR_CALLBACK_OP, arguments) }).map(|_| ())
}
