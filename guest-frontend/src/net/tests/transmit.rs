//! Packets out.

use super::*;

#[test]
fn packets_of_any_size_arrive_as_they_were_sent() {
    let (mut device, mut back_end) = connected(ALL_FEATURES);
    for length in [14, 60, 1514, 4095, 4096, 4097, 8192, 9230, 65535] {
        let packet = noise(length);
        assert!(send(&mut device, &packet));
        let sent = back_end.take().expect("a packet was sent");
        assert_eq!(sent.bytes, packet);
        assert_eq!(sent.requests.len(), length.div_ceil(PAGE_SIZE));
        assert_eq!(usize::from(sent.requests[0].size), length, "the first slot has the whole packet's size");
    }
    device.begin();
    let counters = device.queues().unwrap().tx.counters();
    assert_eq!((counters.packets, counters.dropped), (9, 0));
}

#[test]
fn a_batch_is_one_notification() {
    let (mut device, mut back_end) = connected(ALL_FEATURES);
    assert!(back_end.tx.final_check_for_requests().unwrap().may_wait());
    device.begin();
    for _ in 0..50 {
        assert!(send_in_turn(&mut device, &noise(1000)));
    }
    assert!(device.flush().needed());
    assert!(send(&mut device, &noise(1000)));
    assert_eq!(device.queues().unwrap().tx.counters().notifications, 1, "the back end is at work already");
    assert_eq!(core::iter::from_fn(|| back_end.take()).count(), 51);
}

#[test]
fn a_sender_with_room_wants_no_events() {
    let (mut device, mut back_end) = connected(ALL_FEATURES);
    // Every new ring asks for the first event.
    assert!(send(&mut device, &noise(100)));
    back_end.take();
    for _ in 0..300 {
        assert!(send(&mut device, &noise(100)));
        assert!(device.may_wait());
        let sent = back_end.take_requests().unwrap();
        let id = sent.requests[0].id;
        back_end.tx.push_response(&NetifTxResponse { id, status: NETIF_RSP_OKAY }).unwrap();
        assert!(!back_end.tx.commit_responses().needed());
    }
}

#[test]
fn a_sender_without_room_is_woken_when_there_is_some() {
    let (mut device, mut back_end) = connected(NO_FEATURES);
    device.begin();
    while send_in_turn(&mut device, &noise(100)) {}
    let _ = device.flush();
    assert!(device.is_starved());
    assert!(device.may_wait());
    let mut woken = 0;
    while let Some(sent) = back_end.take_requests() {
        let id = sent.requests[0].id;
        back_end.tx.push_response(&NetifTxResponse { id, status: NETIF_RSP_OKAY }).unwrap();
        woken += u32::from(back_end.tx.commit_responses().needed());
    }
    assert_eq!(woken, 1);
    assert!(send(&mut device, &noise(100)));
}

#[test]
fn the_ring_can_be_filled_again_and_again() {
    let (mut device, mut back_end) = connected(ALL_FEATURES);
    let mut total = 0;
    for round in 0..40 {
        device.begin();
        while send_in_turn(&mut device, &noise(3000 + round * 500)) {
            total += 1;
        }
        let _ = device.flush();
        while back_end.take().is_some() {}
    }
    assert!(total > 40 * 10);
    device.begin();
    assert_eq!(device.queues().unwrap().tx.counters().packets, total);
    assert_eq!(device.fault(), None);
}

#[test]
fn packets_that_the_back_end_drops_are_counted() {
    let (mut device, mut back_end) = connected(ALL_FEATURES);
    for status in [NETIF_RSP_DROPPED, NETIF_RSP_ERROR, NETIF_RSP_OKAY] {
        assert!(send(&mut device, &noise(5000)));
        let sent = back_end.take_requests().unwrap();
        back_end.answer(&sent, status);
    }
    device.begin();
    assert_eq!(device.queues().unwrap().tx.counters().dropped, 2);
}

#[test]
fn a_full_grant_table_costs_packets_only() {
    let (mut device, mut back_end) = connected(ALL_FEATURES);
    back_end.grants.limit(back_end.grants.count() + 1);
    assert!(send(&mut device, &noise(5000)));
    assert!(back_end.take().is_none());
    assert_eq!(device.queues().unwrap().tx.counters().dropped, 1);
    assert!(send(&mut device, &noise(1000)));
    assert_eq!(back_end.take().unwrap().bytes, noise(1000));
}

#[test]
fn all_grants_end_with_the_connection() {
    let (mut device, mut back_end) = connected(ALL_FEATURES);
    for _ in 0..10 {
        assert!(send(&mut device, &noise(9000)));
    }
    back_end.deliver(&noise(1000), 0, None);
    drop(device.detach());
    assert_eq!(back_end.grants.count(), 0);
    assert!(!send(&mut device, &noise(60)));
    assert!(receive(&mut device).is_none());
}
