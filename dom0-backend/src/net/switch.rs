//! The switch: takes packets from ports, finds out where they go, and has them copied there.
//!
//! Work comes in rounds, one port's packets at a time, and in each round all copies are made by one or two
//! hypercalls:
//!
//! ```text
//!   guest's ring ─► 1st copy: headers ─► where to? ─► 2nd copy: pages of the guest ─► pages of another
//!        │                                  │
//!        │                                  └───────► 2nd copy: pages of the guest ─► our buffers ─► wire
//!        └─► 1st copy: all of it, if the last packet went to the wire ─► our buffers ─► wire
//!
//!   wire ─► our buffers ─► where to? ─► copy: our buffers ─► pages of a guest
//! ```
//!
//! So a packet's bytes are copied once, and the few that decide where it goes twice: what was looked at is
//! what is delivered, whatever the guest does to its page meanwhile. A packet that goes to many, or that must
//! be changed for its receiver, is brought into our buffers first.

mod deliver;
mod interface_port;
mod rework;
#[cfg(test)]
mod tests;

use alloc::collections::VecDeque;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;
use core::time::Duration;

use hypercall_abi::io::netif::{NETIF_RSP_DROPPED, NETIF_RSP_ERROR, NETIF_RSP_OKAY};
use pv_runtime::executor::Notify;
use pv_runtime::grant::CopyEnd;
use pv_runtime::memory::{Page, SharedMemory};
use pv_runtime::time::time_stamp_counter;
use ring::RingMemory;

use self::deliver::{Delivery, Sending};
use self::rework::{Rework, Reworking};
use super::buffers::{Buffers, FRAME_START};
use super::counters::{SwitchCounters, add};
use super::ethernet::{Addresses, HEADER_LENGTH, MacAddress};
use super::headers::HEADERS_MAX;
use super::interface::Interface;
use super::mac_table::{MacTable, PortId};
use super::offload::Offload;
use super::packet::{OwnPacket, Packet};
use super::pool::Pool;
use super::spans::{Span, copy_all};
use super::tx::TxFault;
use super::vif::{Channel, Connection, RxSlot, Vif};
use crate::backend::GrantCopy;

/// Packets that are taken from a port in one round.
const BATCH: usize = 64;
/// Addresses that a guest's interface may be known by.
const GUEST_ADDRESSES: u16 = 64;
/// Addresses that may be known to be out on the wire.
const WIRE_ADDRESSES: u16 = 4096;
/// Buffers that packets from guests leave to the machine's interface for receiving.
const RECEIVE_RESERVE: usize = 256;
/// The machine's interface.
pub const WIRE: PortId = PortId(0);
/// Ports in all.
const PORTS_MAX: usize = 1024;

/// What the switch is made of below: rings, events, copies, and the machine's interface.
pub trait Platform {
    /// The memory of guests' rings.
    type Ring: RingMemory;
    /// Events to guests.
    type Channel: Channel;
    /// Copies by the hypervisor.
    type Copy: GrantCopy;
    /// The machine's own interface.
    type Interface: Interface;
}

/// The interface of a guest on this platform.
type GuestPort<P> = Vif<<P as Platform>::Ring, <P as Platform>::Channel>;
/// Its connection.
type GuestConnection<P> = Connection<<P as Platform>::Ring, <P as Platform>::Channel>;

/// What a round leaves behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Round {
    /// Packets that were taken.
    pub taken: u32,
    /// When to look again at the latest, though nothing happens.
    pub deadline: Option<Duration>,
}

/// Where a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Destination {
    Nowhere,
    One(PortId),
    All,
}

/// A packet that was taken from a guest in this round.
#[derive(Clone, Copy, Debug)]
struct Taken {
    index: u16,
    /// Its copy in our buffers, if all of it was copied there.
    own: Option<u16>,
    /// The copies that were made for it.
    first_copy: usize,
    end_copy: usize,
}

