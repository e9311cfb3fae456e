//! One guest's interface: its two rings, and what waits for it.
//!
//! A packet that the guest sends stays in the guest's pages until it has been copied to where it goes; until
//! then its slots have no answer. So when a receiver is slow, the sender's own ring fills up, and no memory of
//! ours does. A receiver that does not post pages for too long is *stalled*: it gets nothing more until it
//! does, and nobody waits for it.

use alloc::collections::VecDeque;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::time::Duration;

use hypercall_abi::io::netif::*;
use hypercall_abi::{DomainId, Errno, GrantReference, MachineFrame, PAGE_SIZE};
use pv_runtime::executor::Notify;
use pv_runtime::grant::CopyEnd;
use pv_runtime::memory::{Page, SharedMemory};
use ring::{BackRing, NetifRx, NetifTx, RingMemory};

use super::counters::{VifCounters, add};
use super::ethernet::{Addresses, MacAddress, Tag, Vlan};
use super::headers::HEADERS_MAX;
use super::mac_table::PortId;
use super::offload::{Capabilities, Checksum, Offload};
use super::packet::{Packet, Waiting, Whole};
use super::pool::Pool;
use super::route::RouteCache;
use super::spans::{Span, copy_all};
use super::tx::{Slice, TxFault, TxPacket};
use crate::backend::GrantCopy;

/// Packets that may wait for a guest. Fewer than a ring has slots, so that one slow receiver does not hold all
/// of a sender's.
const WAITING_MAX: usize = 128;
/// How long packets wait for a guest that posts no pages.
const PATIENCE: Duration = Duration::from_millis(500);
/// Bytes that are fetched for the sake of the addresses: two words, which are copied in less time than the addresses.
const ADDRESSES_FETCHED: usize = 16;
/// Places for headers in a page.
const HEADERS_PER_PAGE: usize = PAGE_SIZE / HEADERS_MAX;

/// Where a packet's place among the headers is in its page.
#[inline]
const fn head_offset(index: u16) -> u16 {
    index % HEADERS_PER_PAGE as u16 * HEADERS_MAX as u16
}

/// Sends events to a guest.
pub trait Channel {
    /// Sends one.
    fn notify(&self);
}

/// What the guest's front end negotiated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FrontEnd {
    /// What it can do with packets it receives.
    pub capabilities: Capabilities,
    /// Whether it sends events for pages that it posts.
    pub notifies_rx: bool,
}

/// What of the guest's packets is let through, and where.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Admission {
    /// The virtual network that the interface is in.
    pub vlan: Vlan,
    /// The only address that the guest may send from; if none is said, from any.
    pub source: Option<MacAddress>,
}

impl Admission {
    /// Whether a packet with these addresses may be sent. One with a tag might end up in another network.
    #[inline]
    fn admits(&self, addresses: &Addresses, counters: &VifCounters) -> bool {
        if addresses.tag() != Tag::None {
            add(&counters.tagged, 1);
            return false;
        }
        if self.source.is_some_and(|source| source != addresses.source) {
            add(&counters.spoofed, 1);
            return false;
        }
        true
    }
}

/// A connected front end: its rings and how to reach it.
pub struct Connection<M, C> {
    /// The guest.
    pub guest: DomainId,
    /// What it negotiated.
    pub front_end: FrontEnd,
    /// What it may send.
    pub admission: Admission,
    /// Packets from it.
    pub tx: BackRing<NetifTx, M>,
    /// Packets to it.
    pub rx: BackRing<NetifRx, M>,
    /// For events about `tx`.
    pub tx_channel: C,
    /// For events about `rx`; none if it shares the one of `tx`.
    pub rx_channel: Option<C>,
    /// Rung when the interface needs its task's attention though the guest sent no event.
    pub bell: Rc<Notify>,
    /// What the interface did.
    pub counters: Rc<VifCounters>,
}

/// A page for the headers of packets that are still in their guest's pages.
#[derive(Debug)]
struct HeaderPage {
    page: Page,
    frame: MachineFrame,
}

/// A page that the guest posted, and how many bytes it is to get.
#[derive(Clone, Copy, Debug)]
pub struct RxSlot {
    /// The guest's number for it.
    pub id: u16,
    /// The grant of the page.
    pub reference: GrantReference,
    /// Bytes that will be copied to its start.
    pub length: u16,
}

