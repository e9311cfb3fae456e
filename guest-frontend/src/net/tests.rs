//! The front half against a back half in the same process.

mod conversation;
mod hostile;
mod receive;
mod transmit;

use std::sync::atomic::{AtomicU32, Ordering};
use std::vec::Vec;

use hypercall_abi::PAGE_SIZE;
use hypercall_abi::io::netif::*;
use ring::{BackRing, NetifRx, NetifTx};
use smoltcp::phy::{Device, RxToken, TxToken};
use smoltcp::time::Instant;

use super::{Features, NetDevice, Queues, RxQueue, TxQueue};
use crate::buffer::{BackEndMay, PrivateBuffer};
use crate::testing::FakeGrants;

const TIME: Instant = Instant::ZERO;
/// All that a back end can offer.
const ALL_FEATURES: Features =
    Features { scatter_gather: true, blank_checksums: true, segmentation: true, mtu: 1500 };
/// As little as a back end can offer.
const NO_FEATURES: Features =
    Features { scatter_gather: false, blank_checksums: false, segmentation: false, mtu: 1500 };

type Words = &'static [AtomicU32];

/// A packet as the back end finds it on the transmit ring.
#[derive(Debug)]
struct Sent {
    bytes: Vec<u8>,
    flags: u16,
    extra: Option<NetifExtraGso>,
    requests: Vec<NetifTxRequest>,
}

/// The back half of a vif.
struct BackEnd {
    grants: FakeGrants,
    tx: BackRing<NetifTx, Words>,
    rx: BackRing<NetifRx, Words>,
    tx_words: Words,
    rx_words: Words,
}

/// A connected interface and its back end.
fn connected(features: Features) -> (NetDevice<FakeGrants>, BackEnd) {
    let grants = FakeGrants::default();
    let page = || {
        let page = PrivateBuffer::new(1).unwrap().share(&grants, BackEndMay::Write, PAGE_SIZE).unwrap();
        let words = grants.ring_words(page.reference(0));
        (page, words)
    };
    let ((tx_page, tx_words), (rx_page, rx_words)) = (page(), page());
    let tx = TxQueue::new(tx_page, grants.clone()).unwrap();
    let rx = RxQueue::new(rx_page, grants.clone()).unwrap();
    let mut device = NetDevice::new();
    device.attach(Queues { tx, rx }, features);
    let _ = device.flush();
    let back_end = BackEnd {
        grants,
        tx: BackRing::attach(tx_words).unwrap(),
        rx: BackRing::attach(rx_words).unwrap(),
        tx_words,
        rx_words,
    };
    (device, back_end)
}

impl BackEnd {
    /// Takes the requests of the next packet, without an answer.
    fn take_requests(&mut self) -> Option<Sent> {
        let first = self.tx.take_request().unwrap()?;
        let mut sent = Sent { bytes: Vec::new(), flags: first.flags, extra: None, requests: vec![first] };
        if first.flags & NETTXF_EXTRA_INFO != 0 {
            let extra = self.tx.take_request().unwrap().expect("extra information follows").as_extra_info();
            assert_eq!((extra.kind, extra.flags), (XEN_NETIF_EXTRA_TYPE_GSO, 0));
            sent.extra = Some(extra.as_gso());
        }
        while sent.requests.last().unwrap().flags & NETTXF_MORE_DATA != 0 {
            sent.requests.push(self.tx.take_request().unwrap().expect("another part follows"));
        }
        let rest: usize = sent.requests[1..].iter().map(|request| usize::from(request.size)).sum();
        for (index, request) in sent.requests.iter().enumerate() {
            let size = usize::from(request.size) - if index == 0 { rest } else { 0 };
            assert!(usize::from(request.offset) + size <= PAGE_SIZE);
            sent.bytes.extend(self.grants.read(request.gref, request.offset.into(), size));
        }
        Some(sent)
    }

    /// Answers for a packet, slot by slot.
    fn answer(&mut self, sent: &Sent, status: i16) {
        for (index, request) in sent.requests.iter().enumerate() {
            self.tx.push_response(&NetifTxResponse { id: request.id, status }).unwrap();
            if index == 0 && sent.extra.is_some() {
                self.tx.push_response(&NetifTxResponse { id: 0xdead, status: NETIF_RSP_NULL }).unwrap();
            }
        }
        let _ = self.tx.commit_responses();
    }

