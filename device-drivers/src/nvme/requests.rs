//! Users' requests on their way: each is one command or, if its memory lies so that one cannot describe it, several.
//!
//! The pages of a command, if they are more than two, stand in a list: a part of a page for each command there can be.

use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use hypercall_abi::{Errno, PAGE_SIZE};
use pv_runtime::memory::{PageRun, SharedMemory};

use super::command::{self, Command, Status};
use super::pages::{Run, runs};
use super::queue::{Fault, QueuePair};
use crate::disk::{ErrorLog, Extent, IoError, Operation, Segment, Tick, Ticket, Watch};

/// The queue that requests go through.
const QUEUE: u16 = 1;
/// Commands that are under way at most.
pub const DEPTH: u16 = 128;
/// Bytes of a command's list.
const LIST_BYTES: usize = 1024;
const LISTS_PER_PAGE: usize = PAGE_SIZE / LIST_BYTES;
/// Segments that a command can have: the page of the first is not in the list.
pub const SEGMENTS_MAX: u16 = (LIST_BYTES / size_of::<u64>()) as u16;

/// What a request is for.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// The namespace's number.
    pub namespace: u32,
    /// Base-two logarithm of the sectors in its blocks.
    pub block_exponent: u32,
    /// Bytes that a command may transfer.
    pub transfer_most: u32,
}

/// A request under way.
#[derive(Debug)]
struct Request {
    /// Who waits; `None` if the place is free.
    ticket: Option<Ticket>,
    /// Commands that have not come back.
    commands: u16,
    result: Result<(), IoError>,
    namespace: u32,
    extent: Extent,
    begun: Tick,
}

/// All of them, and the queues they go through.
#[derive(Debug)]
pub struct Requests {
    /// The queues.
    pub queue: QueuePair,
    lists: PageRun,
    requests: Vec<Request>,
    free: Vec<u32>,
}

