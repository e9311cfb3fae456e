//! Single-threaded asynchronous tasks.
//!
//! A task runs until it awaits something that is not there yet. Between tasks, and only there, the executor
//! looks for events and expired timers; they make tasks ready. When no task is ready it blocks the virtual CPU
//! with the timer set to the earliest deadline. Nothing interrupts a running task, so tasks share data through
//! `Rc` and `RefCell` and must not hold the processor for long: [`yield_now`] gives way.
//!
//! ```text
//!        ┌─► poll the ready tasks ─► take pending events ─► wake expired sleepers ─┐
//!        │                                                                       ready?
//!        └──────────────────────────── yes ◄───────────────────────────────────────┤
//!        └──── upcall ◄── SCHEDOP_block, which unmasks events ◄── arm timer ◄── no ┘
//! ```
//!
//! On a host the same executor runs under `testing::run` with a virtual clock.

mod platform;
mod ready;
mod sync;
mod task;
#[cfg(not(target_os = "none"))]
pub mod testing;
mod timer;

use core::time::Duration;

pub use embassy_futures::join::{join, join_array, join3};
pub use embassy_futures::select::{
    Either, Either3, Either4, select, select_array, select_slice, select3, select4,
};
pub use sync::{AsyncLock, AsyncLockGuard, Channel, ChannelFull, Notify, Receive, Send, Signal};
#[cfg(target_os = "none")]
pub(crate) use task::run;
pub use task::{JoinHandle, polls, spawn, yield_now};
pub use timer::{Sleep, TimedOut, sleep, sleep_until, timeout};

/// Time since the hypervisor started, from the paravirtual clock; it never goes back.
pub fn now() -> Duration {
    platform::now()
}

/// Time since the beginning of 1970, UTC, as the hypervisor knows it.
pub fn wall_clock() -> Duration {
    platform::wall_clock()
}
