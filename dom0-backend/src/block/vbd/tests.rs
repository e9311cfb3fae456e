//! A front end of ours against the back end, over a fake disk and a fake hypervisor.

mod kept;

use core::sync::atomic::{AtomicU32, Ordering};
use std::sync::Arc;
use std::vec::Vec;

use hypercall_abi::GrantReference;
use hypercall_abi::io::blkif::*;
use proptest::prelude::*;
use pv_runtime::grant::GrantAccess;
use pv_runtime::memory::Page;
use ring::FrontRing;

use super::super::data_path::{CopyPath, DirectPath};
use super::super::fake::FakeDisk;
use super::super::kept::Budget;
use super::*;
use crate::backend::fake::{FakeCopy, FakeHypervisor, FakeMaps};

const GUEST: DomainId = DomainId(7);

type FakePath = DirectPath<FakeCopy, FakeMaps>;

type Shared = Arc<[AtomicU32]>;

/// A guest with its ring, the back end, and what is below it.
struct Bench<D: DataPath> {
    front: FrontRing<Blkif, Shared>,
    shared: Shared,
    vbd: Vbd<Shared, D>,
    disk: Rc<FakeDisk>,
    hypervisor: Rc<FakeHypervisor>,
    counters: Rc<BlockCounters>,
}

fn bench<D: DataPath>(path: impl FnOnce(&Rc<FakeHypervisor>) -> D) -> Bench<D> {
    let shared: Shared = (0..1024).map(|_| AtomicU32::new(0)).collect();
    let front = FrontRing::new(Arc::clone(&shared)).expect("a page is enough");
    let ring = BackRing::attach(Arc::clone(&shared)).expect("a fresh ring");
    let (disk, hypervisor) = (Rc::new(FakeDisk::new(4096)), FakeHypervisor::new());
    let rules = Rules { geometry: disk.geometry(), indirect_segments_max: 64 };
    let counters = Rc::<BlockCounters>::default();
    let vbd = Vbd::new(GUEST, ring, path(&hypervisor), disk.clone(), rules, counters.clone());
    Bench { front, shared, vbd: vbd.expect("a host has memory"), disk, hypervisor, counters }
}

fn with_maps(keeps: bool) -> Bench<FakePath> {
    let budget = Budget::new(usize::from(u16::MAX));
    bench(|hypervisor| DirectPath::new(FakeCopy::new(hypervisor), FakeMaps::new(hypervisor), keeps, &budget))
}

/// Pages are mapped for each request.
fn mapped() -> Bench<FakePath> {
    with_maps(false)
}

/// Pages stay mapped.
fn kept() -> Bench<FakePath> {
    with_maps(true)
}

fn copied() -> Bench<CopyPath<FakeCopy>> {
    bench(|hypervisor| CopyPath::new(FakeCopy::new(hypervisor)))
}

impl<D: DataPath> Bench<D> {
    /// A page of the guest's that it granted.
    fn page(&self, access: GrantAccess) -> (Page, GrantReference) {
        let page = Page::new().expect("a host has memory");
        let reference = self.hypervisor.grant(GUEST, &page, access);
        (page, reference)
    }

    fn push(&mut self, request: BlkifRequest) {
        self.front.push_request(&request).expect("there is a free slot");
    }

    /// Sends what was pushed and lets the back end do rounds until nothing more happens.
    fn run(&mut self) {
        let _ = self.front.commit_requests();
        while self.vbd.round().expect("a sound ring").has_more {}
    }

    /// Completes everything the disk has and whatever that leads to.
    fn finish(&mut self) {
        self.run();
        while self.disk.pending() > 0 {
            self.disk.complete_one();
            self.run();
        }
    }

    /// Ids and statuses that came back.
    fn answers(&mut self) -> Vec<(u64, i16)> {
        let mut answers = Vec::new();
        while let Some(response) = self.front.take_response().expect("a sound back end") {
            answers.push((response.id, response.status));
        }
        answers
    }
}

fn request(operation: u8, id: u64, sector_number: u64, pages: &[GrantReference]) -> BlkifRequest {
    let mut request =
        BlkifRequest { operation, id, sector_number, nr_segments: pages.len() as u8, ..Default::default() };
    for (segment, gref) in request.seg.iter_mut().zip(pages) {
        *segment = BlkifRequestSegment { gref: *gref, first_sect: 0, last_sect: 7, ..Default::default() };
    }
    request
}

