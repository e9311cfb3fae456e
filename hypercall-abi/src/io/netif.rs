//! Network interfaces (`public/io/netif.h`).
//!
//! A virtual interface (vif) has two rings per queue. On the *tx* ring the guest hands over packets to
//! send; on the *rx* ring it posts empty pages and gets packets back in the responses. A packet may span
//! several slots, and between its first slot and the rest there may be *extra info* slots:
//!
//! ```text
//!  tx requests    ┌──────────────────────┐ ┌───────────────┐ ┌────────────────┐ ┌────────────────┐
//!  rx responses   │ first, flags:        │ │ extra info    │ │ second,        │ │ last,          │
//!                 │ MORE_DATA|EXTRA_INFO │ │ (flag MORE:   │ │ flags:         │ │ flags: 0       │
//!                 └──────────────────────┘ │ another one)  │ │ MORE_DATA      │ └────────────────┘
//!                                          └───────────────┘ └────────────────┘
//! ```
//!
//! In a tx packet the *first* slot's size is that of the whole packet; in an rx packet each slot's status is
//! the size of its own part. An rx response must lie in the ring slot of the request it answers, since an
//! extra info slot has no room for an id.

use core::mem::{offset_of, size_of};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, transmute};

use crate::GrantReference;

/// Slots that a back end must accept in one tx packet if nothing else was negotiated.
pub const XEN_NETIF_NR_SLOTS_MIN: u32 = 18;
/// Largest packet, in bytes, that a tx request can describe.
pub const XEN_NETIF_MAX_TX_SIZE: u32 = 0xffff;

/// Tx flag: the protocol checksum was left blank for the receiver or the hardware to fill in.
pub const NETTXF_CSUM_BLANK: u16 = 1 << 0;
/// Tx flag: the protocol checksum has been checked or need not be.
pub const NETTXF_DATA_VALIDATED: u16 = 1 << 1;
/// Tx flag: the packet goes on in the next request that is not extra info.
pub const NETTXF_MORE_DATA: u16 = 1 << 2;
/// Tx flag: the next slot is extra info.
pub const NETTXF_EXTRA_INFO: u16 = 1 << 3;

/// Rx flag: the protocol checksum has been checked or need not be.
pub const NETRXF_DATA_VALIDATED: u16 = 1 << 0;
/// Rx flag: the protocol checksum was left blank.
pub const NETRXF_CSUM_BLANK: u16 = 1 << 1;
/// Rx flag: the packet goes on in the next response that is not extra info.
pub const NETRXF_MORE_DATA: u16 = 1 << 2;
/// Rx flag: the next slot is extra info.
pub const NETRXF_EXTRA_INFO: u16 = 1 << 3;
/// Rx flag: this slot carries a segment size in place of data. Obsolete.
pub const NETRXF_GSO_PREFIX: u16 = 1 << 4;

/// Status: the packet was dropped.
pub const NETIF_RSP_DROPPED: i16 = -2;
/// Status: the request was bad or could not be carried out.
pub const NETIF_RSP_ERROR: i16 = -1;
/// Status: done (tx). For rx a status of zero or more is the number of bytes received.
pub const NETIF_RSP_OKAY: i16 = 0;
/// Status: stands in the slot of a request that gets no answer, such as extra info.
pub const NETIF_RSP_NULL: i16 = 1;

/// Extra info of no kind. Never valid.
pub const XEN_NETIF_EXTRA_TYPE_NONE: u8 = 0;
/// Extra info: [`NetifExtraGso`].
pub const XEN_NETIF_EXTRA_TYPE_GSO: u8 = 1;
/// Extra info: [`NetifExtraMcast`], an address to let through the filter.
pub const XEN_NETIF_EXTRA_TYPE_MCAST_ADD: u8 = 2;
/// Extra info: [`NetifExtraMcast`], an address to let through no longer.
pub const XEN_NETIF_EXTRA_TYPE_MCAST_DEL: u8 = 3;
/// Extra info: [`NetifExtraHash`].
pub const XEN_NETIF_EXTRA_TYPE_HASH: u8 = 4;
/// One more than the highest kind of extra info.
pub const XEN_NETIF_EXTRA_TYPE_MAX: u8 = 5;
/// Extra info flag: the next slot is extra info too.
pub const XEN_NETIF_EXTRA_FLAG_MORE: u8 = 1 << 0;

