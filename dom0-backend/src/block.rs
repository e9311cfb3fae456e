//! Disks: what a disk can do, who shares it, and the back end that guests talk to.
//!
//! ```text
//!   guest's ring ─► request ─► vbd ──── data path: grants become addresses that a device can use
//!                 (checked)     │
//!                               ▼
//!                        BlockDevice: a whole disk, a range of one, or the ranges that a file lies in
//! ```
//!
//! No byte of data passes through here. A guest's pages are pinned by a device-only map of its grants, and the
//! disk's own controller reads and writes them.

mod back_end;
mod counters;
mod data_path;
mod image;
mod kept;
mod partition;
mod range;
mod request;
mod transfer;
mod vbd;

use device_drivers::disk as device;
#[cfg(test)]
use device_drivers::disk::fake;

pub use back_end::{BlockBackEnd, VbdReport};
pub use counters::BlockCounters;
pub use data_path::{CopyPath, DataPath, DirectPath};
pub use device::{
    BlockDevice, Completions, Geometry, IoError, Operation, Outcome, RoomList, SECTOR_SIZE, Segment,
    SubmitError, Ticket, check,
};
pub use image::{ImageDisk, Images, Piece};
pub use partition::{Partition, TABLE_SECTORS, partitions};
pub use range::DiskRange;
pub use request::{Rejection, Rules};
pub use transfer::transfer;
pub use vbd::{INDIRECT_SEGMENTS_MAX, Round, Vbd};
