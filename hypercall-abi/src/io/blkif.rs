//! Block devices (`public/io/blkif.h`), in the x86-64 layout.
//!
//! A virtual block device (vbd) has one ring per queue, of one page or a power of two of them. Every
//! request starts with its operation; that byte decides how the rest of the slot reads:
//!
//! ```text
//!              0          1            2            4     8    16              24
//!  read, write │operation │nr_segments │handle      │pad  │id  │sector_number  │seg[11]
//!  discard     │operation │flag        │handle      │pad  │id  │sector_number  │nr_sectors
//!  indirect    │operation │indirect_op │nr_segments │pad  │id  │sector_number  │handle │pad │indirect_grefs[8]
//! ```
//!
//! A *sector* is 512 bytes here, whatever the device has, unless the front end set
//! [`key::FEATURE_LARGE_SECTOR_SIZE`].

use core::mem::{offset_of, size_of};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, transmute};

use super::ring::XEN_PAGE_SIZE;
use crate::GrantReference;

/// Bytes in a sector of the protocol.
pub const SECTOR_SIZE: usize = 512;
/// Sectors in a page, so the numbers of a page's first and last sector are 0 and 7.
pub const SECTORS_PER_PAGE: usize = XEN_PAGE_SIZE / SECTOR_SIZE;

/// Operation: read sectors.
pub const BLKIF_OP_READ: u8 = 0;
/// Operation: write sectors.
pub const BLKIF_OP_WRITE: u8 = 1;
/// Operation: write sectors after all earlier writes and before all later ones.
pub const BLKIF_OP_WRITE_BARRIER: u8 = 2;
/// Operation: bring everything written so far to stable storage.
pub const BLKIF_OP_FLUSH_DISKCACHE: u8 = 3;
/// Operation: reserved.
pub const BLKIF_OP_RESERVED_1: u8 = 4;
/// Operation: [`BlkifRequestDiscard`].
pub const BLKIF_OP_DISCARD: u8 = 5;
/// Operation: [`BlkifRequestIndirect`].
pub const BLKIF_OP_INDIRECT: u8 = 6;

/// Segments that fit into a request itself.
pub const BLKIF_MAX_SEGMENTS_PER_REQUEST: usize = 11;
/// Pages of segments that an indirect request can name.
pub const BLKIF_MAX_INDIRECT_PAGES_PER_REQUEST: usize = 8;
/// Segments that fit into one page named by an indirect request.
pub const SEGMENTS_PER_INDIRECT_PAGE: usize = XEN_PAGE_SIZE / size_of::<BlkifRequestSegment>();

/// Discard flag: nothing of the sectors' contents may remain readable.
pub const BLKIF_DISCARD_SECURE: u8 = 1 << 0;

/// Status: the operation is not supported.
pub const BLKIF_RSP_EOPNOTSUPP: i16 = -2;
/// Status: the operation failed.
pub const BLKIF_RSP_ERROR: i16 = -1;
/// Status: done.
pub const BLKIF_RSP_OKAY: i16 = 0;

/// Bit of the key [`key::INFO`]: a CD-ROM.
pub const VDISK_CDROM: u32 = 0x1;
/// Bit of the key [`key::INFO`]: the medium can be taken out.
pub const VDISK_REMOVABLE: u32 = 0x2;
/// Bit of the key [`key::INFO`]: read only.
pub const VDISK_READONLY: u32 = 0x4;

/// A run of sectors in one granted page (`struct blkif_request_segment`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct BlkifRequestSegment {
    /// Grants the page.
    pub gref: GrantReference,
    /// First sector in the page.
    pub first_sect: u8,
    /// Last sector in the page, itself included.
    pub last_sect: u8,
    /// Padding.
    pub pad: [u8; 2],
}

/// Any request as it lies in its slot; for reads, writes, barriers and flushes also as it is meant
/// (`struct blkif_request`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct BlkifRequest {
    /// `BLKIF_OP_*`. Look at this first.
    pub operation: u8,
    /// How many of `seg` are in use.
    pub nr_segments: u8,
    /// The device's number.
    pub handle: u16,
    /// Padding.
    pub pad: [u8; 4],
    /// Chosen by the front end; comes back in the response.
    pub id: u64,
    /// First sector on the device.
    pub sector_number: u64,
    /// Where the data comes from or goes to.
    pub seg: [BlkifRequestSegment; BLKIF_MAX_SEGMENTS_PER_REQUEST],
}

impl BlkifRequest {
    /// The same slot read as [`BLKIF_OP_DISCARD`] has it.
    #[inline]
    pub fn as_discard(&self) -> BlkifRequestDiscard {
        let words: [u64; 14] = transmute!(*self);
        let [first, id, sector_number, nr_sectors, ..] = words;
        transmute!([first, id, sector_number, nr_sectors])
    }

