//! Guests and a wire around the switch, over a hypervisor that really copies.

use core::sync::atomic::Ordering;

use core::time::Duration;

use hypercall_abi::io::netif::*;
use hypercall_abi::{DomainId, GrantReference};
use proptest::prelude::*;
use pv_runtime::grant::GrantAccess;
use pv_runtime::memory::Page;

use super::*;
use crate::backend::fake::{FakeCopy, FakeHypervisor};
use crate::net::fake::*;
use crate::net::frames::*;
use crate::net::headers::IpVersion;
use crate::net::{Admission, Capabilities, Checksum, Offload, Segmentation};

mod vlan;

/// What stock Linux guests can do.
const LINUX: Capabilities = Capabilities {
    scatter: true,
    checksum_v4: true,
    checksum_v6: true,
    segmentation_v4: true,
    segmentation_v6: true,
};

/// What the plainest front end can do.
const PLAIN: Capabilities = Capabilities {
    scatter: false,
    checksum_v4: false,
    checksum_v6: false,
    segmentation_v4: false,
    segmentation_v6: false,
};

const BLANK: Offload = Offload { checksum: Checksum::Blank, segmentation: None };

fn large(version: IpVersion) -> Offload {
    Offload { checksum: Checksum::Blank, segmentation: Some(Segmentation { version, size: 1000 }) }
}

/// A switch, and what is around it.
struct Bench {
    switch: Switch<Fake>,
    hypervisor: Rc<FakeHypervisor>,
    wire: Rc<Wire>,
    guests: Vec<Guest>,
    now: Duration,
}

impl Bench {
    fn new(guests: &[Capabilities]) -> Self {
        let free = |capabilities: &Capabilities| (*capabilities, Admission::default());
        Self::of(&guests.iter().map(free).collect::<Vec<_>>())
    }

    fn of(guests: &[(Capabilities, Admission)]) -> Self {
        let hypervisor = FakeHypervisor::new();
        let mut switch = Switch::new([0, 1].map(|_| FakeCopy::new(&hypervisor)), 1024);
        let connect = |(place, (capabilities, admission)): (usize, &(Capabilities, Admission))| {
            Guest::connect(&mut switch, &hypervisor, place as u16 + 1, *capabilities, *admission)
        };
        let guests = guests.iter().enumerate().map(connect).collect();
        Self { switch, hypervisor, wire: Rc::default(), guests, now: Duration::from_secs(10) }
    }

    fn with_wire(guests: &[Capabilities], wire: Capabilities) -> Self {
        Self::new(guests).wired(wire)
    }

    fn wired(mut self, wire: Capabilities) -> Self {
        self.wire.capabilities.set(wire);
        self.wire.is_instant.set(true);
        self.wire.room.set(256);
        self.switch.set_interface(FakeInterface(Rc::clone(&self.wire)));
        self
    }

    fn try_serve(&mut self, guest: usize) -> Result<Round, TxFault> {
        let port = self.guests[guest].port;
        loop {
            let round = self.switch.serve_guest(port, self.now)?;
            if !self.switch.ask_for_packets(port, 1)? {
                return Ok(round);
            }
        }
    }

    fn serve(&mut self, guest: usize) {
        self.try_serve(guest).expect("a sound guest");
    }

    fn serve_wire(&mut self) {
        loop {
            self.switch.serve_interface(self.now);
            if !self.switch.ask_for_frames(1) {
                return;
            }
        }
    }

    /// Lets the switch hear of each guest's address, so that it knows where it is.
    fn introduce(&mut self) {
        self.guests.iter_mut().for_each(|guest| guest.post(200));
        for guest in 0..self.guests.len() {
            let mut frame = plain(46);
            frame[..6].copy_from_slice(&[0xff; 6]);
            frame[6..12].copy_from_slice(&mac(guest));
            self.guests[guest].send(&frame, &[], Offload::default());
            self.serve(guest);
            assert_eq!(self.guests[guest].answers(), [NETIF_RSP_OKAY]);
        }
        for guest in &mut self.guests {
            guest.received();
            let missing = 200 - guest.rx.unanswered_requests() as usize;
            guest.post(missing);
        }
        self.wire.sent.borrow_mut().clear();
    }

    fn set_link(&mut self, is_up: bool) -> Option<bool> {
        self.wire.is_unplugged.set(!is_up);
        self.switch.look_at_link()
    }

    fn sent(&self) -> Vec<Sent> {
        self.wire.sent.borrow_mut().drain(..).collect()
    }

