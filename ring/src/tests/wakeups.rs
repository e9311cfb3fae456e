//! Two ends that sleep and wake each other, in every interleaving and every reordering of loads and stores
//! that the memory model allows (for the longer programs, in all those with few interruptions).
//!
//! An event channel is a flag that is set by the sender and cleared by the sleeper: what is sent before one
//! sleeps is not lost. So the only way to sleep for ever is that an event is not sent at all, and then no
//! thread can run, which the checker reports as a deadlock. Messages carry numbers, so a message that is
//! seen before it is written is noticed as well.
//!
//! The last tests break the rings on purpose, to show that the check can fail.
//!
//! One thing the checker does not model: a load that takes place after a store which follows it in the
//! program. That a slot or a byte is read before its room is given back rests on the release and acquire
//! orderings of the indexes alone, as the comments there say.

use core::sync::atomic::Ordering;
use std::sync::Arc;

use loom::sync::Notify;
use loom::sync::atomic::{AtomicU32, fence};
use loom::thread;

use super::{FIRST_SLOT, REQ_PROD};
use crate::{BackRing, ByteRing, FrontRing, Protocol, RingMemory, StreamEnd, StreamLayout, Transfer};

/// A ring of small numbers, so that a message is one access.
#[derive(Debug)]
enum Numbers {}

impl Protocol for Numbers {
    type Request = u32;
    type Response = u32;
}

/// What is wrong with the memory, if anything.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    /// Fences do nothing.
    NoFence,
    /// A producer index does not vouch for what was written before it.
    WeakProducer,
}

/// Shared words whose every access the checker sees.
#[derive(Clone)]
struct CheckedMemory {
    words: Arc<[AtomicU32]>,
    fault: Fault,
}

impl CheckedMemory {
    fn new(size_words: usize, fault: Fault) -> Self {
        Self { words: (0..size_words).map(|_| AtomicU32::new(0)).collect(), fault }
    }
}

impl RingMemory for CheckedMemory {
    fn size_words(&self) -> usize {
        self.words.len()
    }

    fn load(&self, word: usize, ordering: Ordering) -> u32 {
        self.words[word].load(ordering)
    }

    fn store(&self, word: usize, value: u32, ordering: Ordering) {
        let weak = self.fault == Fault::WeakProducer && word == REQ_PROD;
        self.words[word].store(value, if weak { Ordering::Relaxed } else { ordering });
    }

    fn full_fence(&self) {
        if self.fault != Fault::NoFence {
            fence(Ordering::SeqCst);
        }
    }
}

/// Two ends, and an event channel each way.
struct Link {
    front: FrontRing<Numbers, CheckedMemory>,
    back: BackRing<Numbers, CheckedMemory>,
    to_back: Arc<Notify>,
    to_front: Arc<Notify>,
}

impl Link {
    fn new(slots: usize, fault: Fault) -> Self {
        let memory = CheckedMemory::new(FIRST_SLOT + slots, fault);
        let front = FrontRing::new(memory.clone()).unwrap();
        let back = BackRing::attach(memory).unwrap();
        Self { front, back, to_back: Arc::new(Notify::new()), to_front: Arc::new(Notify::new()) }
    }
}

/// Takes this many requests and checks that they are 1, 2, 3...
fn receive_requests(back: &mut BackRing<Numbers, CheckedMemory>, event: &Notify, count: u32, patience: u32) {
    let mut taken = 0;
    while taken < count {
        let wanted = patience.min(count - taken);
        if back.final_check_for_many_requests(wanted).unwrap().may_wait() {
            event.wait();
        } else {
            taken += 1;
            assert_eq!(back.take_request(), Ok(Some(taken)));
        }
    }
}

/// Sends requests one by one; the back end sleeps until `patience` of them are there.
fn requests_one_by_one(fault: Fault, patience: u32) {
    let Link { mut front, mut back, to_back, .. } = Link::new(2, fault);
    let event = to_back.clone();
    let sender = thread::spawn(move || {
        for number in 1..=2 {
            front.push_request(&number).unwrap();
            if front.commit_requests().needed() {
                event.notify();
            }
        }
    });
    receive_requests(&mut back, &to_back, 2, patience);
    sender.join().unwrap();
}

/// Sends responses one by one; the front end sleeps until `patience` of them are there.
fn responses_one_by_one(fault: Fault, patience: u32) {
    let Link { mut front, mut back, to_front, .. } = Link::new(2, fault);
    front.push_request(&1).unwrap();
    front.push_request(&2).unwrap();
    let _ = front.commit_requests();
    let event = to_front.clone();
    let sender = thread::spawn(move || {
        while let Some(number) = back.take_request().unwrap() {
            back.push_response(&(number + 10)).unwrap();
            if back.commit_responses().needed() {
                event.notify();
            }
        }
    });
    let mut taken = 0;
    while taken < 2 {
        if front.final_check_for_many_responses(patience).unwrap().may_wait() {
            to_front.wait();
        } else {
            taken += 1;
            assert_eq!(front.take_response(), Ok(Some(taken + 10)));
        }
    }
    sender.join().unwrap();
}

