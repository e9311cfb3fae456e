//! A request on its way: cut into parts that fit on the ring, until the last part is answered.

use core::ops::Range;

use hypercall_abi::GrantReference;
use hypercall_abi::io::blkif::{BlkifRequestSegment, SECTORS_PER_PAGE};

use super::buffer::DataBuffer;
use super::request::{Action, BlockError, Completion, Outcome, Request, Sector};
use crate::buffer::{Grant, GrantTable};

/// A run of a request's pages that goes on the ring as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    /// The first page, counted in the request's buffer.
    pub(super) first_page: usize,
    /// How many pages.
    pub(super) pages: usize,
}

impl Span {
    /// The page behind the last.
    pub(super) const fn end(&self) -> usize {
        self.first_page + self.pages
    }

    /// All its pages.
    pub(super) const fn pages(&self) -> Range<usize> {
        self.first_page..self.end()
    }
}

/// A request under way.
pub(super) struct Operation<G: Grant> {
    pub(super) action: Action,
    start: Sector,
    length: usize,
    pages: usize,
    buffer: Option<DataBuffer<G>>,
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
        let Request { action, start, length, mut buffer, completion } = request;
        if let Some(memory) = &mut buffer
            && memory.grant(table, pages).is_err()
        {
            completion.set(Outcome { buffer, result: Err(BlockError::NoMemory) });
            return None;
        }
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
        self.pages_sent = span.end();
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
        self.buffer.iter().flat_map(move |buffer| buffer.segments(span, self.length))
    }

    /// A granted page that holds the segments of a part; `None` if none can be had.
    pub(super) fn table<T: GrantTable<Grant = G>>(
        &mut self,
        span: Span,
        table: &T,
    ) -> Option<GrantReference> {
        self.buffer.as_mut()?.table(span, self.length, table)
    }

    /// Answers the request, and gives its memory back.
    pub(super) fn finish(self) {
        self.completion.set(Outcome { buffer: self.buffer, result: self.result });
    }

    /// The request again, after the back end it was under way at has gone.
    pub(super) fn into_request(self) -> Request<G> {
        let Self { action, start, length, buffer, completion, .. } = self;
        Request { action, start, length, buffer, completion }
    }
}
