//! A packet as a guest describes it on its tx ring: several slots, copied out and checked.
//!
//! The first slot's size is that of the whole packet, so what the first slot itself holds is what the others
//! leave. Extra info slots stand right after the first. A guest publishes all slots of a packet at once; one
//! that is cut off, or that contradicts itself, can only come from a guest that is broken or hostile.

use alloc::vec::Vec;
use core::fmt;

use hypercall_abi::io::netif::*;
use hypercall_abi::{DomainId, GrantReference, PAGE_SIZE};
use pv_runtime::grant::CopyEnd;
use ring::{BackRing, Corrupt, NetifTx, RingMemory};

use super::ethernet;
use super::offload::{Offload, Segmentation};
use super::spans::Span;

/// The most slots that a packet may have. With more it is refused.
pub const SLOTS_MAX: usize = XEN_NETIF_NR_SLOTS_MIN as usize;

/// What only a broken or hostile guest does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TxFault {
    /// It broke the ring.
    Ring(Corrupt),
    /// The last slot says that the packet goes on, but there is no further slot.
    CutOff,
    /// Extra info of no kind.
    BadExtra {
        /// Which it said it was.
        kind: u8,
    },
    /// Segmentation that makes no sense.
    BadSegmentation {
        /// Which protocol it said.
        kind: u8,
        /// How large the segments.
        size: u16,
    },
    /// A slot's data reaches beyond its page.
    CrossesPage {
        /// Where it starts.
        offset: u16,
        /// How long it is.
        length: u16,
    },
    /// The slots together are longer than the packet.
    TooShort {
        /// What the packet's size is.
        size: u16,
    },
}

impl From<Corrupt> for TxFault {
    fn from(corrupt: Corrupt) -> Self {
        Self::Ring(corrupt)
    }
}

impl fmt::Display for TxFault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ring(corrupt) => corrupt.fmt(formatter),
            Self::CutOff => formatter.write_str("a packet's last slots are missing"),
            Self::BadExtra { kind } => write!(formatter, "extra info of kind {kind}"),
            Self::BadSegmentation { kind, size } => {
                write!(formatter, "segmentation of kind {kind} into {size} bytes")
            }
            Self::CrossesPage { offset, length } => {
                write!(formatter, "{length} bytes from {offset} on do not lie in a page")
            }
            Self::TooShort { size } => write!(formatter, "a packet of {size} bytes has slots for more"),
        }
    }
}

impl core::error::Error for TxFault {}

/// The data of one slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Slice {
    /// The grant of its page.
    pub reference: GrantReference,
    /// First byte in the page.
    pub offset: u16,
    /// Bytes.
    pub length: u16,
    /// The guest's number for the slot.
    pub id: u16,
}

/// A packet on its way from a guest.
#[derive(Debug, Default)]
pub struct TxPacket {
    /// The data of its first slot.
    pub first: Slice,
    /// That of the others.
    pub rest: Vec<Slice>,
    /// Slots that were extra info.
    pub extras: u16,
    /// Bytes in all.
    pub length: u16,
    /// What the guest left to others.
    pub offload: Offload,
    /// Bytes that were copied to the packet's place among the headers. They are delivered from there, and not read from
    /// the guest's page again: what was looked at is what arrives.
    pub head_length: u16,
}

/// What was on the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// Nothing.
    Nothing,
    /// A packet.
    Packet,
    /// A packet that is well-formed but not accepted: too short, too many slots, or a request to filter. Its
    /// slots want an answer.
    Refused,
}

impl TxPacket {
    /// Takes the next packet off the ring, into the storage of an earlier one.
    ///
    /// # Errors
    ///
    /// [`TxFault`]. There is no going on with the guest then.
    #[inline]
    pub fn take<M: RingMemory>(&mut self, ring: &mut BackRing<NetifTx, M>) -> Result<Taken, TxFault> {
        let Some(first) = ring.take_request()? else { return Ok(Taken::Nothing) };
        self.first = slice(&first);
        self.rest.clear();
        self.extras = 0;
        self.head_length = 0;
        self.length = first.size;
        self.offload = Offload { checksum: Offload::checksum_of(first.flags), segmentation: None };
        let mut is_accepted = usize::from(self.length) >= ethernet::HEADER_LENGTH;
        if first.flags & (NETTXF_EXTRA_INFO | NETTXF_MORE_DATA) != 0 {
            is_accepted &= self.take_further_slots(ring, first.flags)?;
        }
        check(&self.first)?;
        Ok(if is_accepted { Taken::Packet } else { Taken::Refused })
    }

