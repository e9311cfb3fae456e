//! The driver against a device that carries out requests on a disk of bytes.

use alloc::rc::Rc;
use core::future::Future;
use std::vec::Vec;

use pv_runtime::executor::{sleep, spawn, testing};
use pv_runtime::memory::PageRun;

use super::*;
use crate::disk::{Completions, Outcome, SECTOR_SIZE};
use crate::virtio::fake::{FakeQueue, FakeRegisters, Taken, read_memory, write_memory};

const FLUSH: u64 = 1 << 9;

/// The device: its registers, its side of the queue, its medium.
struct Device {
    driver: Rc<VirtioBlk<Rc<FakeRegisters>>>,
    common: Rc<FakeRegisters>,
    notify: Rc<FakeRegisters>,
    config: Rc<FakeRegisters>,
    queue: FakeQueue,
    medium: Vec<u8>,
    completions: Rc<Completions>,
}

impl Device {
    fn new(features: u64) -> Self {
        let common = Rc::new(FakeRegisters::new(56).with_features(feature::VERSION_1 | features));
        common.set_u16(0x12, 1);
        common.set_u16(0x18, 64);
        let config = Rc::new(FakeRegisters::new(60));
        config.put(0, &1024_u64.to_le_bytes());
        let notify = Rc::new(FakeRegisters::new(4));
        let transport = Transport::begin(Rc::clone(&common), Rc::clone(&notify), 4, Some(Rc::clone(&config)));
        let vectors = Vectors { configuration: 0, requests: 1 };
        let patience = Duration::from_secs(30);
        let driver = VirtioBlk::start(transport.expect("no fault"), vectors, "fake".into(), patience);
        let driver = Rc::new(driver.expect("a sound device"));
        let queue = FakeQueue::new(64, driver.requests.borrow().queue.addresses());
        let medium = (0..1024 * 512).map(|byte: u32| (byte / SECTOR_SIZE) as u8).collect();
        Self { driver, common, notify, config, queue, medium, completions: Rc::default() }
    }

    fn submit(
        &self,
        operation: Operation,
        sector: u64,
        segments: &[Segment],
        token: u32,
    ) -> Result<(), SubmitError> {
        let ticket = Ticket { completions: Rc::clone(&self.completions), token };
        self.driver.submit(operation, sector, segments, ticket)
    }

    fn take(&mut self) -> Option<Taken> {
        self.queue.take()
    }

    /// Carries out one request as the specification says.
    fn serve(&mut self) {
        let taken = self.take().expect("a request");
        let [header, data @ .., status] = &taken.buffers[..] else { panic!("too short") };
        let mut bytes = [0; 16];
        read_memory(header.address, &mut bytes);
        let kind = u32::from_le_bytes(bytes[..4].try_into().expect("four bytes"));
        let sector = u64::from_le_bytes(bytes[8..].try_into().expect("eight bytes"));
        let mut place = sector as usize * SECTOR_SIZE as usize;
        for buffer in data {
            assert_eq!(buffer.is_written, kind != TYPE_OUT);
            match kind {
                TYPE_IN => write_memory(buffer.address, &self.medium[place..][..buffer.length as usize]),
                TYPE_OUT => read_memory(buffer.address, &mut self.medium[place..][..buffer.length as usize]),
                TYPE_GET_ID => write_memory(buffer.address, b"WEIR-DISK-1\0"),
                other => panic!("type {other} has no data"),
            }
            place += buffer.length as usize;
        }
        assert!(status.is_written && status.length == 1);
        write_memory(status.address, &[0]);
        self.queue.complete(taken.head.into(), 1);
    }

    fn outcomes(&self) -> Vec<Outcome> {
        self.driver.take_completions();
        let mut outcomes = Vec::new();
        self.completions.take_all(&mut outcomes);
        outcomes
    }
}

fn page_with(byte: u8) -> (Page, Segment) {
    let page = Page::new().expect("a host has memory");
    page.copy_in(0, &[byte; PAGE_SIZE]);
    let address = page.machine_frame().physical_address();
    (page, Segment { address, length: PAGE_SIZE as u32 })
}

const DONE: Result<(), IoError> = Ok(());

#[test]
fn reads_and_writes_reach_the_medium() {
    for features in [0, feature::INDIRECT_DESCRIPTORS | feature::EVENT_INDEX] {
        let mut device = Device::new(features);
        let ((source, from), (target, into)) = (page_with(0xaa), page_with(0));
        let half = Segment { length: 512, ..from };
        device.submit(Operation::Write, 8, &[half, from], 1).expect("room");
        device.submit(Operation::Read, 9, &[into], 2).expect("room");
        device.driver.kick();
        device.serve();
        device.serve();
        let outcomes = [Outcome { token: 1, result: DONE }, Outcome { token: 2, result: DONE }];
        assert_eq!(device.outcomes(), outcomes);
        assert_eq!(device.medium[17 * 512 - 1], 0xaa);
        assert_eq!(device.medium[17 * 512], 17);
        assert_eq!(target.read::<u8>(PAGE_SIZE - 1), 0xaa);
        assert_eq!(device.driver.in_flight(), 0);
        drop(source);
    }
}

