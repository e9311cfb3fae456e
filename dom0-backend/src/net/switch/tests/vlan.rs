//! Virtual networks that share a wire, and guests that send what they may not.

use super::*;
use crate::net::{MacAddress, Vlan};

const FAR: [u8; 6] = [2, 0, 0, 0, 9, 9];

/// What the guest at `place` may send: from its own address, in a virtual network.
fn strict(place: usize, vlan: u16) -> Admission {
    let vlan = Vlan::new(vlan).unwrap_or(Vlan::UNTAGGED);
    Admission { vlan, source: Some(MacAddress::new(mac(place))) }
}

/// Guests in networks 7, 7, 8 and none, in this order, at a wire that leaves all work to us.
fn networks() -> Bench {
    let guests = [7, 7, 8, 0].iter().enumerate().map(|(place, vlan)| (LINUX, strict(place, *vlan)));
    let mut bench = Bench::of(&guests.collect::<Vec<_>>()).wired(PLAIN);
    bench.introduce();
    bench
}

impl Bench {
    /// Has a guest send a frame, and says which guests receive it, unchanged, and what goes out on the wire.
    fn send_from(&mut self, guest: usize, frame: &[u8]) -> (Vec<usize>, Vec<Vec<u8>>) {
        self.guests[guest].send(frame, &[], Offload::default());
        self.serve(guest);
        (self.receivers_of(frame), self.sent().into_iter().map(|sent| sent.bytes).collect())
    }

    fn receivers_of(&mut self, frame: &[u8]) -> Vec<usize> {
        let mut receivers = Vec::new();
        for (place, guest) in self.guests.iter_mut().enumerate() {
            for packet in guest.received() {
                assert_eq!(packet.map(|packet| packet.bytes).as_deref(), Some(frame), "guest {place}");
                receivers.push(place);
            }
        }
        receivers
    }

    /// Lets a frame come in on the wire, and says which guests receive it as `expected`.
    fn come_in(&mut self, frame: &[u8], expected: &[u8]) -> Vec<usize> {
        self.wire.receive(frame, Offload::default());
        self.serve_wire();
        assert!(self.sent().is_empty(), "nothing that came in goes out");
        self.receivers_of(expected)
    }
}

#[test]
fn a_frame_to_everybody_stays_in_its_network_and_has_its_tag_on_the_wire() {
    for length in [50, 1400] {
        let mut bench = networks();
        for (sender, receivers, tag) in
            [(0, &[1][..], Some(7)), (1, &[0], Some(7)), (2, &[], Some(8)), (3, &[], None)]
        {
            let frame = between(udp_v4(length), sender, [0xff; 6]);
            let on_wire = tag.map_or(frame.clone(), |tag| tagged(frame.clone(), tag));
            assert_eq!(
                bench.send_from(sender, &frame),
                (receivers.to_vec(), vec![on_wire]),
                "guest {sender}"
            );
            assert_eq!(bench.guests[sender].answers(), [NETIF_RSP_OKAY]);
        }
        bench.serve_wire();
        bench.assert_idle();
    }
}

#[test]
fn guests_of_one_network_reach_each_other_and_no_others() {
    for length in [50, 1400] {
        let mut bench = networks();
        let frame = between(udp_v4(length), 0, mac(1));
        assert_eq!(bench.send_from(0, &frame), (vec![1], vec![]), "the same network");
        for (sender, to, tag) in [(0, 2, Some(7)), (0, 3, Some(7)), (2, 0, Some(8)), (3, 0, None)] {
            // An address that is not in this network may be anywhere on the wire, but not in another network.
            let frame = between(udp_v4(length), sender, mac(to));
            let on_wire = tag.map_or(frame.clone(), |tag| tagged(frame.clone(), tag));
            let everybody = if tag == Some(7) { vec![1] } else { vec![] };
            assert_eq!(bench.send_from(sender, &frame), (everybody, vec![on_wire]), "{sender} to {to}");
        }
        bench.serve_wire();
        bench.assert_idle();
    }
}

#[test]
fn what_comes_in_goes_where_its_tag_says_and_has_it_no_more() {
    let mut bench = networks();
    for length in [50, 1400, 9000] {
        let frame = between(udp_v4(length), 0, [0xff; 6]).tap_source(FAR);
        assert_eq!(bench.come_in(&tagged(frame.clone(), 7), &frame), [0, 1]);
        assert_eq!(bench.come_in(&tagged(frame.clone(), 8), &frame), [2]);
        assert_eq!(bench.come_in(&tagged(frame.clone(), 0), &frame), [3], "a priority is no network");
        assert_eq!(bench.come_in(&frame, &frame), [3]);
        assert_eq!(bench.come_in(&tagged(frame.clone(), 9), &frame), [0; 0], "nobody is in this one");
        let to_one = between(udp_v4(length), 0, mac(2)).tap_source(FAR);
        assert_eq!(bench.come_in(&tagged(to_one.clone(), 8), &to_one), [2]);
        assert_eq!(bench.come_in(&tagged(to_one.clone(), 7), &to_one), [0, 1], "guest 2 is not in this one");
    }
    bench.assert_idle();
}