/// Segmentation: none.
pub const XEN_NETIF_GSO_TYPE_NONE: u8 = 0;
/// Segmentation: TCP over IPv4.
pub const XEN_NETIF_GSO_TYPE_TCPV4: u8 = 1;
/// Segmentation: TCP over IPv6.
pub const XEN_NETIF_GSO_TYPE_TCPV6: u8 = 2;

/// A packet, or a part of one, to send (`struct netif_tx_request`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct NetifTxRequest {
    /// Grants reading the page that holds the data.
    pub gref: GrantReference,
    /// Where in that page the data starts, in bytes.
    pub offset: u16,
    /// `NETTXF_*`.
    pub flags: u16,
    /// Chosen by the front end; comes back in the response.
    pub id: u16,
    /// Bytes: of the whole packet in its first slot, of this part in later ones.
    pub size: u16,
}

impl NetifTxRequest {
    /// The same slot read as extra info, which takes its first eight bytes.
    #[inline]
    pub fn as_extra_info(&self) -> NetifExtraInfo {
        let [first, second, _third]: [u32; 3] = transmute!(*self);
        transmute!([first, second])
    }
}

/// What became of a tx request (`struct netif_tx_response`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct NetifTxResponse {
    /// The request's id.
    pub id: u16,
    /// `NETIF_RSP_*`.
    pub status: i16,
}

/// An empty page for a packet to come (`struct netif_rx_request`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct NetifRxRequest {
    /// Chosen by the front end; comes back in the response.
    pub id: u16,
    /// Padding.
    pub pad: u16,
    /// Grants writing the page.
    pub gref: GrantReference,
}

/// A packet, or a part of one, that was received (`struct netif_rx_response`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct NetifRxResponse {
    /// The request's id.
    pub id: u16,
    /// Where in the page the data starts, in bytes.
    pub offset: u16,
    /// `NETRXF_*`.
    pub flags: u16,
    /// Bytes received if not negative, else `NETIF_RSP_*`.
    pub status: i16,
}

impl NetifRxResponse {
    /// The same slot read as extra info.
    #[inline]
    pub fn as_extra_info(&self) -> NetifExtraInfo {
        transmute!(*self)
    }
}

/// A slot that says more about the packet it stands in (`struct netif_extra_info`), kind not yet looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct NetifExtraInfo {
    /// `XEN_NETIF_EXTRA_TYPE_*`; the header calls it `type`.
    pub kind: u8,
    /// `XEN_NETIF_EXTRA_FLAG_*`.
    pub flags: u8,
    /// What it means depends on the kind.
    pub data: [u8; 6],
}

impl NetifExtraInfo {
    /// The same slot read as segmentation info.
    #[inline]
    pub fn as_gso(&self) -> NetifExtraGso {
        transmute!(*self)
    }

    /// The same slot read as a multicast address.
    #[inline]
    pub fn as_mcast(&self) -> NetifExtraMcast {
        transmute!(*self)
    }

    /// The same slot read as a packet's hash.
    #[inline]
    pub fn as_hash(&self) -> NetifExtraHash {
        transmute!(*self)
    }
}

/// Extra info for a packet that is to be cut into segments (`u.gso` of `struct netif_extra_info`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct NetifExtraGso {
    /// [`XEN_NETIF_EXTRA_TYPE_GSO`]; the header calls it `type`.
    pub kind: u8,
    /// `XEN_NETIF_EXTRA_FLAG_*`.
    pub flags: u8,
    /// Largest payload of a segment, in bytes.
    pub size: u16,
    /// `XEN_NETIF_GSO_TYPE_*`; the header calls it `u.gso.type`.
    pub gso_type: u8,
    /// Padding.
    pub pad: u8,
    /// Further needs of the protocol; none is defined.
    pub features: u16,
}

/// Extra info that changes the multicast filter (`u.mcast` of `struct netif_extra_info`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct NetifExtraMcast {
    /// [`XEN_NETIF_EXTRA_TYPE_MCAST_ADD`] or [`XEN_NETIF_EXTRA_TYPE_MCAST_DEL`]; the header calls it `type`.
    pub kind: u8,
    /// `XEN_NETIF_EXTRA_FLAG_*`.
    pub flags: u8,
    /// The Ethernet address.
    pub addr: [u8; 6],
}

