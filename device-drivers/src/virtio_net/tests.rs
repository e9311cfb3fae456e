//! The driver against a device that sends and receives by hand.

use alloc::rc::Rc;
use std::vec::Vec;

use super::*;
use crate::net::Headers;
use crate::virtio::QueueAddresses;
use crate::virtio::fake::{FakeQueue, FakeRegisters, read_memory, write_memory};

struct Device {
    driver: VirtioNet<Rc<FakeRegisters>>,
    config: Rc<FakeRegisters>,
    buffers: Buffers,
    receive: FakeQueue,
    send: FakeQueue,
}

fn device(features: u64) -> Device {
    let common = Rc::new(FakeRegisters::new(56).with_features(feature::VERSION_1 | features));
    common.set_u16(0x12, 2);
    common.set_u16(0x18, 16);
    let config = Rc::new(FakeRegisters::new(12));
    config.put(0, &[2, 1, 2, 3, 4, 5]);
    let notify = Rc::new(FakeRegisters::new(4));
    let transport = Transport::begin(common, notify, 4, Some(Rc::clone(&config))).expect("no fault");
    let vectors = Vectors { configuration: 0, receive: 1, send: 2 };
    let driver = VirtioNet::start(transport, vectors, Offloads::Taken).expect("a sound device");
    let side = |addresses: QueueAddresses| FakeQueue::new(16, addresses);
    let receive = side(driver.receive.queue.addresses());
    let send = side(driver.send.queue.addresses());
    Device { driver, config, buffers: Buffers::new(64), receive, send }
}

impl Device {
    fn offer_all(&mut self) {
        for _ in 0..self.driver.receive_room() {
            let buffer = self.buffers.take().expect("below the limit");
            self.driver.offer(&self.buffers, buffer);
        }
        self.driver.kick();
    }

    /// Writes into the next offered buffer and completes it.
    fn write_received(&mut self, bytes: &[u8]) {
        let taken = self.receive.take().expect("a buffer is offered");
        let [buffer] = taken.buffers[..] else { panic!("one buffer each") };
        assert_eq!((buffer.length, buffer.is_written), (4092, true));
        write_memory(buffer.address, bytes);
        self.receive.complete(taken.head.into(), bytes.len() as u32);
    }

    fn take_received(&mut self) -> (Received, Vec<(u16, u16)>) {
        let mut pieces = Vec::new();
        let received = self.driver.take_received(&self.buffers, &mut pieces);
        let shapes = pieces.iter().map(|piece| (piece.offset, piece.length)).collect();
        self.buffers.put_pieces(&mut pieces);
        (received, shapes)
    }

    /// The bytes of the next frame that the driver sends, its header in front.
    fn next_sent(&mut self) -> Vec<u8> {
        let taken = self.send.take().expect("a frame is sent");
        let mut bytes = Vec::new();
        for buffer in &taken.buffers {
            assert!(!buffer.is_written);
            let mut part = alloc::vec![0; buffer.length as usize];
            read_memory(buffer.address, &mut part);
            bytes.extend(part);
        }
        self.send.complete(taken.head.into(), 0);
        bytes
    }
}

/// A header as the device writes it.
fn header(flags: u8, kind: u8, size: u16, buffers: u16) -> [u8; 12] {
    let mut header = [0; 12];
    header[0] = flags;
    header[1] = kind;
    header[4..6].copy_from_slice(&size.to_le_bytes());
    header[10..12].copy_from_slice(&buffers.to_le_bytes());
    header
}

fn frame_in(buffers: &mut Buffers, bytes: &[u8]) -> Vec<Piece> {
    let mut pieces = Vec::new();
    assert!(buffers.take_for_frame(bytes.len(), &mut pieces));
    let mut rest = bytes;
    for piece in &pieces {
        let (part, after) = rest.split_at(piece.length.into());
        SharedMemory::copy_in(buffers.page(piece.buffer), piece.offset.into(), part);
        rest = after;
    }
    pieces
}

#[test]
fn the_address_is_the_devices() {
    assert_eq!(device(MAC).driver.address(), MacAddress::new([2, 1, 2, 3, 4, 5]));
    assert_eq!(device(0).driver.address(), ADDRESS_IF_NONE);
}

#[test]
fn the_link_is_up_unless_the_device_says_otherwise() {
    assert!(device(0).driver.link_is_up());
    let device = device(STATUS);
    assert!(!device.driver.link_is_up());
    device.config.set_u16(STATUS_REGISTER, STATUS_LINK_UP);
    assert!(device.driver.link_is_up());
}

#[test]
fn capabilities_follow_features() {
    assert_eq!(device(0).driver.capabilities(), Capabilities { scatter: true, ..Capabilities::default() });
    let all = device(CSUM | HOST_TSO4 | HOST_TSO6).driver.capabilities();
    assert!(all.any_checksum() && all.segmentation_v4 && all.segmentation_v6);
    assert!(!device(HOST_TSO4).driver.capabilities().segmentation_v4, "not without checksums");
}

