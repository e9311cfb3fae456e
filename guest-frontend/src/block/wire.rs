//! Parts of requests in the form that the ring carries them.

use hypercall_abi::GrantReference;
use hypercall_abi::io::blkif::{
    BLKIF_MAX_SEGMENTS_PER_REQUEST, BLKIF_OP_FLUSH_DISKCACHE, BLKIF_OP_INDIRECT, BLKIF_OP_READ,
    BLKIF_OP_WRITE, BLKIF_OP_WRITE_BARRIER, BlkifRequest, BlkifRequestIndirect,
};

use super::operation::{Operation, Span};
use super::queue::{FlushBy, Limits};
use super::request::Action;
use crate::buffer::Grant;

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

/// A part whose segments are in the page of this grant.
pub(super) fn indirect<G: Grant>(
    operation: &Operation<G>,
    span: Span,
    id: u64,
    limits: &Limits,
    table: GrantReference,
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
    request.indirect_grefs[0] = table;
    request.into()
}