/// Extra info that gives a packet's hash (`u.hash` of `struct netif_extra_info`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct NetifExtraHash {
    /// [`XEN_NETIF_EXTRA_TYPE_HASH`]; the header calls it `type`.
    pub kind: u8,
    /// `XEN_NETIF_EXTRA_FLAG_*`.
    pub flags: u8,
    /// What was hashed: the bit number of IPv4 (0), IPv4 and TCP (1), IPv6 (2), IPv6 and TCP (3). The
    /// header calls it `u.hash.type`.
    pub hash_type: u8,
    /// How: 0 not at all, 1 Toeplitz.
    pub algorithm: u8,
    /// The hash, least significant byte first.
    pub value: [u8; 4],
}

/// Gives each kind of extra info a way back into the slot it came from.
macro_rules! extra_info_from {
    ($($view:ty),*) => {$(
        impl From<$view> for NetifExtraInfo {
            #[inline]
            fn from(view: $view) -> Self {
                transmute!(view)
            }
        }
    )*};
}
extra_info_from!(NetifExtraGso, NetifExtraMcast, NetifExtraHash);

impl From<NetifExtraInfo> for NetifTxRequest {
    /// Extra info as it lies in a tx slot, which is longer.
    #[inline]
    fn from(extra: NetifExtraInfo) -> Self {
        let [first, second]: [u32; 2] = transmute!(extra);
        transmute!([first, second, 0])
    }
}

impl From<NetifExtraInfo> for NetifRxResponse {
    /// Extra info as it lies in an rx slot.
    #[inline]
    fn from(extra: NetifExtraInfo) -> Self {
        transmute!(extra)
    }
}

/// Keys in the store, below a vif's front or back directory. Values are decimal unless said otherwise.
pub mod key {
    /// Front: grant reference of the tx ring's page.
    pub const TX_RING_REF: &str = "tx-ring-ref";
    /// Front: grant reference of the rx ring's page.
    pub const RX_RING_REF: &str = "rx-ring-ref";
    /// Front: the event channel of a queue, where tx and rx share one.
    pub const EVENT_CHANNEL: &str = "event-channel";
    /// Front: the event channel of the tx ring, where they are split.
    pub const EVENT_CHANNEL_TX: &str = "event-channel-tx";
    /// Front: the event channel of the rx ring, where they are split.
    pub const EVENT_CHANNEL_RX: &str = "event-channel-rx";
    /// Back: one event channel for each ring is understood.
    pub const FEATURE_SPLIT_EVENT_CHANNELS: &str = "feature-split-event-channels";
    /// Back: the most queues it serves.
    pub const MULTI_QUEUE_MAX_QUEUES: &str = "multi-queue-max-queues";
    /// Front: the number of queues it uses.
    pub const MULTI_QUEUE_NUM_QUEUES: &str = "multi-queue-num-queues";
    /// Front: with the queue's number appended, the directory of a queue's keys if there are two or more.
    pub const QUEUE_PREFIX: &str = "queue-";

    /// Back: it copies into the pages of rx requests.
    pub const FEATURE_RX_COPY: &str = "feature-rx-copy";
    /// Front: packets are to be copied into its pages. A back end of today accepts nothing else.
    pub const REQUEST_RX_COPY: &str = "request-rx-copy";
    /// Front: it sends events for rx requests, so the back end may wait for room.
    pub const FEATURE_RX_NOTIFY: &str = "feature-rx-notify";
    /// Either: packets of several slots are understood.
    pub const FEATURE_SG: &str = "feature-sg";
    /// Either: large TCP packets over IPv4 are understood.
    pub const FEATURE_GSO_TCPV4: &str = "feature-gso-tcpv4";
    /// Either: large TCP packets over IPv6 are understood.
    pub const FEATURE_GSO_TCPV6: &str = "feature-gso-tcpv6";
    /// Either: blank IPv4 checksums are *not* understood. Absent means understood.
    pub const FEATURE_NO_CSUM_OFFLOAD: &str = "feature-no-csum-offload";
    /// Either: blank IPv6 checksums are understood. Absent means not understood.
    pub const FEATURE_IPV6_CSUM_OFFLOAD: &str = "feature-ipv6-csum-offload";
    /// Back: it filters multicast packets on request.
    pub const FEATURE_MULTICAST_CONTROL: &str = "feature-multicast-control";
    /// Back: that request may change while connected.
    pub const FEATURE_DYNAMIC_MULTICAST_CONTROL: &str = "feature-dynamic-multicast-control";
    /// Front: multicast packets are to be filtered.
    pub const REQUEST_MULTICAST_CONTROL: &str = "request-multicast-control";
    /// Back: it serves a control ring.
    pub const FEATURE_CTRL_RING: &str = "feature-ctrl-ring";

