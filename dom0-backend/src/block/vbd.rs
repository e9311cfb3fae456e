//! One guest's disk: from requests on its ring to responses.
//!
//! Work comes in rounds. A round takes what the device completed and what the guest asked, each as a batch, so
//! that there is at most one hypercall to let the device at all the pages, one to take them away again, one
//! doorbell and one event:
//!
//! ```text
//!   completed ──────────────────► detach ─► responses ─► commit
//!   ring ─► check ─► attach ─► queue ─► device ─► kick
//! ```
//!
//! Requests go to the device in the order in which they came and may complete in any order. A barrier waits at
//! the head of the queue until nothing is in flight, and holds back what is behind it until it is done.

#[cfg(test)]
mod tests;

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::rc::Rc;
use alloc::vec::Vec;

use hypercall_abi::io::blkif::{BLKIF_RSP_EOPNOTSUPP, BLKIF_RSP_ERROR, BlkifRequest, BlkifRequestSegment};
use hypercall_abi::{DomainId, Errno, PAGE_SIZE};
use pv_runtime::grant::CopyEnd;
use pv_runtime::memory::{PageRun, SharedMemory};
use ring::{BackRing, Blkif, Corrupt, NotifyPeer, RingMemory};
use zerocopy::IntoBytes;

use super::counters::BlockCounters;
use super::data_path::DataPath;
use super::device::{BlockDevice, Completions, IoError, Operation, Outcome, SubmitError, Ticket};
use super::request::{Need, Rejection, Request, Rules, Spares, Table};
use crate::backend::GrantCopy;

/// Requests that are taken from the ring in one round.
const BATCH: usize = 32;
/// The most segments of an indirect request, whatever the device could do.
pub const INDIRECT_SEGMENTS_MAX: u16 = 128;
/// Bytes of the largest table of segments.
const TABLE_SIZE: usize = INDIRECT_SEGMENTS_MAX as usize * size_of::<BlkifRequestSegment>();
/// Pages for the tables of one round.
const TABLE_PAGES: usize = BATCH * TABLE_SIZE / PAGE_SIZE;
/// Bad requests that are logged; the others are only counted.
const LOGGED_MAX: u64 = 5;

/// What a round leaves behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Round {
    /// Whether the guest must be sent an event.
    pub notify: NotifyPeer,
    /// Whether there is more to do at once. If not, the guest will send an event for new requests.
    pub has_more: bool,
}

/// A guest's disk, connected.
pub struct Vbd<M, D: DataPath> {
    guest: DomainId,
    ring: BackRing<Blkif, M>,
    path: D,
    disk: Rc<dyn BlockDevice>,
    completions: Rc<Completions>,
    rules: Rules,
    counters: Rc<BlockCounters>,
    /// Requests that the device has, by token.
    in_flight: Vec<Option<Box<Request<D::Lease>>>>,
    free_tokens: Vec<u32>,
    /// Requests that have begun and have further steps to do; before all others.
    continuing: VecDeque<Box<Request<D::Lease>>>,
    /// Requests whose pages are within the device's reach, in the order of the ring.
    queue: VecDeque<Box<Request<D::Lease>>>,
    /// A barrier has begun.
    behind_barrier: bool,
    /// Requests taken in this round.
    #[expect(
        clippy::vec_box,
        reason = "requests go from list to list: a pointer moves, not two hundred bytes"
    )]
    fresh: Vec<Box<Request<D::Lease>>>,
    /// Requests that want their answer.
    #[expect(clippy::vec_box, reason = "as above")]
    done: Vec<Box<Request<D::Lease>>>,
    spares: Spares<D::Lease>,
    outcomes: Vec<Outcome>,
    /// Where in `fresh` requests lack their table, and how long it is.
    wanted_tables: Vec<(usize, u16)>,
    /// Where tables are copied to, and where a copy of one is checked that nobody else can change.
    tables: PageRun,
    table: Box<[BlkifRequestSegment]>,
}

impl<M: RingMemory, D: DataPath> Vbd<M, D> {
    /// Serves `guest`'s ring from `disk`, as `rules` allow.
    ///
    /// # Errors
    ///
    /// `ENOMEM` if there is not enough memory.
    pub fn new(
        guest: DomainId,
        ring: BackRing<Blkif, M>,
        path: D,
        disk: Rc<dyn BlockDevice>,
        rules: Rules,
        counters: Rc<BlockCounters>,
    ) -> Result<Self, Errno> {
        Ok(Self {
            guest,
            ring,
            path,
            disk,
            completions: Rc::default(),
            rules,
            counters,
            in_flight: Vec::new(),
            free_tokens: Vec::new(),
            continuing: VecDeque::new(),
            queue: VecDeque::new(),
            behind_barrier: false,
            fresh: Vec::new(),
            done: Vec::new(),
            spares: Spares::default(),
            outcomes: Vec::new(),
            wanted_tables: Vec::new(),
            tables: PageRun::new(TABLE_PAGES)?,
            table: [BlkifRequestSegment::default(); INDIRECT_SEGMENTS_MAX as usize].into(),
        })
    }

