//! A disk as its users see it: they submit requests and are told later what became of them.
//!
//! Requests name memory by machine address, so neither side copies. Completions of one user come back through
//! one [`Completions`] and are taken in batches; whether a device completes at once or out of order makes no
//! difference.

mod error_log;
#[cfg(any(test, feature = "fake"))]
pub mod fake;
mod watch;

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::fmt;
use core::task::{Context, Poll};

use pv_runtime::executor::Notify;

pub use error_log::{ErrorLog, Extent};
pub use watch::{PATIENCE, Tick, Watch, patience};

/// Bytes in a sector, the unit of all positions and sizes on disks, whatever size a disk's own blocks have.
pub const SECTOR_SIZE: u32 = 512;

/// What a disk looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Size in sectors.
    pub sectors: u64,
    /// Bytes in the smallest block that can be read or written, a power of two from 512 to 4096.
    pub logical_block_size: u32,
    /// Bytes in the smallest block that can be written without reading first.
    pub physical_block_size: u32,
    /// Whether writes are refused.
    pub is_read_only: bool,
    /// Whether written data may be lost until a flush.
    pub has_cache: bool,
    /// The most segments of one request.
    pub segments_max: u16,
}

impl Geometry {
    /// Whether `count` sectors from `first` on lie on the disk, in whole blocks.
    #[inline]
    pub fn holds(&self, first: u64, count: u64) -> bool {
        let in_block = u64::from(self.logical_block_size / SECTOR_SIZE).saturating_sub(1);
        let is_inside = first.checked_add(count).is_some_and(|end| end <= self.sectors);
        is_inside && (first | count) & in_block == 0
    }
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// From the disk into memory.
    Read,
    /// From memory onto the disk.
    Write,
    /// Bring everything whose writing has completed to stable storage. Has no segments.
    Flush,
}

/// A piece of memory, within one page, of a whole number of sectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Machine address of the first byte.
    pub address: u64,
    /// Bytes.
    pub length: u32,
}

/// Why a request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IoError {
    /// The device or its medium failed.
    Device,
    /// The device does not know the operation.
    Unsupported,
    /// It does not lie on the disk, or not in whole blocks, or has too many segments.
    OutOfRange,
    /// The disk is read-only.
    ReadOnly,
    /// The device was given up.
    Gone,
}

impl fmt::Display for IoError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Device => "the device or its medium failed",
            Self::Unsupported => "the device does not know the operation",
            Self::OutOfRange => "not on the disk",
            Self::ReadOnly => "the disk is read-only",
            Self::Gone => "the device was given up",
        })
    }
}

impl core::error::Error for IoError {}

/// Why a request was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SubmitError {
    /// No room now. The ticket's [`Completions`] will be rung when it is worth trying again.
    Full,
    /// This request will never be accepted.
    Refused(IoError),
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The ticket's token.
    pub token: u32,
    /// Done, or why not.
    pub result: Result<(), IoError>,
}

/// Where the outcomes of one user's requests arrive.
#[derive(Debug, Default)]
pub struct Completions {
    outcomes: RefCell<Vec<Outcome>>,
    bell: Notify,
    wants_room: Cell<bool>,
}

impl Completions {
    /// Puts an outcome in and wakes the user.
    pub fn push(&self, outcome: Outcome) {
        self.outcomes.borrow_mut().push(outcome);
        self.bell.ring();
    }

    /// Moves all outcomes into `into`, which must be empty; its storage is used for the next ones.
    pub fn take_all(&self, into: &mut Vec<Outcome>) {
        debug_assert!(into.is_empty());
        core::mem::swap(&mut *self.outcomes.borrow_mut(), into);
    }

    /// Wakes the user: there may be room, or something else to look at.
    pub fn ring(&self) {
        self.bell.ring();
    }

    /// Waits for outcomes, or for another reason to look.
    pub async fn wait(&self) {
        self.bell.wait().await;
    }

    /// As [`wait`](Self::wait), for use in hand-written futures.
    pub fn poll_wait(&self, context: &mut Context<'_>) -> Poll<()> {
        self.bell.poll_wait(context)
    }
}

/// Names a request in its user's terms.
#[derive(Clone, Debug)]
pub struct Ticket {
    /// Where the outcome goes.
    pub completions: Rc<Completions>,
    /// What it carries.
    pub token: u32,
}

impl Ticket {
    /// Reports what became of the request.
    pub fn complete(self, result: Result<(), IoError>) {
        self.completions.push(Outcome { token: self.token, result });
    }
}

/// Users that found a device full and are to be rung when it no longer is.
#[derive(Debug, Default)]
pub struct RoomList(RefCell<Vec<Rc<Completions>>>);