    /// Either: the interface's Ethernet address, six hexadecimal bytes with colons between.
    pub const MAC: &str = "mac";
    /// Either: the interface's number in its domain.
    pub const HANDLE: &str = "handle";
    /// Front: largest packet in bytes without the Ethernet header; 1500 if absent.
    pub const MTU: &str = "mtu";
    /// Back: 1 if the link is up, 0 if down; up if absent.
    pub const CARRIER: &str = "carrier";
    /// Front: 0 if the back end is not to be trusted; 1 if absent.
    pub const TRUSTED: &str = "trusted";
}

const _: () = {
    assert!(size_of::<NetifTxRequest>() == 12);
    assert!(offset_of!(NetifTxRequest, offset) == 4);
    assert!(offset_of!(NetifTxRequest, flags) == 6);
    assert!(offset_of!(NetifTxRequest, id) == 8);
    assert!(offset_of!(NetifTxRequest, size) == 10);
    assert!(size_of::<NetifTxResponse>() == 4);
    assert!(size_of::<NetifRxRequest>() == 8);
    assert!(offset_of!(NetifRxRequest, gref) == 4);
    assert!(size_of::<NetifRxResponse>() == 8);
    assert!(offset_of!(NetifRxResponse, status) == 6);
    assert!(size_of::<NetifExtraInfo>() == 8);
    assert!(size_of::<NetifExtraGso>() == 8);
    assert!(offset_of!(NetifExtraGso, size) == 2);
    assert!(offset_of!(NetifExtraGso, gso_type) == 4);
    assert!(offset_of!(NetifExtraGso, features) == 6);
    assert!(size_of::<NetifExtraMcast>() == 8);
    assert!(size_of::<NetifExtraHash>() == 8);
    assert!(offset_of!(NetifExtraHash, value) == 4);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segmentation_info_survives_a_tx_slot_and_an_rx_slot() {
        let gso = NetifExtraGso {
            kind: XEN_NETIF_EXTRA_TYPE_GSO,
            flags: XEN_NETIF_EXTRA_FLAG_MORE,
            size: 1448,
            gso_type: XEN_NETIF_GSO_TYPE_TCPV4,
            ..Default::default()
        };
        assert_eq!(NetifTxRequest::from(NetifExtraInfo::from(gso)).as_extra_info().as_gso(), gso);
        assert_eq!(NetifRxResponse::from(NetifExtraInfo::from(gso)).as_extra_info().as_gso(), gso);
    }

    #[test]
    fn extra_info_takes_the_first_eight_bytes_of_a_tx_slot() {
        let request = NetifTxRequest {
            gref: GrantReference(0x4433_0102),
            offset: 0x6655,
            flags: 0x8877,
            id: 0xffff,
            size: 0xffff,
        };
        let mcast = request.as_extra_info().as_mcast();
        assert_eq!((mcast.kind, mcast.flags), (XEN_NETIF_EXTRA_TYPE_MCAST_ADD, XEN_NETIF_EXTRA_FLAG_MORE));
        assert_eq!(mcast.addr, [0x33, 0x44, 0x55, 0x66, 0x77, 0x88]);
    }

    #[test]
    fn a_hash_is_read_byte_by_byte() {
        let hash = NetifExtraHash { kind: 4, hash_type: 1, algorithm: 1, value: [1, 2, 3, 4], flags: 0 };
        let extra = NetifExtraInfo::from(hash);
        assert_eq!(extra.data, [1, 1, 1, 2, 3, 4]);
        assert_eq!(extra.as_hash(), hash);
    }
}
