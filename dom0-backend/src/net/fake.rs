//! The other ends for tests: an interface that keeps what is sent, and guests with rings of their own.

use alloc::collections::VecDeque;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::sync::atomic::AtomicU32;
use std::sync::Arc;

use hypercall_abi::io::netif::*;
use hypercall_abi::{DomainId, GrantReference, PAGE_SIZE};
use pv_runtime::grant::GrantAccess;
use pv_runtime::memory::{Page, SharedMemory};
use ring::{BackRing, FrontRing, NetifRx, NetifTx};

use super::*;
use crate::backend::fake::{FakeCopy, FakeHypervisor};

pub type Shared = Arc<[AtomicU32]>;

/// Counts the events that a guest is sent.
#[derive(Clone, Default)]
pub struct FakeChannel(pub Rc<Cell<usize>>);

impl Channel for FakeChannel {
    fn notify(&self) {
        self.0.set(self.0.get() + 1);
    }
}

/// A frame as it went out on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    pub bytes: Vec<u8>,
    pub blank_checksum: bool,
    pub segmentation: Option<Segmentation>,
}

/// The wire's side of the interface, shared between the switch and the test.
#[derive(Default)]
pub struct Wire {
    pub capabilities: Cell<Capabilities>,
    pub sent: RefCell<Vec<Sent>>,
    /// Tokens of frames whose sending the test has not ended.
    pub sending: RefCell<VecDeque<u16>>,
    /// Whether frames are sent at once.
    pub is_instant: Cell<bool>,
    pub room: Cell<usize>,
    pub is_unplugged: Cell<bool>,
    done: RefCell<VecDeque<u16>>,
    offered: RefCell<VecDeque<BufferId>>,
    incoming: RefCell<VecDeque<(Vec<u8>, Offload)>>,
    pub wants_sent_interrupt: Cell<bool>,
}

impl Wire {
    /// Ends the sending of the oldest frame.
    pub fn finish_one(&self) {
        if let Some(token) = self.sending.borrow_mut().pop_front() {
            self.room.set(self.room.get() + 1);
            self.done.borrow_mut().push_back(token);
        }
    }

    /// Lets a frame come in.
    pub fn receive(&self, frame: &[u8], offload: Offload) {
        self.incoming.borrow_mut().push_back((frame.to_vec(), offload));
    }

    pub fn buffers_offered(&self) -> usize {
        self.offered.borrow().len()
    }
}

/// The interface.
pub struct FakeInterface(pub Rc<Wire>);

impl Interface for FakeInterface {
    fn address(&self) -> MacAddress {
        MacAddress::new([2, 0, 0, 0, 0, 0xff])
    }

    fn capabilities(&self) -> Capabilities {
        self.0.capabilities.get()
    }

    fn link_is_up(&self) -> bool {
        !self.0.is_unplugged.get()
    }

    fn send_room(&self) -> usize {
        self.0.room.get()
    }

    fn send(&mut self, buffers: &Buffers, frame: &Outgoing<'_>, token: u16) {
        let mut bytes = Vec::new();
        for piece in frame.pieces {
            let mut part = alloc::vec![0; usize::from(piece.length)];
            SharedMemory::copy_out(buffers.page(piece.buffer), piece.offset.into(), &mut part);
            bytes.extend(part);
        }
        let (blank_checksum, segmentation) = (frame.blank_checksum.is_some(), frame.segmentation);
        self.0.sent.borrow_mut().push(Sent { bytes, blank_checksum, segmentation });
        let room = self.0.room.get().checked_sub(1).expect("the switch asks for room first");
        self.0.room.set(room);
        self.0.sending.borrow_mut().push_back(token);
        if self.0.is_instant.get() {
            self.0.finish_one();
        }
    }

    fn take_sent(&mut self) -> Option<u16> {
        self.0.done.borrow_mut().pop_front()
    }

    fn receive_room(&self) -> usize {
        64 - self.0.offered.borrow().len()
    }

    fn offer(&mut self, _: &Buffers, buffer: BufferId) {
        self.0.offered.borrow_mut().push_back(buffer);
    }