/// The switch.
pub struct Switch<P: Platform> {
    /// Guests' interfaces by their port's number; the first place stays empty.
    guests: Vec<Option<GuestPort<P>>>,
    interface: Option<P::Interface>,
    /// Packets for the wire that wait for room.
    wire_waiting: VecDeque<Packet>,
    wire_bell: Rc<Notify>,
    table: MacTable,
    buffers: Buffers,
    own: Pool<OwnPacket>,
    copies: P::Copy,
    counters: Rc<SwitchCounters>,
    now: Duration,
    /// Ports that have something waiting to be looked at.
    dirty: Vec<PortId>,
    /// Guests' ports that have answers to be shown.
    touched: Vec<PortId>,
    /// The work of one round, in storage that is used over and over.
    taken: Vec<Taken>,
    spans: Vec<Span>,
    lengths: Vec<u16>,
    deliveries: Vec<Delivery>,
    slots: Vec<RxSlot>,
    sendings: Vec<Sending>,
    reworks: Vec<Rework>,
    reworking: Vec<Reworking>,
}

/// Reads the addresses of a frame that starts at a multiple of four bytes in a page.
#[inline]
pub fn addresses_at(page: &Page, offset: usize) -> Addresses {
    let words = &page.words()[offset / 4..][..3];
    Addresses::from_words([0, 1, 2].map(|word: usize| words[word].load(Ordering::Relaxed)))
}

impl<P: Platform> Switch<P> {
    /// A switch without ports, that uses up to `buffers` pages for frames.
    pub fn new(copies: P::Copy, buffers: usize) -> Self {
        Self {
            guests: Vec::new(),
            interface: None,
            wire_waiting: VecDeque::new(),
            wire_bell: Rc::default(),
            table: MacTable::default(),
            buffers: Buffers::new(buffers),
            own: Pool::default(),
            copies,
            counters: Rc::default(),
            now: Duration::ZERO,
            dirty: Vec::new(),
            touched: Vec::new(),
            taken: Vec::new(),
            spans: Vec::new(),
            lengths: Vec::new(),
            deliveries: Vec::new(),
            slots: Vec::new(),
            sendings: Vec::new(),
            reworks: Vec::new(),
            reworking: Vec::new(),
        }
    }

    /// Is rung when the machine's interface needs its task's attention though there was no interrupt.
    pub fn interface_bell(&self) -> &Rc<Notify> {
        &self.wire_bell
    }

    /// What the switch did.
    pub fn counters(&self) -> &Rc<SwitchCounters> {
        &self.counters
    }

    /// Every address that is known: its port, and how many seconds ago it was heard from.
    pub fn addresses(&self) -> impl Iterator<Item = (MacAddress, PortId, u32)> {
        self.table.iter(self.now.as_secs() as u32)
    }

    /// Adds a guest's interface; the connection comes back if there are too many.
    pub fn add_guest(&mut self, connection: GuestConnection<P>) -> Result<PortId, GuestConnection<P>> {
        let free = self.guests.iter().skip(1).position(Option::is_none).map(|position| position + 1);
        let place = free.unwrap_or(self.guests.len().max(1));
        if place >= PORTS_MAX {
            return Err(connection);
        }
        if self.guests.len() <= place {
            self.guests.resize_with(place + 1, || None);
        }
        self.guests[place] = Some(Vif::new(connection));
        Ok(PortId(place as u16))
    }

    /// Takes a guest's interface away, with everything that it sent or waits for.
    pub fn remove_guest(&mut self, port: PortId) -> Option<GuestConnection<P>> {
        let mut vif = self.guests.get_mut(usize::from(port.0))?.take()?;
        self.table.forget(port);
        self.wire_waiting
            .retain(|packet| !matches!(packet, Packet::Guest { port: sender, .. } if *sender == port));
        for other in self.guests.iter_mut().flatten() {
            other.forget_packets_of(port);
        }
        while let Some(packet) = vif.take_waiting() {
            self.discard(packet, NETIF_RSP_DROPPED);
        }
        self.commit();
        Some(vif.into_connection())
    }

    /// Does what there is to do for a guest's interface.
    ///
    /// # Errors
    ///
    /// [`TxFault`] if the guest did something that only a broken or hostile guest does. Its interface is to be
    /// removed then.
    pub fn serve_guest(&mut self, port: PortId, now: Duration) -> Result<Round, TxFault> {
        self.now = now;
        if self.guest(port).is_none() {
            return Ok(Round::default());
        }
        let taken = self.take_from_guest(port);
        self.sort(port);
        self.mark_dirty(port);
        self.forward();
        self.commit();
        let Some(vif) = self.guest_mut(port) else { return Ok(Round::default()) };
        add(&vif.counters().rounds, 1);
        if let Some(fault) = vif.fault() {
            return Err(fault);
        }
        vif.revive()?;
        Ok(Round { taken, deadline: vif.deadline() })
    }

