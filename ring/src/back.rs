//! The back end's half: requests in, responses out.

use crate::error::{AttachError, Corrupt, NothingToAnswer, PeerIndex};
use crate::memory::RingMemory;
use crate::outcome::{FinalCheck, NotifyPeer};
use crate::protocol::Protocol;
use crate::slots::{REQUESTS, RESPONSES, Slots};

/// The back end of a ring.
///
/// A request is copied out once, and the slot is never looked at again: there is no way to go back and read
/// it a second time, when it might have become another. Responses are pushed in private and become visible
/// all at once, with [`commit_responses`](Self::commit_responses). The four indexes below are ours: nothing
/// that the front end writes reaches them unchecked. Always, in wrapping order,
///
/// ```text
///   response_published ≤ response_pushed ≤ request_consumed ≤ request_seen ≤ response_pushed + capacity
/// ```
#[derive(Debug)]
pub struct BackRing<P: Protocol, M> {
    slots: Slots<P, M>,
    /// Requests that the front end has published, as far as we looked and believed it.
    request_seen: u32,
    /// Requests copied out.
    request_consumed: u32,
    /// Responses written into slots.
    response_pushed: u32,
    /// Responses that the front end may see.
    response_published: u32,
}

impl<P: Protocol, M: RingMemory> BackRing<P, M> {
    /// Joins the ring that the front end made in `memory`.
    ///
    /// It starts behind the last response that was ever published. On a new ring that is the beginning. On
    /// a ring that another back end left behind, all requests without a response come again; that is sound
    /// only if the former back end answered in order, since a response takes the slot of the oldest request
    /// whichever request it answers.
    pub fn attach(memory: M) -> Result<Self, AttachError> {
        let slots = Slots::new(memory)?;
        let start = slots.produced(RESPONSES);
        let mut ring = Self {
            slots,
            request_seen: start,
            request_consumed: start,
            response_pushed: start,
            response_published: start,
        };
        ring.waiting_requests()?;
        Ok(ring)
    }

    /// How many slots the ring has, and so how many requests can be under way.
    #[inline]
    pub fn capacity(&self) -> u32 {
        self.slots.count()
    }

    /// How many requests were taken for which no response was pushed.
    #[inline]
    pub fn unanswered_requests(&self) -> u32 {
        self.request_consumed.wrapping_sub(self.response_pushed)
    }

    /// The slot that the next request will be taken from.
    #[inline]
    pub fn next_request_slot(&self) -> u32 {
        self.slots.slot_of(self.request_consumed)
    }

    /// The slot that the next response will be pushed into. Some protocols want an answer in the slot of
    /// its request.
    #[inline]
    pub fn next_response_slot(&self) -> u32 {
        self.slots.slot_of(self.response_pushed)
    }

    /// Looks how many requests wait to be taken.
    #[inline]
    pub fn waiting_requests(&mut self) -> Result<u32, Corrupt> {
        let produced = self.slots.produced(REQUESTS);
        let waiting = produced.wrapping_sub(self.request_consumed);
        if waiting > self.capacity() - self.unanswered_requests() {
            return Err(self.corrupt(produced));
        }
        self.request_seen = produced;
        Ok(waiting)
    }

    /// Copies the next request out, if there is one.
    #[inline]
    pub fn take_request(&mut self) -> Result<Option<P::Request>, Corrupt> {
        if self.request_consumed == self.request_seen && self.waiting_requests()? == 0 {
            return Ok(None);
        }
        let request = self.slots.read(self.request_consumed);
        self.request_consumed = self.request_consumed.wrapping_add(1);
        Ok(Some(request))
    }

    /// Writes a response into the next slot and returns that slot's number. The front end does not see it
    /// before [`commit_responses`](Self::commit_responses).
    #[inline]
    pub fn push_response(&mut self, response: &P::Response) -> Result<u32, NothingToAnswer> {
        if self.unanswered_requests() == 0 {
            return Err(NothingToAnswer);
        }
        let slot = self.next_response_slot();
        self.slots.write(self.response_pushed, response);
        self.response_pushed = self.response_pushed.wrapping_add(1);
        Ok(slot)
    }

    /// Shows all pushed responses to the front end, and says whether it waits for an event.
    #[inline]
    pub fn commit_responses(&mut self) -> NotifyPeer {
        if self.response_pushed == self.response_published {
            return NotifyPeer::No;
        }
        let old = self.response_published;
        self.response_published = self.response_pushed;
        self.slots.publish(RESPONSES, old, self.response_pushed)
    }

    /// Asks for an event at the next request, and says whether it is safe to wait for it.
    #[inline]
    pub fn final_check_for_requests(&mut self) -> Result<FinalCheck, Corrupt> {
        if self.waiting_requests()? > 0 {
            return Ok(FinalCheck::MoreToTake);
        }
        self.slots.ask_for_event(REQUESTS, self.request_consumed.wrapping_add(1));
        if self.waiting_requests()? > 0 {
            return Ok(FinalCheck::MoreToTake);
        }
        Ok(FinalCheck::MayWait)
    }

    /// The memory that the ring is in.
    pub fn memory(&self) -> &M {
        self.slots.memory()
    }

    /// Gives the memory back.
    pub fn into_memory(self) -> M {
        self.slots.into_memory()
    }

    /// The error for a producer index that claims requests which cannot be there.
    #[cold]
    fn corrupt(&self, found: u32) -> Corrupt {
        Corrupt {
            index: PeerIndex::RequestProducer,
            found,
            lowest: self.request_consumed,
            highest: self.response_pushed.wrapping_add(self.capacity()),
        }
    }
}
