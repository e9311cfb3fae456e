//! Back ends that break the rules. Each costs itself the device, or packets, and nothing else.

use super::*;
use crate::fault::Fault;

/// Checks that the device is out of order for this reason, and that it stays quiet.
fn assert_fault(device: &mut NetDevice<FakeGrants>, expected: Fault) {
    device.begin();
    while receive_in_turn(device).is_some() {}
    assert_eq!(device.fault(), Some(expected));
    assert!(device.transmit(TIME).is_none());
    assert!(device.receive(TIME).is_none());
    assert!(!device.flush().needed());
    assert!(device.may_wait());
}

#[test]
fn an_answer_to_a_request_never_made() {
    for id in [200, 255, 256, 0xffff] {
        let (mut device, mut back_end) = connected(ALL_FEATURES);
        assert!(send(&mut device, &noise(100)));
        back_end.tx.take_request().unwrap();
        back_end.tx.push_response(&NetifTxResponse { id, status: NETIF_RSP_OKAY }).unwrap();
        let _ = back_end.tx.commit_responses();
        assert_fault(&mut device, Fault::UnknownId(id.into()));
    }
}

#[test]
fn the_same_answer_twice() {
    let (mut device, mut back_end) = connected(ALL_FEATURES);
    assert!(send(&mut device, &noise(100)) && send(&mut device, &noise(100)));
    let (first, _second) = (back_end.take_requests().unwrap(), back_end.take_requests().unwrap());
    back_end.answer(&first, NETIF_RSP_OKAY);
    back_end.answer(&first, NETIF_RSP_OKAY);
    assert_fault(&mut device, Fault::UnknownId(first.requests[0].id.into()));
}

#[test]
fn an_empty_answer_where_no_extra_was_sent() {
    let (mut device, mut back_end) = connected(ALL_FEATURES);
    assert!(send(&mut device, &noise(100)));
    let sent = back_end.take_requests().unwrap();
    back_end.answer(&sent, NETIF_RSP_NULL);
    assert_fault(&mut device, Fault::NoSuchExtra);
}

#[test]
fn more_answers_than_questions() {
    for claimed in [1, 257, u32::MAX] {
        let (mut device, back_end) = connected(ALL_FEATURES);
        BackEnd::poke(back_end.tx_words, RESPONSE_PRODUCER, claimed);
        device.begin();
        assert!(matches!(device.fault(), Some(Fault::Ring(corrupt)) if corrupt.found == claimed));
    }
    let (mut device, back_end) = connected(ALL_FEATURES);
    BackEnd::poke(back_end.rx_words, RESPONSE_PRODUCER, 1000);
    assert!(receive(&mut device).is_none());
    assert!(matches!(device.fault(), Some(Fault::Ring(corrupt)) if corrupt.found == 1000));
}

#[test]
fn an_index_that_goes_back() {
    let (mut device, mut back_end) = connected(ALL_FEATURES);
    for _ in 0..3 {
        back_end.deliver(&noise(100), NETRXF_DATA_VALIDATED, None);
        assert!(receive(&mut device).is_some());
    }
    BackEnd::poke(back_end.rx_words, RESPONSE_PRODUCER, 2);
    assert!(receive(&mut device).is_none());
    assert!(matches!(device.fault(), Some(Fault::Ring(_))));
}

#[test]
fn an_answer_in_the_slot_of_another() {
    let (mut device, mut back_end) = connected(ALL_FEATURES);
    back_end.fill_slot_with(|response| response.id = 7);
    back_end.commit_received();
    assert_fault(&mut device, Fault::WrongSlot { id: 7, slot: 0 });
}

#[test]
fn data_beyond_the_end_of_the_page() {
    for (offset, length) in [(4096, 1), (4000, 97), (0, 4097), (u16::MAX, i16::MAX)] {
        let (mut device, mut back_end) = connected(ALL_FEATURES);
        back_end.fill_slot_with(|response| (response.offset, response.status) = (offset, length));
        back_end.commit_received();
        assert_fault(&mut device, Fault::OutsidePage { offset, length });
    }
}

#[test]
fn extra_information_in_the_middle_of_a_packet() {
    let (mut device, mut back_end) = connected(ALL_FEATURES);
    back_end.fill_slot(0, &noise(PAGE_SIZE), NETRXF_MORE_DATA);
    back_end.fill_slot(0, &noise(100), NETRXF_EXTRA_INFO);
    back_end.commit_received();
    assert_fault(&mut device, Fault::MisplacedExtra);
}