    /// Has a guest send an event when `count` slots with packets wait, and says whether so many wait already:
    /// then serve it rather than wait.
    ///
    /// # Errors
    ///
    /// As for [`serve_guest`](Self::serve_guest).
    pub fn ask_for_packets(&mut self, port: PortId, count: u32) -> Result<bool, TxFault> {
        self.guest_mut(port).map_or(Ok(false), |vif| vif.has_more(count))
    }

    #[inline]
    fn guest(&self, port: PortId) -> Option<&GuestPort<P>> {
        self.guests.get(usize::from(port.0))?.as_ref()
    }

    #[inline]
    fn guest_mut(&mut self, port: PortId) -> Option<&mut GuestPort<P>> {
        self.guests.get_mut(usize::from(port.0))?.as_mut()
    }

    /// Takes packets off a guest's ring and has the first bytes of each copied, or all of it. Says how many.
    fn take_from_guest(&mut self, port: PortId) -> u32 {
        self.copies.clear();
        for _ in 0..BATCH {
            let Some(vif) = self.guest_mut(port).filter(|vif| vif.fault().is_none()) else { break };
            match vif.take_packet() {
                Ok(Some(index)) => self.fetch(port, index),
                Ok(None) => break,
                Err(fault) => {
                    vif.note_fault(fault);
                    break;
                }
            }
        }
        self.mark_touched(port);
        self.submit_copies();
        self.taken.len() as u32
    }

    /// Has a packet's first bytes copied, or all of it if it is likely to go out on the wire.
    #[inline]
    fn fetch(&mut self, port: PortId, index: u16) {
        let first_copy = self.copies.len();
        let own = self.fetch_all(port, index);
        if own.is_none() && self.fetch_headers(port, index).is_none() {
            return;
        }
        self.taken.push(Taken { index, own, first_copy, end_copy: self.copies.len() });
    }

    /// Has all of a packet copied into buffers, if its sender's last packet went out on the wire and this one
    /// can do so as it is.
    #[inline]
    fn fetch_all(&mut self, port: PortId, index: u16) -> Option<u16> {
        let capabilities = self.interface.as_ref()?.capabilities();
        let vif = self.guests.get(usize::from(port.0))?.as_ref()?;
        let packet = vif.packet(index);
        let (length, offload) = (usize::from(packet.length), packet.offload);
        let fits = offload.segmentation.is_none_or(|wanted| capabilities.segmentation(wanted));
        if vif.last_destination != Some(WIRE) || !fits || !self.wire_waiting.is_empty() {
            return None;
        }
        self.spans.clear();
        vif.spans(index, &mut self.spans);
        let own = self.take_own(length, offload)?;
        self.copy_spans_to(own);
        Some(own)
    }

    /// Has a packet's first bytes copied to its place among the headers: more of them if they will be needed.
    #[inline]
    fn fetch_headers(&mut self, port: PortId, index: u16) -> Option<()> {
        let vif = self.guests.get_mut(usize::from(port.0))?.as_mut()?;
        let packet = vif.packet(index);
        let all = usize::from(packet.length);
        let wanted = if packet.offload.segmentation.is_some() { HEADERS_MAX } else { HEADER_LENGTH };
        let length = if all <= HEADERS_MAX { all } else { wanted };
        self.spans.clear();
        vif.spans(index, &mut self.spans);
        match vif.header_place(index, length as u16) {
            Ok(place) => copy_all(&mut self.copies, &self.spans, core::iter::once(place)),
            Err(_) => {
                vif.answer(index, NETIF_RSP_DROPPED);
                return None;
            }
        }
        Some(())
    }

    /// Finds out where the packets that were taken go, and queues them there.
    fn sort(&mut self, port: PortId) {
        let mut taken = core::mem::take(&mut self.taken);
        for packet in taken.drain(..) {
            self.sort_one(port, packet);
        }
        self.taken = taken;
    }

