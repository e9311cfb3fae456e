//! What is asked of a disk, and what came of it.

use alloc::rc::Rc;
use core::error::Error;
use core::fmt;

use hypercall_abi::PAGE_SIZE;
use hypercall_abi::io::blkif::SECTOR_SIZE;
use pv_runtime::executor::Signal;

use super::buffer::DataBuffer;
use crate::buffer::Grant;

/// A sector's number on a disk, in units of 512 bytes whatever the disk has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sector(pub u64);

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Fill the buffer from the disk.
    Read,
    /// Write the buffer to the disk.
    Write,
    /// Bring to stable storage what writes before it, already answered, have written. Has no buffer.
    Flush,
}

/// What a back end says of its disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// The number of sectors of 512 bytes.
    pub sectors: u64,
    /// The least that can be read or written, in bytes; a multiple of 512.
    pub sector_size: u32,
    /// Whether writes are refused.
    pub read_only: bool,
}

impl Geometry {
    /// Checks that `length` bytes from `start` on can be read or written.
    ///
    /// # Errors
    ///
    /// [`BlockError::OutOfRange`], [`BlockError::Unaligned`] or [`BlockError::ReadOnly`].
    pub fn check(&self, action: Action, start: Sector, length: usize) -> Result<(), BlockError> {
        if action == Action::Write && self.read_only {
            return Err(BlockError::ReadOnly);
        }
        let per_block = u64::from(self.sector_size) / SECTOR_SIZE as u64;
        if length == 0
            || !length.is_multiple_of(self.sector_size as usize)
            || !start.0.is_multiple_of(per_block)
        {
            return Err(BlockError::Unaligned);
        }
        let end = start.0.checked_add((length / SECTOR_SIZE) as u64);
        if end.is_some_and(|end| end <= self.sectors) { Ok(()) } else { Err(BlockError::OutOfRange) }
    }
}

/// Why a disk did not do what was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockError {
    /// The back end reports a failure.
    Failed,
    /// The back end does not know the operation.
    NotSupported,
    /// Not all of the sectors are on the disk.
    OutOfRange,
    /// Start or length is not a multiple of the disk's sector size.
    Unaligned,
    /// The disk is read-only.
    ReadOnly,
    /// The back end is gone for good, or did what no honest one does.
    Gone,
    /// There is no memory or grant for the request.
    NoMemory,
}

impl fmt::Display for BlockError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Failed => "the disk reports an error",
            Self::NotSupported => "the disk does not support this",
            Self::OutOfRange => "beyond the end of the disk",
            Self::Unaligned => "not a multiple of the disk's sector size",
            Self::ReadOnly => "the disk is read-only",
            Self::Gone => "the disk is gone",
            Self::NoMemory => "no memory for the request",
        })
    }
}

impl Error for BlockError {}

/// What came of a request.
#[derive(Debug)]
pub struct Outcome<G: Grant> {
    /// The buffer, unless the request had none.
    pub buffer: Option<DataBuffer<G>>,
    /// Whether all was done. If not, some of it may have been.
    pub result: Result<(), BlockError>,
}

/// Where the outcome of a request is left.
pub type Completion<G> = Rc<Signal<Outcome<G>>>;

/// A request with its memory, as the queue takes it.
pub struct Request<G: Grant> {
    /// What is to be done.
    pub action: Action,
    /// Where on the disk; of no meaning for a flush.
    pub start: Sector,
    /// How many bytes from the buffer's start on; zero for a flush.
    pub length: usize,
    /// The memory; none for a flush.
    pub buffer: Option<DataBuffer<G>>,
    /// Where to leave the outcome.
    pub completion: Completion<G>,
}

impl<G: Grant> Request<G> {
    /// How many pages of the buffer are used.
    pub(super) fn pages(&self) -> usize {
        self.length.div_ceil(PAGE_SIZE)
    }
}
