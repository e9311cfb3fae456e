//! A disk that this domain drives itself: the same requests go to a driver instead of to a back end.

use alloc::collections::VecDeque;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::mem;

use device_drivers::disk::{
    BlockDevice, Completions, IoError, Operation, SECTOR_SIZE, Segment, SubmitError, Ticket,
};
use hypercall_abi::PAGE_SIZE;
use pv_runtime::executor::select;
use pv_runtime::grant::Grant;

use super::buffer::LentBuffer;
use super::disk::{Disk, Shared};
use super::request::{Action, BlockError, Completion, Geometry, Outcome, Request};

/// Serves a [`Disk`] from a device of this domain's own.
pub struct OwnedDisk {
    disk: Rc<Shared>,
    device: Rc<dyn BlockDevice>,
    completions: Rc<Completions>,
    /// Requests that the device has, in part or as a whole, by the number that stands in their tickets.
    under_way: Vec<Option<UnderWay>>,
    free: Vec<u32>,
    /// Requests of which the device does not have everything, in order.
    waiting: VecDeque<u32>,
    /// Kept for their storage.
    segments: Vec<Segment>,
    outcomes: Vec<device_drivers::disk::Outcome>,
}

/// A request on its way.
struct UnderWay {
    operation: Operation,
    first_sector: u64,
    length: usize,
    buffer: Option<LentBuffer<Grant>>,
    completion: Completion<Grant>,
    /// Bytes that the device was given.
    sent: usize,
    is_all_sent: bool,
    /// Parts that the device has not answered.
    parts: u32,
    result: Result<(), BlockError>,
}

impl OwnedDisk {
    /// Makes `device` the disk behind `disk`.
    pub fn new(disk: &Disk, device: Rc<dyn BlockDevice>) -> Self {
        let geometry = device.geometry();
        let owned = Self {
            disk: Rc::clone(&disk.0),
            device,
            completions: Rc::default(),
            under_way: Vec::new(),
            free: Vec::new(),
            waiting: VecDeque::new(),
            segments: Vec::new(),
            outcomes: Vec::new(),
        };
        owned.disk.geometry.set(Some(Geometry {
            sectors: geometry.sectors,
            sector_size: geometry.logical_block_size,
            read_only: geometry.is_read_only,
        }));
        owned.disk.is_owned.set(true);
        owned.disk.changed.ring();
        owned
    }

    /// Serves it for ever.
    pub async fn run(mut self) {
        loop {
            self.turn();
            select(self.completions.wait(), self.disk.poke.wait()).await;
        }
    }

    /// Passes on what there is, in both directions.
    fn turn(&mut self) {
        let mut outcomes = mem::take(&mut self.outcomes);
        self.completions.take_all(&mut outcomes);
        for outcome in outcomes.drain(..) {
            self.answered(outcome.token, outcome.result);
        }
        self.outcomes = outcomes;
        let disk = Rc::clone(&self.disk);
        for request in disk.submitted.borrow_mut().drain(..) {
            let token = self.begin(request);
            self.waiting.push_back(token);
        }
        while let Some(&token) = self.waiting.front() {
            if !self.send(token) {
                break;
            }
            self.waiting.pop_front();
            self.settle(token);
        }
        self.device.kick();
    }

    /// Takes a request on, and gives it a number.
    fn begin(&mut self, request: Request<Grant>) -> u32 {
        let Request { action, start, length, buffer, completion } = request;
        let operation = match action {
            Action::Read => Operation::Read,
            Action::Write => Operation::Write,
            Action::Flush => Operation::Flush,
        };
        let under_way = Some(UnderWay {
            operation,
            first_sector: start.0,
            length,
            buffer: buffer.map(LentBuffer::new),
            completion,
            sent: 0,
            is_all_sent: false,
            parts: 0,
            result: Ok(()),
        });
        match self.free.pop() {
            Some(token) => {
                self.under_way[token as usize] = under_way;
                token
            }
            None => {
                self.under_way.push(under_way);
                self.under_way.len() as u32 - 1
            }
        }
    }

    /// Gives the device what it does not have of a request; false if it has no room for all of it.
    fn send(&mut self, token: u32) -> bool {
        let Some(request) = self.under_way[token as usize].as_mut() else { return true };
        let most = usize::from(self.device.geometry().segments_max).max(1) * PAGE_SIZE;
        while !request.is_all_sent {
            let length = (request.length - request.sent).min(most);
            request.segments(length, &mut self.segments);
            let sector = request.first_sector + (request.sent / SECTOR_SIZE as usize) as u64;
            let ticket = Ticket { completions: Rc::clone(&self.completions), token };
            match self.device.submit(request.operation, sector, &self.segments, ticket) {
                Ok(()) => {
                    request.parts += 1;
                    request.sent += length;
                    request.is_all_sent = request.sent == request.length;
                }
                Err(SubmitError::Full) => return false,
                Err(SubmitError::Refused(error)) => {
                    request.result = Err(error.into());
                    request.is_all_sent = true;
                }
            }
        }
        true
    }