    /// Checks that nothing is left over: no packet, no buffer but those offered for receiving.
    fn assert_idle(&self) {
        assert_eq!(self.switch.own.in_use(), 0);
        assert_eq!(self.switch.own.buffers.available(), 1024 - self.wire.buffers_offered());
        for guest in &self.guests {
            let in_use = self.switch.guest(guest.port).map_or(0, |vif| vif.packets_in_use());
            assert_eq!(in_use, 0);
        }
    }
}

impl Switch<Fake> {
    /// Answers a posted page without a packet.
    pub(in crate::net) fn use_up_page(&mut self, port: PortId) {
        let vif = self.guest_mut(port).expect("the port is connected");
        let slot = vif.take_page(0).expect("a sound guest").expect("a page is posted");
        vif.answer_pages(&[slot], &Offload::default(), true);
        vif.commit();
    }
}

/// The address of a guest by its place.
fn mac(guest: usize) -> [u8; 6] {
    [2, 0, 0, 0, 0, guest as u8 + 1]
}

/// The same frame from one guest to another.
fn between(mut frame: Vec<u8>, from: usize, to: [u8; 6]) -> Vec<u8> {
    frame[..6].copy_from_slice(&to);
    frame[6..12].copy_from_slice(&mac(from));
    frame
}

#[test]
fn a_packet_goes_from_guest_to_guest_in_one_copy() {
    let mut bench = Bench::new(&[LINUX, LINUX, LINUX]);
    bench.introduce();
    let (copies, calls) = (bench.hypervisor.copies.get(), bench.hypervisor.copy_calls.get());
    let frame = between(udp_v4(1400), 0, mac(1));
    bench.guests[0].send(&frame, &[], Offload::default());
    bench.serve(0);
    let received = bench.guests[1].received();
    let [Some(packet)] = &received[..] else { panic!("one packet") };
    assert_eq!((&packet.bytes, packet.flags, packet.pages), (&frame, 0, 1));
    assert_eq!(bench.guests[0].answers(), [NETIF_RSP_OKAY]);
    assert!(bench.guests[2].received().is_empty());
    // The addresses to us and on from there, and the rest from guest to guest.
    assert_eq!(bench.hypervisor.copies.get() - copies, 3);
    assert_eq!(bench.hypervisor.copy_calls.get() - calls, 2);
    bench.assert_idle();
}

#[test]
fn a_batch_takes_two_hypercalls_and_one_event_each() {
    let mut bench = Bench::new(&[LINUX, LINUX]);
    bench.introduce();
    let calls = bench.hypervisor.copy_calls.get();
    let events = [0, 1].map(|guest: usize| bench.guests[guest].events.0.get());
    for guest in &mut bench.guests {
        let _ = guest.tx.final_check_for_responses();
        let _ = guest.rx.final_check_for_responses();
    }
    let frame = between(udp_v4(1400), 0, mac(1));
    for _ in 0..60 {
        bench.guests[0].send(&frame, &[], Offload::default());
    }
    bench.serve(0);
    assert_eq!(bench.guests[1].received().len(), 60);
    assert_eq!(bench.hypervisor.copy_calls.get() - calls, 2);
    for guest in [0, 1] {
        assert_eq!(bench.guests[guest].events.0.get() - events[guest], 1);
    }
}

#[test]
fn a_guest_that_changes_a_packet_late_still_sends_it_where_it_said() {
    for length in [1000, 60] {
        let mut bench = Bench::new(&[LINUX, LINUX, LINUX]);
        bench.introduce();
        let frame = between(udp_v4(length), 0, mac(1));
        bench.guests[0].send(&frame, &[], Offload::default());
        // The guest changes the addresses after they were looked at.
        let port = bench.guests[0].port;
        bench.switch.take_from_guest(port);
        let changed = between(udp_v4(length), 2, mac(2));
        bench.guests[0].overwrite_last(1, &changed[..14]);
        bench.switch.sort(port);
        bench.switch.forward();
        bench.switch.commit();
        let received = bench.guests[1].received();
        assert_eq!(received[0].as_ref().map(|packet| &packet.bytes), Some(&frame), "nobody else's address");
        assert!(bench.guests[2].received().is_empty());
        let known = bench.switch.addresses().filter(|entry| entry.1 == port).count();
        assert_eq!(known, 1, "only what was looked at is learnt");
    }
}