#[test]
fn tags_that_make_no_sense_are_dropped() {
    let mut bench = networks();
    let frame = between(udp_v4(100), 0, [0xff; 6]).tap_source(FAR);
    let dropped = bench.switch.counters().dropped.get();
    let with = |tag: [u8; 4]| [&frame[..12], &tag, &frame[12..]].concat();
    let short = [&frame[..12], &[0x81, 0, 0, 7][..]].concat();
    for wrong in [with([0x81, 0, 0x0f, 0xff]), with([0x88, 0xa8, 0, 7]), with([0x91, 0, 0, 7]), short] {
        assert_eq!(bench.come_in(&wrong, &frame), [0; 0]);
    }
    assert_eq!(bench.switch.counters().dropped.get() - dropped, 4);
    bench.assert_idle();
}

#[test]
fn the_wire_answers_in_the_network_it_was_asked_in() {
    let mut bench = networks();
    // The same address is known in two networks, at different places.
    let far = between(udp_v4(50), 0, mac(0)).tap_source(FAR);
    assert_eq!(bench.come_in(&tagged(far.clone(), 7), &far), [0]);
    for length in [50, 1400] {
        let frame = between(udp_v4(length), 0, FAR);
        for _ in 0..3 {
            // First by its addresses, then as one of a row.
            assert_eq!(bench.send_from(0, &frame), (vec![], vec![tagged(frame.clone(), 7)]));
        }
    }
    bench.serve_wire();
    bench.assert_idle();
}

#[test]
fn large_packets_get_a_tag_in_each_segment_or_in_one_that_the_wire_cuts() {
    for (wire, count) in [(PLAIN, 10), (LINUX, 1)] {
        let mut bench = Bench::of(&[(LINUX, strict(0, 7))]).wired(wire);
        bench.introduce();
        let frame = blank(between(tcp_v4(9500), 0, FAR));
        bench.guests[0].send(&frame, &[200, 3000], large(IpVersion::V4));
        bench.serve(0);
        let sent = bench.sent();
        assert_eq!(sent.len(), count);
        let header = frame.len() - 9500 + 4;
        let joined: Vec<_> = sent.iter().flat_map(|segment| segment.bytes[header..].to_vec()).collect();
        assert_eq!(joined, frame[header - 4..]);
        for segment in &sent {
            assert_eq!(segment.bytes[12..16], [0x81, 0, 0, 7]);
            assert!(count == 1 || is_right(&segment.bytes));
        }
        bench.serve_wire();
        bench.assert_idle();
    }
}

#[test]
fn a_flood_reaches_slow_guests_whole_though_the_wire_had_it_with_a_tag() {
    let mut bench = networks();
    let Bench { guests, switch, .. } = &mut bench;
    guests[1].unpost(switch);
    let frame = between(udp_v4(500), 0, [0xff; 6]);
    assert_eq!(bench.send_from(0, &frame), (vec![], vec![tagged(frame.clone(), 7)]));
    bench.guests[1].post(4);
    bench.serve(1);
    assert_eq!(bench.receivers_of(&frame), [1]);
    bench.serve_wire();
    bench.assert_idle();
}

#[test]
fn packets_from_a_foreign_address_are_dropped_and_counted() {
    let mut bench = networks();
    for length in [50, 1400] {
        let spoofed = between(udp_v4(length), 1, [0xff; 6]);
        assert_eq!(bench.send_from(0, &spoofed), (vec![], vec![]));
        assert_eq!(bench.guests[0].answers(), [NETIF_RSP_DROPPED]);
        // Nothing is learnt from it: what is for the real owner still gets there.
        let real = between(udp_v4(length), 0, mac(1));
        assert_eq!(bench.send_from(0, &real), (vec![1], vec![]));
        assert_eq!(bench.guests[0].answers(), [NETIF_RSP_OKAY]);
    }
    assert_eq!(bench.guests[0].counters.spoofed.get(), 2);
    // In a row to the wire, whose packets are fetched before they are looked at.
    let far = between(udp_v4(50), 0, mac(0)).tap_source(FAR);
    assert_eq!(bench.come_in(&tagged(far.clone(), 7), &far), [0]);
    let frame = between(udp_v4(300), 0, FAR);
    assert_eq!(bench.send_from(0, &frame).1.len(), 1);
    assert_eq!(bench.send_from(0, &between(udp_v4(300), 3, FAR)), (vec![], vec![]));
    assert_eq!(bench.guests[0].counters.spoofed.get(), 3);
    bench.serve_wire();
    bench.assert_idle();
}

