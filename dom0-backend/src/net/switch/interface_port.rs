//! The machine's own interface as a port of the switch.

use core::time::Duration;

use hypercall_abi::io::netif::{NETIF_RSP_DROPPED, NETIF_RSP_ERROR, NETIF_RSP_OKAY};

use super::deliver::Sending;
use super::{BATCH, Platform, Rework, Round, Switch, WIRE};
use crate::backend::GrantCopy;
use crate::net::counters::add;
use crate::net::ethernet::{self, Tag, Vlan};
use crate::net::headers::{HEADERS_MAX, Headers};
use crate::net::interface::{Interface, Outgoing, Received};
use crate::net::offload::Checksum;
use crate::net::own::{OwnPacket, OwnPackets};
use crate::net::packet::Packet;

impl<P: Platform> Switch<P> {
    /// Connects the machine's interface.
    pub fn set_interface(&mut self, interface: P::Interface) {
        self.wire_capabilities = interface.capabilities().consistent();
        self.has_link = interface.link_is_up();
        self.interface = Some(interface);
        self.table.ports_changed();
        self.offer_buffers();
        self.commit();
    }

    /// Looks at whether the machine's interface has a link; says so if that has changed. What waits for an interface
    /// without one is dropped. Guests are not told: they still have each other.
    pub fn look_at_link(&mut self) -> Option<bool> {
        let has_link = self.interface.as_ref().is_some_and(Interface::link_is_up);
        if core::mem::replace(&mut self.has_link, has_link) == has_link {
            return None;
        }
        while let Some(packet) = self.wire_waiting.pop_front_if(|_| !has_link) {
            add(&self.counters.unlinked, 1);
            self.discard(packet, NETIF_RSP_DROPPED);
        }
        self.commit();
        Some(has_link)
    }

    /// Whether the machine's interface had a link when it was last looked at.
    pub fn has_link(&self) -> bool {
        self.has_link
    }

    /// The machine's interface.
    pub fn interface(&self) -> Option<&P::Interface> {
        self.interface.as_ref()
    }

    /// Does what there is to do for the machine's interface.
    pub fn serve_interface(&mut self, now: Duration) -> Round {
        self.set_time(now);
        self.take_sent();
        let taken = self.take_received();
        self.mark_dirty(WIRE);
        self.forward();
        self.offer_buffers();
        self.commit();
        Round { taken, deadline: None }
    }

    /// Has the machine's interface interrupt when `count` frames have come in, or when frames were sent that
    /// others wait for. Says whether that is so already: then serve it rather than wait.
    pub fn ask_for_frames(&mut self, count: u32) -> bool {
        let waits_for_room = !self.wire_waiting.is_empty();
        let count = count.min(BATCH as u32) as u16;
        self.interface.as_mut().is_some_and(|interface| interface.ask_for_interrupts(count, waits_for_room))
    }

    /// Frees the buffers of frames that were sent.
    fn take_sent(&mut self) {
        while let Some(own) = self.interface.as_mut().and_then(Interface::take_sent) {
            self.release_own(own);
        }
    }

    /// Takes frames that came in, and queues them where they go. Says how many.
    fn take_received(&mut self) -> u32 {
        for taken in 0..BATCH as u32 {
            let Some(interface) = self.interface.as_mut() else { return taken };
            let Some(own) = self.own.take_empty() else { return taken };
            let received = self.own.receive(own, interface);
            let packet = self.own.get_mut(own);
            let has_addresses = packet.pieces.first().is_some_and(|first| {
                usize::from(first.length) >= ethernet::HEADER_LENGTH && first.offset.is_multiple_of(4)
            });
            match received {
                Received::Nothing => {
                    self.own.release(own);
                    return taken;
                }
                Received::Frame(offload) if has_addresses => {
                    packet.offload = offload;
                    self.receive(own);
                }
                Received::Frame(_) | Received::Bad => {
                    add(&self.counters.dropped, 1);
                    self.release_own(own);
                }
            }
        }
        BATCH as u32
    }

    #[inline]
    fn receive(&mut self, own: u16) {
        add(&self.counters.received, 1);
        let addresses = self.own.addresses(own);
        let is_understood = match addresses.tag() {
            Tag::None => true,
            Tag::Network => self.own.remove_tag(own),
            Tag::Other => false,
        };
        if !is_understood {
            add(&self.counters.dropped, 1);
            return self.release_own(own);
        }
        let destination = self.route_from_wire(self.own.get(own).vlan, addresses);
        self.dispatch(WIRE, Packet::Own(own), destination);
    }

    /// Gives the interface as many buffers to receive into as it takes and there are.
    fn offer_buffers(&mut self) {
        let Some(interface) = &mut self.interface else { return };
        for _ in 0..interface.receive_room() {
            let Some(buffer) = self.own.buffers.take() else { return };
            interface.offer(&self.own.buffers, buffer);
        }
    }

    /// Plans the sending of a packet that is in our buffers and can go out as it is, if nothing else waits for the
    /// wire and there is room. Otherwise the packet is to be queued.
    #[inline]
    pub(super) fn send_at_once(&mut self, packet: Packet) -> bool {
        let (Packet::Own(own), true) = (packet, self.wire_waiting.is_empty()) else { return false };
        let OwnPacket { offload, pieces, .. } = self.own.get(own);
        let pieces = pieces.len();
        let must_be_cut =
            offload.segmentation.is_some_and(|wanted| !self.wire_capabilities.segmentation(wanted));
        let room = self.interface.as_ref().map_or(0, Interface::send_room);
        if must_be_cut || self.pieces_planned + pieces > room {
            return false;
        }
        self.pieces_planned += pieces;
        self.sendings.push(Sending { own, source: None, first_copy: 0, end_copy: 0 });
        true
    }

