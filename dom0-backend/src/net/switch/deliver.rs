//! Out of the switch: into pages that guests posted.

use alloc::vec::Vec;
use core::iter;
use core::ops::Range;

use hypercall_abi::io::netif::{NETIF_RSP_DROPPED, NETIF_RSP_ERROR, NETIF_RSP_OKAY};
use hypercall_abi::{DomainId, PAGE_SIZE};
use pv_runtime::grant::CopyEnd;

use super::{Platform, Rework, Switch, Taken};
use crate::backend::GrantCopy;
use crate::net::counters::add;
use crate::net::headers::{HEADERS_MAX, ip_version};
use crate::net::mac_table::PortId;
use crate::net::offload::{Checksum, Offload};
use crate::net::packet::{Packet, Waiting, Whole};
use crate::net::spans::{Cursor, Span, advance};
use crate::net::tx::{SLOTS_MAX, TxFault};
use crate::net::vif::RxSlot;

/// Pages that every front end takes for one packet, and how short the first part must be for one more.
const PAGES_MAX: usize = SLOTS_MAX - 1;
const SHORT_FIRST: u16 = 256;
/// Pages more than necessary that may be used in order to make fewer copies.
const EXTRA_PAGES: usize = 2;

/// A packet being copied into a guest's pages.
#[derive(Clone, Copy, Debug)]
pub(super) struct Delivery {
    port: PortId,
    packet: Packet,
    first_copy: usize,
    end_copy: usize,
    pages: Pages,
}

/// The pages that a packet is copied into.
#[derive(Clone, Copy, Debug)]
enum Pages {
    /// One, for a packet that is passed on as it is.
    One(RxSlot, Checksum),
    /// Those in the list from here to there.
    Listed(usize, usize),
}

/// Why no further packet is passed on by the short path.
enum Stop {
    /// None waits.
    Empty,
    /// The first one that waits is not of that kind.
    NotWhole(Packet),
    /// The guest has posted no page.
    NoPage,
    /// The guest broke its ring.
    Fault(TxFault),
}

/// A packet being copied into our buffers, or in them already, to be sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sending {
    /// The packet in our buffers.
    pub own: u16,
    /// The guest's packet that it is copied from.
    pub source: Option<Packet>,
    /// The copies.
    pub first_copy: usize,
    pub end_copy: usize,
}

impl<P: Platform> Switch<P> {
    /// Plans the copies for as many packets as wait for a guest and find pages.
    pub(super) fn plan_deliveries(&mut self, port: PortId) {
        self.mark_touched(port);
        loop {
            let planned = match self.plan_whole_packets(port) {
                Stop::Empty => return,
                Stop::NotWhole(packet) => self.plan_other_packet(port, packet),
                Stop::NoPage => self.guest_mut(port).map_or(Ok(false), |vif| vif.has_posted(1)),
                Stop::Fault(fault) => Err(fault),
            };
            match planned {
                Ok(true) => {}
                Ok(false) => return self.note_blocked(port),
                Err(fault) => return self.note_fault(port, fault),
            }
        }
    }

    /// Plans the copy of a packet that lies together and can be passed on as it is, if nothing else waits for the
    /// guest and it has posted a page. Otherwise the packet is to be queued.
    #[inline]
    pub(super) fn deliver_at_once(&mut self, port: PortId, waiting: &Waiting) -> bool {
        let Self { guests, copies, deliveries, .. } = self;
        let Some(vif) = guests.get_mut(usize::from(port.0)).and_then(Option::as_mut) else { return false };
        if !vif.is_ready() {
            return false;
        }
        let Some(whole) = vif.takes_whole(waiting) else { return false };
        // A ring that is broken is found out again when the packet is taken from the queue.
        let Ok(Some(slot)) = vif.take_page(whole.all.length) else { return false };
        plan_copy(vif.guest(), port, waiting, whole, slot, copies, deliveries);
        true
    }