impl Requests {
    /// Room for as many as queues of `entries` entries allow.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub fn new(entries: u32) -> Result<Self, Errno> {
        let commands = entries.saturating_sub(1).min(DEPTH.into()) as u16;
        let queue = QueuePair::new(QUEUE, commands)?;
        let lists = PageRun::new(usize::from(DEPTH).div_ceil(LISTS_PER_PAGE))?;
        Ok(Self { queue, lists, requests: Vec::new(), free: Vec::new() })
    }

    /// The most segments of a request of which one command may transfer so many bytes. Each may have to become a command.
    pub fn segments_max(&self, transfer_most: u32) -> u16 {
        let commands = self.queue.entries() - 1;
        let pages = transfer_most / PAGE_SIZE as u32;
        commands.min(SEGMENTS_MAX).min(u16::try_from(pages).unwrap_or(u16::MAX))
    }

    /// Requests under way.
    pub fn in_flight(&self) -> usize {
        self.requests.len() - self.free.len()
    }

    /// Submits a request that lies on the disk and becomes so many commands, for which there is room.
    #[inline]
    pub fn submit(
        &mut self,
        target: &Target,
        extent: Extent,
        segments: &[Segment],
        commands: usize,
        ticket: Ticket,
        begun: Tick,
    ) {
        let token = self.free.pop().unwrap_or(self.requests.len() as u32);
        let operation = match extent.operation {
            Operation::Read => command::READ,
            Operation::Write => command::WRITE,
            Operation::Flush => command::FLUSH,
        };
        if operation == command::FLUSH {
            self.put(&Command::flush(target.namespace), token);
        }
        let mut block = extent.first_sector >> target.block_exponent;
        for run in runs(segments, target.transfer_most) {
            let blocks = run.bytes >> target.block_shift();
            let command = Command::transfer(operation, target.namespace, block, blocks);
            let others = self.other_pages(&run);
            self.put(&command.with_data(run.first(), others), token);
            block += u64::from(blocks);
        }
        let request = Request {
            ticket: Some(ticket),
            commands: commands as u16,
            result: Ok(()),
            namespace: target.namespace,
            extent,
            begun,
        };
        match self.requests.get_mut(token as usize) {
            Some(place) => *place = request,
            None => self.requests.push(request),
        }
    }

    #[inline]
    fn put(&mut self, command: &Command, token: u32) {
        let is_put = self.queue.submit(command, token);
        debug_assert!(is_put, "a request is begun only if there is room for all of it");
    }

    /// Where the next command finds its pages behind the first: the second itself if there are no more, or their list.
    #[inline]
    fn other_pages(&self, run: &Run<'_>) -> u64 {
        let mut others = run.others();
        let Some(second) = others.next() else { return 0 };
        let Some(third) = others.next() else { return second };
        let list = usize::from(self.queue.next_identifier().unwrap_or_default());
        let words = &self.lists.double_words()[list * LIST_BYTES / size_of::<u64>()..];
        for (word, address) in words.iter().zip([second, third].into_iter().chain(others)) {
            word.store(address, Ordering::Relaxed);
        }
        let page = self.lists.machine_frame(list / LISTS_PER_PAGE).physical_address();
        page + (list % LISTS_PER_PAGE * LIST_BYTES) as u64
    }

    /// Takes what came back and tells those who wait; says whether there was anything.
    ///
    /// # Errors
    ///
    /// [`Fault`] if the controller broke the rules. Nothing it says can be trusted then.
    pub fn take_completions(&mut self, errors: &ErrorLog) -> Result<bool, Fault> {
        let mut any = false;
        while let Some(completion) = self.queue.take()? {
            any = true;
            // The queue gives back only tokens that it was given.
            let request = &mut self.requests[completion.token as usize];
            if let Err(error) = completion.status.result() {
                request.note(errors, error, completion.status);
            }
            request.commands -= 1;
            if request.commands > 0 {
                continue;
            }
            self.free.push(completion.token);
            if let Some(ticket) = request.ticket.take() {
                ticket.complete(request.result);
            }
        }
        Ok(any)
    }

    /// The first request that has been under way for too long.
    pub fn overdue(&self, watch: &Watch) -> Option<Extent> {
        let is_overdue = |request: &&Request| request.ticket.is_some() && watch.is_overdue(request.begun);
        self.requests.iter().find(is_overdue).map(|request| request.extent)
    }

    /// Fails everything, and brings the queues into their first state. The controller must not use them any more.
    pub fn fail_all(&mut self, error: IoError) {
        self.queue.clear();
        for (token, request) in (0..).zip(&mut self.requests) {
            if let Some(ticket) = request.ticket.take() {
                self.free.push(token);
                ticket.complete(Err(error));
            }
        }
    }
}

impl Target {
    /// Base-two logarithm of the bytes in its blocks.
    #[inline]
    const fn block_shift(&self) -> u32 {
        self.block_exponent + crate::disk::SECTOR_SIZE.ilog2()
    }

    /// How many commands a request becomes.
    ///
    /// # Errors
    ///
    /// [`IoError::OutOfRange`] if its memory lies so that a block cannot be transferred as a whole.
    #[inline]
    pub fn commands(&self, segments: &[Segment]) -> Result<usize, IoError> {
        let in_block = (1 << self.block_shift()) - 1;
        let mut commands = 0;
        for run in runs(segments, self.transfer_most) {
            if run.bytes & in_block != 0 {
                return Err(IoError::OutOfRange);
            }
            commands += 1;
        }
        // A flush has no memory.
        Ok(commands.max(1))
    }
}

impl Request {
    #[cold]
    fn note(&mut self, errors: &ErrorLog, error: IoError, status: Status) {
        if self.result.is_ok() {
            errors.note(&self.extent, format_args!("namespace {}, status {:#05x}", self.namespace, status.0));
        }
        self.result = Err(error);
    }
}