#[test]
fn large_frames_are_accepted_only_in_several_buffers() {
    assert!(!device(GUEST_CSUM | GUEST_TSO4).driver.has(GUEST_TSO4));
    assert!(device(GUEST_CSUM | GUEST_TSO4 | MRG_RXBUF).driver.has(GUEST_TSO4));
}

#[test]
fn a_frame_is_sent_with_an_empty_header() {
    let mut device = device(0);
    let pieces = frame_in(&mut device.buffers, &[7; 5000]);
    let frame = Outgoing { pieces: &pieces, blank_checksum: None, segmentation: None };
    device.driver.send(&device.buffers, &frame, 42);
    assert_eq!(device.driver.send_room(), 14);
    device.driver.kick();
    assert_eq!(device.next_sent(), [&[0; 12][..], &[7; 5000]].concat());
    assert_eq!(device.driver.take_sent(), Some(42));
    assert_eq!((device.driver.take_sent(), device.driver.send_room()), (None, 16));
}

#[test]
fn checksum_and_segmentation_are_left_to_the_device() {
    let mut device = device(CSUM | HOST_TSO4);
    let frame = crate::net::frames::tcp_v4(3000);
    let headers = Headers::parse(&frame[..128], frame.len()).expect("TCP");
    let pieces = frame_in(&mut device.buffers, &frame);
    let segmentation = Some(Segmentation { version: IpVersion::V4, size: 1448 });
    let outgoing = Outgoing { pieces: &pieces, blank_checksum: Some(headers), segmentation };
    device.driver.send(&device.buffers, &outgoing, 0);
    device.driver.kick();
    let sent = device.next_sent();
    assert_eq!(sent[..12], [1, 1, 54, 0, 0xa8, 5, 34, 0, 16, 0, 0, 0]);
    assert_eq!(sent[12..], frame);
}

#[test]
fn a_received_frame_is_where_it_was_written() {
    let mut device = device(GUEST_CSUM);
    device.offer_all();
    device.write_received(&[&header(2, 0, 0, 0)[..], &[9; 60]].concat());
    let validated = Offload { checksum: Checksum::Validated, segmentation: None };
    assert_eq!(device.take_received(), (Received::Frame(validated), Vec::from([(16, 60)])));
    assert_eq!(device.take_received(), (Received::Nothing, Vec::new()));
    assert_eq!(device.driver.receive_room(), 1);
}

#[test]
fn a_large_frame_fills_several_buffers() {
    let mut device = device(GUEST_CSUM | GUEST_TSO4 | MRG_RXBUF);
    device.offer_all();
    device.write_received(&[&header(1, 1, 1448, 3)[..], &[1; 4080]].concat());
    device.write_received(&[2; 4092]);
    device.write_received(&[3; 100]);
    let offload = Offload {
        checksum: Checksum::Blank,
        segmentation: Some(Segmentation { version: IpVersion::V4, size: 1448 }),
    };
    let pieces = Vec::from([(16, 4080), (4, 4092), (4, 100)]);
    assert_eq!(device.take_received(), (Received::Frame(offload), pieces));
}

#[test]
fn frames_that_make_no_sense_give_their_buffers_back() {
    let mut device = device(MRG_RXBUF);
    device.offer_all();
    // Shorter than its header.
    device.write_received(&[0; 11]);
    assert_eq!(device.take_received(), (Received::Bad, Vec::from([(16, 0)])));
    // No buffers at all.
    device.write_received(&[&header(0, 0, 0, 0)[..], &[1; 60]].concat());
    assert_eq!(device.take_received().0, Received::Bad);
    // More buffers than were used.
    device.write_received(&[&header(0, 0, 0, 2)[..], &[1; 60]].concat());
    assert_eq!(device.take_received(), (Received::Bad, Vec::from([(16, 60)])));
    // More bytes than the buffer has.
    let taken = device.receive.take().expect("a buffer is offered");
    write_memory(taken.buffers[0].address, &header(0, 0, 0, 1));
    device.receive.complete(taken.head.into(), 5000);
    assert_eq!(device.take_received(), (Received::Bad, Vec::from([(16, 0)])));
}

#[test]
fn a_lying_device_is_given_up() {
    let mut device = device(0);
    device.offer_all();
    device.receive.complete(99, 60);
    assert_eq!(device.take_received().0, Received::Nothing);
    assert_eq!((device.driver.send_room(), device.driver.receive_room()), (0, 0));
    assert!(!device.driver.ask_for_interrupts(1, true));
}

#[test]
fn interrupts_for_sent_frames_come_only_when_asked_for() {
    let mut device = device(feature::EVENT_INDEX);
    device.offer_all();
    let pieces = frame_in(&mut device.buffers, &[7; 60]);
    let frame = Outgoing { pieces: &pieces, blank_checksum: None, segmentation: None };
    for token in 0..3 {
        device.driver.send(&device.buffers, &frame, token);
    }
    device.driver.kick();
    device.next_sent();
    device.next_sent();
    assert!(!device.driver.ask_for_interrupts(1, false), "nothing was received");
    assert!(device.driver.ask_for_interrupts(1, true));
    while device.driver.take_sent().is_some() {}
    assert!(!device.driver.ask_for_interrupts(1, true));
    assert_eq!(device.send.used_event(), 2);
}
