//! The front end's half: requests out, responses in.

use crate::error::{AreaTooSmall, Corrupt, Full, PeerIndex};
use crate::memory::RingMemory;
use crate::outcome::{FinalCheck, NotifyPeer};
use crate::protocol::Protocol;
use crate::slots::{REQUESTS, RESPONSES, Slots};

/// The front end of a ring.
///
/// Requests are pushed in private and become visible all at once, with
/// [`commit_requests`](Self::commit_requests). The four indexes below are ours: nothing that the back end
/// writes reaches them unchecked. Always, in wrapping order,
///
/// ```text
///   response_consumed ≤ response_seen ≤ request_published ≤ request_pushed ≤ response_consumed + capacity
/// ```
#[derive(Debug)]
pub struct FrontRing<P: Protocol, M> {
    slots: Slots<P, M>,
    /// Requests written into slots.
    request_pushed: u32,
    /// Requests that the back end may see.
    request_published: u32,
    /// Responses that the back end has published, as far as we looked and believed it.
    response_seen: u32,
    /// Responses copied out.
    response_consumed: u32,
}

impl<P: Protocol, M: RingMemory> FrontRing<P, M> {
    /// Makes an empty ring in `memory`, which the back end must not be using yet.
    pub fn new(memory: M) -> Result<Self, AreaTooSmall> {
        let slots = Slots::new(memory)?;
        slots.initialise();
        Ok(Self { slots, request_pushed: 0, request_published: 0, response_seen: 0, response_consumed: 0 })
    }

    /// How many slots the ring has, and so how many requests can be under way.
    #[inline]
    pub fn capacity(&self) -> u32 {
        self.slots.count()
    }

    /// How many requests can still be pushed.
    #[inline]
    pub fn free_requests(&self) -> u32 {
        self.capacity() - self.request_pushed.wrapping_sub(self.response_consumed)
    }

    /// How many published requests have no response that was taken.
    #[inline]
    pub fn unanswered_requests(&self) -> u32 {
        self.request_published.wrapping_sub(self.response_consumed)
    }

    /// The slot that the next request will be pushed into.
    #[inline]
    pub fn next_request_slot(&self) -> u32 {
        self.slots.slot_of(self.request_pushed)
    }

    /// The slot that the next response will be taken from. Some protocols put an answer into the slot of
    /// its request and say so in no other way.
    #[inline]
    pub fn next_response_slot(&self) -> u32 {
        self.slots.slot_of(self.response_consumed)
    }

    /// Writes a request into the next free slot and returns that slot's number. The back end does not see
    /// it before [`commit_requests`](Self::commit_requests).
    #[inline]
    pub fn push_request(&mut self, request: &P::Request) -> Result<u32, Full> {
        if self.free_requests() == 0 {
            return Err(Full);
        }
        let slot = self.next_request_slot();
        self.slots.write(self.request_pushed, request);
        self.request_pushed = self.request_pushed.wrapping_add(1);
        Ok(slot)
    }

    /// Takes back all requests that were pushed but not committed.
    #[inline]
    pub fn revert_requests(&mut self) {
        self.request_pushed = self.request_published;
    }

    /// Shows all pushed requests to the back end, and says whether it waits for an event.
    #[inline]
    pub fn commit_requests(&mut self) -> NotifyPeer {
        if self.request_pushed == self.request_published {
            return NotifyPeer::No;
        }
        let old = self.request_published;
        self.request_published = self.request_pushed;
        self.slots.publish(REQUESTS, old, self.request_pushed)
    }

    /// Looks how many responses wait to be taken.
    #[inline]
    pub fn waiting_responses(&mut self) -> Result<u32, Corrupt> {
        let produced = self.slots.produced(RESPONSES);
        let waiting = produced.wrapping_sub(self.response_consumed);
        if waiting > self.unanswered_requests() {
            return Err(self.corrupt(produced));
        }
        self.response_seen = produced;
        Ok(waiting)
    }

    /// Copies the next response out, if there is one.
    #[inline]
    pub fn take_response(&mut self) -> Result<Option<P::Response>, Corrupt> {
        if self.response_consumed == self.response_seen && self.waiting_responses()? == 0 {
            return Ok(None);
        }
        let response = self.slots.read(self.response_consumed);
        self.response_consumed = self.response_consumed.wrapping_add(1);
        Ok(Some(response))
    }

    /// Asks for an event at the next response, and says whether it is safe to wait for it.
    #[inline]
    pub fn final_check_for_responses(&mut self) -> Result<FinalCheck, Corrupt> {
        self.final_check_for_many_responses(1)
    }

    /// Asks for an event only when `count` responses wait to be taken, or as many as are still to come if
    /// that is fewer, and says whether it is safe to wait for it. Fewer events, for whoever can be patient.
    #[inline]
    pub fn final_check_for_many_responses(&mut self, count: u32) -> Result<FinalCheck, Corrupt> {
        let count = count.min(self.unanswered_requests()).max(1);
        if self.waiting_responses()? >= count {
            return Ok(FinalCheck::MoreToTake);
        }
        self.slots.ask_for_event(RESPONSES, self.response_consumed.wrapping_add(count));
        if self.waiting_responses()? >= count {
            return Ok(FinalCheck::MoreToTake);
        }
        Ok(FinalCheck::MayWait)
    }

    /// The memory that the ring is in.
    pub fn memory(&self) -> &M {
        self.slots.memory()
    }

    /// Gives the memory back. The back end may go on using it until told otherwise.
    pub fn into_memory(self) -> M {
        self.slots.into_memory()
    }

    /// The error for a producer index that claims more answers than there are questions.
    #[cold]
    fn corrupt(&self, found: u32) -> Corrupt {
        Corrupt {
            index: PeerIndex::ResponseProducer,
            found,
            lowest: self.response_consumed,
            highest: self.request_published,
        }
    }
}