#[test]
fn segments_that_follow_each_other_in_memory_are_one_to_the_device() {
    let segment = |address, length| Segment { address, length };
    let segments = [
        segment(0x1000, 4096),
        segment(0x2000, 4096),
        segment(0x3000, 512),
        segment(0x4000, 4096),
        segment(0x5000, 4096),
        segment(0x5000, 4096),
        segment(0x4000, 4096),
    ];
    let found = |longest| {
        let mut left = &segments[..];
        let next = core::iter::from_fn(|| {
            let (run, rest) = split_run(left, longest)?;
            left = rest;
            Some((run.address, run.length))
        });
        next.collect::<Vec<_>>()
    };
    let ends = [(0x5000, 4096), (0x4000, 4096)];
    assert_eq!(found(u32::MAX), [&[(0x1000, 8704), (0x4000, 8192)], &ends[..]].concat());
    assert_eq!(found(8192), [&[(0x1000, 8192), (0x3000, 512), (0x4000, 8192)], &ends[..]].concat());
    assert_eq!(found(4096), segments.map(|segment| (segment.address, segment.length)));
    assert_eq!(split_run(&[], 1), None);

    for features in [0, feature::INDIRECT_DESCRIPTORS] {
        let mut device = Device::new(features);
        let memory = PageRun::new(4).expect("a host has memory");
        let pages = memory.machine_frames().map(|frame| segment(frame.physical_address(), PAGE_SIZE as u32));
        device.submit(Operation::Read, 16, &pages.collect::<Vec<_>>(), 1).expect("room");
        device.driver.kick();
        device.serve();
        assert_eq!(device.outcomes(), [Outcome { token: 1, result: DONE }]);
        let first_bytes = [0, 1, 2, 3].map(|page| memory.read::<u8>(page * PAGE_SIZE));
        assert_eq!(first_bytes, [16, 24, 32, 40]);
    }
}

#[test]
fn the_doorbell_names_the_queue() {
    let device = Device::new(0);
    device.notify.set_u16(0, 0xdead);
    device.driver.kick();
    assert_eq!(device.notify.read_u16(0), 0xdead, "nothing to tell");
    device.submit(Operation::Read, 0, &[page_with(0).1], 0).expect("room");
    device.driver.kick();
    assert_eq!(device.notify.read_u16(0), REQUEST_QUEUE);
}

#[test]
fn a_flush_goes_out_only_where_there_is_a_cache() {
    let mut cached = Device::new(FLUSH);
    cached.submit(Operation::Flush, 0, &[], 7).expect("room");
    cached.driver.kick();
    assert_eq!(cached.take().expect("a request").buffers.len(), 2);
    let plain = Device::new(0);
    plain.submit(Operation::Flush, 0, &[], 7).expect("room");
    assert_eq!(plain.outcomes(), [Outcome { token: 7, result: DONE }]);
}

#[test]
fn a_status_becomes_an_error() {
    let cases =
        [(1, IoError::Device), (2, IoError::Unsupported), (3, IoError::Device), (0xff, IoError::Device)];
    for (status, error) in cases {
        let mut device = Device::new(feature::INDIRECT_DESCRIPTORS);
        device.submit(Operation::Read, 0, &[page_with(0).1], 3).expect("room");
        device.driver.kick();
        let taken = device.take().expect("a request");
        write_memory(taken.buffers.last().expect("status").address, &[status]);
        device.queue.complete(taken.head.into(), 0);
        assert_eq!(device.outcomes(), [Outcome { token: 3, result: Err(error) }]);
    }
}

#[test]
fn what_the_disk_cannot_do_is_refused() {
    let device = Device::new(0);
    let refused = Err(SubmitError::Refused(IoError::OutOfRange));
    assert_eq!(device.submit(Operation::Read, 1017, &[page_with(0).1], 0), refused);
    assert_eq!(device.submit(Operation::Write, u64::MAX, &[page_with(0).1], 0), refused);
    assert_eq!(device.submit(Operation::Read, 0, &[], 0), refused);
}

#[test]
fn a_full_queue_rings_when_there_is_room() {
    for features in [0, feature::INDIRECT_DESCRIPTORS] {
        let mut device = Device::new(features);
        let (_page, segment) = page_with(0);
        let room = if features == 0 { 64 / 3 } else { 64 };
        for token in 0..room {
            device.submit(Operation::Read, 0, &[segment], token).expect("room");
        }
        assert_eq!(device.submit(Operation::Read, 0, &[segment], 99), Err(SubmitError::Full));
        device.driver.kick();
        device.serve();
        assert_eq!(device.outcomes(), [Outcome { token: 0, result: DONE }]);
        device.submit(Operation::Read, 0, &[segment], 99).expect("room again");
    }
}

