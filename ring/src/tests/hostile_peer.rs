//! Memory that changes between any two reads.
//!
//! The peer here is as bad as it can be: each load may give another value, honest, slightly off or anything.
//! Whatever it does, our half must not panic, must keep its own counts right, must read no word of a message
//! twice, and must write nowhere but where it may.

use core::cell::{Cell, RefCell};
use core::sync::atomic::Ordering;
use std::collections::BTreeMap;
use std::vec;
use std::vec::Vec;

use hypercall_abi::io::netif::{NetifTxRequest, NetifTxResponse};
use proptest::prelude::*;

use super::{FIRST_SLOT, REQ_EVENT, REQ_PROD, RSP_EVENT, RSP_PROD};
use crate::console::FrontEnd;
use crate::{
    BackRing, ByteRing, Corrupt, FrontRing, NetifTx, RingMemory, StreamEnd, WORD_SIZE, WORDS_PER_PAGE,
};

/// Slots of the rings tested.
const CAPACITY: u32 = 8;
/// Words in a slot.
const SLOT_WORDS: usize = 3;

/// What the peer makes of one load.
#[derive(Clone, Copy, Debug)]
enum Lie {
    /// So far ahead of what we have taken, or behind.
    Near(i32),
    /// This.
    Anything(u32),
}

fn lies() -> impl Strategy<Value = Vec<Lie>> {
    let lie = prop_oneof![
        6 => (0..4_i32).prop_map(Lie::Near),
        2 => (-12..12_i32).prop_map(Lie::Near),
        1 => (-2100..2100_i32).prop_map(Lie::Near),
        1 => any::<u32>().prop_map(Lie::Anything),
    ];
    prop::collection::vec(lie, 1..64)
}

/// Memory whose every load gives the next lie, once it has begun to lie.
struct Hostile {
    size_words: usize,
    lying: Cell<bool>,
    lies: Vec<Lie>,
    next_lie: Cell<usize>,
    /// What [`Lie::Near`] is near to.
    base: Cell<u32>,
    /// Words loaded since the log was last taken, and how often.
    loads: RefCell<BTreeMap<usize, usize>>,
    /// Stores since the log was last taken.
    stores: RefCell<Vec<(usize, u32)>>,
}

impl Hostile {
    /// Memory that says `start` wherever one looks, until told to [`begin`](Self::begin).
    fn new(size_words: usize, lies: Vec<Lie>, start: u32) -> Self {
        let (lying, next_lie, base) = (Cell::new(false), Cell::new(0), Cell::new(start));
        Self {
            size_words,
            lying,
            lies,
            next_lie,
            base,
            loads: RefCell::default(),
            stores: RefCell::default(),
        }
    }

    /// Memory of just the right size for [`CAPACITY`] slots.
    fn for_slots(lies: Vec<Lie>, start: u32) -> Self {
        Self::new(FIRST_SLOT + CAPACITY as usize * SLOT_WORDS, lies, start)
    }

    /// Lies from here on.
    fn begin(&self) {
        self.lying.set(true);
        self.take_loads();
        self.take_stores();
    }

    fn take_loads(&self) -> BTreeMap<usize, usize> {
        self.loads.take()
    }

    fn take_stores(&self) -> Vec<(usize, u32)> {
        self.stores.take()
    }
}

impl RingMemory for &Hostile {
    fn size_words(&self) -> usize {
        self.size_words
    }

    fn load(&self, word: usize, _: Ordering) -> u32 {
        assert!(word < self.size_words);
        *self.loads.borrow_mut().entry(word).or_default() += 1;
        if !self.lying.get() {
            return self.base.get();
        }
        let number = self.next_lie.replace(self.next_lie.get() + 1);
        match self.lies[number % self.lies.len()] {
            Lie::Near(distance) => self.base.get().wrapping_add_signed(distance),
            Lie::Anything(value) => value,
        }
    }

    fn store(&self, word: usize, value: u32, _: Ordering) {
        assert!(word < self.size_words);
        self.stores.borrow_mut().push((word, value));
    }
}

/// The words of the slot that the message with this index lies in.
fn slot_words(index: u32) -> Vec<usize> {
    let first = FIRST_SLOT + (index % CAPACITY) as usize * SLOT_WORDS;
    (first..first + SLOT_WORDS).collect()
}

/// Asserts that exactly these words were loaded, each once.
fn assert_loaded_once(loads: &BTreeMap<usize, usize>, words: &[usize]) {
    let expected: BTreeMap<_, _> = words.iter().map(|&word| (word, 1)).collect();
    assert_eq!(*loads, expected);
}