#[test]
fn offloads_travel_from_guest_to_guest() {
    let mut bench = Bench::new(&[LINUX, LINUX]);
    bench.introduce();
    for version in [IpVersion::V4, IpVersion::V6] {
        let frame = if version == IpVersion::V4 { tcp_v4(20_000) } else { tcp_v6(20_000) };
        let frame = between(blank(frame), 0, mac(1));
        bench.guests[0].send(&frame, &[100], large(version));
        bench.serve(0);
        let received = bench.guests[1].received();
        let [Some(packet)] = &received[..] else { panic!("one packet") };
        assert_eq!(packet.bytes, frame);
        assert_eq!(packet.segmentation, large(version).segmentation);
        let flags = packet.flags & (NETRXF_CSUM_BLANK | NETRXF_DATA_VALIDATED);
        assert_eq!(flags, NETRXF_CSUM_BLANK | NETRXF_DATA_VALIDATED);
    }
    bench.assert_idle();
}

#[test]
fn pieces_keep_their_pages_unless_there_are_too_many() {
    let mut bench = Bench::new(&[LINUX, LINUX]);
    bench.introduce();
    let frame = between(blank(tcp_v4(60_000)), 0, mac(1));
    let copies = bench.hypervisor.copies.get();
    bench.guests[0].send(&frame, &[66], large(IpVersion::V4));
    bench.serve(0);
    let received = bench.guests[1].received();
    assert_eq!(received[0].as_ref().map(|packet| (&packet.bytes, packet.pages)), Some((&frame, 16)));
    assert_eq!(bench.hypervisor.copies.get() - copies, 18, "headers in, headers out, one for each page");
    let cuts = [1000; 17];
    let frame = between(blank(tcp_v4(17_000)), 0, mac(1));
    bench.guests[0].send(&frame, &cuts, large(IpVersion::V4));
    bench.serve(0);
    let received = bench.guests[1].received();
    assert_eq!(received[0].as_ref().map(|packet| (&packet.bytes, packet.pages)), Some((&frame, 5)));
}

#[test]
fn packets_to_everybody_reach_everybody_else() {
    let mut bench = Bench::with_wire(&[LINUX, LINUX, LINUX], PLAIN);
    bench.introduce();
    let frame = between(udp_v4(100), 1, [0xff; 6]);
    bench.guests[1].send(&frame, &[], Offload::default());
    bench.serve(1);
    assert!(bench.guests[1].received().is_empty());
    for guest in [0, 2] {
        let received = bench.guests[guest].received();
        assert_eq!(received[0].as_ref().map(|packet| &packet.bytes), Some(&frame));
    }
    assert_eq!(bench.sent()[0].bytes, frame);
    assert_eq!(bench.guests[1].answers(), [NETIF_RSP_OKAY]);
    bench.serve_wire();
    bench.assert_idle();
}

#[test]
fn packets_to_oneself_go_nowhere() {
    let mut bench = Bench::new(&[LINUX, LINUX]);
    bench.introduce();
    bench.guests[0].send(&between(udp_v4(100), 0, mac(0)), &[], Offload::default());
    bench.serve(0);
    assert!(bench.guests[0].received().is_empty() && bench.guests[1].received().is_empty());
    assert_eq!(bench.guests[0].answers(), [NETIF_RSP_OKAY]);
}

#[test]
fn the_wire_gets_packets_in_one_copy_once_it_is_known() {
    let mut bench = Bench::with_wire(&[LINUX, LINUX], PLAIN);
    bench.introduce();
    let far = [2, 0, 0, 0, 9, 9];
    bench.wire.receive(&between(udp_v4(10), 0, mac(0)).tap_source(far), Offload::default());
    bench.serve_wire();
    bench.guests[0].received();
    let frame = between(udp_v4(1400), 0, far);
    for expected_copies in [3, 1, 1] {
        let copies = bench.hypervisor.copies.get();
        bench.guests[0].send(&frame, &[], Offload::default());
        bench.serve(0);
        assert_eq!(bench.sent()[0].bytes, frame);
        assert_eq!(bench.hypervisor.copies.get() - copies, expected_copies);
        assert_eq!(bench.guests[0].answers(), [NETIF_RSP_OKAY]);
    }
    // A wrong guess still arrives where it belongs, from our copy.
    let frame = between(udp_v4(1400), 0, mac(1));
    bench.guests[0].send(&frame, &[], Offload::default());
    bench.serve(0);
    assert!(bench.sent().is_empty());
    assert_eq!(bench.guests[1].received()[0].as_ref().map(|packet| &packet.bytes), Some(&frame));
    bench.serve_wire();
    bench.assert_idle();
}

