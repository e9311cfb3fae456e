//! A guest's request: taken off the ring, checked, and followed to its response.
//!
//! What arrives here is a private copy of a slot. Everything in it is a claim by the guest; [`Request::load`]
//! either turns it into something that is known to lie on the disk and in whole pages, or says what is wrong.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;

use hypercall_abi::GrantReference;
use hypercall_abi::io::blkif::*;

use super::device::{Geometry, Operation, Segment};
use super::kept::Epoch;

/// What a guest may ask of its disk.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// The disk; read-only also if only this guest may not write.
    pub geometry: Geometry,
    /// The most segments of an indirect request; 0 if there are none.
    pub indirect_segments_max: u16,
}

/// What is wrong with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// An operation that we did not offer.
    Unsupported {
        /// Its number.
        operation: u8,
    },
    /// More segments than there may be, or none where there must be some.
    SegmentCount {
        /// How many.
        count: u16,
    },
    /// A segment that does not lie in a page.
    BadSegment {
        /// First sector in the page.
        first: u8,
        /// Last sector in the page.
        last: u8,
    },
    /// Sectors that are not on the disk, or not whole blocks of it.
    NotOnDisk {
        /// The first.
        sector: u64,
        /// How many.
        count: u64,
    },
    /// A write to a read-only disk.
    ReadOnly,
    /// An indirect request for something else than reading or writing.
    BadIndirect {
        /// What for.
        operation: u8,
    },
    /// The table of an indirect request could not be read.
    NoTable,
    /// The guest did not grant a page as the request needs it.
    NoGrant,
}

impl Rejection {
    /// What to answer.
    pub fn status(self) -> i16 {
        match self {
            Self::Unsupported { .. } => BLKIF_RSP_EOPNOTSUPP,
            _ => BLKIF_RSP_ERROR,
        }
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unsupported { operation } => write!(formatter, "operation {operation} was not offered"),
            Self::SegmentCount { count } => write!(formatter, "{count} segments are too many or too few"),
            Self::BadSegment { first, last } => write!(formatter, "no page has sectors {first} to {last}"),
            Self::NotOnDisk { sector, count } => {
                write!(formatter, "{count} sectors from {sector} on are not on the disk")
            }
            Self::ReadOnly => formatter.write_str("the disk is read-only"),
            Self::BadIndirect { operation } => {
                write!(formatter, "operation {operation} cannot be indirect")
            }
            Self::NoTable => formatter.write_str("the table of segments is not readable"),
            Self::NoGrant => formatter.write_str("a page is not granted as needed"),
        }
    }
}

/// A piece of a page that the guest says it granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GrantedSegment {
    /// The grant.
    pub reference: GrantReference,
    /// First byte in the page.
    pub offset: u16,
    /// Bytes, at most what is left of the page.
    pub length: u16,
}

impl GrantedSegment {
    /// Checks a segment as it came.
    fn new(segment: &BlkifRequestSegment) -> Result<Self, Rejection> {
        let (first, last) = (segment.first_sect, segment.last_sect);
        if first > last || usize::from(last) >= SECTORS_PER_PAGE {
            return Err(Rejection::BadSegment { first, last });
        }
        let sector_size = SECTOR_SIZE as u16;
        let offset = u16::from(first) * sector_size;
        let length = u16::from(last - first + 1) * sector_size;
        Ok(Self { reference: segment.gref, offset, length })
    }
}

/// A table of segments in a page that the guest says it granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Table {
    /// The grant.
    pub reference: GrantReference,
    /// How many segments.
    pub count: u16,
}

/// What a request needs before it can be carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Its pages.
    Pages,
    /// Its table of segments first; then [`Request::load_table`].
    Table(Table),
}

/// A request on its way, with one `L` (what keeps a guest's page in place) for each of its pages.
#[derive(Debug)]
pub struct Request<L> {
    /// The guest's number for it.
    pub id: u64,
    /// The operation that the response names.
    pub operation: u8,
    /// First sector on the disk.
    pub first_sector: u64,
    /// The pages that the guest granted.
    pub grants: Vec<GrantedSegment>,
    /// The same pages as the device finds them.
    pub segments: Vec<Segment>,
    /// What keeps them in place, as far as that is for this request only.
    pub leases: Vec<L>,
    /// Since when it may be using grants that are kept.
    pub epoch: Option<Epoch>,
    /// Bytes that the request reads or writes.
    pub length: u64,
    /// What to answer.
    pub status: i16,
    /// What is left to do.
    steps: &'static [Operation],
}

impl<L> Default for Request<L> {
    fn default() -> Self {
        Self {
            id: 0,
            operation: 0,
            first_sector: 0,
            grants: Vec::new(),
            segments: Vec::new(),
            leases: Vec::new(),
            epoch: None,
            length: 0,
            status: BLKIF_RSP_OKAY,
            steps: &[],
        }
    }
}

impl<L> Request<L> {
    /// Makes this the request in `raw`, once it has been checked. Only the storage of an earlier one is kept.
    ///
    /// # Errors
    ///
    /// [`Rejection`]. Id and operation are those for the response all the same.
    #[inline]
    pub fn load(&mut self, raw: &BlkifRequest, rules: &Rules) -> Result<Need, Rejection> {
        self.id = raw.id;
        self.operation = raw.operation;
        self.first_sector = raw.sector_number;
        self.status = BLKIF_RSP_OKAY;
        self.length = 0;
        self.steps = &[];
        self.grants.clear();
        self.segments.clear();
        match raw.operation {
            BLKIF_OP_INDIRECT => self.load_indirect(&raw.as_indirect(), rules),
            BLKIF_OP_READ | BLKIF_OP_WRITE => self.load_direct(raw, rules, 1),
            BLKIF_OP_FLUSH_DISKCACHE | BLKIF_OP_WRITE_BARRIER if rules.geometry.has_cache => {
                self.load_direct(raw, rules, 0)
            }
            operation => Err(Rejection::Unsupported { operation }),
        }
    }