/// More requests than slots: each end sleeps for the other.
fn requests_and_responses_through_one_slot() {
    let Link { mut front, mut back, to_back, to_front } = Link::new(1, Fault::None);
    let (wake_back, wake_front) = (to_back.clone(), to_front.clone());
    let server = thread::spawn(move || {
        let mut answered = 0;
        while answered < 2 {
            if back.final_check_for_requests().unwrap().may_wait() {
                to_back.wait();
                continue;
            }
            let number = back.take_request().unwrap().unwrap();
            back.push_response(&(number + 10)).unwrap();
            answered += 1;
            if back.commit_responses().needed() {
                wake_front.notify();
            }
        }
    });
    for number in 1..=2 {
        front.push_request(&number).unwrap();
        if front.commit_requests().needed() {
            wake_back.notify();
        }
        while front.final_check_for_responses().unwrap().may_wait() {
            to_front.wait();
        }
        assert_eq!(front.take_response(), Ok(Some(number + 10)));
    }
    server.join().unwrap();
}

/// A stream of one word each way.
const THERE: StreamLayout = StreamLayout { buffer: 0, size: 4, consumer: 8, producer: 12 };
/// The stream the other way.
const BACK: StreamLayout = StreamLayout { buffer: 4, size: 4, consumer: 16, producer: 20 };

/// The end that writes in the test.
enum Writer {}

impl StreamEnd for Writer {
    const RECEIVE: StreamLayout = BACK;
    const SEND: StreamLayout = THERE;
}

/// The end that reads in the test.
enum Reader {}

impl StreamEnd for Reader {
    const RECEIVE: StreamLayout = THERE;
    const SEND: StreamLayout = BACK;
}

/// Notifies if told to and sleeps if nothing moved; returns how much did.
fn act_on(transfer: Transfer, peer: &Notify, own: &Notify) -> usize {
    if transfer.notify.needed() {
        peer.notify();
    }
    if transfer.count == 0 {
        own.wait();
    }
    transfer.count
}

/// Seven bytes through a buffer of four: each end sleeps for the other.
fn bytes_through_a_small_buffer() {
    const TEXT: &[u8] = b"abcdefg";
    let memory = CheckedMemory::new(6, Fault::None);
    let mut writer = ByteRing::<Writer, _>::attach(memory.clone()).unwrap();
    let mut reader = ByteRing::<Reader, _>::attach(memory).unwrap();
    let (to_reader, to_writer) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (wake_reader, room) = (to_reader.clone(), to_writer.clone());
    let sender = thread::spawn(move || {
        let mut rest = TEXT;
        while !rest.is_empty() {
            rest = &rest[act_on(writer.write(rest).unwrap(), &wake_reader, &room)..];
        }
    });
    let (mut text, mut filled) = ([0; TEXT.len()], 0);
    while filled < text.len() {
        filled += act_on(reader.read(&mut text[filled..]).unwrap(), &to_writer, &to_reader);
    }
    assert_eq!(text, TEXT);
    sender.join().unwrap();
}

/// Checks all executions in which threads are interrupted no more than `bound` times, which finds nearly
/// every error in a fraction of the time. Waiting for each other does not count as an interruption.
fn check_bounded(bound: usize, program: impl Fn() + Send + Sync + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(bound);
    model.check(program);
}

#[test]
fn no_wakeup_for_a_request_is_lost() {
    check_bounded(4, || requests_one_by_one(Fault::None, 1));
}

#[test]
fn no_wakeup_for_several_requests_is_lost() {
    loom::model(|| requests_one_by_one(Fault::None, 2));
}

#[test]
fn no_wakeup_for_a_response_is_lost() {
    check_bounded(4, || responses_one_by_one(Fault::None, 1));
}

#[test]
fn no_wakeup_for_several_responses_is_lost() {
    loom::model(|| responses_one_by_one(Fault::None, 2));
}

#[test]
fn no_wakeup_is_lost_when_both_ends_sleep() {
    check_bounded(2, requests_and_responses_through_one_slot);
}

#[test]
fn no_byte_and_no_wakeup_for_it_is_lost() {
    loom::model(bytes_through_a_small_buffer);
}

#[test]
#[should_panic(expected = "deadlock")]
fn without_fences_a_wakeup_for_a_request_is_lost() {
    loom::model(|| requests_one_by_one(Fault::NoFence, 1));
}

#[test]
#[should_panic(expected = "deadlock")]
fn without_fences_a_wakeup_for_a_response_is_lost() {
    loom::model(|| responses_one_by_one(Fault::NoFence, 1));
}

#[test]
#[should_panic(expected = "left == right")]
fn without_a_release_a_request_is_seen_before_it_is_written() {
    loom::model(|| requests_one_by_one(Fault::WeakProducer, 1));
}