/// A guest's interface.
pub struct Vif<M, C> {
    connection: Connection<M, C>,
    /// Packets from the guest whose slots have no answer yet.
    packets: Pool<TxPacket>,
    header_pages: Vec<HeaderPage>,
    /// Packets for the guest.
    waiting: VecDeque<Waiting>,
    /// Since when the first of them has waited for pages.
    blocked_since: Option<Duration>,
    /// The guest did not post pages for too long.
    is_stalled: bool,
    /// What the guest did wrong; nothing more is done for it.
    fault: Option<TxFault>,
    /// Answers were pushed that the guest does not see yet.
    has_answers: bool,
    /// Where its last packet went.
    pub route: RouteCache,
}

impl<M: RingMemory, C: Channel> Vif<M, C> {
    /// An interface with nothing under way.
    pub fn new(mut connection: Connection<M, C>) -> Self {
        let capabilities = &mut connection.front_end.capabilities;
        *capabilities = capabilities.consistent();
        Self {
            connection,
            packets: Pool::default(),
            header_pages: Vec::new(),
            waiting: VecDeque::new(),
            blocked_since: None,
            is_stalled: false,
            fault: None,
            has_answers: false,
            route: RouteCache::default(),
        }
    }

    /// The guest.
    pub fn guest(&self) -> DomainId {
        self.connection.guest
    }

    /// What the guest can do with packets that it receives.
    #[inline]
    pub fn capabilities(&self) -> &Capabilities {
        &self.connection.front_end.capabilities
    }

    /// The virtual network that the interface is in.
    #[inline]
    pub fn vlan(&self) -> Vlan {
        self.connection.admission.vlan
    }

    /// Whether the guest may send a packet with these addresses; counts it if not.
    #[inline]
    pub fn admits(&self, addresses: &Addresses) -> bool {
        self.connection.admission.admits(addresses, &self.connection.counters)
    }

    /// What the interface did.
    #[inline]
    pub fn counters(&self) -> &VifCounters {
        &self.connection.counters
    }

    /// What the guest did wrong.
    pub fn fault(&self) -> Option<TxFault> {
        self.fault
    }

    /// Notes that the guest did something wrong, and wakes the interface's task to deal with it.
    pub fn note_fault(&mut self, fault: TxFault) {
        self.fault = Some(fault);
        self.connection.bell.ring();
    }

    // ---- packets from the guest

    /// Takes the next packet off the tx ring; its number if it is to be forwarded. Others are answered.
    #[inline]
    pub fn take_packet(&mut self) -> Result<Option<u16>, TxFault> {
        use super::tx::Taken;
        loop {
            // There are no more packets than slots in the ring, and numbers for many times as many.
            let Some(index) = self.packets.take() else { return Ok(None) };
            match self.packets.get_mut(index).take(&mut self.connection.tx) {
                Ok(Taken::Packet) => return Ok(Some(index)),
                Ok(Taken::Refused) => self.answer(index, NETIF_RSP_ERROR),
                Ok(Taken::Nothing) => {
                    self.packets.put(index);
                    return Ok(None);
                }
                Err(fault) => {
                    self.packets.put(index);
                    return Err(fault);
                }
            }
        }
    }

    /// Packets whose slots have no answer yet.
    #[cfg(test)]
    pub fn packets_in_use(&self) -> usize {
        self.packets.in_use()
    }

    /// A packet of the guest.
    #[inline]
    pub fn packet(&self, index: u16) -> &TxPacket {
        self.packets.get(index)
    }

    /// Has a packet's first bytes copied to its place among the headers, to be delivered from there: all of a short
    /// packet, the headers of one that may have to be cut, of others the addresses. So a guest that changes them
    /// later changes nothing.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    #[inline]
    pub fn fetch_head(
        &mut self,
        index: u16,
        copies: &mut impl GrantCopy,
        spans: &mut Vec<Span>,
    ) -> Result<(), Errno> {
        let (page, offset) = (usize::from(index) / HEADERS_PER_PAGE, head_offset(index));
        while self.header_pages.len() <= page {
            let page = Page::new()?;
            let frame = page.machine_frame();
            self.header_pages.push(HeaderPage { page, frame });
        }
        let place = CopyEnd::Own { frame: self.header_pages[page].frame, offset };
        let packet = self.packets.get_mut(index);
        let is_short = usize::from(packet.length) <= HEADERS_MAX;
        let needs_headers = is_short || packet.offload.segmentation.is_some();
        let wanted = if needs_headers { HEADERS_MAX } else { ADDRESSES_FETCHED };
        let length = packet.length.min(wanted as u16);
        packet.head_length = length;
        let (domain, first) = (self.connection.guest, packet.first);
        if first.length >= length {
            let start = CopyEnd::Granted { domain, reference: first.reference, offset: first.offset };
            copies.push(start, place, length);
        } else {
            spans.clear();
            packet.list_slices(domain, 0, spans);
            copy_all(copies, spans, core::iter::once(Span { start: place, length }));
        }
        Ok(())
    }