    #[inline]
    fn sort_one(&mut self, port: PortId, taken: Taken) {
        let is_copied = self.is_copied(taken.first_copy, taken.end_copy);
        let Some(vif) = self.guests.get_mut(usize::from(port.0)).and_then(Option::as_mut) else { return };
        if !is_copied {
            vif.answer(taken.index, NETIF_RSP_ERROR);
            return taken.own.into_iter().for_each(|own| self.release_own(own));
        }
        let length = u64::from(vif.packet(taken.index).length);
        add(&vif.counters().tx_packets, 1);
        add(&vif.counters().tx_bytes, length);
        let (packet, addresses) = match taken.own {
            Some(own) => {
                vif.answer(taken.index, NETIF_RSP_OKAY);
                (Packet::Own(own), self.own_addresses(own))
            }
            None => (Packet::Guest { port, index: taken.index }, vif.addresses(taken.index)),
        };
        let destination = self.route(port, addresses, GUEST_ADDRESSES);
        if let (Destination::One(port_to), Some(vif)) = (destination, self.guest_mut(port)) {
            vif.last_destination = Some(port_to);
        }
        self.dispatch(port, packet, destination);
    }

    /// Learns who sent a frame, and says where it goes.
    #[inline]
    fn route(&mut self, from: PortId, addresses: Addresses, limit: u16) -> Destination {
        let now = self.now.as_secs() as u32;
        self.table.learn(addresses.source, from, limit, now);
        let known = if addresses.destination.is_group() {
            None
        } else {
            self.table.look_up(addresses.destination, now)
        };
        match known {
            Some(port) if port == from => Destination::Nowhere,
            Some(port) => Destination::One(port),
            None => self.everywhere_but(from),
        }
    }

    /// All other ports, which may be one or none.
    fn everywhere_but(&self, from: PortId) -> Destination {
        let mut others = self.ports().filter(|port| *port != from);
        match (others.next(), others.next()) {
            (None, _) => Destination::Nowhere,
            (Some(port), None) => Destination::One(port),
            (Some(_), Some(_)) => Destination::All,
        }
    }

    /// The ports that there are.
    fn ports(&self) -> impl Iterator<Item = PortId> {
        let guests = self.guests.iter().enumerate().filter(|(_, guest)| guest.is_some());
        let wire = self.interface.iter().map(|_| WIRE);
        wire.chain(guests.map(|(place, _)| PortId(place as u16)))
    }

    /// Queues a packet where it goes.
    #[inline]
    fn dispatch(&mut self, from: PortId, packet: Packet, destination: Destination) {
        match (destination, packet) {
            (Destination::Nowhere, _) => self.discard(packet, NETIF_RSP_OKAY),
            (Destination::One(port), _) => self.enqueue(port, packet),
            (Destination::All, Packet::Own(own)) => self.flood(from, own),
            (Destination::All, Packet::Guest { .. }) => self.reworks.push(Rework::flood(packet, from)),
        }
    }

    /// Queues a packet in our buffers at all ports but the one it came from.
    fn flood(&mut self, from: PortId, own: u16) {
        add(&self.counters.flooded, 1);
        let ports: Vec<_> = self.ports().filter(|port| *port != from).collect();
        // Several ports must not change it one after the other, so it is made fit for all of them first.
        if !ports.iter().all(|port| self.takes_checksum(*port, own)) && !self.complete_checksum(own) {
            return self.release_own(own);
        }
        self.own.get_mut(own).holders = ports.len() as u16;
        for port in ports {
            self.enqueue(port, Packet::Own(own));
        }
    }

    /// Queues a packet at a port.
    #[inline]
    fn enqueue(&mut self, port: PortId, packet: Packet) {
        let accepted = if port == WIRE {
            self.wire_waiting.push_back(packet);
            self.interface.is_some()
        } else {
            self.guest_mut(port).is_some_and(|vif| vif.enqueue(packet))
        };
        if accepted { self.mark_dirty(port) } else { self.discard(packet, NETIF_RSP_DROPPED) }
    }

    #[inline]
    fn mark_dirty(&mut self, port: PortId) {
        if !self.dirty.contains(&port) {
            self.dirty.push(port);
        }
    }

    #[inline]
    fn mark_touched(&mut self, port: PortId) {
        if !self.touched.contains(&port) {
            self.touched.push(port);
        }
    }