    /// Takes what belongs to the packet beside its first slot. Says whether it can be accepted.
    fn take_further_slots<M: RingMemory>(
        &mut self,
        ring: &mut BackRing<NetifTx, M>,
        flags: u16,
    ) -> Result<bool, TxFault> {
        let mut is_accepted = true;
        if flags & NETTXF_EXTRA_INFO != 0 {
            is_accepted = self.take_extras(ring)?;
        }
        if flags & NETTXF_MORE_DATA != 0 {
            self.take_rest(ring)?;
        }
        Ok(is_accepted && self.rest.len() < SLOTS_MAX)
    }

    /// Takes extra info up to its last slot. Says whether the packet can be accepted.
    fn take_extras<M: RingMemory>(&mut self, ring: &mut BackRing<NetifTx, M>) -> Result<bool, TxFault> {
        let mut is_accepted = true;
        loop {
            let extra = ring.take_request()?.ok_or(TxFault::CutOff)?.as_extra_info();
            self.extras += 1;
            match extra.kind {
                XEN_NETIF_EXTRA_TYPE_GSO => self.offload.segmentation = Some(segmentation(&extra)?),
                XEN_NETIF_EXTRA_TYPE_HASH => {}
                XEN_NETIF_EXTRA_TYPE_MCAST_ADD | XEN_NETIF_EXTRA_TYPE_MCAST_DEL => is_accepted = false,
                kind => return Err(TxFault::BadExtra { kind }),
            }
            if extra.flags & XEN_NETIF_EXTRA_FLAG_MORE == 0 {
                return Ok(is_accepted);
            }
        }
    }

    /// Takes the slots after the first, and what they hold away from the first.
    fn take_rest<M: RingMemory>(&mut self, ring: &mut BackRing<NetifTx, M>) -> Result<(), TxFault> {
        let mut rest = 0_u32;
        loop {
            let slot = ring.take_request()?.ok_or(TxFault::CutOff)?;
            rest += u32::from(slot.size);
            self.rest.push(slice(&slot));
            if slot.flags & NETTXF_MORE_DATA == 0 {
                break;
            }
        }
        let first = u32::from(self.length).checked_sub(rest);
        let first = first.ok_or(TxFault::TooShort { size: self.length })?;
        self.first.length = first as u16;
        self.rest.iter().try_for_each(check)
    }

    /// The data of all slots.
    #[inline]
    pub fn slices(&self) -> impl Iterator<Item = &Slice> {
        core::iter::once(&self.first).chain(&self.rest)
    }

    /// Lists where the packet's bytes are with the guest, but for the first `skip`.
    pub fn list_slices(&self, domain: DomainId, skip: u16, spans: &mut Vec<Span>) {
        let mut skip = skip;
        for slice in self.slices() {
            let skipped = skip.min(slice.length);
            skip -= skipped;
            let (offset, length) = (slice.offset + skipped, slice.length - skipped);
            if length > 0 {
                let start = CopyEnd::Granted { domain, reference: slice.reference, offset };
                spans.push(Span { start, length });
            }
        }
    }

    /// Answers all slots but the first. Extra info gets the answer that stands for none.
    pub fn answer_further_slots<M: RingMemory>(&self, ring: &mut BackRing<NetifTx, M>, status: i16) {
        let rest = self.rest.iter().map(|slice| NetifTxResponse { id: slice.id, status });
        let null = NetifTxResponse { id: 0, status: NETIF_RSP_NULL };
        for response in rest.chain((0..self.extras).map(|_| null)) {
            let answered = ring.push_response(&response);
            debug_assert!(answered.is_ok(), "a slot is answered once");
        }
    }

    /// Slots that want an answer.
    #[inline]
    pub fn slots(&self) -> usize {
        1 + self.rest.len() + usize::from(self.extras)
    }
}

fn segmentation(extra: &NetifExtraInfo) -> Result<Segmentation, TxFault> {
    let extra = extra.as_gso();
    let fault = TxFault::BadSegmentation { kind: extra.gso_type, size: extra.size };
    Segmentation::from_extra(&extra).ok_or(fault)
}