    /// Plans the sending of as many packets as wait for the wire and find room.
    pub(super) fn plan_sendings(&mut self) {
        self.take_sent();
        let room = self.interface.as_ref().map_or(0, Interface::send_room);
        while let Some(packet) = self.wire_waiting.front().copied() {
            let pieces = self.buffers_needed(packet);
            if self.pieces_planned + pieces > room {
                return self.wait_for_room();
            }
            let first_copy = self.copies.len();
            let planned = match packet {
                _ if self.cut_for_wire(packet) => continue,
                Packet::Own(own) => Some((own, None)),
                Packet::Guest { .. } => self.plan_copy_in(packet).map(|own| (own, Some(packet))),
            };
            let Some((own, source)) = planned else { return self.wait_for_room() };
            self.pieces_planned += pieces;
            self.wire_waiting.pop_front();
            self.sendings.push(Sending { own, source, first_copy, end_copy: self.copies.len() });
        }
    }

    /// Asks to be woken when frames were sent.
    fn wait_for_room(&mut self) {
        let has_room = self.interface.as_mut().is_some_and(|interface| interface.ask_for_interrupts(1, true));
        if has_room {
            // The task of the interface looks again.
            self.wire_bell.ring();
        }
    }

    /// Buffers that a packet takes or would take.
    #[inline]
    fn buffers_needed(&self, packet: Packet) -> usize {
        match packet {
            Packet::Own(own) => self.own.get(own).pieces.len(),
            Packet::Guest { port, index } => {
                let length = self.guest(port).map_or(0, |vif| usize::from(vif.packet(index).length));
                OwnPackets::buffers_for(length)
            }
        }
    }

    /// If the interface cannot cut a packet that is to be cut, takes it out of the queue for us to do it.
    fn cut_for_wire(&mut self, packet: Packet) -> bool {
        let Some(wanted) = self.offload_of(packet).segmentation else { return false };
        if self.wire_capabilities.segmentation(wanted) {
            return false;
        }
        self.wire_waiting.pop_front();
        self.reworks.push(Rework::cut(packet, WIRE));
        true
    }

    /// Has a guest's packet copied into buffers.
    fn plan_copy_in(&mut self, packet: Packet) -> Option<u16> {
        let Packet::Guest { port, index } = packet else { return None };
        self.list_spans(packet);
        let Self { guests, own, copies, spans, .. } = self;
        let vif = guests.get(usize::from(port.0))?.as_ref()?;
        let packet = vif.packet(index);
        let taken = own.take(packet.length.into(), packet.offload, vif.vlan())?;
        own.copy_into(taken, spans, copies);
        Some(taken)
    }

    /// Hands over what was copied, and answers the senders.
    pub(super) fn finish_sendings(&mut self) {
        let mut sendings = core::mem::take(&mut self.sendings);
        self.pieces_planned = 0;
        for sending in sendings.drain(..) {
            let is_copied = self.is_copied(sending.first_copy, sending.end_copy);
            if let Some(source) = sending.source {
                self.discard(source, if is_copied { NETIF_RSP_OKAY } else { NETIF_RSP_ERROR });
            }
            if !is_copied || !self.send(sending.own) {
                self.release_own(sending.own);
            }
        }
        self.sendings = sendings;
    }

    /// Hands a packet to the interface; `false` if its blank checksum cannot be dealt with.
    #[inline]
    pub(super) fn send(&mut self, own: u16) -> bool {
        if self.own.get(own).vlan != Vlan::UNTAGGED {
            self.own.insert_tag(own);
        }
        let offload = self.own.get(own).offload;
        let is_blank = offload.checksum == Checksum::Blank || offload.segmentation.is_some();
        let leaves_checksum = is_blank && self.wire_capabilities.any_checksum();
        let blank_checksum = if leaves_checksum { self.leave_checksum(own) } else { None };
        let is_unfinished = is_blank && blank_checksum.is_none();
        if is_unfinished && (offload.segmentation.is_some() || !self.complete_checksum(own)) {
            return false;
        }
        let Self { interface: Some(interface), own: packets, counters, .. } = self else { return false };
        let segmentation = offload.segmentation;
        let frame = Outgoing { pieces: &packets.get(own).pieces, blank_checksum, segmentation };
        interface.send(&packets.buffers, &frame, own);
        add(&counters.sent, 1);
        true
    }

    /// Makes sure that the sum of the pseudo header stands in the checksum's place, as interfaces want it, and
    /// says where the headers are.
    fn leave_checksum(&mut self, own: u16) -> Option<Headers> {
        let mut head = [0; HEADERS_MAX];
        let available = self.own.copy_head(own, &mut head);
        let headers = Headers::parse(&head[..available], self.own.get(own).length)?;
        let sum = crate::net::checksum::pseudo_header_sum(&head, &headers, headers.transport_length).fold();
        self.own.write_head(own, headers.checksum(), &sum.to_le_bytes());
        Some(headers)
    }
}