    fn take_received(&mut self, buffers: &Buffers, pieces: &mut Vec<Piece>) -> Received {
        let Some((frame, offload)) = self.0.incoming.borrow_mut().pop_front() else {
            return Received::Nothing;
        };
        let (mut rest, mut offset) = (&frame[..], FRAME_START);
        while !rest.is_empty() {
            let buffer = self.0.offered.borrow_mut().pop_front().expect("the test offers enough");
            let (part, after) = rest.split_at(rest.len().min(PAGE_SIZE - usize::from(offset)));
            SharedMemory::copy_in(buffers.page(buffer), offset.into(), part);
            pieces.push(Piece { buffer, offset, length: part.len() as u16 });
            (rest, offset) = (after, 4);
        }
        Received::Frame(offload)
    }

    fn kick(&mut self) {}

    fn ask_for_interrupts(&mut self, received: u16, sent: bool) -> bool {
        self.0.wants_sent_interrupt.set(sent);
        self.0.incoming.borrow().len() >= usize::from(received) || (sent && !self.0.done.borrow().is_empty())
    }
}

/// The platform of tests.
pub enum Fake {}

impl Platform for Fake {
    type Ring = Shared;
    type Channel = FakeChannel;
    type Copy = FakeCopy;
    type Interface = FakeInterface;
}

/// A packet that a guest received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivered {
    pub bytes: Vec<u8>,
    pub flags: u16,
    pub segmentation: Option<Segmentation>,
    pub pages: usize,
}

/// A guest's front end.
pub struct Guest {
    pub domain: DomainId,
    pub port: PortId,
    pub tx: FrontRing<NetifTx, Shared>,
    pub rx: FrontRing<NetifRx, Shared>,
    pub tx_shared: Shared,
    pub rx_shared: Shared,
    hypervisor: Rc<FakeHypervisor>,
    /// Pages posted, in the order of their slots.
    posted: VecDeque<Page>,
    /// Pages of packets sent, kept for the test's length.
    sent: Vec<Page>,
    pub events: FakeChannel,
    pub counters: Rc<VifCounters>,
    next_id: u16,
}

fn shared() -> Shared {
    (0..1024).map(|_| AtomicU32::new(0)).collect()
}

impl Guest {
    /// Connects a guest to the switch.
    pub fn connect(
        switch: &mut Switch<Fake>,
        hypervisor: &Rc<FakeHypervisor>,
        domain: u16,
        capabilities: Capabilities,
        admission: Admission,
    ) -> Self {
        let (tx_shared, rx_shared) = (shared(), shared());
        let tx = FrontRing::new(Arc::clone(&tx_shared)).expect("a page is enough");
        let rx = FrontRing::new(Arc::clone(&rx_shared)).expect("a page is enough");
        let (events, counters) = (FakeChannel::default(), Rc::<VifCounters>::default());
        let connection = Connection {
            guest: DomainId(domain),
            front_end: FrontEnd { capabilities, notifies_rx: true },
            admission,
            tx: BackRing::attach(Arc::clone(&tx_shared)).expect("a fresh ring"),
            rx: BackRing::attach(Arc::clone(&rx_shared)).expect("a fresh ring"),
            tx_channel: events.clone(),
            rx_channel: None,
            bell: Rc::default(),
            counters: Rc::clone(&counters),
        };
        let Ok(port) = switch.add_guest(connection) else { panic!("there is room for a guest") };
        Self {
            domain: DomainId(domain),
            port,
            tx,
            rx,
            tx_shared,
            rx_shared,
            hypervisor: Rc::clone(hypervisor),
            posted: VecDeque::new(),
            sent: Vec::new(),
            events,
            counters,
            next_id: 0,
        }
    }

    fn id(&mut self) -> u16 {
        self.next_id = self.next_id.wrapping_add(1);
        self.next_id
    }

    /// Posts pages to receive into.
    pub fn post(&mut self, count: usize) {
        for _ in 0..count {
            let page = Page::new().expect("a host has memory");
            let gref = self.hypervisor.grant(self.domain, &page, GrantAccess::ReadWrite);
            let id = self.id();
            self.rx.push_request(&NetifRxRequest { id, pad: 0, gref }).expect("there is room");
            self.posted.push_back(page);
        }
        let _ = self.rx.commit_requests();
    }

    /// Grants a page with these bytes at an offset.
    pub fn grant(&mut self, offset: usize, bytes: &[u8]) -> GrantReference {
        let page = Page::new().expect("a host has memory");
        SharedMemory::copy_in(&page, offset, bytes);
        let reference = self.hypervisor.grant(self.domain, &page, GrantAccess::ReadOnly);
        self.sent.push(page);
        reference
    }