#[test]
fn frames_from_the_wire_reach_their_guest() {
    let mut bench = Bench::with_wire(&[LINUX, LINUX], PLAIN);
    bench.introduce();
    let frame = between(tcp_v4(9000), 0, mac(1)).tap_source([2, 0, 0, 0, 9, 9]);
    let offload = Offload { checksum: Checksum::Validated, segmentation: None };
    bench.wire.receive(&frame, offload);
    bench.serve_wire();
    let received = bench.guests[1].received();
    let [Some(packet)] = &received[..] else { panic!("one packet") };
    assert_eq!((&packet.bytes, packet.flags & NETRXF_DATA_VALIDATED), (&frame, NETRXF_DATA_VALIDATED));
    assert!(bench.guests[0].received().is_empty());
    assert_eq!(bench.wire.buffers_offered(), 64);
    bench.assert_idle();
}

#[test]
fn checksums_are_completed_for_a_wire_without_offload() {
    let mut bench = Bench::with_wire(&[LINUX], PLAIN);
    bench.introduce();
    let frames = [tcp_v4(700), udp_v4(701), tcp_v6(702), udp_v6_with_extension(703)];
    for frame in frames {
        let frame = between(frame, 0, [2, 0, 0, 0, 9, 9]);
        bench.guests[0].send(&blank(frame.clone()), &[], BLANK);
        bench.serve(0);
        assert_eq!(bench.sent(), [Sent { bytes: frame, blank_checksum: false, segmentation: None }]);
    }
    bench.serve_wire();
    bench.assert_idle();
}

#[test]
fn checksums_are_left_to_a_wire_that_has_offload() {
    let mut bench = Bench::with_wire(&[LINUX], Capabilities { segmentation_v4: false, ..LINUX });
    bench.introduce();
    let frame = blank(between(tcp_v4(700), 0, [2, 0, 0, 0, 9, 9]));
    let mut zeroed = frame.clone();
    zeroed[50..52].fill(0);
    bench.guests[0].send(&zeroed, &[], BLANK);
    bench.serve(0);
    assert_eq!(bench.sent(), [Sent { bytes: frame, blank_checksum: true, segmentation: None }]);
}

#[test]
fn large_packets_are_cut_for_a_wire_that_cannot() {
    for version in [IpVersion::V4, IpVersion::V6] {
        let mut bench = Bench::with_wire(&[LINUX], PLAIN);
        bench.introduce();
        let frame = if version == IpVersion::V4 { tcp_v4(9500) } else { tcp_v6(9500) };
        let frame = blank(between(frame, 0, [2, 0, 0, 0, 9, 9]));
        bench.guests[0].send(&frame, &[200, 3000], large(version));
        bench.serve(0);
        let sent = bench.sent();
        assert_eq!(sent.len(), 10);
        let header = frame.len() - 9500;
        let joined: Vec<_> = sent.iter().flat_map(|segment| segment.bytes[header..].to_vec()).collect();
        assert_eq!(joined, frame[header..]);
        assert!(sent.iter().all(|segment| is_right(&segment.bytes) && segment.segmentation.is_none()));
        assert_eq!(bench.guests[0].answers().len(), 4);
        bench.serve_wire();
        bench.assert_idle();
    }
}

#[test]
fn large_packets_are_left_to_a_wire_that_can() {
    let mut bench = Bench::with_wire(&[LINUX], LINUX);
    bench.introduce();
    let frame = blank(between(tcp_v4(30_000), 0, [2, 0, 0, 0, 9, 9]));
    bench.guests[0].send(&frame, &[], large(IpVersion::V4));
    bench.serve(0);
    let expected =
        Sent { bytes: frame, blank_checksum: true, segmentation: large(IpVersion::V4).segmentation };
    assert_eq!(bench.sent(), [expected]);
    bench.serve_wire();
    bench.assert_idle();
}

#[test]
fn a_plain_guest_gets_plain_packets() {
    let mut bench = Bench::new(&[LINUX, PLAIN]);
    bench.introduce();
    let frame = between(tcp_v4(3500), 0, mac(1));
    bench.guests[0].send(&blank(frame.clone()), &[], large(IpVersion::V4));
    let small = between(udp_v4(200), 0, mac(1));
    bench.guests[0].send(&blank(small.clone()), &[], BLANK);
    bench.serve(0);
    let received: Vec<_> = bench.guests[1].received().into_iter().flatten().collect();
    assert_eq!(received.len(), 5);
    assert!(received.iter().all(|packet| is_right(&packet.bytes) && packet.segmentation.is_none()));
    assert!(received.iter().any(|packet| packet.bytes == small));
    // One that fits into no page is not for such a guest.
    bench.guests[0].send(&between(plain(5000), 0, mac(1)), &[], Offload::default());
    bench.serve(0);
    assert!(bench.guests[1].received().is_empty());
    assert_eq!(bench.guests[1].counters.rx_dropped.get(), 1);
    bench.assert_idle();
}