/// What a half does next; which half decides what is taken and what is pushed.
#[derive(Clone, Copy, Debug)]
enum Step {
    Take,
    Push,
    Commit,
    Look,
    Wait,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => Just(Step::Take),
        4 => Just(Step::Push),
        2 => Just(Step::Commit),
        1 => Just(Step::Look),
        1 => Just(Step::Wait),
    ];
    prop::collection::vec(step, 1..120)
}

/// What we count on our own beside a half: how many messages were taken, pushed and published.
struct Counts {
    taken: u32,
    pushed: u32,
    published: u32,
}

impl Counts {
    fn starting_at(start: u32) -> Self {
        Self { taken: start, pushed: start, published: start }
    }
}

/// Asserts that a successful or failed `take` read a message at most once, and an index at most once.
fn assert_take_reads_once(loads: &BTreeMap<usize, usize>, producer: usize, taken: Option<u32>) {
    let mut words = taken.map(slot_words).unwrap_or_default();
    if loads.contains_key(&producer) {
        words.push(producer);
    }
    assert_loaded_once(loads, &words);
}

/// Asserts that a commit stored our producer index and nothing else.
fn assert_commit(memory: &Hostile, producer: usize, counts: &mut Counts) {
    let expected = if counts.pushed == counts.published { vec![] } else { vec![(producer, counts.pushed)] };
    assert_eq!(memory.take_stores(), expected);
    counts.published = counts.pushed;
}

fn step_back(ring: &mut BackRing<NetifTx, &Hostile>, memory: &Hostile, step: Step, counts: &mut Counts) {
    memory.base.set(counts.taken);
    match step {
        Step::Take => {
            let taken = ring.take_request().ok().flatten().map(|_| counts.taken);
            assert_take_reads_once(&memory.take_loads(), REQ_PROD, taken);
            counts.taken = counts.taken.wrapping_add(taken.is_some() as u32);
        }
        Step::Push => {
            let response = NetifTxResponse { id: 0xabcd, status: 0 };
            let pushed = ring.push_response(&response);
            assert_eq!(pushed.is_ok(), counts.pushed != counts.taken);
            let expected = pushed.map(|_| (slot_words(counts.pushed)[0], 0xabcd));
            assert_eq!(memory.take_stores(), Vec::from_iter(expected.ok()));
            counts.pushed = counts.pushed.wrapping_add(pushed.is_ok() as u32);
        }
        Step::Commit => {
            let _ = ring.commit_responses();
            assert_commit(memory, RSP_PROD, counts);
        }
        Step::Look => {
            let _: Result<u32, Corrupt> = ring.waiting_requests();
            assert_loaded_once(&memory.take_loads(), &[REQ_PROD]);
        }
        Step::Wait => {
            let room = CAPACITY - counts.taken.wrapping_sub(counts.published);
            let wanted = counts.taken.wrapping_add(room.clamp(1, 3));
            let _ = ring.final_check_for_many_requests(3);
            assert!(memory.take_stores().iter().all(|&store| store == (REQ_EVENT, wanted)));
        }
    }
    assert_eq!(ring.unanswered_requests(), counts.taken.wrapping_sub(counts.pushed));
    assert!(counts.taken.wrapping_sub(counts.published) <= CAPACITY, "took what there was no room for");
}

fn step_front(ring: &mut FrontRing<NetifTx, &Hostile>, memory: &Hostile, step: Step, counts: &mut Counts) {
    memory.base.set(counts.taken);
    match step {
        Step::Take => {
            let taken = ring.take_response().ok().flatten().map(|_| counts.taken);
            let loads = memory.take_loads();
            let mut words = taken.map(|index| slot_words(index)[..1].to_vec()).unwrap_or_default();
            words.extend(loads.contains_key(&RSP_PROD).then_some(RSP_PROD));
            assert_loaded_once(&loads, &words);
            counts.taken = counts.taken.wrapping_add(taken.is_some() as u32);
        }
        Step::Push => {
            let pushed = ring.push_request(&NetifTxRequest::default());
            assert_eq!(pushed.is_ok(), counts.pushed.wrapping_sub(counts.taken) < CAPACITY);
            let words: Vec<_> = memory.take_stores().into_iter().map(|(word, _)| word).collect();
            assert_eq!(words, pushed.map(|_| slot_words(counts.pushed)).unwrap_or_default());
            counts.pushed = counts.pushed.wrapping_add(pushed.is_ok() as u32);
        }
        Step::Commit => {
            let _ = ring.commit_requests();
            assert_commit(memory, REQ_PROD, counts);
        }
        Step::Look => {
            let _: Result<u32, Corrupt> = ring.waiting_responses();
            assert_loaded_once(&memory.take_loads(), &[RSP_PROD]);
        }
        Step::Wait => {
            let to_come = counts.published.wrapping_sub(counts.taken);
            let wanted = counts.taken.wrapping_add(to_come.clamp(1, 3));
            let _ = ring.final_check_for_many_responses(3);
            assert!(memory.take_stores().iter().all(|&store| store == (RSP_EVENT, wanted)));
        }
    }
    assert_eq!(ring.free_requests(), CAPACITY - counts.pushed.wrapping_sub(counts.taken));
    assert!(counts.published.wrapping_sub(counts.taken) <= CAPACITY, "took what was never asked for");
}

