//! Parts of requests in the form that the ring carries them.

use alloc::vec::Vec;

use hypercall_abi::io::blkif::{
    BLKIF_MAX_SEGMENTS_PER_REQUEST, BLKIF_OP_FLUSH_DISKCACHE, BLKIF_OP_INDIRECT, BLKIF_OP_READ,
    BLKIF_OP_WRITE, BLKIF_OP_WRITE_BARRIER, BlkifRequest, BlkifRequestIndirect, BlkifRequestSegment,
};
use zerocopy::IntoBytes;

use super::operation::{Operation, Span};
use super::queue::{FlushBy, Limits};
use super::request::Action;
use crate::buffer::{BackEndMay, Grant, GrantTable, PrivateBuffer, SharedBuffer};

/// The operation's number, `BLKIF_OP_*`.
pub(super) fn operation_number(action: Action, flush: FlushBy) -> u8 {
    match (action, flush) {
        (Action::Read, _) => BLKIF_OP_READ,
        (Action::Write, _) => BLKIF_OP_WRITE,
        (Action::Flush, FlushBy::Barrier) => BLKIF_OP_WRITE_BARRIER,
        (Action::Flush, _) => BLKIF_OP_FLUSH_DISKCACHE,
    }
}

/// A part whose segments are in the request itself.
pub(super) fn direct<G: Grant>(
    operation: &Operation<G>,
    span: Span,
    id: u64,
    limits: &Limits,
) -> BlkifRequest {
    let mut request = BlkifRequest {
        operation: operation_number(operation.action, limits.flush),
        nr_segments: span.pages.min(BLKIF_MAX_SEGMENTS_PER_REQUEST) as u8,
        handle: limits.handle,
        id,
        sector_number: operation.sector(span),
        ..Default::default()
    };
    for (slot, segment) in request.seg.iter_mut().zip(operation.segments(span)) {
        *slot = segment;
    }
    request
}

/// A part whose segments are in a page of their own.
pub(super) fn indirect<G: Grant>(
    operation: &Operation<G>,
    span: Span,
    id: u64,
    limits: &Limits,
    page: &SharedBuffer<G>,
) -> BlkifRequest {
    let mut request = BlkifRequestIndirect {
        operation: BLKIF_OP_INDIRECT,
        indirect_op: operation_number(operation.action, limits.flush),
        nr_segments: span.pages as u16,
        id,
        sector_number: operation.sector(span),
        handle: limits.handle,
        ..Default::default()
    };
    request.indirect_grefs[0] = page.reference(0);
    request.into()
}

/// Pages that hold the segments of indirect parts.
pub(super) struct SegmentPages<T: GrantTable> {
    free: Vec<PrivateBuffer<T::Grant>>,
}

impl<T: GrantTable> SegmentPages<T> {
    pub(super) const fn new() -> Self {
        Self { free: Vec::new() }
    }

    /// A page filled with segments, at most as many as it holds; `None` if none can be had.
    pub(super) fn fill(
        &mut self,
        segments: impl Iterator<Item = BlkifRequestSegment>,
        table: &T,
    ) -> Option<SharedBuffer<T::Grant>> {
        let mut page = match self.free.pop() {
            Some(page) => page,
            None => PrivateBuffer::new(1).ok()?,
        };
        for (place, segment) in page.chunks_exact_mut(size_of::<BlkifRequestSegment>()).zip(segments) {
            place.copy_from_slice(segment.as_bytes());
        }
        let length = page.len();
        page.share(table, BackEndMay::Read, length).map_err(|failure| self.free.extend(failure.buffer)).ok()
    }

    /// Takes a page back. Returns whether the back end let go of it.
    pub(super) fn put_back(&mut self, page: SharedBuffer<T::Grant>) -> bool {
        page.reclaim().map(|page| self.free.push(page)).is_ok()
    }
}