fn read_and_write<D: DataPath>(mut bench: Bench<D>) {
    let (source, readable) = bench.page(GrantAccess::ReadOnly);
    let (target, writable) = bench.page(GrantAccess::ReadWrite);
    SharedMemory::copy_in(&source, 0, &[0xab; PAGE_SIZE]);
    let mut write = request(BLKIF_OP_WRITE, 1, 10, &[readable]);
    write.seg[0].first_sect = 6;
    bench.push(write);
    bench.push(request(BLKIF_OP_READ, 2, 8, &[writable]));
    bench.finish();
    assert_eq!(bench.answers(), [(1, BLKIF_RSP_OKAY), (2, BLKIF_RSP_OKAY)]);
    assert_eq!(target.read::<u64>(0), 8, "sector 8 is as it was");
    assert_eq!(target.read::<u64>(2 * 512), u64::from_ne_bytes([0xab; 8]), "sector 10 was written");
    assert_eq!(target.read::<u64>(4 * 512), 12, "sector 12 is as it was");
    let counters = &bench.counters;
    assert_eq!((counters.reads.get(), counters.writes.get(), counters.errors.get()), (1, 1, 0));
    assert_eq!((counters.bytes_read.get(), counters.bytes_written.get()), (4096, 1024));
}

#[test]
fn data_goes_straight_between_guest_and_disk() {
    read_and_write(mapped());
}

#[test]
fn data_can_be_copied_instead() {
    read_and_write(copied());
}

#[test]
fn a_batch_takes_one_map_one_kick_and_one_event() {
    let mut bench = mapped();
    let (_page, reference) = bench.page(GrantAccess::ReadWrite);
    for id in 0..32 {
        bench.push(request(BLKIF_OP_READ, id, id * 8, &[reference]));
    }
    let _ = bench.front.commit_requests();
    assert!(!bench.vbd.round().expect("a sound ring").notify.needed());
    assert_eq!((bench.disk.kicks.get(), bench.hypervisor.device_maps.get()), (1, 32));
    bench.disk.complete_all();
    assert!(bench.vbd.round().expect("a sound ring").notify.needed());
    assert_eq!((bench.answers().len(), bench.hypervisor.device_maps.get()), (32, 0));
    assert_eq!(bench.hypervisor.map_calls.get(), 2);
}

#[test]
fn pages_are_the_guests_again_before_it_is_told() {
    let mut bench = mapped();
    let (_page, reference) = bench.page(GrantAccess::ReadWrite);
    bench.push(request(BLKIF_OP_READ, 1, 0, &[reference]));
    bench.run();
    assert_eq!(bench.hypervisor.device_maps.get(), 1);
    bench.disk.complete_one();
    bench.run();
    assert_eq!(bench.hypervisor.device_maps.get(), 0);
    assert_eq!(bench.answers(), [(1, BLKIF_RSP_OKAY)]);
}

#[test]
fn an_indirect_request_reads_its_table_once() {
    for (mut bench, copies) in [(mapped(), 1), (kept(), 0)] {
        let (table, table_reference) = bench.page(GrantAccess::ReadOnly);
        let pages: Vec<_> = (0..20).map(|_| bench.page(GrantAccess::ReadWrite)).collect();
        for (index, (_, gref)) in pages.iter().enumerate() {
            let segment =
                BlkifRequestSegment { gref: *gref, first_sect: 0, last_sect: 7, ..Default::default() };
            table.write(index * 8, &segment);
        }
        let indirect = BlkifRequestIndirect {
            operation: BLKIF_OP_INDIRECT,
            indirect_op: BLKIF_OP_READ,
            nr_segments: 20,
            id: 5,
            sector_number: 16,
            indirect_grefs: [table_reference; 8],
            ..Default::default()
        };
        bench.push(indirect.into());
        bench.finish();
        let response = bench.front.take_response().expect("a sound back end").expect("an answer");
        assert_eq!((response.id, response.operation, response.status), (5, BLKIF_OP_READ, BLKIF_RSP_OKAY));
        assert_eq!(pages[19].0.read::<u64>(0), 16 + 19 * 8);
        assert_eq!(bench.hypervisor.copies.get(), copies);
    }
}

fn bad_tables(mut bench: Bench<FakePath>) {
    let (table, table_reference) = bench.page(GrantAccess::ReadOnly);
    let (_page, reference) = bench.page(GrantAccess::ReadWrite);
    let bad = BlkifRequestSegment { gref: reference, first_sect: 5, last_sect: 4, ..Default::default() };
    table.write(0, &bad);
    let indirect = |id, gref| BlkifRequestIndirect {
        operation: BLKIF_OP_INDIRECT,
        indirect_op: BLKIF_OP_READ,
        nr_segments: 1,
        id,
        indirect_grefs: [gref; 8],
        ..Default::default()
    };
    bench.push(indirect(1, table_reference).into());
    bench.push(request(BLKIF_OP_READ, 2, 0, &[reference]));
    bench.push(indirect(3, GrantReference(9999)).into());
    bench.push(request(BLKIF_OP_READ, 4, 8, &[reference]));
    bench.finish();
    let mut answers = bench.answers();
    answers.sort_unstable();
    let (okay, error) = (BLKIF_RSP_OKAY, BLKIF_RSP_ERROR);
    assert_eq!(answers, [(1, error), (2, okay), (3, error), (4, okay)]);
}