impl RoomList {
    /// Adds a user, once.
    pub fn add(&self, completions: &Rc<Completions>) {
        if !completions.wants_room.replace(true) {
            self.0.borrow_mut().push(Rc::clone(completions));
        }
    }

    /// Rings and forgets all of them.
    pub fn ring_all(&self) {
        for completions in self.0.borrow_mut().drain(..) {
            completions.wants_room.set(false);
            completions.ring();
        }
    }
}

/// A disk, or something that behaves like one.
///
/// A request's memory belongs to the device from a successful [`submit`](Self::submit) until the outcome.
pub trait BlockDevice {
    /// What the disk looks like. It does not change while the disk is in use.
    fn geometry(&self) -> Geometry;

    /// Hands a request over. The device may not look at it before [`kick`](Self::kick).
    ///
    /// # Errors
    ///
    /// [`SubmitError`]; the request was not accepted and there will be no outcome.
    fn submit(
        &self,
        operation: Operation,
        first_sector: u64,
        segments: &[Segment],
        ticket: Ticket,
    ) -> Result<(), SubmitError>;

    /// Makes the device look at what was submitted since the last time.
    fn kick(&self);
}

/// Sectors that `segments` cover.
pub fn sector_count(segments: &[Segment]) -> u64 {
    let bytes: u64 = segments.iter().map(|segment| u64::from(segment.length)).sum();
    bytes / u64::from(SECTOR_SIZE)
}

/// Whether a disk of this geometry can take a request at all.
///
/// # Errors
///
/// Why it cannot.
#[inline]
pub fn check(
    geometry: &Geometry,
    operation: Operation,
    first_sector: u64,
    segments: &[Segment],
) -> Result<(), IoError> {
    if operation == Operation::Flush {
        return if segments.is_empty() { Ok(()) } else { Err(IoError::OutOfRange) };
    }
    if operation == Operation::Write && geometry.is_read_only {
        return Err(IoError::ReadOnly);
    }
    let fits = !segments.is_empty()
        && segments.len() <= usize::from(geometry.segments_max)
        && geometry.holds(first_sector, sector_count(segments));
    if fits { Ok(()) } else { Err(IoError::OutOfRange) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DISK: Geometry = Geometry {
        sectors: 1000,
        logical_block_size: 512,
        physical_block_size: 4096,
        is_read_only: false,
        has_cache: true,
        segments_max: 4,
    };

    const PAGE: Segment = Segment { address: 0x1000, length: 4096 };

    #[test]
    fn requests_must_lie_on_the_disk() {
        assert!(DISK.holds(0, 1000));
        assert!(DISK.holds(1000, 0));
        for (first, count) in [(0, 1001), (1000, 1), (u64::MAX, 1), (1, u64::MAX)] {
            assert!(!DISK.holds(first, count), "{count} from {first}");
        }
    }

    #[test]
    fn requests_must_be_whole_blocks() {
        let large = Geometry { logical_block_size: 4096, ..DISK };
        assert!(large.holds(8, 16));
        assert!(!large.holds(4, 8));
        assert!(!large.holds(8, 4));
    }

    #[test]
    fn reads_writes_and_flushes_are_checked() {
        let read_only = Geometry { is_read_only: true, ..DISK };
        assert_eq!(check(&DISK, Operation::Write, 0, &[PAGE]), Ok(()));
        assert_eq!(check(&read_only, Operation::Read, 0, &[PAGE]), Ok(()));
        assert_eq!(check(&read_only, Operation::Write, 0, &[PAGE]), Err(IoError::ReadOnly));
        assert_eq!(check(&DISK, Operation::Read, 0, &[]), Err(IoError::OutOfRange));
        assert_eq!(check(&DISK, Operation::Read, 0, &[PAGE; 5]), Err(IoError::OutOfRange));
        assert_eq!(check(&DISK, Operation::Read, 993, &[PAGE]), Err(IoError::OutOfRange));
        assert_eq!(check(&DISK, Operation::Flush, u64::MAX, &[]), Ok(()));
        assert_eq!(check(&DISK, Operation::Flush, 0, &[PAGE]), Err(IoError::OutOfRange));
    }

    #[test]
    fn users_that_want_room_are_rung_once() {
        let (list, user) = (RoomList::default(), Rc::new(Completions::default()));
        list.add(&user);
        list.add(&user);
        assert_eq!(Rc::strong_count(&user), 2);
        list.ring_all();
        assert_eq!(Rc::strong_count(&user), 1);
        let mut context = Context::from_waker(core::task::Waker::noop());
        assert!(user.poll_wait(&mut context).is_ready());
        assert!(user.poll_wait(&mut context).is_pending());
    }
}