#[test]
fn a_blank_checksum_on_something_else_is_dropped_where_it_matters() {
    let mut bench = Bench::with_wire(&[LINUX, PLAIN, LINUX], PLAIN);
    bench.introduce();
    let frame = between(plain(500), 0, mac(1));
    bench.guests[0].send(&frame, &[], BLANK);
    bench.serve(0);
    assert!(bench.guests[1].received().is_empty());
    bench.guests[0].send(&between(plain(500), 0, mac(2)), &[], BLANK);
    bench.serve(0);
    assert_eq!(bench.guests[2].received().len(), 1);
    bench.guests[0].send(&between(plain(500), 0, [0xff; 6]), &[], BLANK);
    bench.serve(0);
    assert!(bench.sent().is_empty());
    bench.serve_wire();
    bench.assert_idle();
}

#[test]
fn packets_wait_for_pages_and_then_go_on() {
    let mut bench = Bench::new(&[LINUX, LINUX]);
    bench.introduce();
    // Use up what was posted.
    let frame = between(udp_v4(100), 0, mac(1));
    let posted = 200;
    for _ in 0..posted / 50 {
        (0..50).for_each(|_| bench.guests[0].send(&frame, &[], Offload::default()));
        bench.serve(0);
        bench.guests[0].answers();
    }
    assert_eq!(bench.guests[1].received().len(), posted);
    (0..10).for_each(|_| bench.guests[0].send(&frame, &[], Offload::default()));
    bench.serve(0);
    assert!(bench.guests[0].answers().is_empty(), "they are still the sender's");
    let deadline = bench.try_serve(1).expect("a sound guest").deadline;
    assert_eq!(deadline, Some(bench.now + Duration::from_millis(500)));
    bench.guests[1].post(4);
    bench.serve(1);
    assert_eq!((bench.guests[1].received().len(), bench.guests[0].answers().len()), (4, 4));
    bench.guests[1].post(50);
    bench.serve(1);
    assert_eq!((bench.guests[1].received().len(), bench.guests[0].answers().len()), (6, 6));
    bench.assert_idle();
}

#[test]
fn a_guest_that_posts_nothing_holds_nobody_up_for_long() {
    let mut bench = Bench::new(&[LINUX, LINUX]);
    bench.introduce();
    let port = bench.guests[1].port;
    let frame = between(udp_v4(100), 0, mac(1));
    bench.guests[1].unpost(&mut bench.switch);
    for _ in 0..20 {
        bench.guests[0].send(&frame, &[], Offload::default());
    }
    bench.serve(0);
    assert!(bench.guests[0].answers().is_empty());
    bench.now += Duration::from_millis(600);
    bench.serve(1);
    assert_eq!(bench.guests[0].answers(), [NETIF_RSP_DROPPED; 20]);
    bench.guests[0].send(&frame, &[], Offload::default());
    bench.serve(0);
    assert_eq!(bench.guests[0].answers(), [NETIF_RSP_DROPPED], "nobody waits for a stalled guest");
    bench.guests[1].post(5);
    bench.serve(1);
    bench.guests[0].send(&frame, &[], Offload::default());
    bench.serve(0);
    assert_eq!(bench.guests[1].received().len(), 1);
    assert!(bench.switch.guest(port).is_some());
    bench.assert_idle();
}

#[test]
fn one_slow_guest_does_not_take_all_of_a_senders_ring() {
    let mut bench = Bench::new(&[LINUX, LINUX, LINUX]);
    bench.introduce();
    bench.guests[1].unpost(&mut bench.switch);
    let slow = between(udp_v4(100), 0, mac(1));
    for _ in 0..200 {
        bench.guests[0].send(&slow, &[], Offload::default());
    }
    bench.serve(0);
    let answers = bench.guests[0].answers();
    assert_eq!(answers, [NETIF_RSP_DROPPED; 200 - 128]);
    bench.guests[0].send(&between(udp_v4(100), 0, mac(2)), &[], Offload::default());
    bench.serve(0);
    assert_eq!(bench.guests[2].received().len(), 1);
}