#[test]
fn bad_tables_fail_only_their_own_request() {
    bad_tables(mapped());
    bad_tables(kept());
}

#[test]
fn pages_that_were_not_granted_fail_the_request() {
    for access in [None, Some(GrantAccess::ReadOnly)] {
        let mut bench = mapped();
        let (_good, good) = bench.page(GrantAccess::ReadWrite);
        let bad = access.map_or(GrantReference(4711), |access| bench.page(access).1);
        bench.push(request(BLKIF_OP_READ, 1, 0, &[good, bad, good]));
        bench.finish();
        assert_eq!(bench.answers(), [(1, BLKIF_RSP_ERROR)]);
        assert!(bench.disk.submitted().is_empty());
        assert_eq!(bench.hypervisor.device_maps.get(), 0, "what was mapped is unmapped");
    }
}

#[test]
fn errors_of_the_disk_reach_the_guest() {
    let mut bench = mapped();
    let (_page, reference) = bench.page(GrantAccess::ReadWrite);
    bench.push(request(BLKIF_OP_READ, 1, 0, &[reference]));
    bench.push(request(BLKIF_OP_FLUSH_DISKCACHE, 2, 0, &[]));
    bench.run();
    bench.disk.fail_one(IoError::Device);
    bench.disk.fail_one(IoError::Unsupported);
    bench.run();
    assert_eq!(bench.answers(), [(1, BLKIF_RSP_ERROR), (2, BLKIF_RSP_EOPNOTSUPP)]);
    assert_eq!(bench.counters.errors.get(), 2);
}

#[test]
fn a_flush_with_data_flushes_first() {
    let mut bench = mapped();
    let (_page, reference) = bench.page(GrantAccess::ReadOnly);
    bench.push(request(BLKIF_OP_FLUSH_DISKCACHE, 1, 24, &[reference]));
    bench.finish();
    let submitted = bench.disk.submitted();
    let expected = [(Operation::Flush, 0, 0), (Operation::Write, 24, 1)];
    assert_eq!(submitted, expected);
    assert_eq!(bench.answers(), [(1, BLKIF_RSP_OKAY)]);
}

#[test]
fn a_barrier_separates_what_is_before_from_what_is_after() {
    let mut bench = mapped();
    let (_page, reference) = bench.page(GrantAccess::ReadOnly);
    bench.push(request(BLKIF_OP_WRITE, 1, 0, &[reference]));
    bench.push(request(BLKIF_OP_WRITE_BARRIER, 2, 8, &[reference]));
    bench.push(request(BLKIF_OP_WRITE, 3, 16, &[reference]));
    bench.run();
    let seen = |bench: &Bench<FakePath>| {
        let operations = bench.disk.submitted();
        operations.iter().map(|entry| entry.0).collect::<Vec<_>>()
    };
    use Operation::{Flush, Write};
    assert_eq!(seen(&bench), [Write], "the barrier waits for the first write");
    for expected in [&[Write, Flush][..], &[Write, Flush, Write], &[Write, Flush, Write, Flush]] {
        bench.disk.complete_one();
        bench.run();
        assert_eq!(seen(&bench), expected);
    }
    bench.finish();
    assert_eq!(seen(&bench), [Write, Flush, Write, Flush, Write]);
    assert_eq!(bench.answers(), [(1, 0), (2, 0), (3, 0)]);
}

#[test]
fn a_failed_barrier_lets_the_others_pass() {
    let mut bench = mapped();
    let (_page, reference) = bench.page(GrantAccess::ReadOnly);
    bench.push(request(BLKIF_OP_WRITE_BARRIER, 1, 8, &[reference]));
    bench.push(request(BLKIF_OP_WRITE, 2, 16, &[reference]));
    bench.run();
    bench.disk.fail_one(IoError::Device);
    bench.finish();
    assert_eq!(bench.answers(), [(1, BLKIF_RSP_ERROR), (2, BLKIF_RSP_OKAY)]);
}

