//! The driver against a controller that carries requests out on a medium of bytes.

use alloc::rc::Rc;
use alloc::string::ToString;
use alloc::vec;
use alloc::vec::Vec;

use hypercall_abi::PAGE_SIZE;
use pv_runtime::executor::{now, sleep, spawn, testing};
use pv_runtime::memory::SharedMemory;

use super::fake::{FakeController, Window};
use super::*;
use crate::disk::{BlockDevice, Completions, Operation, Outcome};

const DONE: Result<(), IoError> = Ok(());
const ENTRIES: u16 = 1024;
const BYTES: usize = 1 << 20;

/// A controller's driver, its disk, and somebody who uses it.
struct Bench {
    fake: Rc<FakeController>,
    driver: Rc<Controller<Window>>,
    disk: Rc<Namespace<Window>>,
    completions: Rc<Completions>,
}

fn driver(fake: &Rc<FakeController>) -> Result<Rc<Controller<Window>>, SetupError> {
    let [registers, doorbells] =
        [false, true].map(|is_doorbells| Window { controller: Rc::clone(fake), is_doorbells });
    let patience = Duration::from_secs(30);
    Controller::new(registers, doorbells, 1, "fake".to_string(), patience).map(Rc::new)
}

async fn start(fake: Rc<FakeController>) -> Bench {
    let driver = driver(&fake).expect("a controller like others");
    let mut disks = driver.start().await.expect("it starts");
    let (disk, identity) = disks.pop().expect("a namespace");
    assert_eq!(identity, "FAKE-1/1");
    Bench { fake, driver, disk, completions: Rc::default() }
}

/// Runs a test with a disk that is like most.
fn with_disk<F: Future<Output = ()> + 'static>(test: impl FnOnce(Bench) -> F + 'static) {
    testing::run(async { test(start(FakeController::new(ENTRIES, BYTES)).await).await });
}

impl Bench {
    fn submit(
        &self,
        operation: Operation,
        sector: u64,
        segments: &[Segment],
        token: u32,
    ) -> Result<(), SubmitError> {
        let ticket = Ticket { completions: Rc::clone(&self.completions), token };
        self.disk.submit(operation, sector, segments, ticket)
    }

    fn outcomes(&self) -> Vec<Outcome> {
        self.disk.kick();
        self.driver.take_completions();
        let mut outcomes = Vec::new();
        self.completions.take_all(&mut outcomes);
        outcomes
    }

    /// Makes one request; what became of it.
    fn ask(&self, operation: Operation, sector: u64, segments: &[Segment]) -> Result<(), IoError> {
        self.submit(operation, sector, segments, 7).expect("room");
        let [Outcome { token: 7, result }] = self.outcomes()[..] else { panic!("one outcome") };
        result
    }
}

/// Pages, and a segment for each.
fn pages(count: usize) -> (Vec<Page>, Vec<Segment>) {
    let pages: Vec<_> = (0..count).map(|_| Page::new().expect("a host has memory")).collect();
    let segment =
        |page: &Page| Segment { address: page.machine_frame().physical_address(), length: PAGE_SIZE as u32 };
    let segments = pages.iter().map(segment).collect();
    (pages, segments)
}

fn outcome(token: u32, result: Result<(), IoError>) -> Outcome {
    Outcome { token, result }
}

#[test]
fn reads_and_writes_of_any_length_reach_the_medium() {
    with_disk(async |bench| {
        for count in [1, 2, 3, 100, 128] {
            let (memory, segments) = pages(count);
            assert_eq!(bench.ask(Operation::Read, 8, &segments), DONE);
            for (page, memory) in memory.iter().enumerate() {
                assert_eq!(memory.read::<u8>(0), (8 + 8 * page) as u8, "page {page} of {count}");
                memory.copy_in(0, &[0xc0 ^ page as u8; PAGE_SIZE]);
            }
            assert_eq!(bench.ask(Operation::Write, 8, &segments), DONE);
            let medium = core::mem::take(&mut *bench.fake.medium.borrow_mut());
            for (page, part) in medium[PAGE_SIZE..][..count * PAGE_SIZE].chunks(PAGE_SIZE).enumerate() {
                assert!(part.iter().all(|byte| *byte == 0xc0 ^ page as u8), "page {page} of {count}");
            }
            *bench.fake.medium.borrow_mut() = (0..BYTES).map(|byte| (byte / 512) as u8).collect();
        }
    });
}

