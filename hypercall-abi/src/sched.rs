//! Giving up the processor, and giving up altogether (`sched.h`).

use crate::DomainId;

/// Let others run.
pub const SCHEDOP_YIELD: u32 = 0;
/// Unmask events and sleep until one is pending.
pub const SCHEDOP_BLOCK: u32 = 1;
/// Stop the domain and say why.
pub const SCHEDOP_SHUTDOWN: u32 = 2;
/// Sleep until one of some ports is pending, or a time has come.
pub const SCHEDOP_POLL: u32 = 3;
/// Declare another domain shut down.
pub const SCHEDOP_REMOTE_SHUTDOWN: u32 = 4;
/// Record why, for a shutdown that follows.
pub const SCHEDOP_SHUTDOWN_CODE: u32 = 5;
/// Start, feed or stop a watchdog.
pub const SCHEDOP_WATCHDOG: u32 = 6;
/// Pin the virtual CPU for a moment.
pub const SCHEDOP_PIN_OVERRIDE: u32 = 7;

/// The domain finished; destroy it.
pub const SHUTDOWN_POWEROFF: u32 = 0;
/// The domain wants to start again.
pub const SHUTDOWN_REBOOT: u32 = 1;
/// The domain is ready to be saved.
pub const SHUTDOWN_SUSPEND: u32 = 2;
/// The domain gave up.
pub const SHUTDOWN_CRASH: u32 = 3;
/// The domain's watchdog was not fed.
pub const SHUTDOWN_WATCHDOG: u32 = 4;
/// The domain wants its state reset and its memory kept.
pub const SHUTDOWN_SOFT_RESET: u32 = 5;
/// The largest reason.
pub const SHUTDOWN_MAX: u32 = 5;

layout! {
    /// Argument of [`SCHEDOP_SHUTDOWN`] (`sched_shutdown`).
    pub struct SchedShutdown [4] {
        /// `SHUTDOWN_*`.
        0 => reason: u32,
    }

    /// Argument of [`SCHEDOP_POLL`] (`sched_poll`).
    pub struct SchedPoll [24] {
        /// Address of the ports, 32 bits each.
        0 => ports: u64,
        /// How many.
        8 => nr_ports: u32,
        /// Padding.
        12 => _pad: u32,
        /// When to give up, in nanoseconds of system time; 0 means never.
        16 => timeout: u64,
    }

    /// Argument of [`SCHEDOP_REMOTE_SHUTDOWN`] (`sched_remote_shutdown`).
    pub struct SchedRemoteShutdown [8] {
        /// Who.
        0 => domain_id: DomainId,
        /// Padding.
        2 => _pad: u16,
        /// `SHUTDOWN_*`.
        4 => reason: u32,
    }

    /// Argument of [`SCHEDOP_WATCHDOG`] (`sched_watchdog`).
    pub struct SchedWatchdog [8] {
        /// Which watchdog; 0 asks for a new one.
        0 => id: u32,
        /// Seconds until it bites; 0 stops it.
        4 => timeout: u32,
    }

    /// Argument of [`SCHEDOP_PIN_OVERRIDE`] (`sched_pin_override`).
    pub struct SchedPinOverride [4] {
        /// The physical CPU; negative restores the former affinity.
        0 => pcpu: i32,
    }
}