    /// Plans the copies for as many of a guest's packets as go to the same other guest as the one before them, can
    /// be passed on as they are, and find pages. Says how many; the others have to take the long way.
    pub(super) fn pass_on(&mut self, port: PortId, taken: &[Taken]) -> usize {
        let validity = self.validity();
        let Some(target) = self.guest(port).and_then(|vif| vif.route.guest(validity)) else { return 0 };
        let Self { guests, fetches, copies, deliveries, .. } = self;
        let Some((sender, receiver)) = two_guests(guests, port, target) else { return 0 };
        if !receiver.is_ready() {
            return 0;
        }
        let (mut passed, mut bytes) = (0, 0);
        for &Taken { index, own, first_copy, end_copy } in taken {
            let is_fetched =
                own.is_none() && end_copy == first_copy + 1 && fetches.status(first_copy).is_ok();
            if !is_fetched || !sender.route.is_for(&sender.addresses(index)) {
                break;
            }
            let waiting = sender.describe(port, index);
            let Some(whole) = receiver.takes_whole(&waiting) else { break };
            let Ok(Some(slot)) = receiver.take_page(whole.all.length) else { break };
            plan_copy(receiver.guest(), target, &waiting, whole, slot, copies, deliveries);
            passed += 1;
            bytes += u64::from(whole.all.length);
        }
        add(&sender.counters().tx_packets, passed as u64);
        add(&sender.counters().tx_bytes, bytes);
        passed
    }

    /// Plans one copy for each packet that lies together and can be passed on as it is, up to one that does not.
    #[inline]
    fn plan_whole_packets(&mut self, port: PortId) -> Stop {
        let Self { guests, copies, deliveries, .. } = self;
        let Some(vif) = guests.get_mut(usize::from(port.0)).and_then(Option::as_mut) else {
            return Stop::Empty;
        };
        loop {
            let Some(waiting) = vif.first_waiting() else { return Stop::Empty };
            let Some(whole) = vif.takes_whole(&waiting) else { return Stop::NotWhole(waiting.packet) };
            let slot = match vif.take_page(whole.all.length) {
                Ok(Some(slot)) => slot,
                Ok(None) => return Stop::NoPage,
                Err(fault) => return Stop::Fault(fault),
            };
            vif.take_waiting();
            plan_copy(vif.guest(), port, &waiting, whole, slot, copies, deliveries);
        }
    }

    /// Plans what there is to do for a packet of several pieces, or one that must be changed.
    fn plan_other_packet(&mut self, port: PortId, packet: Packet) -> Result<bool, TxFault> {
        if self.rework_for_guest(port, packet) { Ok(true) } else { self.plan_delivery(port, packet) }
    }

    /// If the guest cannot take the packet as it is, takes it out of the queue to be changed or dropped.
    #[inline]
    fn rework_for_guest(&mut self, port: PortId, packet: Packet) -> bool {
        let Some(vif) = self.guest(port) else { return false };
        let capabilities = *vif.capabilities();
        let offload = self.offload_of(packet);
        let cut = offload.segmentation.is_some_and(|wanted| !capabilities.segmentation(wanted));
        let fill_in = offload.checksum == Checksum::Blank
            && !capabilities.any_checksum()
            && !self.head_version_allows(packet, |version| capabilities.checksum(version));
        if !cut && !fill_in {
            return false;
        }
        if let Some(vif) = self.guest_mut(port) {
            vif.take_waiting();
        }
        if cut {
            self.reworks.push(Rework::cut(packet, port));
        } else if let Packet::Own(own) = packet {
            if self.complete_checksum(own) {
                self.enqueue(port, packet);
            } else {
                self.release_own(own);
            }
        } else {
            self.reworks.push(Rework::bring_in(packet, port));
        }
        true
    }

    /// Whether the IP version of a packet's first bytes pleases; not if it is not IP.
    fn head_version_allows(
        &self,
        packet: Packet,
        allows: impl FnOnce(crate::net::headers::IpVersion) -> bool,
    ) -> bool {
        let mut head = [0; HEADERS_MAX];
        let length = self.head_of(packet, &mut head);
        ip_version(&head[..length]).is_some_and(allows)
    }

    /// Takes pages for a packet and plans the copies into them. `false` if there are not enough.
    #[inline]
    fn plan_delivery(&mut self, port: PortId, packet: Packet) -> Result<bool, TxFault> {
        let offload = self.offload_of(packet);
        self.list_spans(packet);
        self.choose_lengths();
        let has_extra = offload.segmentation.is_some();
        let needed = self.lengths.len() + usize::from(has_extra);
        let Some(vif) = self.guests.get_mut(usize::from(port.0)).and_then(Option::as_mut) else {
            return Ok(false);
        };
        if self.lengths.len() > 1 && !vif.capabilities().scatter {
            vif.take_waiting();
            add(&vif.counters().rx_dropped, 1);
            self.discard(packet, NETIF_RSP_DROPPED);
            return Ok(true);
        }
        if !vif.has_posted(needed as u32)? {
            return Ok(false);
        }
        let (first_copy, first_slot) = (self.copies.len(), self.slots.len());
        let extra_length = has_extra.then_some(0);
        let (first, rest) = self.lengths.split_first().unwrap_or((&0, &[]));
        for length in iter::once(*first).chain(extra_length).chain(rest.iter().copied()) {
            let Some(slot) = vif.take_page(length)? else { return Ok(false) };
            self.slots.push(slot);
        }
        vif.take_waiting();
        let domain = vif.guest();
        let mut cursor = Cursor::new(&self.spans);
        for RxSlot { reference, length, .. } in &self.slots[first_slot..] {
            let start = CopyEnd::Granted { domain, reference: *reference, offset: 0 };
            cursor.copy_to(&mut self.copies, Span { start, length: *length });
        }
        let pages = Pages::Listed(first_slot, self.slots.len());
        self.deliveries.push(Delivery { port, packet, first_copy, end_copy: self.copies.len(), pages });
        Ok(true)
    }