#[inline]
fn slice(slot: &NetifTxRequest) -> Slice {
    Slice { reference: slot.gref, offset: slot.offset, length: slot.size, id: slot.id }
}

/// Whether a slice lies in its page.
#[inline]
fn check(slice: &Slice) -> Result<(), TxFault> {
    let (offset, length) = (slice.offset, slice.length);
    if usize::from(offset) + usize::from(length) > PAGE_SIZE {
        return Err(TxFault::CrossesPage { offset, length });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use core::sync::atomic::AtomicU32;
    use std::sync::Arc;

    use proptest::prelude::*;
    use ring::FrontRing;

    use super::super::headers::IpVersion;
    use super::super::offload::Checksum;
    use super::*;

    type Shared = Arc<[AtomicU32]>;

    /// What the back end makes of these slots.
    fn take(slots: &[NetifTxRequest]) -> (TxPacket, Result<Taken, TxFault>) {
        let shared: Shared = (0..1024).map(|_| AtomicU32::new(0)).collect();
        let mut front = FrontRing::<NetifTx, _>::new(Arc::clone(&shared)).expect("a page is enough");
        for slot in slots {
            front.push_request(slot).expect("there is room");
        }
        let _ = front.commit_requests();
        let mut back = BackRing::attach(shared).expect("a fresh ring");
        let mut packet = TxPacket::default();
        let outcome = packet.take(&mut back);
        if outcome.is_ok() {
            assert_eq!(back.unanswered_requests() as usize, packet.slots() * usize::from(!slots.is_empty()));
        }
        (packet, outcome)
    }

    fn slot(size: u16, flags: u16) -> NetifTxRequest {
        NetifTxRequest { gref: GrantReference(size.into()), offset: 64, flags, id: size, size }
    }

    fn gso(gso_type: u8, size: u16, flags: u8) -> NetifTxRequest {
        let extra =
            NetifExtraGso { kind: XEN_NETIF_EXTRA_TYPE_GSO, flags, size, gso_type, ..Default::default() };
        NetifExtraInfo::from(extra).into()
    }

    fn extra(kind: u8, flags: u8) -> NetifTxRequest {
        NetifExtraInfo { kind, flags, ..Default::default() }.into()
    }

    fn lengths(packet: &TxPacket) -> Vec<u16> {
        packet.slices().map(|slice| slice.length).collect()
    }

    #[test]
    fn an_empty_ring_has_no_packet() {
        assert_eq!(take(&[]).1, Ok(Taken::Nothing));
    }

    #[test]
    fn a_packet_of_one_slot() {
        let (packet, outcome) = take(&[slot(1500, NETTXF_CSUM_BLANK)]);
        assert_eq!(outcome, Ok(Taken::Packet));
        assert_eq!(
            packet.first,
            Slice { reference: GrantReference(1500), offset: 64, length: 1500, id: 1500 }
        );
        assert_eq!((packet.length, packet.offload.checksum), (1500, Checksum::Blank));
    }

    #[test]
    fn the_first_slot_holds_what_the_others_leave() {
        let (packet, outcome) =
            take(&[slot(1000, NETTXF_MORE_DATA), slot(300, NETTXF_MORE_DATA), slot(200, 0)]);
        assert_eq!(outcome, Ok(Taken::Packet));
        assert_eq!((lengths(&packet).as_slice(), packet.length), (&[500, 300, 200][..], 1000));
    }

    #[test]
    fn a_large_packet_brings_its_segmentation_along() {
        let first = slot(9000, NETTXF_EXTRA_INFO | NETTXF_MORE_DATA | NETTXF_CSUM_BLANK);
        let hash = extra(XEN_NETIF_EXTRA_TYPE_HASH, XEN_NETIF_EXTRA_FLAG_MORE);
        let (packet, outcome) = take(&[
            first,
            hash,
            gso(XEN_NETIF_GSO_TYPE_TCPV6, 1440, 0),
            slot(4000, NETTXF_MORE_DATA),
            slot(3000, 0),
        ]);
        assert_eq!(outcome, Ok(Taken::Packet));
        let segmentation = Segmentation { version: IpVersion::V6, size: 1440 };
        assert_eq!(packet.offload.segmentation, Some(segmentation));
        assert_eq!((packet.extras, packet.slots()), (2, 5));
    }

    #[test]
    fn slots_for_more_than_the_packet_are_a_fault() {
        let outcome = take(&[slot(400, NETTXF_MORE_DATA), slot(401, 0)]).1;
        assert_eq!(outcome, Err(TxFault::TooShort { size: 400 }));
        let many: Vec<_> = (0..20).map(|_| slot(u16::MAX, NETTXF_MORE_DATA)).chain([slot(1, 0)]).collect();
        assert_eq!(take(&many).1, Err(TxFault::TooShort { size: u16::MAX }));
    }

    #[test]
    fn slots_that_cross_their_page_are_a_fault() {
        for (offset, length) in [(4095, 60), (64, 4033), (u16::MAX, 60), (64, u16::MAX)] {
            let outcome = take(&[NetifTxRequest { offset, ..slot(length, 0) }]).1;
            assert_eq!(outcome, Err(TxFault::CrossesPage { offset, length }));
        }
        assert_eq!(take(&[slot(4032, 0)]).1, Ok(Taken::Packet));
    }

    #[test]
    fn packets_that_are_cut_off_are_a_fault() {
        let more = slot(100, NETTXF_MORE_DATA);
        let with_extra = slot(100, NETTXF_EXTRA_INFO);
        let endless = extra(XEN_NETIF_EXTRA_TYPE_HASH, XEN_NETIF_EXTRA_FLAG_MORE);
        for slots in [&[more][..], &[more, slot(20, NETTXF_MORE_DATA)], &[with_extra], &[with_extra, endless]]
        {
            assert_eq!(take(slots).1, Err(TxFault::CutOff));
        }
    }

    #[test]
    fn extra_info_of_no_kind_is_a_fault() {
        for kind in [XEN_NETIF_EXTRA_TYPE_NONE, XEN_NETIF_EXTRA_TYPE_MAX, 255] {
            let outcome = take(&[slot(100, NETTXF_EXTRA_INFO), extra(kind, 0)]).1;
            assert_eq!(outcome, Err(TxFault::BadExtra { kind }));
        }
    }

    #[test]
    fn senseless_segmentation_is_a_fault() {
        for (kind, size) in [(0, 1448), (3, 1448), (XEN_NETIF_GSO_TYPE_TCPV4, 0)] {
            let outcome = take(&[slot(100, NETTXF_EXTRA_INFO), gso(kind, size, 0)]).1;
            assert_eq!(outcome, Err(TxFault::BadSegmentation { kind, size }));
        }
    }

    #[test]
    fn what_is_sound_but_not_wanted_is_refused() {
        let short = [slot(13, 0)];
        let filter = [slot(100, NETTXF_EXTRA_INFO), extra(XEN_NETIF_EXTRA_TYPE_MCAST_ADD, 0)];
        let first = slot(2000, NETTXF_MORE_DATA);
        let long: Vec<_> = [first]
            .into_iter()
            .chain((1..18).map(|_| slot(10, NETTXF_MORE_DATA)))
            .chain([slot(10, 0)])
            .collect();
        for slots in [&short[..], &filter, &long] {
            assert_eq!(take(slots).1, Ok(Taken::Refused));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// Whatever slots hold, an accepted packet lies in its pages and adds up.
        #[test]
        fn accepted_packets_add_up(
            slots in proptest::collection::vec((0_u16..5000, 0_u16..5000, 0_u16..16, 0_u8..6, any::<u8>()), 1..40),
        ) {
            let slots: Vec<_> = slots
                .into_iter()
                .map(|(size, offset, flags, kind, byte)| NetifTxRequest {
                    gref: GrantReference(u32::from_le_bytes([kind, byte, 1, 1])),
                    offset: offset.saturating_sub(2000),
                    flags,
                    id: size,
                    size,
                })
                .collect();
            let (packet, outcome) = take(&slots);
            if outcome == Ok(Taken::Packet) {
                let total: u32 = packet.slices().map(|slice| u32::from(slice.length)).sum();
                prop_assert_eq!(total, u32::from(packet.length));
                prop_assert!(packet.slices().all(|slice| slice.offset + slice.length <= 4096));
                prop_assert!(packet.rest.len() < SLOTS_MAX);
            }
        }
    }
}
