//! When an event arrives, to the instruction.
//!
//! The runtime's handler only ends a wait. For a measurement another is put before it, which takes the time and goes on
//! to the runtime's.

use hypercall_abi::Errno;

/// Instructions of the handler before it reads the counter.
const BEFORE: u64 = 2;

/// While it lives, upcalls are timed.
pub struct TimedUpcalls(());

impl TimedUpcalls {
    /// Puts the timing handler in place.
    ///
    /// # Errors
    /// What the hypervisor says; on a host, where there are no upcalls, `ENOSYS`.
    pub fn start() -> Result<Self, Errno> {
        handler::install()?;
        Ok(Self(()))
    }

    /// The counter at the first instruction of the last upcall.
    pub fn arrived(&self) -> u64 {
        handler::arrived().wrapping_sub(BEFORE)
    }
}

impl Drop for TimedUpcalls {
    fn drop(&mut self) {
        if let Err(errno) = handler::remove() {
            log::error!("the event handler cannot be put back: {errno}");
        }
    }
}

#[cfg(target_os = "none")]
#[expect(unsafe_code, reason = "an event handler of its own that takes the time before anything else")]
mod handler {
    //! The handler, which keeps every register.

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
    /// Two registers while the handler uses them.
    #[unsafe(no_mangle)]
    static UPCALL_SCRATCH: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];

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

    unsafe extern "C" {
        /// The handler above.
        fn timed_upcall();
        /// The runtime's handler.
        fn event_upcall();
    }

    /// The counter when the last upcall arrived.
    pub fn arrived() -> u64 {
        UPCALL_ARRIVED.load(Ordering::Relaxed)
    }

    /// Puts the handler in place.
    pub fn install() -> Result<(), Errno> {
        register(timed_upcall as *const () as u64)
    }

    /// Puts the runtime's handler back.
    pub fn remove() -> Result<(), Errno> {
        register(event_upcall as *const () as u64)
    }

    fn register(address: u64) -> Result<(), Errno> {
        let callback =
            CallbackRegister { r#type: CALLBACKTYPE_EVENT, flags: CALLBACKF_MASK_EVENTS, _pad: 0, address };
        let arguments = [u64::from(CALLBACKOP_REGISTER), &raw const callback as u64, 0, 0, 0];
        // SAFETY: both handlers keep every register and end in the runtime's, which is made for upcalls.
        Errno::from_return(unsafe { raw(HYPERVISOR_CALLBACK_OP, arguments) }).map(|_| ())
    }
}

#[cfg(not(target_os = "none"))]
mod handler {
    //! There are no upcalls on a host.

    use hypercall_abi::Errno;

    pub fn arrived() -> u64 {
        0
    }

    pub fn install() -> Result<(), Errno> {
        Err(Errno::ENOSYS)
    }

    pub fn remove() -> Result<(), Errno> {
        Ok(())
    }
}