#[test]
fn a_full_wire_holds_senders_and_asks_to_be_told() {
    let mut bench = Bench::with_wire(&[LINUX], PLAIN);
    bench.introduce();
    bench.wire.is_instant.set(false);
    bench.wire.room.set(2);
    let frame = between(udp_v4(100), 0, [2, 0, 0, 0, 9, 9]);
    for _ in 0..5 {
        bench.guests[0].send(&frame, &[], Offload::default());
    }
    bench.serve(0);
    assert_eq!(bench.sent().len(), 2);
    assert!(bench.wire.wants_sent_interrupt.get());
    for _ in 0..3 {
        bench.wire.finish_one();
        bench.serve_wire();
        assert_eq!(bench.sent().len(), 1);
    }
    assert_eq!(bench.guests[0].answers(), [NETIF_RSP_OKAY; 5]);
    (0..2).for_each(|_| bench.wire.finish_one());
    bench.serve_wire();
    bench.assert_idle();
}

#[test]
fn a_wire_without_link_gets_nothing_and_holds_nobody_up() {
    let mut bench = Bench::with_wire(&[LINUX, LINUX], PLAIN);
    bench.introduce();
    let out = between(udp_v4(100), 0, [2, 0, 0, 0, 9, 9]);
    let across = between(udp_v4(100), 0, mac(1));
    let send = |bench: &mut Bench, frame: &[u8]| {
        bench.guests[0].send(frame, &[], Offload::default());
        bench.serve(0);
        bench.guests[0].answers()
    };
    bench.wire.receive(&between(udp_v4(50), 0, mac(0)).tap_source([2, 0, 0, 0, 9, 9]), Offload::default());
    bench.serve_wire();
    bench.wire.room.set(0);
    assert!(send(&mut bench, &out).is_empty(), "it waits");
    assert_eq!((bench.set_link(false), bench.set_link(false)), (Some(false), None));
    assert_eq!(bench.guests[0].answers(), [NETIF_RSP_DROPPED]);
    bench.wire.room.set(256);
    for _ in 0..2 {
        assert_eq!(send(&mut bench, &out), [NETIF_RSP_DROPPED]);
    }
    assert_eq!(send(&mut bench, &across), [NETIF_RSP_OKAY]);
    assert_eq!(bench.guests[1].received().len(), 1);
    assert_eq!((bench.switch.counters().unlinked.get(), bench.sent().len()), (3, 0));
    assert_eq!(bench.set_link(true), Some(true));
    for _ in 0..2 {
        assert_eq!(send(&mut bench, &out), [NETIF_RSP_OKAY]);
    }
    assert_eq!(bench.sent().len(), 2);
    bench.serve_wire();
    bench.assert_idle();
}

#[test]
fn grants_that_do_not_hold_fail_only_their_packet() {
    let mut bench = Bench::new(&[LINUX, LINUX]);
    bench.introduce();
    let frame = between(udp_v4(100), 0, mac(1));
    let bogus = NetifTxRequest { gref: GrantReference(4711), offset: 0, flags: 0, id: 9, size: 100 };
    bench.guests[0].tx.push_request(&bogus).expect("there is room");
    bench.guests[0].send(&frame, &[], Offload::default());
    bench.serve(0);
    assert_eq!(bench.guests[0].answers(), [NETIF_RSP_ERROR, NETIF_RSP_OKAY]);
    assert_eq!(bench.guests[1].received().len(), 1);
    bench.assert_idle();
}

#[test]
fn pages_that_cannot_be_written_fail_only_their_packet() {
    let mut bench = Bench::new(&[LINUX, LINUX]);
    bench.introduce();
    bench.guests[1].revoke_first_page();
    let frame = between(udp_v4(1000), 0, mac(1));
    for _ in 0..2 {
        bench.guests[0].send(&frame, &[], Offload::default());
    }
    bench.serve(0);
    let received = bench.guests[1].received();
    assert_eq!(received.iter().map(Option::is_some).collect::<Vec<_>>(), [false, true]);
    assert_eq!(bench.guests[1].counters.rx_errors.get(), 1);
    bench.assert_idle();
}

#[test]
fn a_guest_that_breaks_its_ring_hurts_nobody_else() {
    let mut bench = Bench::new(&[LINUX, LINUX, LINUX]);
    bench.introduce();
    bench.guests[0].tx_shared[0].store(0x8000_0000, Ordering::Relaxed);
    assert!(matches!(bench.try_serve(0), Err(TxFault::Ring(_))));
    bench.switch.remove_guest(bench.guests[0].port);
    bench.guests[1].send(&between(udp_v4(100), 1, mac(2)), &[], Offload::default());
    bench.serve(1);
    assert_eq!(bench.guests[2].received().len(), 1);
}