#[test]
fn extra_information_of_no_kind() {
    for kind in [XEN_NETIF_EXTRA_TYPE_NONE, XEN_NETIF_EXTRA_TYPE_MAX, 0xff] {
        let (mut device, mut back_end) = connected(ALL_FEATURES);
        back_end.fill_slot(0, &noise(100), NETRXF_EXTRA_INFO);
        back_end.fill_slot_with_extra(NetifExtraInfo { kind, flags: 0, data: [0xff; 6] });
        back_end.commit_received();
        assert_fault(&mut device, Fault::UnknownExtra(kind));
    }
}

#[test]
fn a_packet_without_end() {
    let (mut device, mut back_end) = connected(ALL_FEATURES);
    for _ in 0..50 {
        for _ in 0..100 {
            back_end.fill_slot(0, &noise(PAGE_SIZE), NETRXF_DATA_VALIDATED | NETRXF_MORE_DATA);
        }
        back_end.commit_received();
        assert!(receive(&mut device).is_none());
    }
    back_end.fill_slot(0, b"end", 0);
    back_end.deliver(&noise(500), NETRXF_DATA_VALIDATED, None);
    assert_eq!(receive(&mut device), Some(noise(500)), "the next packet is one again");
    assert_eq!(device.queues().unwrap().rx.counters().dropped, 1);
}

#[test]
fn a_packet_of_nothing_but_empty_parts() {
    let (mut device, mut back_end) = connected(ALL_FEATURES);
    for _ in 0..200 {
        back_end.fill_slot(0, b"", NETRXF_MORE_DATA);
    }
    back_end.fill_slot(0, b"", 0);
    back_end.fill_slot(0, b"", 0);
    back_end.commit_received();
    assert!(receive(&mut device).is_none());
    assert_eq!(device.fault(), None);
}

#[test]
fn pages_kept_after_they_were_answered_for_are_neither_used_nor_replaced() {
    let (mut device, mut back_end) = connected(NO_FEATURES);
    let mut held = Vec::new();
    while send(&mut device, &noise(100)) {
        let sent = back_end.take_requests().unwrap();
        back_end.grants.hold(sent.requests[0].gref, true);
        held.push(sent.requests[0].gref);
        back_end.answer(&sent, NETIF_RSP_OKAY);
        assert!(held.len() <= 256, "the queue must run dry");
    }
    assert!(!send(&mut device, &noise(100)));
    back_end.grants.hold(held[0], false);
    assert!(send(&mut device, &noise(100)), "what was let go can be used again");
    held[1..].iter().for_each(|gref| back_end.grants.hold(*gref, false));
    drop(device);
    assert_eq!(back_end.grants.count(), 0);
}

#[test]
fn a_received_page_that_is_kept_is_copied_from() {
    let (mut device, mut back_end) = connected(ALL_FEATURES);
    let request = back_end.rx.take_request().unwrap().unwrap();
    back_end.grants.write(request.gref, 0, &noise(1000));
    back_end.grants.hold(request.gref, true);
    let flags = NETRXF_DATA_VALIDATED;
    back_end.rx.push_response(&NetifRxResponse { id: request.id, offset: 0, flags, status: 1000 }).unwrap();
    back_end.commit_received();
    device.begin();
    let packet = device.receive(TIME).expect("a packet came").0;
    packet.consume(|bytes| {
        back_end.grants.write(request.gref, 0, &[0xee; 1000]);
        assert_eq!(bytes, noise(1000), "what the stack sees does not change under it");
    });
    back_end.grants.hold(request.gref, false);
}

#[test]
fn the_stack_sees_only_pages_that_the_back_end_cannot_reach() {
    let (mut device, mut back_end) = connected(ALL_FEATURES);
    let before = back_end.grants.count();
    back_end.deliver(&noise(1000), NETRXF_DATA_VALIDATED, None);
    device.begin();
    let packet = device.receive(TIME).expect("a packet came").0;
    packet.consume(|_| assert_eq!(back_end.grants.count(), before - 1));
    let token = device.transmit(TIME).expect("there is room");
    token.consume(1000, |buffer| {
        assert_eq!(back_end.grants.count(), before - 1);
        buffer.fill(0);
    });
    assert_eq!(back_end.grants.count(), before);
}

#[test]
fn a_back_end_that_never_answers() {
    let (mut device, _back_end) = connected(ALL_FEATURES);
    let mut sent = 0;
    while send(&mut device, &noise(60000)) {
        sent += 1;
    }
    assert_eq!(sent, 12, "the pool of large buffers is all that is lost");
    assert!(device.is_starved());
    assert_eq!(device.fault(), None);
}