    fn load_direct(&mut self, raw: &BlkifRequest, rules: &Rules, fewest: usize) -> Result<Need, Rejection> {
        let count = usize::from(raw.nr_segments);
        let segments = raw.seg.get(..count).filter(|_| count >= fewest);
        let segments = segments.ok_or(Rejection::SegmentCount { count: raw.nr_segments.into() })?;
        self.load_segments(segments, rules)?;
        Ok(Need::Pages)
    }

    fn load_indirect(&mut self, raw: &BlkifRequestIndirect, rules: &Rules) -> Result<Need, Rejection> {
        // The response names the operation proper, and the front end checks that.
        self.operation = raw.indirect_op;
        self.first_sector = raw.sector_number;
        if rules.indirect_segments_max == 0 {
            return Err(Rejection::Unsupported { operation: BLKIF_OP_INDIRECT });
        }
        if !matches!(raw.indirect_op, BLKIF_OP_READ | BLKIF_OP_WRITE) {
            return Err(Rejection::BadIndirect { operation: raw.indirect_op });
        }
        let count = raw.nr_segments;
        if count == 0 || count > rules.indirect_segments_max {
            return Err(Rejection::SegmentCount { count });
        }
        let [reference, ..] = raw.indirect_grefs;
        Ok(Need::Table(Table { reference, count }))
    }

    /// Takes the segments of an indirect request, as they were copied from its table.
    ///
    /// # Errors
    ///
    /// [`Rejection`].
    pub fn load_table(&mut self, segments: &[BlkifRequestSegment], rules: &Rules) -> Result<(), Rejection> {
        self.load_segments(segments, rules)
    }

    #[inline]
    fn load_segments(&mut self, segments: &[BlkifRequestSegment], rules: &Rules) -> Result<(), Rejection> {
        let writes = self.operation != BLKIF_OP_READ;
        if writes && !segments.is_empty() && rules.geometry.is_read_only {
            return Err(Rejection::ReadOnly);
        }
        let mut bytes = 0;
        for segment in segments {
            let segment = GrantedSegment::new(segment)?;
            bytes += u64::from(segment.length);
            self.grants.push(segment);
        }
        let (sector, count) = (self.first_sector, bytes / SECTOR_SIZE as u64);
        if !segments.is_empty() && !rules.geometry.holds(sector, count) {
            return Err(Rejection::NotOnDisk { sector, count });
        }
        self.length = bytes;
        self.steps = steps(self.operation, segments.is_empty());
        Ok(())
    }

    /// Whether the device writes into the guest's pages.
    #[inline]
    pub fn is_read(&self) -> bool {
        self.operation == BLKIF_OP_READ
    }

    /// Whether everything before must be done first, and nothing after may begin before this is done.
    #[inline]
    pub fn is_barrier(&self) -> bool {
        self.operation == BLKIF_OP_WRITE_BARRIER
    }

    /// What is to be done next, unless it is over.
    #[inline]
    pub fn next_step(&self) -> Option<Operation> {
        if self.status == BLKIF_RSP_OKAY { self.steps.first().copied() } else { None }
    }

    /// Notes that the next step has been done.
    #[inline]
    pub fn step_done(&mut self) {
        self.steps = self.steps.get(1..).unwrap_or_default();
    }

    /// Notes that the request has failed, and what to answer.
    pub fn fail(&mut self, status: i16) {
        self.status = status;
    }

    /// The answer.
    #[inline]
    pub fn response(&self) -> BlkifResponse {
        BlkifResponse { id: self.id, operation: self.operation, status: self.status, ..Default::default() }
    }
}

/// What an operation comes down to. A flush covers what completed before it, so data that must itself be
/// stable before the next request begins is flushed once more.
#[inline]
fn steps(operation: u8, is_empty: bool) -> &'static [Operation] {
    match (operation, is_empty) {
        (BLKIF_OP_READ, _) => &[Operation::Read],
        (BLKIF_OP_WRITE, _) => &[Operation::Write],
        (_, true) => &[Operation::Flush],
        (BLKIF_OP_FLUSH_DISKCACHE, false) => &[Operation::Flush, Operation::Write],
        (_, false) => &[Operation::Flush, Operation::Write, Operation::Flush],
    }
}

/// Requests that are not in use, kept for their storage.
#[derive(Debug)]
#[expect(clippy::vec_box, reason = "requests go from list to list: a pointer moves, not two hundred bytes")]
pub struct Spares<L>(Vec<Box<Request<L>>>);

impl<L> Default for Spares<L> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<L> Spares<L> {
    /// A request to load.
    #[inline]
    pub fn take(&mut self) -> Box<Request<L>> {
        self.0.pop().unwrap_or_default()
    }

    /// Puts one back.
    #[inline]
    pub fn put(&mut self, request: Box<Request<L>>) {
        self.0.push(request);
    }
}

#[cfg(test)]
mod tests;