    /// Lists where a packet's bytes are.
    #[inline]
    pub(super) fn list_spans(&mut self, packet: Packet) {
        self.spans.clear();
        match packet {
            Packet::Guest { port, index } => {
                if let Some(vif) = self.guests.get(usize::from(port.0)).and_then(Option::as_ref) {
                    vif.spans(index, &mut self.spans);
                }
            }
            Packet::Own(own) => self.own.spans(own, &mut self.spans),
        }
    }

    /// Decides how many bytes go into each page: a page for each piece if that does not take many more pages,
    /// since a piece then is one copy, and otherwise full pages.
    #[inline]
    fn choose_lengths(&mut self) {
        let total: usize = self.spans.iter().map(|span| usize::from(span.length)).sum();
        let full = total.div_ceil(PAGE_SIZE);
        self.lengths.clear();
        if full > 1 {
            self.list_pieces();
            let first = self.lengths.first().copied().unwrap_or_default();
            let allowed = PAGES_MAX + usize::from(first <= SHORT_FIRST);
            if self.lengths.len() <= allowed.min(full + EXTRA_PAGES) {
                return;
            }
            self.lengths.clear();
        }
        let mut left = total;
        while left > 0 {
            let part = left.min(PAGE_SIZE);
            self.lengths.push(part as u16);
            left -= part;
        }
    }

    /// Lists the lengths of a packet's pieces. Headers that were copied on their own count with what follows.
    fn list_pieces(&mut self) {
        let mut carried = 0;
        for (position, span) in self.spans.iter().enumerate() {
            let length = span.length + core::mem::take(&mut carried);
            let is_header = position == 0 && matches!(span.start, CopyEnd::Own { .. });
            let next = self.spans.get(position + 1).map_or(0, |next| next.length);
            if is_header && next > 0 && usize::from(length + next) <= PAGE_SIZE {
                carried = length;
            } else {
                self.lengths.push(length);
            }
        }
    }

    /// What was left to others in a packet.
    #[inline]
    pub(super) fn offload_of(&self, packet: Packet) -> Offload {
        match packet {
            Packet::Guest { port, index } => {
                self.guest(port).map(|vif| vif.packet(index).offload).unwrap_or_default()
            }
            Packet::Own(own) => self.own.get(own).offload,
        }
    }

    /// Copies out what we have of a packet's first bytes, and says how many.
    pub(super) fn head_of(&self, packet: Packet, into: &mut [u8; HEADERS_MAX]) -> usize {
        match packet {
            Packet::Guest { port, index } => self.guest(port).map_or(0, |vif| vif.copy_head(index, into)),
            Packet::Own(own) => self.own.copy_head(own, into),
        }
    }

    /// A guest lacks pages. If that has lasted too long, drops what waits for it.
    fn note_blocked(&mut self, port: PortId) {
        let now = self.now;
        if self.guest_mut(port).is_some_and(|vif| vif.note_blocked(now)) {
            self.drop_waiting(port);
        }
    }

    /// A guest broke its ring.
    fn note_fault(&mut self, port: PortId, fault: TxFault) {
        if let Some(vif) = self.guest_mut(port) {
            vif.note_fault(fault);
        }
        self.drop_waiting(port);
    }

    fn drop_waiting(&mut self, port: PortId) {
        while let Some(packet) = self.guest_mut(port).and_then(|vif| vif.take_waiting()) {
            if let Some(vif) = self.guest(port) {
                add(&vif.counters().rx_dropped, 1);
            }
            self.discard(packet, NETIF_RSP_DROPPED);
        }
    }

