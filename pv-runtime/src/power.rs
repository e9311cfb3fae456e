//! Ending the domain.

use hypercall_abi::sched::{SHUTDOWN_CRASH, SHUTDOWN_POWEROFF, SHUTDOWN_REBOOT};

use crate::{console, hypercall};

/// Why a domain ends itself (`sched.h`, `SHUTDOWN_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shutdown {
    /// Work done. For the initial domain: switch the machine off.
    PowerOff,
    /// Start the domain anew. For the initial domain: restart the machine.
    Reboot,
    /// Something is wrong that only a person can set right.
    Crash,
}

impl Shutdown {
    const fn reason(self) -> u32 {
        match self {
            Self::PowerOff => SHUTDOWN_POWEROFF,
            Self::Reboot => SHUTDOWN_REBOOT,
            Self::Crash => SHUTDOWN_CRASH,
        }
    }
}

/// Ends the domain, once its console output is on its way.
pub fn shutdown(why: Shutdown) -> ! {
    console::flush();
    loop {
        // Returns only if the hypervisor refuses; there is nothing else that could be done then.
        let _ = hypercall::sched_shutdown(why.reason());
        hypercall::sched_yield();
    }
}

#[cfg(target_os = "none")]
#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    console::print_in_distress(format_args!("\n*** {info}\n"));
    shutdown(Shutdown::Crash);
}