#[test]
fn a_full_disk_delays_requests_and_keeps_their_order() {
    let mut bench = mapped();
    let (_page, reference) = bench.page(GrantAccess::ReadWrite);
    bench.disk.depth.set(2);
    for id in 0..8 {
        bench.push(request(BLKIF_OP_READ, id, id * 8, &[reference]));
    }
    bench.run();
    assert_eq!((bench.disk.pending(), bench.vbd.in_flight()), (2, 2));
    bench.finish();
    assert_eq!(bench.answers(), (0..8).map(|id| (id, 0)).collect::<Vec<_>>());
    let sectors: Vec<_> = bench.disk.submitted().iter().map(|entry| entry.1).collect();
    assert_eq!(sectors, (0..8).map(|id| id * 8).collect::<Vec<_>>());
}

#[test]
fn a_broken_ring_is_reported_and_winds_down() {
    let mut bench = mapped();
    let (_page, reference) = bench.page(GrantAccess::ReadWrite);
    bench.push(request(BLKIF_OP_READ, 1, 0, &[reference]));
    bench.run();
    bench.shared[0].store(5000, Ordering::Relaxed);
    assert!(bench.vbd.round().is_err());
    assert!(!bench.vbd.wind_down(), "the disk still has a request");
    assert_eq!(bench.hypervisor.device_maps.get(), 1, "and with it the page");
    bench.disk.complete_one();
    assert!(bench.vbd.wind_down());
    assert_eq!(bench.hypervisor.device_maps.get(), 0);
    assert!(bench.front.take_response().expect("a sound back end").is_none());
}

#[test]
fn what_waits_for_the_disk_is_let_go_when_winding_down() {
    let mut bench = mapped();
    let (_page, reference) = bench.page(GrantAccess::ReadWrite);
    bench.disk.depth.set(1);
    for id in 0..4 {
        bench.push(request(BLKIF_OP_READ, id, 0, &[reference]));
    }
    bench.run();
    assert!(!bench.vbd.wind_down());
    assert_eq!(bench.hypervisor.device_maps.get(), 1);
    bench.disk.complete_one();
    assert!(bench.vbd.wind_down());
    assert_eq!(bench.disk.pending(), 0);
}

/// What a hostile or clumsy guest may do next.
#[derive(Clone, Debug)]
enum Step {
    /// Push a request of any content.
    Push(Vec<u8>, u8, bool),
    /// Publish what was pushed.
    Commit,
    /// Let the disk complete one request.
    Complete,
    /// Let the disk fail one.
    Fail,
    /// Take answers.
    Take,
}

fn step() -> impl Strategy<Value = Step> {
    let bytes = proptest::collection::vec(any::<u8>(), 112);
    prop_oneof![
        4 => (bytes, 0_u8..8, any::<bool>()).prop_map(|(bytes, op, tame)| Step::Push(bytes, op, tame)),
        2 => Just(Step::Commit),
        2 => Just(Step::Complete),
        1 => Just(Step::Fail),
        1 => Just(Step::Take),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is asked: every request is answered exactly once, nothing outside the disk is touched (the fake
    /// disk would panic), and no page stays with the device.
    #[test]
    fn every_request_is_answered_once(steps in proptest::collection::vec(step(), 1..120), keeps: bool) {
        let mut bench = with_maps(keeps);
        let (_page, reference) = bench.page(GrantAccess::ReadWrite);
        let (mut asked, mut answered) = (Vec::new(), Vec::new());
        for step in steps {
            match step {
                Step::Push(bytes, operation, tame) => {
                    let mut request: BlkifRequest = zerocopy::FromBytes::read_from_bytes(&bytes).expect("any bytes");
                    request.operation = operation;
                    request.id = asked.len() as u64;
                    if tame {
                        request.nr_segments %= 12;
                        request.sector_number %= 4200;
                        for segment in &mut request.seg {
                            segment.gref = reference;
                            segment.first_sect %= 4;
                            segment.last_sect %= 8;
                        }
                    }
                    if operation == BLKIF_OP_INDIRECT {
                        let mut indirect = request.as_indirect();
                        indirect.id = asked.len() as u64;
                        request = indirect.into();
                    }
                    if bench.front.push_request(&request).is_ok() {
                        asked.push(asked.len() as u64);
                    }
                }
                Step::Commit => bench.run(),
                Step::Complete => { bench.disk.complete_one(); }
                Step::Fail => { bench.disk.fail_one(IoError::Device); }
                Step::Take => answered.extend(bench.answers().into_iter().map(|answer| answer.0)),
            }
        }
        bench.finish();
        answered.extend(bench.answers().into_iter().map(|answer| answer.0));
        answered.sort_unstable();
        prop_assert_eq!(answered, asked);
        prop_assert_eq!(bench.vbd.in_flight(), 0);
        prop_assert!(bench.hypervisor.device_maps.get() <= usize::from(keeps));
        drop(bench.vbd);
        prop_assert_eq!(bench.hypervisor.device_maps.get(), 0);
        prop_assert_eq!(bench.hypervisor.page_maps.get(), 0);
    }
}