    /// Sends a frame, in slots of the given lengths and the rest in full pages.
    pub fn send(&mut self, frame: &[u8], cuts: &[usize], offload: Offload) {
        let mut parts = Vec::new();
        let (mut rest, mut cuts) = (frame, cuts.iter());
        while !rest.is_empty() {
            let length = cuts.next().copied().unwrap_or(PAGE_SIZE).min(rest.len());
            let (part, after) = rest.split_at(length);
            parts.push(part);
            rest = after;
        }
        let checksum = match offload.checksum {
            Checksum::InPacket => 0,
            Checksum::Validated => NETTXF_DATA_VALIDATED,
            Checksum::Blank => NETTXF_CSUM_BLANK | NETTXF_DATA_VALIDATED,
        };
        for (position, part) in parts.iter().enumerate() {
            let offset = (PAGE_SIZE - part.len()).min(32);
            let gref = self.grant(offset, part);
            let mut flags = if position + 1 < parts.len() { NETTXF_MORE_DATA } else { 0 };
            if position == 0 {
                flags |= checksum;
                flags |= if offload.segmentation.is_some() { NETTXF_EXTRA_INFO } else { 0 };
            }
            let size = if position == 0 { frame.len() } else { part.len() } as u16;
            let id = self.id();
            let request = NetifTxRequest { gref, offset: offset as u16, flags, id, size };
            self.tx.push_request(&request).expect("there is room");
            if let (0, Some(segmentation)) = (position, offload.segmentation) {
                let extra = NetifExtraInfo::from(segmentation.to_extra());
                self.tx.push_request(&extra.into()).expect("there is room");
            }
        }
        let _ = self.tx.commit_requests();
    }

    /// Changes a page of those granted for sending; 1 is the last.
    pub fn overwrite_last(&mut self, from_end: usize, bytes: &[u8]) {
        let page = &self.sent[self.sent.len() - from_end];
        SharedMemory::copy_in(page, 32, bytes);
    }

    /// Takes back the grant of the page that is next to be used.
    pub fn revoke_first_page(&mut self) {
        let page = self.posted.front().expect("there is one");
        self.hypervisor.revoke_page(page.machine_frame());
    }

    /// Has the switch use up all pages that were posted.
    pub fn unpost(&mut self, switch: &mut Switch<Fake>) {
        while !self.posted.is_empty() {
            switch.use_up_page(self.port);
            self.received();
        }
    }

    /// The statuses that came back for slots of data.
    pub fn answers(&mut self) -> Vec<i16> {
        let mut statuses = Vec::new();
        while let Some(response) = self.tx.take_response().expect("a sound back end") {
            if response.status != NETIF_RSP_NULL {
                statuses.push(response.status);
            }
        }
        statuses
    }

    /// Packets that arrived. Ones in error come as `None`.
    pub fn received(&mut self) -> Vec<Option<Delivered>> {
        let mut packets = Vec::new();
        while let Some(first) = self.rx.take_response().expect("a sound back end") {
            packets.push(self.take_packet(first));
        }
        packets
    }

    fn take_packet(&mut self, first: NetifRxResponse) -> Option<Delivered> {
        let mut delivered = Delivered { bytes: Vec::new(), flags: first.flags, segmentation: None, pages: 0 };
        let mut is_sound = self.take_page(&first, &mut delivered);
        if first.flags & NETRXF_EXTRA_INFO != 0 {
            let extra = self.rx.take_response().expect("a sound back end").expect("extra info follows");
            delivered.segmentation = Segmentation::from_extra(&extra.as_extra_info().as_gso());
            self.posted.pop_front();
        }
        let mut flags = first.flags;
        while flags & NETRXF_MORE_DATA != 0 {
            let next = self.rx.take_response().expect("a sound back end").expect("more data follows");
            is_sound &= self.take_page(&next, &mut delivered);
            flags = next.flags;
        }
        is_sound.then_some(delivered)
    }

    fn take_page(&mut self, response: &NetifRxResponse, into: &mut Delivered) -> bool {
        let page = self.posted.pop_front().expect("an answer has its page");
        let Ok(length) = usize::try_from(response.status) else { return false };
        let mut bytes = alloc::vec![0; length];
        SharedMemory::copy_out(&page, response.offset.into(), &mut bytes);
        into.bytes.extend(bytes);
        into.pages += 1;
        true
    }
}