    /// Is rung when the device has completed something or has room again: time for another round.
    pub fn completions(&self) -> &Rc<Completions> {
        &self.completions
    }

    /// Requests that the device has.
    #[inline]
    pub fn in_flight(&self) -> usize {
        self.in_flight.len() - self.free_tokens.len()
    }

    /// Does a round.
    ///
    /// # Errors
    ///
    /// [`Corrupt`] if the guest broke the ring. Nothing more is to be had from it then: see
    /// [`wind_down`](Self::wind_down).
    pub fn round(&mut self) -> Result<Round, Corrupt> {
        self.collect_outcomes();
        self.take_requests()?;
        self.load_tables();
        self.attach_fresh();
        self.submit();
        self.answer_done();
        let notify = self.ring.commit_responses();
        let has_more = !self.ring.final_check_for_requests()?.may_wait();
        Ok(Round { notify, has_more })
    }

    /// Takes back what the device is done with, answering nothing, and says whether that was all. To be called
    /// until it was, each time the [`completions`](Self::completions) are rung.
    pub fn wind_down(&mut self) -> bool {
        self.collect_outcomes();
        self.done.append(&mut self.fresh);
        self.done.extend(self.queue.drain(..));
        self.done.extend(self.continuing.drain(..));
        self.path.detach(self.guest, &mut self.done);
        self.done.clear();
        self.in_flight() == 0
    }

    /// Takes the device's outcomes: requests are done, or go on with their next step.
    fn collect_outcomes(&mut self) {
        let mut outcomes = core::mem::take(&mut self.outcomes);
        self.completions.take_all(&mut outcomes);
        for outcome in outcomes.drain(..) {
            let place = self.in_flight.get_mut(outcome.token as usize);
            let Some(request) = place.and_then(Option::take) else { continue };
            self.free_tokens.push(outcome.token);
            self.step_over(request, outcome.result);
        }
        self.outcomes = outcomes;
    }

    #[inline]
    fn step_over(&mut self, mut request: Box<Request<D::Lease>>, result: Result<(), IoError>) {
        match result {
            Ok(()) => request.step_done(),
            Err(error) => request.fail(status_of(error)),
        }
        if request.next_step().is_some() {
            return self.continuing.push_back(request);
        }
        if request.is_barrier() {
            self.behind_barrier = false;
        }
        self.done.push(request);
    }

    /// Takes requests off the ring. Bad ones are done at once.
    fn take_requests(&mut self) -> Result<(), Corrupt> {
        let mut raw = BlkifRequest::default();
        for _ in 0..BATCH {
            if !self.ring.take_request_into(&mut raw)? {
                break;
            }
            self.take_request(&raw);
        }
        Ok(())
    }

    #[inline]
    fn take_request(&mut self, raw: &BlkifRequest) {
        let mut request = self.spares.take();
        match request.load(raw, &self.rules) {
            Ok(Need::Pages) => self.fresh.push(request),
            Ok(Need::Table(table)) => self.take_indirect(request, table),
            Err(rejection) => self.reject(request, rejection),
        }
    }

    /// Reads the table of a request if it is within reach; otherwise notes that it is wanted.
    #[inline]
    fn take_indirect(&mut self, mut request: Box<Request<D::Lease>>, table: Table) {
        let segments = &mut self.table[..usize::from(table.count)];
        if !self.path.read_kept(self.guest, table.reference, segments.as_mut_bytes()) {
            self.want_table(table);
        } else if let Err(rejection) = request.load_table(segments, &self.rules) {
            return self.reject(request, rejection);
        }
        self.fresh.push(request);
    }

    /// Has the table of the next request in `fresh` copied into its place.
    fn want_table(&mut self, table: Table) {
        let position = self.fresh.len();
        let ours = CopyEnd::own(&self.tables, position * TABLE_SIZE);
        let ours = ours.expect("a round has no more requests than places for tables");
        let theirs = CopyEnd::Granted { domain: self.guest, reference: table.reference, offset: 0 };
        self.path.copies().push(theirs, ours, table.count * size_of::<BlkifRequestSegment>() as u16);
        self.wanted_tables.push((position, table.count));
    }