/// Asserts that a read took each word of the buffer once at most and stored one index at most.
fn check_byte_read(
    ring: &mut ByteRing<FrontEnd, &Hostile>,
    memory: &Hostile,
    length: usize,
    taken: &mut u32,
) {
    memory.base.set(*taken);
    let count = ring.read(&mut vec![0; length]).map_or(0, |transfer| transfer.count);
    assert!(count <= length && count <= FrontEnd::RECEIVE.size as usize);
    *taken = taken.wrapping_add(count as u32);
    let loads = memory.take_loads();
    assert_eq!(loads.get(&(FrontEnd::RECEIVE.producer / WORD_SIZE)), Some(&1));
    // A read of the whole buffer from within a word comes back to that word for its first bytes.
    assert!(loads.values().sum::<usize>() <= 2 + count.div_ceil(WORD_SIZE) + 1);
    let expected = (FrontEnd::RECEIVE.consumer / WORD_SIZE, *taken);
    assert_eq!(memory.take_stores(), if count > 0 { vec![expected] } else { vec![] });
}

/// Asserts that a write stored into its buffer and one index, and nowhere else.
fn check_byte_write(ring: &mut ByteRing<FrontEnd, &Hostile>, memory: &Hostile, length: usize, put: &mut u32) {
    memory.base.set(*put);
    let count = ring.write(&vec![0; length]).map_or(0, |transfer| transfer.count);
    assert!(count <= length && count <= FrontEnd::SEND.size as usize);
    *put = put.wrapping_add(count as u32);
    let mut stores = memory.take_stores();
    let expected = (count > 0).then_some((FrontEnd::SEND.producer / WORD_SIZE, *put));
    assert_eq!(stores.pop(), expected);
    let first = FrontEnd::SEND.buffer / WORD_SIZE;
    let last = first + FrontEnd::SEND.size as usize / WORD_SIZE;
    assert!(stores.iter().all(|(word, _)| (first..last).contains(word)));
    memory.take_loads();
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    #[test]
    fn a_back_end_survives_any_front_end(lies in lies(), start: u32, steps in steps()) {
        let memory = Hostile::for_slots(lies, start);
        let mut ring = BackRing::<NetifTx, _>::attach(&memory).unwrap();
        memory.begin();
        let mut counts = Counts::starting_at(start);
        for step in steps {
            step_back(&mut ring, &memory, step, &mut counts);
            memory.take_loads();
        }
    }

    #[test]
    fn a_front_end_survives_any_back_end(lies in lies(), start: u32, steps in steps()) {
        let memory = Hostile::for_slots(lies, start);
        let mut ring = FrontRing::<NetifTx, _>::starting_at(&memory, start);
        memory.begin();
        let mut counts = Counts::starting_at(start);
        for step in steps {
            step_front(&mut ring, &memory, step, &mut counts);
            memory.take_loads();
        }
    }

    #[test]
    fn a_stream_survives_any_peer(
        lies in lies(),
        start: u32,
        lengths in prop::collection::vec((any::<bool>(), 0..3000_usize), 1..40),
    ) {
        let memory = Hostile::new(WORDS_PER_PAGE, lies, start);
        let mut ring = ByteRing::<FrontEnd, _>::attach(&memory).unwrap();
        memory.begin();
        let (mut taken, mut put) = (start, start);
        for (read, length) in lengths {
            if read {
                check_byte_read(&mut ring, &memory, length, &mut taken);
            } else {
                check_byte_write(&mut ring, &memory, length, &mut put);
            }
        }
    }

    #[test]
    fn joining_survives_any_peer(lies in lies()) {
        let memory = Hostile::new(WORDS_PER_PAGE, lies, 0);
        memory.begin();
        if let Ok(ring) = BackRing::<NetifTx, _>::attach(&memory) {
            prop_assert_eq!(ring.unanswered_requests(), 0);
        }
        if let Ok(ring) = ByteRing::<FrontEnd, _>::attach(&memory) {
            prop_assert!(ring.readable().unwrap_or(0) <= 1024);
        }
    }
}