#[test]
fn a_lying_device_is_given_up_and_everything_fails() {
    let mut device = Device::new(0);
    let (_page, segment) = page_with(0);
    device.submit(Operation::Read, 0, &[segment], 1).expect("room");
    device.submit(Operation::Read, 8, &[segment], 2).expect("room");
    device.driver.kick();
    device.queue.complete(55, 0);
    let gone = |token| Outcome { token, result: Err(IoError::Gone) };
    assert_eq!(device.outcomes(), [gone(1), gone(2)]);
    assert_eq!(device.common.read_u8(0x14), 0, "the device is in reset");
    let refused = Err(SubmitError::Refused(IoError::Gone));
    assert_eq!(device.submit(Operation::Read, 0, &[segment], 3), refused);
    assert!(device.outcomes().is_empty());
}

#[test]
fn a_device_that_cannot_be_stopped_keeps_its_requests() {
    let mut device = Device::new(0);
    let (_page, segment) = page_with(0);
    device.submit(Operation::Read, 0, &[segment], 1).expect("room");
    device.driver.kick();
    device.common.force_status(64);
    device.driver.check_health();
    assert!(device.outcomes().is_empty());
    assert!(device.take().is_some());
}

#[test]
fn the_disk_tells_its_name() {
    let mut device = Device::new(0);
    let mut context = core::task::Context::from_waker(core::task::Waker::noop());
    let driver = Rc::clone(&device.driver);
    let mut name = core::pin::pin!(driver.identify());
    assert!(name.as_mut().poll(&mut context).is_pending());
    device.serve();
    driver.take_completions();
    let core::task::Poll::Ready(name) = name.poll(&mut context) else { panic!("the device has answered") };
    assert_eq!(name.as_deref(), Ok("WEIR-DISK-1"));
}

#[test]
fn a_request_that_is_not_answered_fails_and_the_device_starts_anew() {
    testing::run(async {
        let mut device = Device::new(feature::INDIRECT_DESCRIPTORS);
        let (_page, segment) = page_with(0);
        spawn({
            let driver = Rc::clone(&device.driver);
            async move { driver.look_after().await }
        });
        for token in [1, 2] {
            device.submit(Operation::Read, 0, &[segment], token).expect("room");
        }
        device.driver.kick();
        sleep(Duration::from_secs(29)).await;
        device.serve();
        assert_eq!(device.outcomes(), [Outcome { token: 1, result: DONE }]);
        sleep(Duration::from_secs(12)).await;
        assert_eq!(device.outcomes(), [Outcome { token: 2, result: Err(IoError::Device) }]);
        // What it completes of before is not looked at: it has another queue now.
        device.serve();
        assert!(device.outcomes().is_empty());
        device.queue = FakeQueue::new(64, device.driver.requests.borrow().queue.addresses());
        device.submit(Operation::Read, 0, &[segment], 3).expect("room");
        device.driver.kick();
        device.serve();
        assert_eq!(device.outcomes(), [Outcome { token: 3, result: DONE }]);
    });
}

#[test]
fn a_disk_that_is_another_one_after_its_reset_is_given_up() {
    testing::run(async {
        let device = Device::new(0);
        let (_page, segment) = page_with(0);
        device.submit(Operation::Read, 0, &[segment], 1).expect("room");
        device.driver.kick();
        device.config.put(0, &1023_u64.to_le_bytes());
        device.driver.look_after().await;
        assert_eq!(device.outcomes(), [Outcome { token: 1, result: Err(IoError::Device) }]);
        let refused = Err(SubmitError::Refused(IoError::Gone));
        assert_eq!(device.submit(Operation::Read, 0, &[segment], 2), refused);
    });
}

#[test]
fn an_interrupt_that_was_lost_costs_time_and_nothing_else() {
    testing::run(async {
        let mut device = Device::new(0);
        let (_page, segment) = page_with(0);
        device.submit(Operation::Read, 0, &[segment], 1).expect("room");
        device.driver.kick();
        device.serve();
        spawn({
            let driver = Rc::clone(&device.driver);
            async move { driver.look_after().await }
        });
        device.completions.wait().await;
        assert_eq!(device.outcomes(), [Outcome { token: 1, result: DONE }]);
        assert_eq!(device.driver.errors.count(), 0);
    });
}

#[test]
fn shutting_down_fails_what_is_under_way_and_refuses_what_comes() {
    let device = Device::new(0);
    let (_page, segment) = page_with(0);
    device.submit(Operation::Read, 0, &[segment], 1).expect("room");
    device.driver.kick();
    device.driver.shut_down().expect("it stops");
    assert_eq!(device.outcomes(), [Outcome { token: 1, result: Err(IoError::Gone) }]);
    let refused = Err(SubmitError::Refused(IoError::Gone));
    assert_eq!(device.submit(Operation::Read, 0, &[segment], 2), refused);
}
