//! The switch: takes packets from ports, finds out where they go, and has them copied there.
//!
//! Work comes in rounds, one port's packets at a time, and in each round all copies are made by one or two
//! hypercalls:
//!
//! ```text
//!   guest's ring ─► 1st copy: addresses ─► where to? ─► 2nd copy: pages of the guest ─► pages of another
//!        │                                    │
//!        │                                    └───────► 2nd copy: pages of the guest ─► our buffers ─► wire
//!        └─► 1st copy: all of it, if the last packet went to the wire ─► our buffers ─► wire
//!
//!   wire ─► our buffers ─► where to? ─► copy: our buffers ─► pages of a guest
//! ```
//!
//! So a packet's payload is copied once; its addresses arrive as they were looked at, since a guest may change its pages
//! meanwhile. A packet that goes to many, or that must be changed for its receiver,
//! is brought into our buffers first.
//!
//! Most packets lie in one page and are passed on as they are. They go through every step here by a short path
//! that looks at nothing else; [`Waiting::whole`] says that a packet is of that kind.
//!
//! Each guest's interface is in one virtual network, and frames stay in theirs. Only on the wire they have a tag that
//! says which it is: it is put in when a frame goes out, and taken out when one comes in. A guest's own tags are refused,
//! as are packets from an address that is not its interface's.

mod deliver;
mod fetch;
mod interface_port;
mod rework;
#[cfg(test)]
mod tests;

use alloc::collections::VecDeque;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::time::Duration;

use hypercall_abi::io::netif::NETIF_RSP_DROPPED;
use pv_runtime::executor::Notify;
use ring::RingMemory;

use self::deliver::{Delivery, Sending};
use self::fetch::Taken;
use self::rework::{Rework, Reworking};
use super::counters::{SwitchCounters, add};
use super::ethernet::{MacAddress, Vlan};
use super::interface::Interface;
use super::mac_table::{MacTable, PortId};
use super::offload::Capabilities;
use super::own::OwnPackets;
use super::packet::{Packet, Waiting, Whole};
use super::spans::Span;
use super::tx::TxFault;
use super::vif::{Channel, Connection, RxSlot, Vif};
use crate::backend::GrantCopy;

/// Packets that are taken from a port in one round.
const BATCH: usize = 128;
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

/// The switch.
pub struct Switch<P: Platform> {
    /// Guests' interfaces by their port's number; the first place stays empty.
    guests: Vec<Option<GuestPort<P>>>,
    interface: Option<P::Interface>,
    /// What the interface can do.
    wire_capabilities: Capabilities,
    /// Whether the interface has a link. Without one it gets nothing.
    has_link: bool,
    /// Packets for the wire that wait for room.
    wire_waiting: VecDeque<Packet>,
    wire_bell: Rc<Notify>,
    table: MacTable,
    own: OwnPackets,
    /// Copies of what decides where packets go.
    fetches: P::Copy,
    /// Copies to where they go.
    copies: P::Copy,
    counters: Rc<SwitchCounters>,
    now: Duration,
    /// The whole seconds of that.
    second: u32,
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
    /// Pieces of all packets in that list.
    pieces_planned: usize,
    reworks: Vec<Rework>,
    reworking: Vec<Reworking>,
}