    /// The page and the place in it where a packet's first bytes were copied.
    #[inline]
    fn head(&self, index: u16) -> (&HeaderPage, u16) {
        (&self.header_pages[usize::from(index) / HEADERS_PER_PAGE], head_offset(index))
    }

    /// The addresses of a packet whose first bytes were copied.
    #[inline]
    pub fn addresses(&self, index: u16) -> Addresses {
        let (page, offset) = self.head(index);
        Addresses::in_page(&page.page, offset.into())
    }

    /// Copies out what was copied of a packet's first bytes, and says how much it is.
    pub fn copy_head(&self, index: u16, into: &mut [u8; HEADERS_MAX]) -> usize {
        let (page, offset) = self.head(index);
        let length = usize::from(self.packet(index).head_length).min(HEADERS_MAX);
        SharedMemory::copy_out(&page.page, offset.into(), &mut into[..length]);
        length
    }

    /// Lists where all bytes of a packet are: some perhaps with us, the rest with the guest.
    #[inline]
    pub fn spans(&self, index: u16, spans: &mut Vec<Span>) {
        let packet = self.packet(index);
        spans.extend(self.head_span(index));
        packet.list_slices(self.connection.guest, packet.head_length, spans);
    }

    /// Where a packet's first bytes were copied, if they were.
    #[inline]
    fn head_span(&self, index: u16) -> Option<Span> {
        let length = self.packet(index).head_length;
        if length == 0 {
            return None;
        }
        let (page, offset) = self.head(index);
        Some(Span { start: CopyEnd::Own { frame: page.frame, offset }, length })
    }

    /// Where all bytes of a packet are, if they lie together and it is not to be cut.
    #[inline]
    pub fn whole(&self, index: u16) -> Option<Whole> {
        let packet = self.packet(index);
        if packet.offload.segmentation.is_some() {
            return None;
        }
        let head = self.head_span(index);
        if let Some(all) = head.filter(|head| head.length == packet.length) {
            return Some(Whole { all, head: None });
        }
        if !packet.rest.is_empty() {
            return None;
        }
        let Slice { reference, offset, length, .. } = packet.first;
        let start = CopyEnd::Granted { domain: self.connection.guest, reference, offset };
        Some(Whole { all: Span { start, length }, head })
    }

    /// What a port's queue notes of a packet of the guest, whose port is `port`.
    #[inline]
    pub fn describe(&self, port: PortId, index: u16) -> Waiting {
        let checksum = self.packet(index).offload.checksum;
        Waiting { packet: Packet::Guest { port, index }, whole: self.whole(index), checksum }
    }

    /// Answers all slots of a packet, and forgets it.
    #[inline]
    pub fn answer(&mut self, index: u16, status: i16) {
        let packet = self.packets.get(index);
        let ring = &mut self.connection.tx;
        let answered = ring.push_response(&NetifTxResponse { id: packet.first.id, status });
        debug_assert!(answered.is_ok(), "a slot is answered once");
        if packet.slots() > 1 {
            packet.answer_further_slots(ring, status);
        }
        if status != NETIF_RSP_OKAY {
            add(&self.connection.counters.tx_errors, 1);
        }
        self.packets.put(index);
        self.has_answers = true;
    }

    // ---- packets for the guest

    /// Queues a packet for the guest; says whether there was room.
    #[inline]
    pub fn enqueue(&mut self, packet: Waiting) -> bool {
        if self.is_stalled || self.fault.is_some() || self.waiting.len() >= WAITING_MAX {
            add(&self.connection.counters.rx_dropped, 1);
            return false;
        }
        self.waiting.push_back(packet);
        true
    }

    /// Whether a packet for the guest would be the first to be delivered.
    #[inline]
    pub fn is_ready(&self) -> bool {
        self.waiting.is_empty() && !self.is_stalled && self.fault.is_none()
    }

    /// The packet that has waited longest.
    #[inline]
    pub fn first_waiting(&self) -> Option<Waiting> {
        self.waiting.front().copied()
    }

    /// Whether one copy into one page delivers a packet.
    #[inline]
    pub fn takes_whole(&self, waiting: &Waiting) -> Option<Whole> {
        let takes = waiting.checksum != Checksum::Blank || self.capabilities().any_checksum();
        waiting.whole.filter(|whole| takes && usize::from(whole.all.length) <= PAGE_SIZE)
    }

    /// Takes that packet out of the queue.
    #[inline]
    pub fn take_waiting(&mut self) -> Option<Packet> {
        self.waiting.pop_front().map(|waiting| waiting.packet)
    }

