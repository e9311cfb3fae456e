//! Packets that cannot be passed on as they are: brought into our buffers, cut into segments, given a checksum.
//!
//! A guest's packet for many ports is brought in whole, once. One that its receiver cannot cut is brought in
//! segment by segment, straight to where each segment's payload belongs.

use alloc::vec::Vec;

use hypercall_abi::io::netif::{NETIF_RSP_DROPPED, NETIF_RSP_ERROR, NETIF_RSP_OKAY};

use super::{Platform, Switch, WIRE};
use crate::backend::GrantCopy;
use crate::net::checksum::transport_checksum;
use crate::net::counters::add;
use crate::net::ethernet::Vlan;
use crate::net::headers::{HEADERS_MAX, Headers, ip_version};
use crate::net::mac_table::PortId;
use crate::net::offload::{Checksum, Offload};
use crate::net::own::OwnPackets;
use crate::net::packet::Packet;
use crate::net::segmentation::Plan;
use crate::net::spans::{Cursor, Span};

/// Where a packet goes afterwards.
#[derive(Clone, Copy, Debug)]
enum Then {
    /// To one port.
    One(PortId),
    /// To all but the one it came from.
    AllBut(PortId),
}

/// A packet that is to be changed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rework {
    packet: Packet,
    then: Then,
    /// Whether it is to be cut into segments.
    cut: bool,
}

impl Rework {
    /// Bring it in, for all ports but `from`.
    pub(super) fn flood(packet: Packet, from: PortId) -> Self {
        Self { packet, then: Then::AllBut(from), cut: false }
    }

    /// Bring it in, for `port`.
    pub(super) fn bring_in(packet: Packet, port: PortId) -> Self {
        Self { packet, then: Then::One(port), cut: false }
    }

    /// Cut it into segments, for `port`.
    pub(super) fn cut(packet: Packet, port: PortId) -> Self {
        Self { packet, then: Then::One(port), cut: true }
    }
}

/// A packet being changed.
#[derive(Debug)]
pub(super) struct Reworking {
    source: Packet,
    then: Then,
    /// What it becomes.
    results: Vec<u16>,
    /// How it is cut.
    plan: Option<Plan>,
    first_copy: usize,
    end_copy: usize,
}

impl<P: Platform> Switch<P> {
    /// Plans the copies for all packets that are to be changed. Those that cannot be are dropped.
    pub(super) fn plan_reworks(&mut self) {
        let mut reworks = core::mem::take(&mut self.reworks);
        for rework in reworks.drain(..) {
            let first_copy = self.copies.len();
            match self.plan_rework(&rework) {
                Some((results, plan)) => self.reworking.push(Reworking {
                    source: rework.packet,
                    then: rework.then,
                    results,
                    plan,
                    first_copy,
                    end_copy: self.copies.len(),
                }),
                None => {
                    add(&self.counters.dropped, 1);
                    self.discard(rework.packet, NETIF_RSP_DROPPED);
                }
            }
        }
        self.reworks = reworks;
    }

    fn plan_rework(&mut self, rework: &Rework) -> Option<(Vec<u16>, Option<Plan>)> {
        let length = self.length_of(rework.packet);
        let offload = self.offload_of(rework.packet);
        let vlan = self.vlan_of(rework.packet);
        if !rework.cut {
            self.list_spans(rework.packet);
            let own = self.own.take(length, offload, vlan)?;
            self.own.copy_into(own, &self.spans, &mut self.copies);
            return Some((Vec::from([own]), None));
        }
        let mut head = [0; HEADERS_MAX];
        let available = self.head_of(rework.packet, &mut head);
        let plan = Plan::new(&head[..available], length, offload.segmentation?)?;
        let results = self.take_segments(&plan, vlan)?;
        self.list_spans(rework.packet);
        self.copy_payloads(&plan, &results);
        Some((results, Some(plan)))
    }

    /// Buffers for all segments, one each.
    fn take_segments(&mut self, plan: &Plan, vlan: Vlan) -> Option<Vec<u16>> {
        let fits = OwnPackets::fits_in_one(plan.header_length() + plan.part(0));
        if !fits || !self.own.has_buffers(plan.count()) {
            return None;
        }
        let offload = Offload { checksum: Checksum::Blank, segmentation: None };
        let mut segments = Vec::with_capacity(plan.count());
        for index in 0..plan.count() {
            match self.own.take(plan.header_length() + plan.part(index), offload, vlan) {
                Some(own) => segments.push(own),
                None => {
                    segments.into_iter().for_each(|own| self.release_own(own));
                    return None;
                }
            }
        }
        Some(segments)
    }