#[test]
fn memory_with_gaps_becomes_several_commands_and_one_outcome() {
    with_disk(async |bench| {
        let (memory, segments) = pages(3);
        let middle = |segment: &Segment| Segment { address: segment.address + 512, length: 1024 };
        let pieces: Vec<_> = segments.iter().map(middle).collect();
        assert_eq!(bench.ask(Operation::Read, 30, &pieces), DONE);
        assert_eq!(*bench.fake.log.borrow(), [(2, 1024); 3]);
        for (page, first) in memory.iter().zip([30, 32, 34]) {
            let found: [u8; 4] = [0, 512, 1024, 1536].map(|place| page.read::<u8>(place));
            assert_eq!(found, [0, first, first + 1, 0]);
        }
        // One failed part fails all of it.
        bench.fake.statuses.borrow_mut().extend([0, 0x281, 0]);
        assert_eq!(bench.ask(Operation::Read, 30, &pieces), Err(IoError::Device));
    });
}

#[test]
fn no_command_is_longer_than_the_controller_allows() {
    testing::run(async {
        let fake = FakeController::new(ENTRIES, BYTES);
        fake.transfer_exponent.set(2);
        let bench = start(fake).await;
        assert_eq!(bench.disk.geometry().segments_max, 11);
        let (_memory, segments) = pages(11);
        assert_eq!(bench.ask(Operation::Write, 0, &segments), DONE);
        assert_eq!(*bench.fake.log.borrow(), [(1, 16384), (1, 16384), (1, 12288)]);
    });
}

#[test]
fn large_blocks_are_transferred_as_a_whole_or_not_at_all() {
    testing::run(async {
        let fake = FakeController::new(ENTRIES, BYTES);
        fake.block_exponent.set(12);
        let bench = start(fake).await;
        let geometry = bench.disk.geometry();
        assert_eq!((geometry.logical_block_size, geometry.sectors), (4096, 2048));
        let (memory, segments) = pages(2);
        assert_eq!(bench.ask(Operation::Read, 16, &segments), DONE);
        assert_eq!(memory[1].read::<u8>(0), 24);
        let half = |segment: &Segment| Segment { length: 2048, ..*segment };
        let gap: Vec<_> = segments.iter().map(half).collect();
        let refused = Err(SubmitError::Refused(IoError::OutOfRange));
        assert_eq!(bench.submit(Operation::Read, 16, &gap, 0), refused);
        assert_eq!(bench.submit(Operation::Read, 1, &segments, 0), refused);
    });
}

#[test]
fn a_flush_goes_out_without_memory() {
    with_disk(async |bench| {
        assert_eq!(bench.ask(Operation::Flush, 0, &[]), DONE);
        assert_eq!(*bench.fake.log.borrow(), [(0, 0)]);
    });
}

#[test]
fn queues_go_round_and_phases_with_them() {
    with_disk(async |bench| {
        let (memory, segments) = pages(1);
        for round in 0..1000_u64 {
            let sector = round * 8 % 2000;
            assert_eq!(bench.ask(Operation::Read, sector, &segments), DONE);
            assert_eq!(memory[0].read::<u8>(0), sector as u8);
        }
        assert_eq!(bench.driver.in_flight(), 0);
    });
}

#[test]
fn a_full_queue_rings_when_there_is_room() {
    with_disk(async |bench| {
        bench.fake.holds.set(true);
        let (_memory, segments) = pages(1);
        for token in 0..128 {
            bench.submit(Operation::Read, 0, &segments, token).expect("room");
        }
        assert_eq!(bench.submit(Operation::Read, 0, &segments, 999), Err(SubmitError::Full));
        bench.disk.kick();
        bench.fake.serve_one();
        assert_eq!(bench.outcomes(), [outcome(0, DONE)]);
        bench.submit(Operation::Read, 0, &segments, 999).expect("room again");
    });
}