    fn answered(&mut self, token: u32, result: Result<(), IoError>) {
        let Some(request) = self.under_way[token as usize].as_mut() else { return };
        request.parts -= 1;
        if let Err(error) = result {
            request.result = Err(error.into());
        }
        self.settle(token);
    }

    /// Tells the outcome of a request if all of it is answered.
    fn settle(&mut self, token: u32) {
        let slot = &mut self.under_way[token as usize];
        let Some(request) = slot.take_if(|request| request.is_all_sent && request.parts == 0) else { return };
        self.free.push(token);
        let buffer = request.buffer.map(LentBuffer::give_back);
        request.completion.set(Outcome { buffer, result: request.result });
    }
}

impl UnderWay {
    /// The next `length` bytes, page by page.
    fn segments(&self, length: usize, segments: &mut Vec<Segment>) {
        segments.clear();
        let Some(buffer) = &self.buffer else { return };
        let pages = (self.sent..self.sent + length).step_by(PAGE_SIZE);
        segments.extend(pages.map(|offset| Segment {
            address: buffer.machine_frame(offset / PAGE_SIZE).physical_address(),
            length: (self.sent + length - offset).min(PAGE_SIZE) as u32,
        }));
    }
}

impl From<IoError> for BlockError {
    fn from(error: IoError) -> Self {
        match error {
            IoError::Device => Self::Failed,
            IoError::Unsupported => Self::NotSupported,
            IoError::OutOfRange => Self::OutOfRange,
            IoError::ReadOnly => Self::ReadOnly,
            IoError::Gone => Self::Gone,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::Sector;
    use device_drivers::disk::fake::FakeDisk;
    use pv_runtime::executor::Signal;

    /// A disk of 1,024 sectors, each of which begins with its number, and who serves it.
    fn disk() -> (OwnedDisk, Rc<FakeDisk>) {
        let device = Rc::new(FakeDisk::new(1024));
        (OwnedDisk::new(&Disk::new(), Rc::clone(&device) as Rc<dyn BlockDevice>), device)
    }

    fn ask(owned: &OwnedDisk, action: Action, start: u64, pages: usize) -> Completion<Grant> {
        let completion = Rc::new(Signal::new());
        let buffer =
            (pages > 0).then(|| owned.disk.buffers.take(pages * PAGE_SIZE).expect("a host has memory"));
        let length = pages * PAGE_SIZE;
        let request =
            Request { action, start: Sector(start), length, buffer, completion: Rc::clone(&completion) };
        owned.disk.submitted.borrow_mut().push(request);
        completion
    }

    fn outcome(completion: &Completion<Grant>) -> Outcome<Grant> {
        completion.try_take().expect("answered")
    }

    #[test]
    fn a_read_brings_what_is_on_the_disk() {
        let (mut owned, device) = disk();
        let read = ask(&owned, Action::Read, 16, 2);
        owned.turn();
        assert!(read.try_take().is_none(), "the device has not answered");
        device.complete_all();
        owned.turn();
        let outcome = outcome(&read);
        let mut read = Vec::new();
        outcome.buffer.expect("comes back").visit(2 * PAGE_SIZE, |piece| read.extend_from_slice(piece));
        assert_eq!((outcome.result, read[0], read[PAGE_SIZE]), (Ok(()), 16, 24));
    }

    #[test]
    fn what_is_too_long_for_one_request_goes_in_parts() {
        let (mut owned, device) = disk();
        let write = ask(&owned, Action::Write, 0, 100);
        owned.turn();
        assert_eq!(device.submitted(), [(Operation::Write, 0, 64), (Operation::Write, 512, 36)]);
        device.complete_one();
        owned.turn();
        assert!(write.try_take().is_none(), "one part is not all");
        device.complete_one();
        owned.turn();
        assert_eq!(outcome(&write).result, Ok(()));
    }

    #[test]
    fn one_failed_part_fails_the_request_when_all_are_answered() {
        let (mut owned, device) = disk();
        let read = ask(&owned, Action::Read, 0, 100);
        owned.turn();
        device.fail_one(IoError::Device);
        owned.turn();
        assert!(read.try_take().is_none(), "the device still writes to the other part");
        device.complete_one();
        owned.turn();
        assert_eq!(outcome(&read).result, Err(BlockError::Failed));
    }

    #[test]
    fn a_full_device_is_given_the_rest_later_and_in_order() {
        let (mut owned, device) = disk();
        device.depth.set(1);
        let reads = [0, 8, 16].map(|start| ask(&owned, Action::Read, start, 1));
        for read in &reads {
            owned.turn();
            assert_eq!(device.pending(), 1);
            device.complete_one();
            owned.turn();
            assert_eq!(outcome(read).result, Ok(()));
        }
    }

    #[test]
    fn a_flush_has_no_memory_and_a_refusal_is_an_answer() {
        let (mut owned, device) = disk();
        let (flush, beyond) = (ask(&owned, Action::Flush, 0, 0), ask(&owned, Action::Read, 1023, 1));
        owned.turn();
        assert_eq!(outcome(&beyond).result, Err(BlockError::OutOfRange));
        assert!(flush.try_take().is_none());
        device.complete_all();
        owned.turn();
        assert_eq!(outcome(&flush).result, Ok(()));
    }
}