#[test]
fn a_receiver_that_breaks_its_ring_does_not_hold_the_sender() {
    let mut bench = Bench::new(&[LINUX, LINUX]);
    bench.introduce();
    bench.guests[1].unpost(&mut bench.switch);
    bench.guests[1].rx_shared[0].store(0x8000_0000, Ordering::Relaxed);
    bench.guests[0].send(&between(udp_v4(100), 0, mac(1)), &[], Offload::default());
    bench.serve(0);
    assert_eq!(bench.guests[0].answers(), [NETIF_RSP_DROPPED]);
    assert!(matches!(bench.try_serve(1), Err(TxFault::Ring(_))));
    bench.assert_idle();
}

#[test]
fn what_was_sent_before_a_fault_still_arrives() {
    let mut bench = Bench::new(&[LINUX, LINUX]);
    bench.introduce();
    bench.guests[0].send(&between(udp_v4(100), 0, mac(1)), &[], Offload::default());
    let cut_off = NetifTxRequest { flags: NETTXF_MORE_DATA, size: 100, ..Default::default() };
    bench.guests[0].tx.push_request(&cut_off).expect("there is room");
    let _ = bench.guests[0].tx.commit_requests();
    assert_eq!(bench.try_serve(0), Err(TxFault::CutOff));
    assert_eq!(bench.guests[1].received().len(), 1);
}

#[test]
fn a_guest_that_goes_takes_its_packets_along() {
    let mut bench = Bench::with_wire(&[LINUX, LINUX, LINUX], PLAIN);
    bench.introduce();
    bench.guests[1].unpost(&mut bench.switch);
    let far = [2, 0, 0, 0, 9, 9];
    bench.wire.receive(&between(udp_v4(10), 0, mac(2)).tap_source(far), Offload::default());
    bench.serve_wire();
    bench.wire.room.set(0);
    for (from, to) in [(0, mac(1)), (2, mac(1)), (0, far)] {
        bench.guests[from].send(&between(udp_v4(100), from, to), &[], Offload::default());
        bench.serve(from);
    }
    let gone = bench.guests[0].port;
    assert!(bench.switch.remove_guest(gone).is_some());
    assert!(bench.switch.remove_guest(gone).is_none());
    assert!(bench.switch.remove_guest(bench.guests[1].port).is_some());
    assert_eq!(bench.guests[2].answers(), [NETIF_RSP_DROPPED]);
    bench.wire.room.set(10);
    bench.serve_wire();
    assert!(bench.sent().is_empty());
    let again = Guest::connect(&mut bench.switch, &bench.hypervisor, 9, LINUX, Admission::default());
    assert_eq!(again.port, gone, "ports are used again");
    bench.assert_idle();
}

#[test]
fn filters_and_packets_too_short_are_refused() {
    let mut bench = Bench::new(&[LINUX, LINUX]);
    bench.introduce();
    bench.guests[0].send(&[1; 13], &[], Offload::default());
    bench.serve(0);
    assert_eq!(bench.guests[0].answers(), [NETIF_RSP_ERROR]);
    assert!(bench.guests[1].received().is_empty());
    bench.assert_idle();
}

trait TapSource {
    fn tap_source(self, source: [u8; 6]) -> Self;
}

impl TapSource for Vec<u8> {
    /// The same frame from somebody else.
    fn tap_source(mut self, source: [u8; 6]) -> Self {
        self[6..12].copy_from_slice(&source);
        self
    }
}

/// What may happen next.
#[derive(Clone, Debug)]
enum Step {
    Send { from: usize, to: usize, kind: u8, length: usize, cut: usize },
    Raw { from: usize, slot: [u16; 4] },
    Post { guest: usize, count: usize },
    Serve { guest: usize },
    Wire { to: usize, length: usize },
    ServeWire,
    Room { count: usize },
    Link { is_up: bool },
    Wait,
}

fn step() -> impl Strategy<Value = Step> {
    let guest = 0_usize..3;
    prop_oneof![
        6 => (guest.clone(), 0_usize..5, 0_u8..6, 0_usize..9000, 20_usize..4096)
            .prop_map(|(from, to, kind, length, cut)| Step::Send { from, to, kind, length, cut }),
        1 => (guest.clone(), any::<[u16; 4]>()).prop_map(|(from, slot)| Step::Raw { from, slot }),
        2 => (guest.clone(), 1_usize..40).prop_map(|(guest, count)| Step::Post { guest, count }),
        6 => guest.clone().prop_map(|guest| Step::Serve { guest }),
        2 => (0_usize..5, 1_usize..5000).prop_map(|(to, length)| Step::Wire { to, length }),
        2 => Just(Step::ServeWire),
        1 => (0_usize..20).prop_map(|count| Step::Room { count }),
        1 => any::<bool>().prop_map(|is_up| Step::Link { is_up }),
        1 => Just(Step::Wait),
    ]
}