    /// The same slot read as [`BLKIF_OP_INDIRECT`] has it.
    #[inline]
    pub fn as_indirect(&self) -> BlkifRequestIndirect {
        let words: [u64; 14] = transmute!(*self);
        let [w0, w1, w2, w3, w4, w5, w6, w7, ..] = words;
        transmute!([w0, w1, w2, w3, w4, w5, w6, w7])
    }
}

/// Sectors that nobody needs any more (`struct blkif_request_discard`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct BlkifRequestDiscard {
    /// [`BLKIF_OP_DISCARD`].
    pub operation: u8,
    /// [`BLKIF_DISCARD_SECURE`] or zero.
    pub flag: u8,
    /// The device's number.
    pub handle: u16,
    /// Padding.
    pub pad: [u8; 4],
    /// Chosen by the front end; comes back in the response.
    pub id: u64,
    /// First sector on the device.
    pub sector_number: u64,
    /// Number of sectors.
    pub nr_sectors: u64,
}

/// A read or write whose segments lie in further pages (`struct blkif_request_indirect`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct BlkifRequestIndirect {
    /// [`BLKIF_OP_INDIRECT`].
    pub operation: u8,
    /// [`BLKIF_OP_READ`] or [`BLKIF_OP_WRITE`].
    pub indirect_op: u8,
    /// Number of segments, over all pages.
    pub nr_segments: u16,
    /// Padding.
    pub pad: [u8; 4],
    /// Chosen by the front end; comes back in the response.
    pub id: u64,
    /// First sector on the device.
    pub sector_number: u64,
    /// The device's number.
    pub handle: u16,
    /// Padding.
    pub pad_after_handle: [u8; 2],
    /// Grant the pages of [`BlkifRequestSegment`]s; as many are in use as `nr_segments` needs.
    pub indirect_grefs: [GrantReference; BLKIF_MAX_INDIRECT_PAGES_PER_REQUEST],
    /// Padding.
    pub pad_at_end: [u8; 4],
}

/// Writes a request of another shape as the slot it travels in.
macro_rules! request_from {
    ($view:ty, $words:literal) => {
        impl From<$view> for BlkifRequest {
            #[inline]
            fn from(view: $view) -> Self {
                let head: [u64; $words] = transmute!(view);
                let mut words = [0; size_of::<BlkifRequest>() / 8];
                words[..$words].copy_from_slice(&head);
                transmute!(words)
            }
        }
    };
}
request_from!(BlkifRequestDiscard, 4);
request_from!(BlkifRequestIndirect, 8);

/// What became of a request (`struct blkif_response`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct BlkifResponse {
    /// The request's id.
    pub id: u64,
    /// The request's operation.
    pub operation: u8,
    /// Padding.
    pub pad: u8,
    /// `BLKIF_RSP_*`.
    pub status: i16,
    /// Padding.
    pub pad_at_end: [u8; 4],
}

/// Keys in the store, below a vbd's front or back directory. Values are decimal unless said otherwise.
pub mod key {
    /// Front: grant reference of the ring's only page.
    pub const RING_REF: &str = "ring-ref";
    /// Front: with the page's number appended, grant reference of a page of a ring of several pages.
    pub const RING_REF_PREFIX: &str = "ring-ref";
    /// Front: the ring's event channel.
    pub const EVENT_CHANNEL: &str = "event-channel";
    /// Front: the layout of requests, one of [`protocols`](crate::io::protocols); the native one if absent.
    pub const PROTOCOL: &str = "protocol";
    /// Front: the ring has 2 to the power of this many pages; 0 if absent.
    pub const RING_PAGE_ORDER: &str = "ring-page-order";
    /// Front: the older way to say how many pages the ring has; 1 if absent.
    pub const NUM_RING_PAGES: &str = "num-ring-pages";
    /// Back: largest `ring-page-order`; 0 if absent.
    pub const MAX_RING_PAGE_ORDER: &str = "max-ring-page-order";
    /// Back: largest `num-ring-pages`; 1 if absent.
    pub const MAX_RING_PAGES: &str = "max-ring-pages";
    /// Back: the most queues it serves.
    pub const MULTI_QUEUE_MAX_QUEUES: &str = "multi-queue-max-queues";
    /// Front: the number of queues it uses.
    pub const MULTI_QUEUE_NUM_QUEUES: &str = "multi-queue-num-queues";
    /// Front: with the queue's number appended, the directory of a queue's keys if there are two or more.
    pub const QUEUE_PREFIX: &str = "queue-";