impl<P: Platform> Switch<P> {
    /// A switch without ports, that uses up to `buffers` pages for frames.
    pub fn new([fetches, copies]: [P::Copy; 2], buffers: usize) -> Self {
        Self {
            guests: Vec::new(),
            interface: None,
            wire_capabilities: Capabilities::default(),
            has_link: false,
            wire_waiting: VecDeque::new(),
            wire_bell: Rc::default(),
            table: MacTable::default(),
            own: OwnPackets::new(buffers),
            fetches,
            copies,
            counters: Rc::default(),
            now: Duration::ZERO,
            second: 0,
            dirty: Vec::new(),
            touched: Vec::new(),
            taken: Vec::new(),
            spans: Vec::new(),
            lengths: Vec::new(),
            deliveries: Vec::new(),
            slots: Vec::new(),
            sendings: Vec::new(),
            pieces_planned: 0,
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
        self.table.iter(self.second)
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
        self.table.ports_changed();
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
        self.set_time(now);
        if self.guest(port).is_none() {
            return Ok(Round::default());
        }
        let taken = self.take_from_guest(port);
        self.sort(port);
        self.mark_dirty(port);
        self.forward();
        self.commit();
        let Some(vif) = self.guest_mut(port) else { return Ok(Round::default()) };
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

    fn set_time(&mut self, now: Duration) {
        (self.now, self.second) = (now, now.as_secs() as u32);
    }

    #[inline]
    fn guest(&self, port: PortId) -> Option<&GuestPort<P>> {
        self.guests.get(usize::from(port.0))?.as_ref()
    }

    #[inline]
    fn guest_mut(&mut self, port: PortId) -> Option<&mut GuestPort<P>> {
        self.guests.get_mut(usize::from(port.0))?.as_mut()
    }

    /// The ports that frames of a virtual network go in and out by; the machine's interface has a part in all.
    fn ports(&self, vlan: Vlan) -> impl Iterator<Item = PortId> {
        let is_in_it = move |guest: &GuestPort<P>| guest.vlan() == vlan;
        let guests = self.guests.iter().enumerate();
        let guests = guests.filter(move |(_, guest)| guest.as_ref().is_some_and(is_in_it));
        let wire = self.interface.iter().map(|_| WIRE);
        wire.chain(guests.map(|(place, _)| PortId(place as u16)))
    }

    /// Queues a packet at a port.
    #[inline]
    fn enqueue(&mut self, port: PortId, packet: Packet) {
        if port == WIRE {
            return self.enqueue_for_wire(packet);
        }
        let waiting = self.describe(packet);
        if self.deliver_at_once(port, &waiting) {
            return;
        }
        if self.guest_mut(port).is_some_and(|vif| vif.enqueue(waiting)) {
            self.mark_dirty(port);
        } else {
            self.discard(packet, NETIF_RSP_DROPPED);
        }
    }

    fn enqueue_for_wire(&mut self, packet: Packet) {
        if !self.has_link {
            add(&self.counters.unlinked, 1);
            return self.discard(packet, NETIF_RSP_DROPPED);
        }
        if self.send_at_once(packet) {
            return;
        }
        self.wire_waiting.push_back(packet);
        self.mark_dirty(WIRE);
    }

    /// What a port's queue notes of a packet.
    #[inline]
    fn describe(&self, packet: Packet) -> Waiting {
        match packet {
            Packet::Guest { port, index } => match self.guest(port) {
                Some(vif) => vif.describe(port, index),
                None => Waiting { packet, whole: None, checksum: Default::default() },
            },
            Packet::Own(own) => {
                let offload = &self.own.get(own).offload;
                let whole = self.own.whole(own).filter(|_| offload.segmentation.is_none());
                let whole = whole.map(|all| Whole { all, head: None });
                Waiting { packet, whole, checksum: offload.checksum }
            }
        }
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
        while self.has_work() {
            while let Some(port) = self.dirty.pop() {
                if port == WIRE { self.plan_sendings() } else { self.plan_deliveries(port) }
            }
            self.plan_reworks();
            submit(&mut self.copies);
            self.finish_deliveries();
            self.finish_sendings();
            // Plans new copies: what was changed goes on its way.
            self.finish_reworks();
        }
        self.copies.clear();
    }

    /// Whether something was planned or may be.
    fn has_work(&self) -> bool {
        let is_planned = !self.deliveries.is_empty() || !self.sendings.is_empty();
        is_planned || !self.dirty.is_empty() || !self.reworks.is_empty()
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

    /// Is done with a packet in our buffers at one port.
    #[inline]
    fn release_own(&mut self, own: u16) {
        if self.own.release(own) && !self.wire_waiting.is_empty() {
            // What waits there may wait for buffers.
            self.mark_dirty(WIRE);
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
}

/// Makes the copies of a batch.
fn submit(copies: &mut impl GrantCopy) {
    if !copies.is_empty() {
        copies.submit();
    }
}