#[test]
fn a_status_becomes_an_error() {
    let cases = [
        (0x001, IoError::Unsupported),
        (0x020, IoError::ReadOnly),
        (0x080, IoError::OutOfRange),
        (0x006, IoError::Device),
        (0x281, IoError::Device),
        // More bits than a status has are not looked at.
        (0x7ff, IoError::Device),
    ];
    with_disk(async move |bench| {
        let (_memory, segments) = pages(1);
        for (status, error) in cases {
            bench.fake.statuses.borrow_mut().push_back(status);
            assert_eq!(bench.ask(Operation::Read, 0, &segments), Err(error), "{status:#x}");
        }
        assert_eq!(bench.ask(Operation::Read, 0, &segments), DONE, "the others go on");
        assert_eq!(bench.driver.errors.count(), cases.len() as u64);
    });
}

#[test]
fn a_lying_controller_is_given_up_and_everything_fails() {
    // A command that was never submitted, one that is done, one beyond all, one of another queue.
    for lie in [(1, 77), (1, 3), (1, 0xffff), (0, 0), (9, 0)] {
        with_disk(async move |bench| {
            let (_memory, segments) = pages(1);
            assert_eq!(bench.ask(Operation::Read, 0, &segments), DONE);
            bench.fake.holds.set(true);
            for token in [1, 2] {
                bench.submit(Operation::Read, 0, &segments, token).expect("room");
            }
            bench.disk.kick();
            let (queue, identifier) = lie;
            bench.fake.complete(1, queue, identifier, 0);
            assert!(bench.outcomes().is_empty(), "nothing is told before it has stopped");
            let refused = Err(SubmitError::Refused(IoError::Gone));
            assert_eq!(bench.submit(Operation::Read, 0, &segments, 3), refused);
            bench.driver.look_after().await;
            let gone = Err(IoError::Gone);
            assert_eq!(bench.outcomes(), [outcome(1, gone), outcome(2, gone)], "{lie:?}");
            assert_eq!(bench.fake.starts.get(), 1, "it is not started again");
        });
    }
}

#[test]
fn a_request_that_is_not_answered_fails_and_the_controller_starts_anew() {
    with_disk(async |bench| {
        let (_memory, segments) = pages(1);
        let looking = spawn({
            let driver = Rc::clone(&bench.driver);
            async move { driver.look_after().await }
        });
        bench.fake.holds.set(true);
        bench.submit(Operation::Write, 8, &segments, 1).expect("room");
        bench.disk.kick();
        sleep(Duration::from_secs(29)).await;
        assert!(bench.outcomes().is_empty());
        bench.submit(Operation::Read, 8, &segments, 2).expect("room");
        sleep(Duration::from_secs(12)).await;
        assert_eq!(bench.fake.starts.get(), 2);
        let failed = Err(IoError::Device);
        assert_eq!(bench.outcomes(), [outcome(1, failed), outcome(2, failed)]);
        bench.fake.holds.set(false);
        assert_eq!(bench.ask(Operation::Read, 8, &segments), DONE, "it works again");
        let since = now();
        bench.driver.shut_down().await.expect("it stops");
        looking.join().await;
        assert!(now() - since < Duration::from_secs(1));
    });
}

#[test]
fn an_interrupt_that_was_lost_costs_time_and_nothing_else() {
    with_disk(async |bench| {
        let (_memory, segments) = pages(1);
        bench.submit(Operation::Read, 8, &segments, 1).expect("room");
        bench.disk.kick();
        spawn({
            let driver = Rc::clone(&bench.driver);
            async move { driver.look_after().await }
        });
        bench.completions.wait().await;
        assert_eq!(bench.outcomes(), [outcome(1, DONE)]);
        assert_eq!(bench.fake.starts.get(), 1);
    });
}