#[test]
fn a_guests_own_tags_are_dropped_and_counted() {
    let mut bench = networks();
    for (sender, tag) in [(0, 8), (0, 7), (3, 7), (3, 0)] {
        let frame = tagged(between(udp_v4(200), sender, [0xff; 6]), tag);
        assert_eq!(bench.send_from(sender, &frame), (vec![], vec![]), "guest {sender}, tag {tag}");
    }
    assert_eq!([0, 3].map(|guest: usize| bench.guests[guest].counters.tagged.get()), [2, 2]);
    bench.serve_wire();
    bench.assert_idle();
}

#[test]
fn a_guest_that_may_send_from_any_address_stays_in_its_network() {
    let free = Admission { source: None, ..strict(0, 7) };
    let mut bench = Bench::of(&[(LINUX, free), (LINUX, strict(1, 7)), (LINUX, strict(2, 8))]).wired(PLAIN);
    bench.introduce();
    let frame = between(udp_v4(200), 5, [0xff; 6]);
    assert_eq!(bench.send_from(0, &frame), (vec![1], vec![tagged(frame.clone(), 7)]));
    let answer = between(udp_v4(200), 1, mac(5));
    assert_eq!(bench.send_from(1, &answer), (vec![0], vec![]));
    let with_tag = tagged(between(udp_v4(200), 5, [0xff; 6]), 8);
    assert_eq!(bench.send_from(0, &with_tag), (vec![], vec![]));
}

#[test]
fn addresses_that_change_after_they_were_looked_at_do_not_arrive() {
    for length in [1000, 60] {
        let mut bench = networks();
        let frame = between(udp_v4(length), 0, [0xff; 6]);
        bench.guests[0].send(&frame, &[], Offload::default());
        let port = bench.guests[0].port;
        bench.switch.take_from_guest(port);
        let changed = tagged(between(udp_v4(length), 1, mac(2)), 8);
        bench.guests[0].overwrite_last(1, &changed[..18]);
        bench.switch.sort(port);
        bench.switch.forward();
        bench.switch.commit();
        let on_wire = bench.sent();
        assert_eq!(on_wire.len(), 1);
        assert_eq!(on_wire[0].bytes[..18], tagged(frame.clone(), 7)[..18]);
        let received = bench.guests[1].received();
        assert_eq!(received[0].as_ref().map(|packet| &packet.bytes[..14]), Some(&frame[..14]));
        assert!(bench.guests[2].received().is_empty());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Whoever sends what to whom, with whatever tag: nobody receives what was sent in another network.
    #[test]
    fn networks_never_mix(
        steps in proptest::collection::vec((0_usize..5, 0_usize..6, 0_usize..6, 0_u8..10, 46_usize..300), 1..60)
    ) {
        let numbers = [7, 7, 8, 0];
        let mut bench = networks();
        for (from, source, to, tag, length) in steps {
            let target = if to == 5 { [0xff; 6] } else { mac(to) };
            let mut frame = between(plain(length), source, target);
            // Each frame says in which network it is sent.
            let network = if from == 4 { tag } else { numbers[from] as u8 };
            frame[14..].fill(network);
            if from == 4 {
                let frame = if tag == 0 { frame } else { tagged(frame, tag) };
                bench.wire.receive(&frame, Offload::default());
                bench.serve_wire();
            } else {
                bench.guests[from].send(&frame, &[], Offload::default());
                bench.serve(from);
                prop_assert_eq!(bench.guests[from].answers().len(), 1);
            }
            for sent in bench.sent() {
                let on_wire = if sent.bytes[12..14] == [0x81, 0] { (sent.bytes[15], sent.bytes[18]) } else { (0, sent.bytes[14]) };
                prop_assert!(from < 4 && source == from, "only a guest with its own address sends");
                prop_assert_eq!(on_wire.0, on_wire.1, "the tag on the wire");
            }
            for (guest, number) in bench.guests.iter_mut().zip(numbers) {
                for packet in guest.received().into_iter().flatten() {
                    prop_assert_eq!(u16::from(packet.bytes[14]), number);
                    guest.post(1);
                }
            }
        }
        bench.serve_wire();
        bench.assert_idle();
    }
}
