//! The request and response ring that every split driver but the console and the store uses
//! (`public/io/ring.h`).
//!
//! One shared area, of one page or a few, starts with [`SringHeader`]; slots follow. A slot holds either a
//! request or the response that later takes its place, and is as large as the larger of the two:
//!
//! ```text
//!  0         4          8         12         16    20      64        64+slot   64+2*slot
//!  ┌─────────┬──────────┬─────────┬──────────┬─────┬───────┬─────────┬─────────┬───
//!  │req_prod │req_event │rsp_prod │rsp_event │ pvt │ pad   │ slot 0  │ slot 1  │ ...
//!  └─────────┴──────────┴─────────┴──────────┴─────┴───────┴─────────┴─────────┴───
//! ```
//!
//! The four indexes count messages since the ring was made and wrap at 2^32; slot `index % ring size` is
//! the one meant. What the ring does with them is the business of the crate `ring`.

use core::mem::{offset_of, size_of};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// What stands before the slots of a shared ring (`struct <name>_sring` up to `ring`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct SringHeader {
    /// Requests that the front end has published. Written by the front end.
    pub req_prod: u32,
    /// The back end wants an event when `req_prod` passes this. Written by the back end.
    pub req_event: u32,
    /// Responses that the back end has published. Written by the back end.
    pub rsp_prod: u32,
    /// The front end wants an event when `rsp_prod` passes this. Written by the front end.
    pub rsp_event: u32,
    /// Left to the protocol (`pvt`); no protocol here uses it.
    pub pvt: [u8; 4],
    /// Fills the header up to the first slot (`__pad`).
    pub pad: [u8; 44],
}

impl SringHeader {
    /// The header of an empty ring, as the front end writes it before anyone else can see the ring
    /// (`SHARED_RING_INIT`): nothing published, and both sides want an event for the first message.
    pub const INITIAL: Self =
        Self { req_prod: 0, req_event: 1, rsp_prod: 0, rsp_event: 1, pvt: [0; 4], pad: [0; 44] };
}

/// Bytes from the start of the shared area to its first slot.
pub const SRING_HEADER_SIZE: usize = size_of::<SringHeader>();

/// Bytes in one page of a ring. Ring protocols always count pages of 4 KiB (`XEN_PAGE_SHIFT`).
pub const XEN_PAGE_SIZE: usize = 4096;

/// Slots in a ring over `area_size` bytes with slots of `slot_size` bytes: as many as fit after the header,
/// rounded down to a power of two (`__RING_SIZE`). Zero if none fits or `slot_size` is zero.
pub const fn ring_size(area_size: usize, slot_size: usize) -> u32 {
    if slot_size == 0 || area_size < SRING_HEADER_SIZE + slot_size {
        return 0;
    }
    let fitting = (area_size - SRING_HEADER_SIZE) / slot_size;
    let largest = 1 << 31;
    if fitting >= largest { largest as u32 } else { 1 << fitting.ilog2() }
}

const _: () = {
    assert!(size_of::<SringHeader>() == 64);
    assert!(offset_of!(SringHeader, req_prod) == 0);
    assert!(offset_of!(SringHeader, req_event) == 4);
    assert!(offset_of!(SringHeader, rsp_prod) == 8);
    assert!(offset_of!(SringHeader, rsp_event) == 12);
    assert!(ring_size(XEN_PAGE_SIZE, 12) == 256);
    assert!(ring_size(XEN_PAGE_SIZE, 8) == 256);
    assert!(ring_size(XEN_PAGE_SIZE, 112) == 32);
    assert!(ring_size(4 * XEN_PAGE_SIZE, 112) == 128);
    assert!(ring_size(64, 8) == 0);
    assert!(ring_size(72, 8) == 1);
};
