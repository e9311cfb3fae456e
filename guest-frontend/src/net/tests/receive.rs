//! Packets in.

use super::*;

const VALIDATED: u16 = NETRXF_DATA_VALIDATED;

#[test]
fn packets_of_any_size_are_received_as_they_came() {
    let (mut device, mut back_end) = connected(ALL_FEATURES);
    for length in [14, 60, 256, 257, 1514, 4096, 4097, 9230, 65535] {
        back_end.deliver(&noise(length), VALIDATED, None);
        assert_eq!(receive(&mut device), Some(noise(length)));
        assert_eq!(receive(&mut device), None);
    }
    let counters = device.queues().unwrap().rx.counters();
    assert_eq!((counters.packets, counters.dropped), (9, 0));
}

#[test]
fn a_packet_may_start_anywhere_in_its_page() {
    let (mut device, mut back_end) = connected(ALL_FEATURES);
    for (offset, length) in [(1, 1000), (256, 1514), (4000, 96), (2, 60)] {
        back_end.fill_slot(offset, &noise(length), VALIDATED);
        back_end.commit_received();
        assert_eq!(receive(&mut device), Some(noise(length)));
    }
}

#[test]
fn extra_information_stands_in_a_slot_of_its_own() {
    let (mut device, mut back_end) = connected(ALL_FEATURES);
    back_end.deliver(&noise(30000), VALIDATED | NETRXF_CSUM_BLANK, Some(1448));
    back_end.deliver(&noise(100), VALIDATED, Some(1448));
    assert_eq!(receive(&mut device), Some(noise(30000)));
    assert_eq!(receive(&mut device), Some(noise(100)));
    assert_eq!(device.fault(), None);
}

#[test]
fn several_extra_slots_may_follow_each_other() {
    let (mut device, mut back_end) = connected(ALL_FEATURES);
    back_end.fill_slot(0, &noise(PAGE_SIZE), VALIDATED | NETRXF_EXTRA_INFO | NETRXF_MORE_DATA);
    let hash =
        NetifExtraInfo { kind: XEN_NETIF_EXTRA_TYPE_HASH, flags: XEN_NETIF_EXTRA_FLAG_MORE, data: [0; 6] };
    back_end.fill_slot_with_extra(hash);
    back_end.fill_slot_with_extra(NetifExtraInfo { kind: XEN_NETIF_EXTRA_TYPE_GSO, flags: 0, data: [0; 6] });
    back_end.fill_slot(0, &noise(5), 0);
    back_end.commit_received();
    assert_eq!(receive(&mut device).map(|packet| packet.len()), Some(PAGE_SIZE + 5));
}

#[test]
fn a_packet_may_come_in_instalments() {
    let (mut device, mut back_end) = connected(ALL_FEATURES);
    back_end.fill_slot(0, &noise(PAGE_SIZE), VALIDATED | NETRXF_MORE_DATA);
    back_end.commit_received();
    assert_eq!(receive(&mut device), None);
    back_end.fill_slot(0, &noise(100), 0);
    back_end.commit_received();
    let packet = receive(&mut device).expect("the packet is complete");
    assert_eq!((&packet[..PAGE_SIZE], &packet[PAGE_SIZE..]), (&noise(PAGE_SIZE)[..], &noise(100)[..]));
}

#[test]
fn pages_are_posted_again() {
    let (mut device, mut back_end) = connected(ALL_FEATURES);
    for round in 0..600 {
        let length = 100 + round * 37 % 9000;
        back_end.deliver(&noise(length), VALIDATED, None);
        assert_eq!(receive(&mut device), Some(noise(length)));
    }
    let posted = back_end.rx.waiting_requests().unwrap();
    assert_eq!(posted, back_end.rx.capacity());
}

#[test]
fn a_packet_reported_as_failed_is_dropped_whole() {
    let (mut device, mut back_end) = connected(ALL_FEATURES);
    back_end.fill_slot(0, &noise(PAGE_SIZE), VALIDATED | NETRXF_MORE_DATA);
    back_end.fill_slot_with(|response| response.status = NETIF_RSP_ERROR);
    back_end.deliver(&noise(300), VALIDATED, None);
    assert_eq!(receive(&mut device), Some(noise(300)));
    assert_eq!(device.queues().unwrap().rx.counters().dropped, 1);
}

#[test]
fn one_turn_takes_a_bounded_number_of_packets() {
    let (mut device, mut back_end) = connected(ALL_FEATURES);
    for _ in 0..200 {
        back_end.deliver(&noise(100), VALIDATED, None);
    }
    device.begin();
    let first = core::iter::from_fn(|| receive_in_turn(&mut device)).count();
    assert_eq!(first, 128);
    assert!(!device.may_wait(), "there is more to take");
    device.begin();
    assert_eq!(core::iter::from_fn(|| receive_in_turn(&mut device)).count(), 200 - first);
    assert!(device.may_wait());
}

#[test]
fn an_event_comes_for_the_first_packet_after_a_wait_only() {
    let (mut device, mut back_end) = connected(ALL_FEATURES);
    device.begin();
    assert!(device.may_wait());
    let mut events = Vec::new();
    for _ in 0..3 {
        back_end.fill_slot(0, &noise(100), VALIDATED);
        events.push(back_end.commit_received());
    }
    assert_eq!(events, [true, false, false]);
    assert!(!device.may_wait());
}

#[test]
fn small_packets_cost_no_change_of_grants() {
    let (mut device, mut back_end) = connected(ALL_FEATURES);
    let request = back_end.rx.take_request().unwrap().unwrap();
    back_end.grants.write(request.gref, 0, &noise(66));
    let response = NetifRxResponse { id: request.id, offset: 0, flags: VALIDATED, status: 66 };
    back_end.rx.push_response(&response).unwrap();
    back_end.commit_received();
    assert_eq!(receive(&mut device), Some(noise(66)));
    let posted: Vec<_> = core::iter::from_fn(|| back_end.rx.take_request().unwrap()).collect();
    assert!(posted.iter().any(|posted| posted.gref == request.gref));
}