    /// Takes the next packet and answers that all went well.
    fn take(&mut self) -> Option<Sent> {
        let sent = self.take_requests()?;
        self.answer(&sent, NETIF_RSP_OKAY);
        Some(sent)
    }

    /// Answers one receive request after having written `bytes` into its page.
    fn fill_slot(&mut self, offset: usize, bytes: &[u8], flags: u16) {
        let request = self.rx.take_request().unwrap().expect("a page is posted");
        self.grants.write(request.gref, offset, bytes);
        let status = bytes.len() as i16;
        self.rx
            .push_response(&NetifRxResponse { id: request.id, offset: offset as u16, flags, status })
            .unwrap();
    }

    /// Answers one receive request with whatever `change` makes of an honest answer for 100 bytes.
    fn fill_slot_with(&mut self, change: impl FnOnce(&mut NetifRxResponse)) {
        let request = self.rx.take_request().unwrap().expect("a page is posted");
        let flags = NETRXF_DATA_VALIDATED;
        let mut response = NetifRxResponse { id: request.id, offset: 0, flags, status: 100 };
        change(&mut response);
        self.rx.push_response(&response).unwrap();
    }

    /// Puts extra information into the slot of a receive request.
    fn fill_slot_with_extra(&mut self, extra: NetifExtraInfo) {
        self.rx.take_request().unwrap().expect("a page is posted");
        self.rx.push_response(&extra.into()).unwrap();
    }

    /// Shows the answers to receive requests.
    fn commit_received(&mut self) -> bool {
        self.rx.commit_responses().needed()
    }

    /// Delivers a packet as Linux does: full pages, and extra information if it is to be cut.
    fn deliver(&mut self, packet: &[u8], flags: u16, segment_size: Option<u16>) {
        let parts = packet.chunks(PAGE_SIZE).count();
        for (index, part) in packet.chunks(PAGE_SIZE).enumerate() {
            let more = if index + 1 < parts { NETRXF_MORE_DATA } else { 0 };
            let first = index == 0;
            let extra = if first && segment_size.is_some() { NETRXF_EXTRA_INFO } else { 0 };
            self.fill_slot(0, part, more | extra | if first { flags } else { 0 });
            if first && let Some(size) = segment_size {
                let gso_type = XEN_NETIF_GSO_TYPE_TCPV4;
                let kind = XEN_NETIF_EXTRA_TYPE_GSO;
                let gso = NetifExtraGso { kind, size, gso_type, ..Default::default() };
                self.fill_slot_with_extra(gso.into());
            }
        }
        self.commit_received();
    }

    /// Writes a word of the header of a ring.
    fn poke(words: Words, index: usize, value: u32) {
        words[index].store(value, Ordering::SeqCst);
    }
}

/// The word of a ring's header that holds the back end's producer index.
const RESPONSE_PRODUCER: usize = 2;

/// Sends a packet in a turn of its own. Returns whether there was room.
fn send(device: &mut NetDevice<FakeGrants>, packet: &[u8]) -> bool {
    device.begin();
    let sent = send_in_turn(device, packet);
    let _ = device.flush();
    sent
}

/// Sends a packet, to be handed over with the others of the turn.
fn send_in_turn(device: &mut NetDevice<FakeGrants>, packet: &[u8]) -> bool {
    let Some(token) = device.transmit(TIME) else { return false };
    token.consume(packet.len(), |buffer| buffer.copy_from_slice(packet));
    true
}

/// Receives a packet in a turn of its own.
fn receive(device: &mut NetDevice<FakeGrants>) -> Option<Vec<u8>> {
    device.begin();
    let packet = receive_in_turn(device);
    let _ = device.flush();
    packet
}

/// Receives a packet.
fn receive_in_turn(device: &mut NetDevice<FakeGrants>) -> Option<Vec<u8>> {
    let (rx, _) = device.receive(TIME)?;
    Some(rx.consume(<[u8]>::to_vec))
}

/// Bytes that are no protocol in particular, of an unknown Ethernet type.
fn noise(length: usize) -> Vec<u8> {
    (0..length).map(|index| (index * 7 + index / 256) as u8 | 0x80).collect()
}