    /// Takes out every packet that `port` sent and that waits here.
    pub fn forget_packets_of(&mut self, port: PortId) {
        self.waiting.retain(
            |waiting| !matches!(waiting.packet, Packet::Guest { port: sender, .. } if sender == port),
        );
    }

    /// Whether the guest has posted `slots` pages. If not, it will send an event when it has.
    #[inline]
    pub fn has_posted(&mut self, slots: u32) -> Result<bool, TxFault> {
        Ok(!self.connection.rx.final_check_for_many_requests(slots)?.may_wait())
    }

    /// Takes a posted page, to get `length` bytes.
    #[inline]
    pub fn take_page(&mut self, length: u16) -> Result<Option<RxSlot>, TxFault> {
        let request = self.connection.rx.take_request()?;
        Ok(request.map(|request| RxSlot { id: request.id, reference: request.gref, length }))
    }

    /// Answers the only page of a packet.
    #[inline]
    pub fn answer_page(&mut self, slot: &RxSlot, checksum: Checksum, is_copied: bool) {
        let status = if is_copied { slot.length as i16 } else { NETIF_RSP_ERROR };
        let flags = Offload { checksum, segmentation: None }.rx_flags();
        let answered =
            self.connection.rx.push_response(&NetifRxResponse { id: slot.id, offset: 0, flags, status });
        debug_assert!(answered.is_ok(), "a page is answered once");
        self.has_answers = true;
        self.blocked_since = None;
    }

    /// Answers the pages of a packet, in the order in which they were taken. With `segmentation` the second
    /// page carries extra info instead of data.
    #[inline]
    pub fn answer_pages(&mut self, slots: &[RxSlot], offload: &Offload, is_copied: bool) {
        let extra = offload.segmentation.map(|segmentation| segmentation.to_extra());
        let last = slots.len() - 1;
        for (position, slot) in slots.iter().enumerate() {
            let response = match extra {
                Some(extra) if position == 1 => NetifExtraInfo::from(extra).into(),
                _ => {
                    let is_last = position == last || (position == 0 && extra.is_some() && last == 1);
                    let mut flags = if is_last { 0 } else { NETRXF_MORE_DATA };
                    if position == 0 {
                        flags |= offload.rx_flags();
                        flags |= if extra.is_some() { NETRXF_EXTRA_INFO } else { 0 };
                    }
                    let status = if is_copied { slot.length as i16 } else { NETIF_RSP_ERROR };
                    NetifRxResponse { id: slot.id, offset: 0, flags, status }
                }
            };
            let answered = self.connection.rx.push_response(&response);
            debug_assert!(answered.is_ok(), "a page is answered once");
        }
        self.has_answers = true;
        self.blocked_since = None;
    }

    /// Notes that the first waiting packet lacks pages. Says whether the guest has run out of time: then all
    /// that waits is to be dropped.
    pub fn note_blocked(&mut self, now: Duration) -> bool {
        if !self.connection.front_end.notifies_rx {
            return true;
        }
        let Some(since) = self.blocked_since else {
            self.blocked_since = Some(now);
            // Its task has to set a timer.
            self.connection.bell.ring();
            return false;
        };
        self.is_stalled = now.saturating_sub(since) >= PATIENCE;
        if self.is_stalled {
            self.blocked_since = None;
        }
        self.is_stalled
    }

    /// Until when the first waiting packet waits.
    pub fn deadline(&self) -> Option<Duration> {
        self.blocked_since.map(|since| since + PATIENCE)
    }

    /// Whether the guest was given up for posting no pages, and has posted some since.
    pub fn revive(&mut self) -> Result<(), TxFault> {
        if self.is_stalled && self.has_posted(1)? {
            self.is_stalled = false;
        }
        Ok(())
    }

    // ---- both

    /// Shows all answers to the guest, and sends the events that it asked for.
    #[inline]
    pub fn commit(&mut self) {
        if !core::mem::take(&mut self.has_answers) {
            return;
        }
        let Connection { tx, rx, tx_channel, rx_channel, .. } = &mut self.connection;
        let (tx_wants, rx_wants) = (tx.commit_responses().needed(), rx.commit_responses().needed());
        let shares = rx_channel.is_none();
        if tx_wants || (rx_wants && shares) {
            tx_channel.notify();
        }
        if let (true, Some(channel)) = (rx_wants, rx_channel) {
            channel.notify();
        }
    }

    /// Whether `count` slots with packets wait. If not, the guest will send an event when they do.
    #[inline]
    pub fn has_more(&mut self, count: u32) -> Result<bool, TxFault> {
        Ok(!self.connection.tx.final_check_for_many_requests(count)?.may_wait())
    }

    /// Gives the rings back.
    pub fn into_connection(self) -> Connection<M, C> {
        self.connection
    }
}