    /// Back: barriers are understood.
    pub const FEATURE_BARRIER: &str = "feature-barrier";
    /// Back: flushes are understood.
    pub const FEATURE_FLUSH_CACHE: &str = "feature-flush-cache";
    /// Back: discards are understood.
    pub const FEATURE_DISCARD: &str = "feature-discard";
    /// Either: the same grants are used again and again and may stay mapped.
    pub const FEATURE_PERSISTENT: &str = "feature-persistent";
    /// Back: the most segments of an indirect request. Absent means that there are none.
    pub const FEATURE_MAX_INDIRECT_SEGMENTS: &str = "feature-max-indirect-segments";
    /// Front: sectors have the size that the back end gives, not 512 bytes.
    pub const FEATURE_LARGE_SECTOR_SIZE: &str = "feature-large-sector-size";
    /// Back: the toolstack's wish whether discard is to be offered; 1 if absent.
    pub const DISCARD_ENABLE: &str = "discard-enable";
    /// Back: bytes from the device's start to the first extent that can be discarded; 0 if absent.
    pub const DISCARD_ALIGNMENT: &str = "discard-alignment";
    /// Back: size in bytes of what can be discarded at once; the sector size if absent.
    pub const DISCARD_GRANULARITY: &str = "discard-granularity";
    /// Back: discards can be secure; 0 if absent.
    pub const DISCARD_SECURE: &str = "discard-secure";

    /// Back: size of the device in units of its `sector-size`.
    pub const SECTORS: &str = "sectors";
    /// Back: bytes in a logical block, at least 512.
    pub const SECTOR_SIZE: &str = "sector-size";
    /// Back: bytes in a physical block; the same as `sector-size` if absent.
    pub const PHYSICAL_SECTOR_SIZE: &str = "physical-sector-size";
    /// Back: what the device is, bits `VDISK_*`.
    pub const INFO: &str = "info";
    /// Back, for itself: `r` or `w`, text.
    pub const MODE: &str = "mode";
    /// Back, for itself: what the device is made of, text.
    pub const PARAMS: &str = "params";
    /// Back, for itself: the kind of what it is made of, text.
    pub const TYPE: &str = "type";
    /// Front: the device's number.
    pub const VIRTUAL_DEVICE: &str = "virtual-device";
    /// Front: `disk` or `cdrom`, text.
    pub const DEVICE_TYPE: &str = "device-type";
    /// Front: 0 if the back end is not to be trusted; 1 if absent.
    pub const TRUSTED: &str = "trusted";
}

const _: () = {
    assert!(size_of::<BlkifRequestSegment>() == 8);
    assert!(offset_of!(BlkifRequestSegment, first_sect) == 4);
    assert!(offset_of!(BlkifRequestSegment, last_sect) == 5);
    assert!(size_of::<BlkifRequest>() == 112);
    assert!(offset_of!(BlkifRequest, handle) == 2);
    assert!(offset_of!(BlkifRequest, id) == 8);
    assert!(offset_of!(BlkifRequest, sector_number) == 16);
    assert!(offset_of!(BlkifRequest, seg) == 24);
    assert!(size_of::<BlkifRequestDiscard>() == 32);
    assert!(offset_of!(BlkifRequestDiscard, nr_sectors) == 24);
    assert!(size_of::<BlkifRequestIndirect>() == 64);
    assert!(offset_of!(BlkifRequestIndirect, nr_segments) == 2);
    assert!(offset_of!(BlkifRequestIndirect, handle) == 24);
    assert!(offset_of!(BlkifRequestIndirect, indirect_grefs) == 28);
    assert!(size_of::<BlkifResponse>() == 16);
    assert!(offset_of!(BlkifResponse, operation) == 8);
    assert!(offset_of!(BlkifResponse, status) == 10);
    assert!(SEGMENTS_PER_INDIRECT_PAGE == 512);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_discard_survives_its_slot() {
        let discard = BlkifRequestDiscard {
            operation: BLKIF_OP_DISCARD,
            flag: BLKIF_DISCARD_SECURE,
            handle: 51712,
            id: 0x0102_0304_0506_0708,
            sector_number: u64::MAX,
            nr_sectors: 9,
            ..Default::default()
        };
        let slot = BlkifRequest::from(discard);
        assert_eq!((slot.operation, slot.handle, slot.id), (BLKIF_OP_DISCARD, 51712, 0x0102_0304_0506_0708));
        assert_eq!(slot.as_discard(), discard);
    }

    #[test]
    fn an_indirect_request_survives_its_slot() {
        let indirect = BlkifRequestIndirect {
            operation: BLKIF_OP_INDIRECT,
            indirect_op: BLKIF_OP_WRITE,
            nr_segments: 4096,
            id: 3,
            sector_number: 5,
            handle: 51712,
            indirect_grefs: core::array::from_fn(|page| GrantReference(page as u32 + 100)),
            ..Default::default()
        };
        let slot = BlkifRequest::from(indirect);
        assert_eq!((slot.operation, slot.id, slot.sector_number), (BLKIF_OP_INDIRECT, 3, 5));
        assert_eq!(slot.as_indirect(), indirect);
    }
}
