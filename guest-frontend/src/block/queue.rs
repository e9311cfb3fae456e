//! The front half of a disk's ring: requests that wait, parts that are under way, answers.
//!
//! A request's memory is granted to the back end when its first part is put on the ring, not before, so requests that
//! wait outlive a back end that goes away: [`BlockQueue::into_requests`] gives back all that were not answered, to be
//! asked of the next one. Doing a read or write twice does no harm.

use alloc::collections::VecDeque;
use alloc::vec;
use alloc::vec::Vec;

use hypercall_abi::io::blkif::{
    BLKIF_MAX_SEGMENTS_PER_REQUEST, BLKIF_RSP_EOPNOTSUPP, BLKIF_RSP_OKAY, BlkifResponse,
    SEGMENTS_PER_INDIRECT_PAGE,
};
use ring::{AreaTooSmall, Blkif, FinalCheck, FrontRing, NotifyPeer};

use super::operation::{Operation, Span};
use super::request::{Action, BlockError, Outcome, Request};
use super::wire;
use crate::buffer::{GrantTable, SharedBuffer};
use crate::fault::Fault;

/// How a back end brings data to stable storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlushBy {
    /// By `BLKIF_OP_FLUSH_DISKCACHE`.
    Flush,
    /// By an empty `BLKIF_OP_WRITE_BARRIER`.
    Barrier,
    /// It has no cache to flush, or does not say how.
    Nothing,
}

/// What a back end takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The device's number, which each request carries.
    pub handle: u16,
    /// The most segments of an indirect request; zero if there are no indirect requests.
    pub indirect_segments: usize,
    /// How flushes are done.
    pub flush: FlushBy,
}

impl Limits {
    /// The most pages of a part.
    fn most_pages(&self) -> usize {
        self.indirect_segments.clamp(BLKIF_MAX_SEGMENTS_PER_REQUEST, SEGMENTS_PER_INDIRECT_PAGE)
    }
}

/// A part on the ring.
#[derive(Clone, Copy, Debug)]
struct Part {
    /// Index of its operation.
    operation: usize,
    /// What was asked for, `BLKIF_OP_*`.
    asked: u8,
}

/// What went through a queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlockCounters {
    /// Requests put on the ring.
    pub requests: u64,
    /// Pages in them.
    pub pages: u64,
    /// Times the back end was notified.
    pub notifications: u64,
}

/// The front half of a disk's ring.
pub struct BlockQueue<T: GrantTable> {
    ring: FrontRing<Blkif, SharedBuffer<T::Grant>>,
    table: T,
    limits: Limits,
    waiting: VecDeque<Request<T::Grant>>,
    /// Operations begun and not finished, at indexes that parts refer to.
    operations: Vec<Option<Operation<T::Grant>>>,
    free_indexes: Vec<usize>,
    /// The operation of which some parts are not on the ring yet.
    current: Option<usize>,
    /// Parts by id.
    parts: Vec<Option<Part>>,
    free_ids: Vec<usize>,
    counters: BlockCounters,
}

impl<T: GrantTable> BlockQueue<T> {
    /// Makes a ring in pages that are shared for writing. Until told otherwise it keeps to what every back end
    /// takes.
    ///
    /// # Errors
    ///
    /// If the pages hold no ring.
    pub fn new(pages: SharedBuffer<T::Grant>, table: T) -> Result<Self, AreaTooSmall> {
        let ring = FrontRing::new(pages)?;
        let capacity = ring.capacity() as usize;
        Ok(Self {
            ring,
            table,
            limits: Limits { handle: 0, indirect_segments: 0, flush: FlushBy::Nothing },
            waiting: VecDeque::new(),
            operations: Vec::new(),
            free_indexes: Vec::new(),
            current: None,
            parts: vec![None; capacity],
            free_ids: (0..capacity).rev().collect(),
            counters: BlockCounters::default(),
        })
    }

    /// Sets what the back end takes, before the first request.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// Queues a request, to be put on the ring by [`submit`](Self::submit).
    pub fn push(&mut self, request: Request<T::Grant>) {
        self.waiting.push_back(request);
    }

    /// Puts on the ring what fits, shows it to the back end, and says whether that waits for an event.
    pub fn submit(&mut self) -> NotifyPeer {
        while self.ring.free_requests() > 0
            && let Some(index) = self.current_operation()
            && self.send_part(index)
        {}
        let notify = self.ring.commit_requests();
        self.counters.notifications += u64::from(notify.needed());
        notify
    }

