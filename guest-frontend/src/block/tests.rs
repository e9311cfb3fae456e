//! The front half against a back half with a disk in memory.

mod hostile;
mod requests;

use std::rc::Rc;
use std::sync::atomic::AtomicU32;
use std::vec::Vec;

use hypercall_abi::PAGE_SIZE;
use hypercall_abi::io::blkif::*;
use pv_runtime::executor::Signal;
use ring::{BackRing, Blkif};
use zerocopy::FromBytes;

use super::{
    Action, BlockError, BlockQueue, BufferPool, Completion, FlushBy, Limits, Outcome, Request, Sector,
};
use crate::buffer::{BackEndMay, PrivateBuffer};
use crate::testing::{FakeGrant, FakeGrants};

/// Bytes of the disk.
const DISK_SIZE: usize = 8 << 20;
const HANDLE: u16 = 51712;
/// What Linux offers.
const INDIRECT: Limits = Limits { handle: HANDLE, indirect_segments: 256, flush: FlushBy::Flush };
/// What every back end takes.
const DIRECT: Limits = Limits { handle: HANDLE, indirect_segments: 0, flush: FlushBy::Barrier };

/// A request as it was found on the ring.
#[derive(Clone, Debug)]
struct Found {
    id: u64,
    /// The operation; for an indirect request the one it stands for.
    operation: u8,
    is_indirect: bool,
    sector: u64,
    segments: Vec<BlkifRequestSegment>,
}

/// The back half of a vbd.
struct BackEnd {
    grants: FakeGrants,
    ring: BackRing<Blkif, &'static [AtomicU32]>,
    ring_words: &'static [AtomicU32],
    disk: Vec<u8>,
}

/// A queue and its back end.
fn connected(limits: Limits) -> (BlockQueue<FakeGrants>, BackEnd) {
    let grants = FakeGrants::default();
    let page = PrivateBuffer::new(1).unwrap().share(&grants, BackEndMay::Write, PAGE_SIZE).unwrap();
    let ring_words = grants.ring_words(page.reference(0));
    let mut queue = BlockQueue::new(page, grants.clone()).unwrap();
    queue.set_limits(limits);
    let ring = BackRing::attach(ring_words).unwrap();
    (queue, BackEnd { grants, ring, ring_words, disk: vec![0; DISK_SIZE] })
}

impl BackEnd {
    /// Takes the next request, without an answer.
    fn find(&mut self) -> Option<Found> {
        let request = self.ring.take_request().unwrap()?;
        if request.operation != BLKIF_OP_INDIRECT {
            assert!(usize::from(request.nr_segments) <= BLKIF_MAX_SEGMENTS_PER_REQUEST);
            assert_eq!(request.handle, HANDLE);
            return Some(Found {
                id: request.id,
                operation: request.operation,
                is_indirect: false,
                sector: request.sector_number,
                segments: request.seg[..request.nr_segments.into()].to_vec(),
            });
        }
        let request = request.as_indirect();
        assert_eq!(request.handle, HANDLE);
        let count = usize::from(request.nr_segments);
        assert!((1..=SEGMENTS_PER_INDIRECT_PAGE).contains(&count));
        let bytes = self.grants.read(request.indirect_grefs[0], 0, count * size_of::<BlkifRequestSegment>());
        let segments = bytes.chunks_exact(size_of::<BlkifRequestSegment>());
        Some(Found {
            id: request.id,
            operation: request.indirect_op,
            is_indirect: true,
            sector: request.sector_number,
            segments: segments.map(|bytes| BlkifRequestSegment::read_from_bytes(bytes).unwrap()).collect(),
        })
    }

    /// Does what a request asks.
    fn carry_out(&mut self, found: &Found) {
        let mut position = found.sector as usize * SECTOR_SIZE;
        for segment in &found.segments {
            assert!(segment.first_sect <= segment.last_sect && segment.last_sect < 8);
            let offset = usize::from(segment.first_sect) * SECTOR_SIZE;
            let length = usize::from(segment.last_sect - segment.first_sect + 1) * SECTOR_SIZE;
            let place = position..position + length;
            if found.operation == BLKIF_OP_READ {
                self.grants.write(segment.gref, offset, &self.disk[place]);
            } else {
                self.disk[place].copy_from_slice(&self.grants.read(segment.gref, offset, length));
            }
            position += length;
        }
    }

    /// Answers a request.
    fn answer(&mut self, found: &Found, status: i16) -> bool {
        let (id, operation) = (found.id, found.operation);
        self.ring.push_response(&BlkifResponse { id, operation, status, ..Default::default() }).unwrap();
        self.ring.commit_responses().needed()
    }

    /// Does and answers all requests on the ring. Returns them.
    fn serve(&mut self) -> Vec<Found> {
        let mut served = Vec::new();
        while let Some(found) = self.find() {
            self.carry_out(&found);
            self.answer(&found, BLKIF_RSP_OKAY);
            served.push(found);
        }
        served
    }
}

/// A request, and where its outcome will be.
fn request(action: Action, start: u64, data: &[u8]) -> (Request<FakeGrant>, Completion<FakeGrant>) {
    let completion: Completion<FakeGrant> = Rc::new(Signal::new());
    let mut buffer = BufferPool::new().take(data.len()).unwrap();
    let mut pieces = data.chunks(SECTOR_SIZE);
    buffer.fill_with(data.len(), |piece| piece.copy_from_slice(pieces.next().unwrap()));
    let request = Request {
        action,
        start: Sector(start),
        length: data.len(),
        buffer: Some(buffer),
        completion: Rc::clone(&completion),
    };
    (request, completion)
}

fn flush() -> (Request<FakeGrant>, Completion<FakeGrant>) {
    let completion: Completion<FakeGrant> = Rc::new(Signal::new());
    let request = Request {
        action: Action::Flush,
        start: Sector(0),
        length: 0,
        buffer: None,
        completion: Rc::clone(&completion),
    };
    (request, completion)
}

/// Queues a request; its outcome will be where this returns.
fn push(
    queue: &mut BlockQueue<FakeGrants>,
    action: Action,
    start: u64,
    data: &[u8],
) -> Completion<FakeGrant> {
    let (request, completion) = request(action, start, data);
    queue.push(request);
    completion
}

/// Lets both ends work until a request is answered.
fn finish(
    queue: &mut BlockQueue<FakeGrants>,
    back_end: &mut BackEnd,
    completion: &Completion<FakeGrant>,
) -> Outcome<FakeGrant> {
    for _ in 0..100 {
        let _ = queue.submit();
        back_end.serve();
        queue.reap().unwrap();
        if let Some(outcome) = completion.try_take() {
            return outcome;
        }
    }
    panic!("the request is never answered");
}

/// What the first bytes of a request's memory are, once it is answered.
fn content(outcome: Outcome<FakeGrant>, length: usize) -> Vec<u8> {
    let mut content = Vec::new();
    outcome.buffer.expect("the buffer comes back").visit(length, |piece| content.extend_from_slice(piece));
    content
}

/// Bytes that differ from page to page.
fn noise(length: usize) -> Vec<u8> {
    (0..length).map(|index| (index * 7 + index / 256 + 1) as u8).collect()
}