    /// Moves packets on until nothing more can move.
    fn forward(&mut self) {
        while !self.dirty.is_empty() || !self.reworks.is_empty() {
            self.copies.clear();
            while let Some(port) = self.dirty.pop() {
                if port == WIRE { self.plan_sendings() } else { self.plan_deliveries(port) }
            }
            self.plan_reworks();
            self.submit_copies();
            self.finish_deliveries();
            self.finish_sendings();
            self.finish_reworks();
        }
    }

    /// Makes the copies that were planned.
    fn submit_copies(&mut self) {
        if !self.copies.is_empty() {
            add(&self.counters.copy_calls, 1);
            add(&self.counters.copies, self.copies.len() as u64);
            let start = time_stamp_counter();
            self.copies.submit();
            add(&self.counters.copy_ticks, time_stamp_counter().wrapping_sub(start));
        }
    }

    /// Whether all of these copies were made.
    #[inline]
    fn is_copied(&self, first: usize, end: usize) -> bool {
        (first..end).all(|copy| self.copies.status(copy).is_ok())
    }

    /// Is done with a packet at one port, and answers its sender if it was the last.
    #[inline]
    fn discard(&mut self, packet: Packet, status: i16) {
        match packet {
            Packet::Own(own) => self.release_own(own),
            Packet::Guest { port, index } => {
                if let Some(vif) = self.guest_mut(port) {
                    vif.answer(index, status);
                    self.mark_touched(port);
                }
            }
        }
    }

    /// Shows all answers, and sends the events that they call for.
    fn commit(&mut self) {
        let mut touched = core::mem::take(&mut self.touched);
        for port in touched.drain(..) {
            if let Some(vif) = self.guest_mut(port) {
                vif.commit();
            }
        }
        self.touched = touched;
        if let Some(interface) = &mut self.interface {
            interface.kick();
        }
    }

    // ---- packets in our buffers

    /// A packet of `length` bytes in new buffers; `None` if there are none to spare.
    #[inline]
    fn take_own(&mut self, length: usize, offload: Offload) -> Option<u16> {
        let needed = (length + usize::from(FRAME_START)).div_ceil(hypercall_abi::PAGE_SIZE);
        if self.buffers.available() < needed + RECEIVE_RESERVE {
            return None;
        }
        let own = self.own.take()?;
        let packet = self.own.get_mut(own);
        if !self.buffers.take_for_frame(length, &mut packet.pieces) {
            self.own.put(own);
            return None;
        }
        (packet.length, packet.offload, packet.holders) = (length, offload, 1);
        Some(own)
    }

    /// Has the bytes that `self.spans` lists copied into a packet's buffers.
    #[inline]
    fn copy_spans_to(&mut self, own: u16) {
        let buffers = &self.buffers;
        let destinations = self.own.get(own).pieces.iter().map(|piece| Span {
            start: CopyEnd::Own { frame: buffers.frame(piece.buffer), offset: piece.offset },
            length: piece.length,
        });
        copy_all(&mut self.copies, &self.spans, destinations);
    }

    /// The addresses of a packet in our buffers.
    #[inline]
    fn own_addresses(&self, own: u16) -> Addresses {
        let first = self.own.get(own).pieces[0];
        addresses_at(self.buffers.page(first.buffer), usize::from(first.offset))
    }

    /// Copies a packet's first bytes out, and says how many there are.
    fn own_head(&self, own: u16, into: &mut [u8; HEADERS_MAX]) -> usize {
        let first = self.own.get(own).pieces[0];
        let length = usize::from(first.length).min(HEADERS_MAX);
        let page = self.buffers.page(first.buffer);
        SharedMemory::copy_out(page, first.offset.into(), &mut into[..length]);
        length
    }

    /// Is done with a packet at one port; its buffers are free after the last.
    #[inline]
    fn release_own(&mut self, own: u16) {
        let packet = self.own.get_mut(own);
        packet.holders = packet.holders.saturating_sub(1);
        if packet.holders > 0 {
            return;
        }
        self.buffers.put_pieces(&mut packet.pieces);
        self.own.put(own);
        if !self.wire_waiting.is_empty() {
            // What waits there may wait for buffers.
            self.mark_dirty(WIRE);
        }
    }
}