    /// The operation that the next part is of: one that was begun, or the next that waits.
    fn current_operation(&mut self) -> Option<usize> {
        if self.current.is_none() {
            self.current = self.begin_next();
        }
        self.current
    }

    /// Makes an operation of the next request that is not answered at once.
    fn begin_next(&mut self) -> Option<usize> {
        loop {
            let request = self.waiting.pop_front()?;
            if request.action == Action::Flush && self.limits.flush == FlushBy::Nothing {
                request.completion.set(Outcome { buffer: request.buffer, result: Ok(()) });
                continue;
            }
            let Some(operation) = Operation::new(request, &self.table) else { continue };
            let index = self.free_indexes.pop().unwrap_or(self.operations.len());
            if index == self.operations.len() {
                self.operations.push(None);
            }
            self.operations[index] = Some(operation);
            return Some(index);
        }
    }

    /// Puts the next part of an operation on the ring, which has room. Returns whether it did.
    fn send_part(&mut self, index: usize) -> bool {
        let Some(operation) = &mut self.operations[index] else { return false };
        let Some(span) = operation.next_span(self.limits.most_pages()) else { return false };
        let Some(id) = self.free_ids.pop() else { return false };
        let mut table = None;
        if span.pages > BLKIF_MAX_SEGMENTS_PER_REQUEST {
            table = operation.table(span, &self.table);
        }
        let (request, span) = match table {
            Some(table) => (wire::indirect(operation, span, id as u64, &self.limits, table), span),
            None => {
                let span = Span { pages: span.pages.min(BLKIF_MAX_SEGMENTS_PER_REQUEST), ..span };
                (wire::direct(operation, span, id as u64, &self.limits), span)
            }
        };
        let pushed = self.ring.push_request(&request);
        debug_assert!(pushed.is_ok(), "the caller found room");
        operation.sent(span);
        if operation.is_sent() {
            self.current = None;
        }
        let asked = wire::operation_number(operation.action, self.limits.flush);
        self.parts[id] = Some(Part { operation: index, asked });
        self.counters.requests += 1;
        self.counters.pages += span.pages as u64;
        true
    }

    /// Takes the back end's answers, and answers requests of which that was the last.
    ///
    /// # Errors
    ///
    /// If the back end did what no honest one does, such as to answer what was not asked.
    pub fn reap(&mut self) -> Result<(), Fault> {
        while let Some(response) = self.ring.take_response()? {
            self.finish_part(response)?;
        }
        Ok(())
    }

    fn finish_part(&mut self, response: BlkifResponse) -> Result<(), Fault> {
        let unknown = Fault::UnknownId(response.id);
        let id = usize::try_from(response.id).map_err(|_| unknown)?;
        let part = self.parts.get_mut(id).and_then(Option::take).ok_or(unknown)?;
        self.free_ids.push(id);
        if part.asked != response.operation {
            return Err(Fault::WrongOperation { asked: part.asked, answered: response.operation });
        }
        let place = &mut self.operations[part.operation];
        let is_last = place.as_mut().is_some_and(|operation| operation.answered(result_of(response.status)));
        if is_last && let Some(operation) = place.take() {
            self.free_indexes.push(part.operation);
            operation.finish();
        }
        Ok(())
    }

    /// Asks for an event at the next answer, and says whether to wait for it.
    ///
    /// # Errors
    ///
    /// If the back end did what no honest one does.
    pub fn ask_for_event(&mut self) -> Result<FinalCheck, Fault> {
        Ok(self.ring.final_check_for_responses()?)
    }

    /// Whether everything on the ring is answered.
    pub fn is_answered(&self) -> bool {
        self.ring.unanswered_requests() == 0
    }

    /// Gives up the ring, and gives back the requests that were not answered, in no particular order.
    pub fn into_requests(self) -> impl Iterator<Item = Request<T::Grant>> {
        let begun = self.operations.into_iter().flatten().map(Operation::into_request);
        begun.chain(self.waiting)
    }

    /// What went through so far.
    pub fn counters(&self) -> BlockCounters {
        self.counters
    }
}

/// What a status means.
fn result_of(status: i16) -> Result<(), BlockError> {
    match status {
        BLKIF_RSP_OKAY => Ok(()),
        BLKIF_RSP_EOPNOTSUPP => Err(BlockError::NotSupported),
        _ => Err(BlockError::Failed),
    }
}