    /// Copies the tables of indirect requests in, all at once, and checks them.
    fn load_tables(&mut self) {
        if self.wanted_tables.is_empty() {
            return;
        }
        self.path.copies().submit();
        let wanted = core::mem::take(&mut self.wanted_tables);
        // Backwards, so that the positions of the others stay what they are when one is taken out.
        for (copy, &(position, count)) in wanted.iter().enumerate().rev() {
            if let Err(rejection) = self.load_table(copy, position, count) {
                let request = self.fresh.remove(position);
                self.reject(request, rejection);
            }
        }
        self.path.copies().clear();
        self.wanted_tables = wanted;
        self.wanted_tables.clear();
    }

    fn load_table(&mut self, copy: usize, position: usize, count: u16) -> Result<(), Rejection> {
        self.path.copies().status(copy).map_err(|_| Rejection::NoTable)?;
        let table = &mut self.table[..usize::from(count)];
        SharedMemory::copy_out(&self.tables, position * TABLE_SIZE, table.as_mut_bytes());
        self.fresh[position].load_table(table, &self.rules)
    }

    /// Notes that a request is bad: it will be answered, and nothing else.
    fn reject(&mut self, mut request: Box<Request<D::Lease>>, rejection: Rejection) {
        if self.counters.errors.get() < LOGGED_MAX {
            log::warn!("domain {}: bad disk request: {rejection}", self.guest);
        }
        request.fail(rejection.status());
        request.grants.clear();
        self.done.push(request);
    }

    /// Lets the device at the pages of the fresh requests, and queues them.
    fn attach_fresh(&mut self) {
        if self.fresh.is_empty() {
            return;
        }
        self.path.attach(self.guest, &mut self.fresh);
        for request in self.fresh.drain(..) {
            self.counters.note_accepted(&request);
            if request.next_step().is_some() {
                self.queue.push_back(request);
            } else {
                self.done.push(request);
            }
        }
    }

    /// Hands over what may go to the device now.
    fn submit(&mut self) {
        let mut submitted = false;
        while let Some(request) = self.next_to_submit() {
            if let Err(request) = self.hand_over(request) {
                self.continuing.push_front(request);
                break;
            }
            submitted = true;
        }
        if submitted {
            self.disk.kick();
        }
    }

    /// The next request for the device, if it need not wait for others.
    #[inline]
    fn next_to_submit(&mut self) -> Option<Box<Request<D::Lease>>> {
        if let Some(request) = self.continuing.pop_front() {
            return Some(request);
        }
        let is_barrier = self.queue.front()?.is_barrier();
        if self.behind_barrier || (is_barrier && self.in_flight() > 0) {
            return None;
        }
        self.behind_barrier = is_barrier;
        self.queue.pop_front()
    }

    /// Submits a request's next step. Gives the request back if the device has no room.
    #[inline]
    fn hand_over(&mut self, request: Box<Request<D::Lease>>) -> Result<(), Box<Request<D::Lease>>> {
        let Some(step) = request.next_step() else { return Ok(()) };
        let (sector, segments) = match step {
            Operation::Flush => (0, &[][..]),
            Operation::Read | Operation::Write => (request.first_sector, &request.segments[..]),
        };
        let token = self.free_tokens.last().copied().unwrap_or(self.in_flight.len() as u32);
        let ticket = Ticket { completions: Rc::clone(&self.completions), token };
        match self.disk.submit(step, sector, segments, ticket) {
            Ok(()) => self.note_in_flight(token, request),
            Err(SubmitError::Full) => return Err(request),
            Err(SubmitError::Refused(error)) => self.step_over(request, Err(error)),
        }
        Ok(())
    }

    #[inline]
    fn note_in_flight(&mut self, token: u32, request: Box<Request<D::Lease>>) {
        if self.free_tokens.pop().is_none() {
            self.in_flight.push(None);
        }
        self.in_flight[token as usize] = Some(request);
    }

    /// Takes the pages of finished requests away from the device, and answers.
    fn answer_done(&mut self) {
        if self.done.is_empty() {
            return;
        }
        self.path.detach(self.guest, &mut self.done);
        for request in self.done.drain(..) {
            self.counters.note_answered(&request);
            let answered = self.ring.push_response(&request.response());
            debug_assert!(answered.is_ok(), "each request was taken from the ring, and is answered once");
            self.spares.put(request);
        }
    }
}

/// What to tell a guest about a request that its disk refused or failed.
fn status_of(error: IoError) -> i16 {
    match error {
        IoError::Unsupported => BLKIF_RSP_EOPNOTSUPP,
        IoError::Device | IoError::OutOfRange | IoError::ReadOnly | IoError::Gone => BLKIF_RSP_ERROR,
    }
}
