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
fn memory_that_is_written_to_after_the_answer_is_still_the_request_s() {
    let (mut queue, mut back_end, found, completion) = reading();
    let kept = found[0].segments[0].gref;
    back_end.grants.hold(kept, true);
    for found in &found {
        back_end.answer(found, BLKIF_RSP_OKAY);
    }
    assert_eq!(queue.reap(), Ok(()));
    let outcome = completion.try_take().expect("the request is answered");
    back_end.grants.write(kept, 0, &[0xee; PAGE_SIZE]);
    let content = content(outcome, 30 * PAGE_SIZE);
    assert!(content[..PAGE_SIZE].iter().all(|byte| *byte == 0xee));
    assert_eq!(content[PAGE_SIZE..], noise(30 * PAGE_SIZE)[PAGE_SIZE..]);
}

#[test]
fn requests_of_a_back_end_that_dies_with_their_memory_fail_at_the_next_and_others_live_on() {
    let (mut queue, back_end, found, completion) = reading();
    let other = push(&mut queue, Action::Write, 0, &noise(PAGE_SIZE));
    let _ = queue.submit();
    back_end.grants.hold(found[2].segments[3].gref, true);
    let (mut next, mut next_back_end) = connected(DIRECT);
    queue.into_requests().for_each(|request| next.push(request));
    let _ = next.submit();
    assert_eq!(completion.try_take().unwrap().result, Err(BlockError::NoMemory));
    assert_eq!(finish(&mut next, &mut next_back_end, &other).result, Ok(()));
}
