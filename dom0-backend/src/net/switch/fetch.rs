//! Into the switch: packets off a guest's ring, and where they go.

use alloc::vec::Vec;
use core::slice;

use hypercall_abi::io::netif::{NETIF_RSP_DROPPED, NETIF_RSP_ERROR, NETIF_RSP_OKAY};

use ring::RingMemory;

use super::{BATCH, Platform, Rework, Switch, WIRE, submit};
use crate::backend::GrantCopy;
use crate::net::counters::add;
use crate::net::ethernet::{Addresses, Vlan};
use crate::net::interface::Interface;
use crate::net::mac_table::PortId;
use crate::net::offload::Capabilities;
use crate::net::own::OwnPackets;
use crate::net::packet::{Destination, Packet, Whole};
use crate::net::route::Validity;
use crate::net::spans::Span;
use crate::net::vif::{Channel, Vif};

/// Addresses that a guest's interface may be known by.
const GUEST_ADDRESSES: u16 = 64;
/// Addresses that may be known to be out on the wire.
const WIRE_ADDRESSES: u16 = 4096;

/// A packet that was taken from a guest in this round.
#[derive(Clone, Copy, Debug)]
pub(super) struct Taken {
    pub index: u16,
    /// Its copy in our buffers, if all of it was copied there.
    pub own: Option<u16>,
    /// The copies that were made for it.
    pub first_copy: usize,
    pub end_copy: usize,
}

impl<P: Platform> Switch<P> {
    /// Takes packets off a guest's ring and has the first bytes of each copied, or all of it. Says how many.
    pub(super) fn take_from_guest(&mut self, port: PortId) -> u32 {
        self.mark_touched(port);
        let leads_out = self.is_wire_free() && self.guest(port).is_some_and(|vif| vif.route.leads_out());
        let Self { guests, own, fetches, taken, spans, wire_capabilities, .. } = self;
        let Some(vif) = guests.get_mut(usize::from(port.0)).and_then(Option::as_mut) else { return 0 };
        fetches.clear();
        while taken.len() < BATCH && vif.fault().is_none() {
            let index = match vif.take_packet() {
                Ok(Some(index)) => index,
                Ok(None) => break,
                Err(fault) => {
                    vif.note_fault(fault);
                    break;
                }
            };
            let first_copy = fetches.len();
            let copy =
                if leads_out { fetch_all(vif, index, own, fetches, spans, wire_capabilities) } else { None };
            if copy.is_none() && vif.fetch_head(index, fetches, spans).is_err() {
                vif.answer(index, NETIF_RSP_DROPPED);
                continue;
            }
            taken.push(Taken { index, own: copy, first_copy, end_copy: fetches.len() });
        }
        submit(fetches);
        self.taken.len() as u32
    }

    /// Finds out where the packets that were taken go, and queues them there.
    pub(super) fn sort(&mut self, port: PortId) {
        let mut taken = core::mem::take(&mut self.taken);
        let mut rest = &taken[..];
        while let Some((first, after)) = rest.split_first() {
            let passed = match self.pass_on(port, rest) {
                0 => self.send_on(port, rest),
                passed => passed,
            };
            rest = match passed {
                0 => {
                    self.sort_one(port, *first);
                    after
                }
                passed => &rest[passed..],
            };
        }
        taken.clear();
        self.taken = taken;
    }

    /// Hands over as many of a guest's packets as are in our buffers, and go out on the wire like the one before them
    /// without waiting for others. Says how many.
    fn send_on(&mut self, port: PortId, taken: &[Taken]) -> usize {
        let validity = self.validity();
        let leads_out = self.guest(port).is_some_and(|vif| vif.route.leads_out_at(validity));
        if !leads_out || !self.is_wire_free() || !self.sendings.is_empty() {
            return 0;
        }
        let mut room = self.interface.as_ref().map_or(0, Interface::send_room);
        let (mut passed, mut bytes) = (0, 0);
        for &Taken { index, own, first_copy, end_copy } in taken {
            let Some(own) = own else { break };
            let Some(left) = room.checked_sub(self.own.get(own).pieces.len()) else { break };
            let is_copied = (first_copy..end_copy).all(|copy| self.fetches.status(copy).is_ok());
            let addresses = self.own.addresses(own);
            let Some(vif) = self.guest_mut(port) else { break };
            if !is_copied || !vif.route.is_for(&addresses) {
                break;
            }
            bytes += u64::from(vif.packet(index).length);
            vif.answer(index, NETIF_RSP_OKAY);
            if !self.send(own) {
                self.release_own(own);
            }
            passed += 1;
            room = left;
        }
        if let Some(vif) = self.guest(port) {
            add(&vif.counters().tx_packets, passed as u64);
            add(&vif.counters().tx_bytes, bytes);
        }
        passed
    }

    /// Whether packets can go out on the wire without waiting for others.
    fn is_wire_free(&self) -> bool {
        self.has_link && self.wire_waiting.is_empty()
    }