fn target(to: usize) -> [u8; 6] {
    match to {
        0..3 => mac(to),
        3 => [2, 0, 0, 0, 9, 9],
        _ => [0xff; 6],
    }
}

impl Bench {
    fn step(&mut self, step: &Step) {
        match *step {
            Step::Send { from, to, kind, length, cut } => self.send_any(from, target(to), kind, length, cut),
            Step::Raw { from, slot: [gref, offset, flags, size] } => {
                let gref = GrantReference(gref.into());
                let flags = flags & !(NETTXF_MORE_DATA | NETTXF_EXTRA_INFO);
                let slot = NetifTxRequest { gref, offset: offset % 4096, flags, id: size, size: size % 5000 };
                if slot.offset + slot.size <= 4096 && self.guests[from].tx.push_request(&slot).is_ok() {
                    let _ = self.guests[from].tx.commit_requests();
                }
            }
            Step::Post { guest, count } => {
                let free = self.guests[guest].rx.free_requests() as usize;
                self.guests[guest].post(count.min(free));
            }
            Step::Serve { guest } => self.serve(guest),
            Step::Wire { to, length } => {
                if self.wire.buffers_offered() > 8 {
                    let frame = between(udp_v4(length), 0, target(to)).tap_source([2, 0, 0, 0, 9, 9]);
                    self.wire.receive(&frame, Offload::default());
                    self.serve_wire();
                }
            }
            Step::ServeWire => self.serve_wire(),
            Step::Room { count } => self.wire.room.set(count),
            Step::Link { is_up } => drop(self.set_link(is_up)),
            Step::Wait => self.now += Duration::from_millis(300),
        }
    }

    fn send_any(&mut self, from: usize, to: [u8; 6], kind: u8, length: usize, cut: usize) {
        let (frame, offload) = match kind {
            0 => (plain(length), Offload::default()),
            1 => (udp_v4(length), Offload::default()),
            2 => (blank(udp_v4(length)), BLANK),
            3 => (blank(tcp_v4(length)), large(IpVersion::V4)),
            4 => (blank(tcp_v6(length)), large(IpVersion::V6)),
            _ => (plain(length), large(IpVersion::V4)),
        };
        let frame = between(frame, from, to);
        if (self.guests[from].tx.free_requests() as usize) > 20 {
            self.guests[from].send(&frame, &[cut], offload);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    /// Whatever happens: every slot is answered once, whatever a plain guest or the wire gets is finished, and
    /// when all is quiet nothing is left over.
    #[test]
    fn everything_is_answered_and_nothing_is_left(steps in proptest::collection::vec(step(), 1..80)) {
        let mut bench = Bench::with_wire(&[LINUX, PLAIN, LINUX], PLAIN);
        bench.introduce();
        for step in &steps {
            bench.step(step);
            for guest in &mut bench.guests {
                guest.answers();
            }
            for packet in bench.guests[1].received().into_iter().flatten() {
                prop_assert!(packet.segmentation.is_none() && packet.flags & NETRXF_CSUM_BLANK == 0);
            }
            for frame in bench.sent() {
                prop_assert!(frame.segmentation.is_none() && !frame.blank_checksum);
            }
        }
        bench.wire.room.set(256);
        for _ in 0..4 {
            bench.now += Duration::from_secs(1);
            bench.serve_wire();
            for guest in 0..3 {
                bench.guests[guest].received();
                bench.serve(guest);
            }
        }
        for guest in &mut bench.guests {
            guest.answers();
            prop_assert_eq!(guest.tx.unanswered_requests(), 0);
        }
        bench.serve_wire();
        bench.assert_idle();
    }
}

#[test]
fn a_page_of_the_test_is_granted_for_reading_only() {
    // The tests above rely on the fake refusing to write where it must not.
    let hypervisor = FakeHypervisor::new();
    let page = Page::new().expect("a host has memory");
    let reference = hypervisor.grant(DomainId(1), &page, GrantAccess::ReadOnly);
    assert!(hypervisor.resolve(DomainId(1), reference, GrantAccess::ReadWrite).is_err());
    assert!(hypervisor.resolve(DomainId(2), reference, GrantAccess::ReadOnly).is_err());
}