    /// Answers receivers and senders of what was copied, in the order in which pages were taken.
    pub(super) fn finish_deliveries(&mut self) {
        let mut deliveries = core::mem::take(&mut self.deliveries);
        let mut rest = &deliveries[..];
        while let Some((first, after)) = rest.split_first() {
            self.mark_touched(first.port);
            rest = match self.finish_run(first, rest) {
                0 => {
                    self.finish_delivery(first);
                    after
                }
                finished => &rest[finished..],
            };
        }
        deliveries.clear();
        self.deliveries = deliveries;
        self.slots.clear();
    }

    /// Answers as many deliveries as there are in a row from one guest to another, of one page each, and says how
    /// many.
    fn finish_run(&mut self, first: &Delivery, deliveries: &[Delivery]) -> usize {
        let Packet::Guest { port, .. } = first.packet else { return 0 };
        self.mark_touched(port);
        let Self { guests, copies, .. } = self;
        let Some((sender, receiver)) = two_guests(guests, port, first.port) else { return 0 };
        let (mut finished, mut packets, mut bytes) = (0, 0, 0);
        for delivery in deliveries {
            let copied = delivery.first_copy..delivery.end_copy;
            let (Packet::Guest { port: from, index }, Pages::One(slot, checksum)) =
                (delivery.packet, &delivery.pages)
            else {
                break;
            };
            if from != port || delivery.port != first.port {
                break;
            }
            let is_copied = copied.into_iter().all(|copy| copies.status(copy).is_ok());
            receiver.answer_page(slot, *checksum, is_copied);
            sender.answer(index, if is_copied { NETIF_RSP_OKAY } else { NETIF_RSP_ERROR });
            finished += 1;
            packets += u64::from(is_copied);
            bytes += if is_copied { u64::from(slot.length) } else { 0 };
        }
        let counters = receiver.counters();
        add(&counters.rx_packets, packets);
        add(&counters.rx_bytes, bytes);
        add(&counters.rx_errors, finished as u64 - packets);
        finished
    }

    fn finish_delivery(&mut self, delivery: &Delivery) {
        let is_copied = self.is_copied(delivery.first_copy, delivery.end_copy);
        let length = match &delivery.pages {
            Pages::One(slot, checksum) => {
                let vif = self.guest_mut(delivery.port);
                vif.into_iter().for_each(|vif| vif.answer_page(slot, *checksum, is_copied));
                u64::from(slot.length)
            }
            Pages::Listed(first, end) => self.answer_listed(delivery, *first..*end, is_copied),
        };
        if let Some(vif) = self.guest(delivery.port) {
            let counters = vif.counters();
            if is_copied {
                add(&counters.rx_packets, 1);
                add(&counters.rx_bytes, length);
            } else {
                add(&counters.rx_errors, 1);
            }
        }
        self.discard(delivery.packet, if is_copied { NETIF_RSP_OKAY } else { NETIF_RSP_ERROR });
    }

    /// Answers the pages of a packet that has several, and says how many bytes it has.
    fn answer_listed(&mut self, delivery: &Delivery, listed: Range<usize>, is_copied: bool) -> u64 {
        let offload = self.offload_of(delivery.packet);
        let slots = &self.slots[listed];
        if let Some(vif) = self.guests.get_mut(usize::from(delivery.port.0)).and_then(Option::as_mut) {
            vif.answer_pages(slots, &offload, is_copied);
        }
        slots.iter().map(|slot| u64::from(slot.length)).sum()
    }
}

/// Plans the copy that delivers a packet, and one of its first bytes if those come from somewhere else.
#[inline]
fn plan_copy(
    guest: DomainId,
    port: PortId,
    waiting: &Waiting,
    whole: Whole,
    slot: RxSlot,
    copies: &mut impl GrantCopy,
    deliveries: &mut Vec<Delivery>,
) {
    let place = CopyEnd::Granted { domain: guest, reference: slot.reference, offset: 0 };
    let Whole { all, head } = whole;
    let first_copy = match head {
        None => copies.push(all.start, place, all.length),
        Some(head) => {
            let rest = advance(all.start, head.length);
            copies.push(rest, advance(place, head.length), all.length - head.length);
            copies.push(head.start, place, head.length) - 1
        }
    };
    let (packet, pages) = (waiting.packet, Pages::One(slot, waiting.checksum));
    deliveries.push(Delivery { port, packet, first_copy, end_copy: copies.len(), pages });
}

/// Two guests' interfaces at once.
#[inline]
fn two_guests<V>(guests: &mut [Option<V>], one: PortId, other: PortId) -> Option<(&mut V, &mut V)> {
    let places = [usize::from(one.0), usize::from(other.0)];
    match guests.get_disjoint_mut(places) {
        Ok([Some(one), Some(other)]) => Some((one, other)),
        _ => None,
    }
}
