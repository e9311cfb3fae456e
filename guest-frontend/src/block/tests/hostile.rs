//! Back ends that break the rules.

use std::sync::atomic::Ordering;

use super::*;
use crate::fault::Fault;

/// The word of the ring's header that holds the back end's producer index.
const RESPONSE_PRODUCER: usize = 2;

/// A queue with one read of 30 pages on the ring, and what the back end found.
fn reading() -> (BlockQueue<FakeGrants>, BackEnd, Vec<Found>, Completion<FakeGrant>) {
    let (mut queue, mut back_end) = connected(DIRECT);
    let completion = push(&mut queue, Action::Read, 0, &noise(30 * PAGE_SIZE));
    let _ = queue.submit();
    let found: Vec<_> = core::iter::from_fn(|| back_end.find()).collect();
    assert_eq!(found.len(), 3);
    (queue, back_end, found, completion)
}

#[test]
fn an_answer_to_a_request_never_made() {
    for id in [3, 31, 32, 1 << 32, u64::MAX] {
        let (mut queue, mut back_end, found, completion) = reading();
        if found.iter().any(|found| found.id == id) {
            continue;
        }
        back_end.answer(&Found { id, ..found[0].clone() }, BLKIF_RSP_OKAY);
        assert_eq!(queue.reap(), Err(Fault::UnknownId(id)));
        assert!(completion.try_take().is_none());
    }
}

#[test]
fn the_same_answer_twice() {
    let (mut queue, mut back_end, found, completion) = reading();
    back_end.answer(&found[1], BLKIF_RSP_OKAY);
    back_end.answer(&found[1], BLKIF_RSP_OKAY);
    assert_eq!(queue.reap(), Err(Fault::UnknownId(found[1].id)));
    assert!(completion.try_take().is_none());
}

#[test]
fn an_answer_to_another_operation() {
    let (mut queue, mut back_end, found, _) = reading();
    back_end.answer(&Found { operation: BLKIF_OP_WRITE, ..found[0].clone() }, BLKIF_RSP_OKAY);
    let fault = Fault::WrongOperation { asked: BLKIF_OP_READ, answered: BLKIF_OP_WRITE };
    assert_eq!(queue.reap(), Err(fault));
}

#[test]
fn more_answers_than_questions() {
    for claimed in [4, 33, u32::MAX] {
        let (mut queue, back_end, _, completion) = reading();
        back_end.ring_words[RESPONSE_PRODUCER].store(claimed, Ordering::SeqCst);
        assert!(matches!(queue.reap(), Err(Fault::Ring(corrupt)) if corrupt.found == claimed));
        assert!(completion.try_take().is_none());
    }
}

#[test]
fn memory_kept_after_the_answer_is_lost_and_never_handed_out() {
    let (mut queue, mut back_end, found, completion) = reading();
    let kept = found[0].segments[0].gref;
    back_end.grants.hold(kept, true);
    for found in &found {
        back_end.answer(found, BLKIF_RSP_OKAY);
    }
    assert_eq!(queue.reap(), Err(Fault::KeepsMemory));
    let outcome = completion.try_take().expect("the request is answered");
    assert!(outcome.buffer.is_none());
    assert_eq!(outcome.result, Err(BlockError::Gone));
    drop(queue);
    back_end.grants.write(kept, 0, &[0xee; PAGE_SIZE]);
}

#[test]
fn a_kept_page_of_segments_is_a_fault_too() {
    let (mut queue, mut back_end) = connected(INDIRECT);
    push(&mut queue, Action::Read, 0, &noise(30 * PAGE_SIZE));
    let _ = queue.submit();
    let request = back_end.ring.take_request().unwrap().unwrap().as_indirect();
    back_end.grants.hold(request.indirect_grefs[0], true);
    let response = BlkifResponse { id: request.id, operation: BLKIF_OP_READ, ..Default::default() };
    back_end.ring.push_response(&response).unwrap();
    let _ = back_end.ring.commit_responses();
    assert_eq!(queue.reap(), Err(Fault::KeepsMemory));
}

#[test]
fn requests_of_a_back_end_that_dies_with_their_memory_fail_and_others_live_on() {
    let (mut queue, back_end, found, completion) = reading();
    let other = push(&mut queue, Action::Write, 0, &noise(PAGE_SIZE));
    let _ = queue.submit();
    back_end.grants.hold(found[2].segments[3].gref, true);
    let survivors: Vec<_> = queue.into_requests().collect();
    assert_eq!(survivors.len(), 1);
    assert_eq!(completion.try_take().unwrap().result, Err(BlockError::Gone));
    assert!(other.try_take().is_none());
}

#[test]
fn a_write_is_shared_for_reading_only() {
    let (mut queue, mut back_end) = connected(DIRECT);
    push(&mut queue, Action::Write, 0, &noise(PAGE_SIZE));
    let _ = queue.submit();
    let gref = back_end.find().unwrap().segments[0].gref;
    let attempt =
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| back_end.grants.write(gref, 0, b"x")));
    assert!(attempt.is_err(), "the fake hypervisor must refuse");
}
