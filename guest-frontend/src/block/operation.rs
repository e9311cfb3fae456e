//! A request on its way: cut into parts that fit on the ring, until the last part is answered.

use hypercall_abi::PAGE_SIZE;
use hypercall_abi::io::blkif::{BlkifRequestSegment, SECTOR_SIZE, SECTORS_PER_PAGE};

use super::request::{Action, BlockError, Completion, Outcome, Request, Sector};
use crate::buffer::{BackEndMay, Grant, GrantTable, SharedBuffer};

/// A run of a request's pages that goes on the ring as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    /// The first page, counted in the request's buffer.
    pub(super) first_page: usize,
    /// How many pages.
    pub(super) pages: usize,
}

/// A request under way.
pub(super) struct Operation<G: Grant> {
    pub(super) action: Action,
    start: Sector,
    length: usize,
    pages: usize,
    buffer: Option<SharedBuffer<G>>,
    completion: Completion<G>,
    /// Pages that were put on the ring.
    pages_sent: usize,
    /// Whether the only part of a flush was put on the ring.
    flush_sent: bool,
    /// Parts on the ring.
    parts_under_way: usize,
    result: Result<(), BlockError>,
}

impl<G: Grant> Operation<G> {
    /// Shares the request's memory with the back end. If that fails, the request is answered and gone.
    pub(super) fn new<T: GrantTable<Grant = G>>(request: Request<G>, table: &T) -> Option<Self> {
        let pages = request.pages();
        let Request { action, start, length, buffer, completion } = request;
        let access = if action == Action::Read { BackEndMay::Write } else { BackEndMay::Read };
        let buffer = match buffer.map(|buffer| buffer.share(table, access, length)).transpose() {
            Ok(buffer) => buffer,
            Err(failure) => {
                completion.set(Outcome { buffer: failure.buffer, result: Err(BlockError::NoMemory) });
                return None;
            }
        };
        Some(Self {
            action,
            start,
            length,
            pages,
            buffer,
            completion,
            pages_sent: 0,
            flush_sent: false,
            parts_under_way: 0,
            result: Ok(()),
        })
    }

    /// The next part to be put on the ring, of at most `most` pages; none if all are.
    pub(super) fn next_span(&self, most: usize) -> Option<Span> {
        if self.action == Action::Flush {
            return (!self.flush_sent).then_some(Span { first_page: 0, pages: 0 });
        }
        let pages = (self.pages - self.pages_sent).min(most);
        (pages > 0).then_some(Span { first_page: self.pages_sent, pages })
    }

    /// Notes that a part was put on the ring.
    pub(super) fn sent(&mut self, span: Span) {
        self.pages_sent = span.first_page + span.pages;
        self.flush_sent = self.action == Action::Flush;
        self.parts_under_way += 1;
    }

    /// Whether all parts were put on the ring.
    pub(super) fn is_sent(&self) -> bool {
        self.next_span(1).is_none()
    }

    /// Notes the answer to a part. Returns whether it was the last.
    pub(super) fn answered(&mut self, result: Result<(), BlockError>) -> bool {
        self.parts_under_way -= 1;
        self.result = self.result.and(result);
        self.parts_under_way == 0 && self.is_sent()
    }

    /// Where a part starts on the disk.
    pub(super) fn sector(&self, span: Span) -> u64 {
        self.start.0 + (span.first_page * SECTORS_PER_PAGE) as u64
    }

    /// The segments of a part: a page each.
    pub(super) fn segments(&self, span: Span) -> impl Iterator<Item = BlkifRequestSegment> + '_ {
        (span.first_page..span.first_page + span.pages).filter_map(|page| {
            let gref = self.buffer.as_ref()?.reference(page);
            let bytes = (self.length - page * PAGE_SIZE).min(PAGE_SIZE);
            let last_sect = (bytes / SECTOR_SIZE - 1) as u8;
            Some(BlkifRequestSegment { gref, first_sect: 0, last_sect, ..Default::default() })
        })
    }

    /// Takes the memory back and answers the request. Returns whether the back end let go of the memory; if
    /// not, it is lost.
    pub(super) fn finish(self) -> bool {
        let (buffer, let_go) = match self.buffer.map(SharedBuffer::reclaim) {
            None => (None, true),
            Some(Ok(buffer)) => (Some(buffer), true),
            Some(Err(_held)) => (None, false),
        };
        let result = if let_go { self.result } else { Err(BlockError::Gone) };
        self.completion.set(Outcome { buffer, result });
        let_go
    }

    /// The request again, after the back end it was under way at has gone. If it kept the memory, the request
    /// is answered instead.
    pub(super) fn into_request(self) -> Option<Request<G>> {
        let Self { action, start, length, completion, .. } = self;
        let buffer = match self.buffer.map(SharedBuffer::reclaim).transpose() {
            Ok(buffer) => buffer,
            Err(_held) => {
                completion.set(Outcome { buffer: None, result: Err(BlockError::Gone) });
                return None;
            }
        };
        Some(Request { action, start, length, buffer, completion })
    }
}