    fn sort_one(&mut self, port: PortId, taken: Taken) {
        let is_copied = (taken.first_copy..taken.end_copy).all(|copy| self.fetches.status(copy).is_ok());
        let Some(vif) = self.guest_mut(port) else { return };
        if !is_copied {
            vif.answer(taken.index, NETIF_RSP_ERROR);
            return taken.own.into_iter().for_each(|own| self.release_own(own));
        }
        add(&vif.counters().tx_packets, 1);
        add(&vif.counters().tx_bytes, vif.packet(taken.index).length.into());
        let (packet, addresses) = match taken.own {
            Some(own) => {
                vif.answer(taken.index, NETIF_RSP_OKAY);
                (Packet::Own(own), self.own.addresses(own))
            }
            None => (Packet::Guest { port, index: taken.index }, vif.addresses(taken.index)),
        };
        let destination = self.route_from_guest(port, addresses);
        self.dispatch(port, packet, destination);
    }

    /// What answers of the table depend on now.
    #[inline]
    pub(super) fn validity(&self) -> Validity {
        Validity { generation: self.table.generation(), second: self.second }
    }

    /// Where a guest's packet goes: where the last one went, or what the table says.
    #[inline]
    fn route_from_guest(&mut self, port: PortId, addresses: Addresses) -> Destination {
        let validity = self.validity();
        let known = self.guest(port).and_then(|vif| vif.route.get(&addresses, validity));
        if let Some(destination) = known {
            return destination;
        }
        let Some(vif) = self.guest(port).filter(|vif| vif.admits(&addresses)) else {
            return Destination::Refused;
        };
        let destination = self.route(port, vif.vlan(), addresses, GUEST_ADDRESSES);
        let validity = self.validity();
        if let Some(vif) = self.guest_mut(port) {
            vif.route.set(addresses, validity, destination);
        }
        destination
    }

    /// Where a frame from the wire goes.
    pub(super) fn route_from_wire(&mut self, vlan: Vlan, addresses: Addresses) -> Destination {
        self.route(WIRE, vlan, addresses, WIRE_ADDRESSES)
    }

    /// Learns who sent a frame, and says where in its virtual network it goes.
    fn route(&mut self, from: PortId, vlan: Vlan, addresses: Addresses, limit: u16) -> Destination {
        self.table.learn((vlan, addresses.source), from, limit, self.second);
        let known = if addresses.destination.is_group() {
            None
        } else {
            self.table.look_up((vlan, addresses.destination), self.second)
        };
        match known {
            Some(port) if port == from => Destination::Nowhere,
            Some(port) => Destination::One(port),
            None => self.everywhere_but(from, vlan),
        }
    }

    /// All other ports of a virtual network, which may be one or none.
    fn everywhere_but(&self, from: PortId, vlan: Vlan) -> Destination {
        let mut others = self.ports(vlan).filter(|port| *port != from);
        match (others.next(), others.next()) {
            (None, _) => Destination::Nowhere,
            (Some(port), None) => Destination::One(port),
            (Some(_), Some(_)) => Destination::All,
        }
    }

    /// Queues a packet where it goes.
    #[inline]
    pub(super) fn dispatch(&mut self, from: PortId, packet: Packet, destination: Destination) {
        match (destination, packet) {
            (Destination::One(port), _) => self.enqueue(port, packet),
            (Destination::Nowhere, _) => self.discard(packet, NETIF_RSP_OKAY),
            (Destination::Refused, _) => self.discard(packet, NETIF_RSP_DROPPED),
            (Destination::All, Packet::Own(own)) => self.flood(from, own),
            (Destination::All, Packet::Guest { .. }) => self.reworks.push(Rework::flood(packet, from)),
        }
    }

    /// Queues a packet in our buffers at all ports of its virtual network but the one it came from.
    pub(super) fn flood(&mut self, from: PortId, own: u16) {
        add(&self.counters.flooded, 1);
        let vlan = self.own.get(own).vlan;
        let ports: Vec<_> = self.ports(vlan).filter(|port| *port != from).collect();
        // Several ports must not change it one after the other, so it is made fit for all of them first.
        if !ports.iter().all(|port| self.takes_checksum(*port, own)) && !self.complete_checksum(own) {
            return self.release_own(own);
        }
        self.own.get_mut(own).holders = ports.len() as u16;
        let is_shared = ports.len() > 1;
        for port in ports {
            if port == WIRE && is_shared && vlan != Vlan::UNTAGGED {
                // It gets a tag there, so that takes a copy of its own.
                self.reworks.push(Rework::bring_in(Packet::Own(own), WIRE));
            } else {
                self.enqueue(port, Packet::Own(own));
            }
        }
    }
}

/// Has all of a packet copied into buffers, if it can go out on the wire as it is.
#[inline]
fn fetch_all<M: RingMemory, C: Channel>(
    vif: &Vif<M, C>,
    index: u16,
    own: &mut OwnPackets,
    fetches: &mut impl GrantCopy,
    spans: &mut Vec<Span>,
    wire: &Capabilities,
) -> Option<u16> {
    let packet = vif.packet(index);
    if packet.offload.segmentation.is_some_and(|wanted| !wire.segmentation(wanted)) {
        return None;
    }
    let taken = own.take(packet.length.into(), packet.offload, vif.vlan())?;
    if let Some(Whole { all, head: None }) = vif.whole(index) {
        own.copy_into(taken, slice::from_ref(&all), fetches);
    } else {
        spans.clear();
        vif.spans(index, spans);
        own.copy_into(taken, spans, fetches);
    }
    Some(taken)
}
