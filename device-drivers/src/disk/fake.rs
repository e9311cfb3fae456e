//! A disk for tests: bytes, and requests that complete when the test says so.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

use super::*;
use crate::virtio::fake::{read_memory, write_memory};

struct Pending {
    operation: Operation,
    first_sector: u64,
    segments: Vec<Segment>,
    ticket: Ticket,
}

/// A disk.
pub struct FakeDisk {
    /// What it says of itself.
    pub geometry: Cell<Geometry>,
    /// What is on it.
    pub bytes: RefCell<Vec<u8>>,
    pending: RefCell<VecDeque<Pending>>,
    log: RefCell<Vec<(Operation, u64, usize)>>,
    /// Requests that it holds at most.
    pub depth: Cell<usize>,
    room: RoomList,
    /// How often it was to look.
    pub kicks: Cell<usize>,
}

/// A segment of one page that nobody reads or writes.
pub fn page_segment() -> Segment {
    Segment { address: 0, length: 4096 }
}

impl FakeDisk {
    /// A disk whose every sector starts with its number.
    pub fn new(sectors: u64) -> Self {
        let geometry = Geometry {
            sectors,
            logical_block_size: SECTOR_SIZE,
            physical_block_size: 4096,
            is_read_only: false,
            has_cache: true,
            segments_max: 64,
        };
        let mut bytes = alloc::vec![0; sectors as usize * SECTOR_SIZE as usize];
        for (number, sector) in bytes.chunks_mut(SECTOR_SIZE as usize).enumerate() {
            sector[..8].copy_from_slice(&(number as u64).to_le_bytes());
        }
        Self {
            geometry: Cell::new(geometry),
            bytes: RefCell::new(bytes),
            pending: RefCell::default(),
            log: RefCell::default(),
            depth: Cell::new(usize::MAX),
            room: RoomList::default(),
            kicks: Cell::new(0),
        }
    }

    /// Everything that was submitted: what, where, how many segments.
    pub fn submitted(&self) -> Vec<(Operation, u64, usize)> {
        self.log.borrow().clone()
    }

    /// How many requests wait for the test.
    pub fn pending(&self) -> usize {
        self.pending.borrow().len()
    }

    /// Carries the oldest request out.
    pub fn complete_one(&self) -> bool {
        let Some(request) = self.pending.borrow_mut().pop_front() else { return false };
        self.carry_out(&request);
        request.ticket.complete(Ok(()));
        self.room.ring_all();
        true
    }

    /// Fails the oldest request.
    pub fn fail_one(&self, error: IoError) -> bool {
        let Some(request) = self.pending.borrow_mut().pop_front() else { return false };
        request.ticket.complete(Err(error));
        self.room.ring_all();
        true
    }

    /// Rings those who found it full.
    pub fn make_room(&self) {
        self.room.ring_all();
    }

    /// Carries everything out.
    pub fn complete_all(&self) {
        while self.complete_one() {}
    }

    fn carry_out(&self, request: &Pending) {
        let mut place = request.first_sector as usize * SECTOR_SIZE as usize;
        let mut bytes = self.bytes.borrow_mut();
        for segment in &request.segments {
            let part = &mut bytes[place..][..segment.length as usize];
            match request.operation {
                Operation::Read => write_memory(segment.address, part),
                Operation::Write => read_memory(segment.address, part),
                Operation::Flush => unreachable!("a flush has no segments"),
            }
            place += segment.length as usize;
        }
    }
}

impl BlockDevice for FakeDisk {
    fn geometry(&self) -> Geometry {
        self.geometry.get()
    }

    fn submit(
        &self,
        operation: Operation,
        first_sector: u64,
        segments: &[Segment],
        ticket: Ticket,
    ) -> Result<(), SubmitError> {
        check(&self.geometry.get(), operation, first_sector, segments).map_err(SubmitError::Refused)?;
        if self.pending() >= self.depth.get() {
            self.room.add(&ticket.completions);
            return Err(SubmitError::Full);
        }
        self.log.borrow_mut().push((operation, first_sector, segments.len()));
        let request = Pending { operation, first_sector, segments: segments.to_vec(), ticket };
        self.pending.borrow_mut().push_back(request);
        Ok(())
    }

    fn kick(&self) {
        self.kicks.set(self.kicks.get() + 1);
    }
}