#[test]
fn a_controller_that_says_it_cannot_go_on_starts_anew() {
    with_disk(async |bench| {
        let (_memory, segments) = pages(1);
        bench.fake.holds.set(true);
        bench.submit(Operation::Read, 8, &segments, 1).expect("room");
        bench.disk.kick();
        bench.fake.fail();
        spawn({
            let driver = Rc::clone(&bench.driver);
            async move { driver.look_after().await }
        });
        sleep(Duration::from_secs(11)).await;
        assert_eq!(bench.outcomes(), [outcome(1, Err(IoError::Device))]);
        assert_eq!(bench.fake.starts.get(), 2);
    });
}

#[test]
fn a_controller_that_cannot_be_stopped_keeps_its_requests() {
    with_disk(async |bench| {
        let (_memory, segments) = pages(1);
        bench.fake.holds.set(true);
        bench.submit(Operation::Read, 8, &segments, 1).expect("room");
        bench.disk.kick();
        bench.fake.is_stuck.set(true);
        assert_eq!(bench.driver.shut_down().await, Err(SetupError::Stuck));
        assert!(bench.outcomes().is_empty(), "it may still write where they said");
        assert_eq!(bench.driver.in_flight(), 1);
    });
}

#[test]
fn shutting_down_fails_what_is_under_way_and_refuses_what_comes() {
    with_disk(async |bench| {
        let (_memory, segments) = pages(1);
        bench.fake.holds.set(true);
        bench.submit(Operation::Read, 8, &segments, 1).expect("room");
        bench.disk.kick();
        bench.driver.shut_down().await.expect("it stops");
        assert_eq!(bench.outcomes(), [outcome(1, Err(IoError::Gone))]);
        let refused = Err(SubmitError::Refused(IoError::Gone));
        assert_eq!(bench.submit(Operation::Read, 8, &segments, 2), refused);
        let configuration = bench.driver.registers.read_u32(registers::CONFIGURATION);
        assert_eq!(configuration & (registers::ENABLE | registers::SHUT_DOWN), registers::SHUT_DOWN);
    });
}

#[test]
fn what_the_driver_cannot_do_is_told() {
    testing::run(async {
        let starts = async |fake: Rc<FakeController>| driver(&fake)?.start().await.map(|disks| disks.len());
        let with = |change: fn(&FakeController)| {
            let fake = FakeController::new(ENTRIES, BYTES);
            change(&fake);
            fake
        };
        let set_capabilities = |fake: &FakeController, bits: u64| {
            fake.set(registers::CAPABILITIES, &(1023_u64 | bits).to_le_bytes());
        };
        let no_disks = with(|fake| fake.set(registers::CAPABILITIES, &1023_u64.to_le_bytes()));
        assert!(matches!(starts(no_disks).await, Err(SetupError::Unsupported(_))));
        let large_pages = with(|_| {});
        set_capabilities(&large_pages, 1 << 37 | 1 << 48);
        assert!(matches!(starts(large_pages).await, Err(SetupError::Unsupported(_))));
        assert_eq!(starts(FakeController::new(8, BYTES)).await, Err(SetupError::NoQueue));
        let refuses = with(|fake| fake.refused.borrow_mut().push(0x01));
        assert_eq!(starts(Rc::clone(&refuses)).await, Err(SetupError::CommandFailed));
        assert_eq!(refuses.pending.borrow().len(), 0);
        let odd_blocks = with(|fake| fake.block_exponent.set(13));
        assert_eq!(starts(odd_blocks).await, Ok(0), "its namespace is no disk");
    });
}

#[test]
fn short_queues_mean_short_requests() {
    testing::run(async {
        let bench = start(FakeController::new(17, BYTES)).await;
        assert_eq!(bench.disk.geometry().segments_max, 16);
        let (_memory, segments) = pages(16);
        let gaps: Vec<_> = segments.iter().map(|segment| Segment { length: 512, ..*segment }).collect();
        assert_eq!(bench.ask(Operation::Read, 0, &gaps), DONE);
        assert_eq!(bench.fake.log.borrow().clone(), vec![(2, 512); 16]);
    });
}
