//! Disks: the front half of a vbd, as futures that read, write and flush.
//!
//! ```text
//!   any number of tasks                 the disk's own task               back end
//!   Disk::read, write, flush ── Request ──▶ BlockQueue ── parts, batched ──▶
//!            ▲                                  │        ◀── answers ──────
//!            └───────────── Outcome ────────────┘
//! ```
//!
//! A request takes its memory along and gets it back with the outcome, so nothing is copied and a caller may go
//! away at any time. Memory that is used again is known to the back end already. Requests that are not answered survive the back end: they are asked of the next one.

mod buffer;
mod disk;
mod driver;
mod operation;
mod owned;
mod queue;
mod request;
#[cfg(test)]
mod tests;
mod wire;

pub use buffer::{BufferPool, DataBuffer};
pub use disk::{Disk, DiskBuffer, DiskInfo};
pub use driver::VbdDriver;
pub use owned::OwnedDisk;
pub use queue::{BlockCounters, BlockQueue, FlushBy, Limits};
pub use request::{Action, BlockError, Completion, Geometry, Outcome, Request, Sector};
