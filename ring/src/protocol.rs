//! What travels on a ring: a pair of a request type and a response type.

use core::mem::offset_of;

use hypercall_abi::io::{blkif, netif};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// A value that can lie in a slot: any bytes are one, and it is nothing but its bytes.
///
/// Implemented for every type that qualifies. Its size must be a multiple of four bytes, which is checked
/// while compiling.
pub trait Message: FromBytes + IntoBytes + Immutable + Copy {}

impl<T: FromBytes + IntoBytes + Immutable + Copy> Message for T {}

/// The types of one kind of ring.
pub trait Protocol {
    /// What the front end sends. If requests come in several shapes, this is the largest of them, and the
    /// others are views of it.
    type Request: Message;
    /// What the back end answers.
    type Response: Message;

    /// Bytes at a request's start that say how much of the rest is in use; whole words.
    const REQUEST_HEAD: usize = size_of::<Self::Request>();

    /// Bytes of a request that are in use, as its head says.
    #[inline]
    fn request_length(_head: &Self::Request) -> usize {
        size_of::<Self::Request>()
    }
}

/// Packets from the guest. A slot may also be extra info: see
/// [`NetifTxRequest::as_extra_info`](netif::NetifTxRequest::as_extra_info).
#[derive(Clone, Copy, Debug)]
pub enum NetifTx {}

impl Protocol for NetifTx {
    type Request = netif::NetifTxRequest;
    type Response = netif::NetifTxResponse;
}

/// Packets to the guest. A response may also be extra info: see
/// [`NetifRxResponse::as_extra_info`](netif::NetifRxResponse::as_extra_info). Every response must lie in the
/// slot of the request that it answers, which holds if requests are answered in the order they came.
#[derive(Clone, Copy, Debug)]
pub enum NetifRx {}

impl Protocol for NetifRx {
    type Request = netif::NetifRxRequest;
    type Response = netif::NetifRxResponse;
}

/// Block requests. The operation decides whether a request is to be read
/// [as a discard](blkif::BlkifRequest::as_discard) or [as indirect](blkif::BlkifRequest::as_indirect).
#[derive(Clone, Copy, Debug)]
pub enum Blkif {}

impl Protocol for Blkif {
    type Request = blkif::BlkifRequest;
    type Response = blkif::BlkifResponse;

    const REQUEST_HEAD: usize = offset_of!(blkif::BlkifRequest, seg);

    #[inline]
    fn request_length(head: &blkif::BlkifRequest) -> usize {
        match head.operation {
            blkif::BLKIF_OP_INDIRECT | blkif::BLKIF_OP_DISCARD => size_of::<blkif::BlkifRequestIndirect>(),
            _ => Self::REQUEST_HEAD + usize::from(head.nr_segments) * size_of::<blkif::BlkifRequestSegment>(),
        }
    }
}