    /// Has each segment's payload copied behind the place of its headers.
    fn copy_payloads(&mut self, plan: &Plan, segments: &[u16]) {
        let mut cursor = Cursor::new(&self.spans);
        cursor.skip(plan.header_length());
        for (index, own) in segments.iter().enumerate() {
            let place = self.own.place_in_first(*own, plan.header_length() as u16);
            cursor.copy_to(&mut self.copies, Span { start: place, length: plan.part(index) as u16 });
        }
    }

    /// Passes on what was changed, and answers the senders.
    pub(super) fn finish_reworks(&mut self) {
        let mut reworking = core::mem::take(&mut self.reworking);
        for rework in reworking.drain(..) {
            self.finish_rework(rework);
        }
        self.reworking = reworking;
    }

    fn finish_rework(&mut self, rework: Reworking) {
        let is_copied = self.is_copied(rework.first_copy, rework.end_copy);
        self.discard(rework.source, if is_copied { NETIF_RSP_OKAY } else { NETIF_RSP_ERROR });
        if !is_copied {
            return rework.results.into_iter().for_each(|own| self.release_own(own));
        }
        if let Some(plan) = &rework.plan {
            add(&self.counters.segmented, 1);
            for (index, own) in rework.results.iter().enumerate() {
                let (head, length) = plan.headers_of(index);
                self.own.write_head(*own, 0, &head[..length]);
            }
        }
        for own in rework.results {
            match rework.then {
                Then::One(port) => self.enqueue(port, Packet::Own(own)),
                Then::AllBut(port) => self.flood(port, own),
            }
        }
    }

    /// The virtual network that a packet belongs to.
    fn vlan_of(&self, packet: Packet) -> Vlan {
        match packet {
            Packet::Guest { port, .. } => self.guest(port).map(|vif| vif.vlan()).unwrap_or_default(),
            Packet::Own(own) => self.own.get(own).vlan,
        }
    }

    /// Bytes of a packet.
    fn length_of(&self, packet: Packet) -> usize {
        match packet {
            Packet::Guest { port, index } => {
                self.guest(port).map_or(0, |vif| usize::from(vif.packet(index).length))
            }
            Packet::Own(own) => self.own.get(own).length,
        }
    }

    /// Whether a port can take the checksum of a packet as it is.
    pub(super) fn takes_checksum(&self, port: PortId, own: u16) -> bool {
        if self.own.get(own).offload.checksum != Checksum::Blank {
            return true;
        }
        let capabilities = if port == WIRE {
            self.wire_capabilities
        } else {
            self.guest(port).map(|vif| *vif.capabilities()).unwrap_or_default()
        };
        let mut head = [0; HEADERS_MAX];
        let available = self.own.copy_head(own, &mut head);
        ip_version(&head[..available]).is_some_and(|version| capabilities.checksum(version))
    }

    /// Computes the checksum of a packet in our buffers and puts it in its place. `false` if the packet is not
    /// one that has such a checksum. A packet that is to be cut keeps it blank: its segments get theirs.
    pub(super) fn complete_checksum(&mut self, own: u16) -> bool {
        let packet = self.own.get(own);
        if packet.offload.segmentation.is_some() {
            return true;
        }
        let mut head = [0; HEADERS_MAX];
        let available = self.own.copy_head(own, &mut head);
        let headers = Headers::parse(&head[..available], packet.length);
        let field = headers.and_then(|headers| {
            let bytes = head[..available].get(headers.checksum()..headers.checksum() + 2)?;
            Some((headers, u16::from_le_bytes([bytes[0], bytes[1]])))
        });
        let Some((headers, found)) = field else {
            add(&self.counters.dropped, 1);
            return false;
        };
        let checksum = transport_checksum(&self.own.buffers, &packet.pieces, &head, &headers, found);
        self.own.write_head(own, headers.checksum(), &checksum.to_le_bytes());
        self.own.get_mut(own).offload.checksum = Checksum::Validated;
        add(&self.counters.checksums, 1);
        true
    }
}
