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
        self.slots.write_request(self.request_pushed, request);
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

#[cfg(test)]
impl<P: Protocol, M: RingMemory> FrontRing<P, M> {
    /// A ring on which `index` requests were made and answered before.
    pub(crate) fn starting_at(memory: M, index: u32) -> Self {
        use core::sync::atomic::Ordering;
        let mut ring = Self::new(memory).unwrap();
        for direction in [REQUESTS, RESPONSES] {
            ring.memory().store(direction.producer, index, Ordering::Relaxed);
            ring.memory().store(direction.event, index.wrapping_add(1), Ordering::Relaxed);
        }
        (ring.request_pushed, ring.request_published) = (index, index);
        (ring.response_seen, ring.response_consumed) = (index, index);
        ring
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use hypercall_abi::GrantReference;
    use hypercall_abi::io::blkif::BlkifRequest;
    use hypercall_abi::io::netif::{NetifRxRequest, NetifTxRequest};

    use super::*;
    use crate::memory::WORDS_PER_PAGE;
    use crate::protocol::{Blkif, NetifRx, NetifTx};
    use crate::tests::{
        FIRST_SLOT, REQ_EVENT, REQ_PROD, RSP_EVENT, RSP_PROD, SharedPages, pages, peek, poke,
    };

    /// A ring with this many requests under way, and its memory.
    fn ring_with_requests(count: u32) -> (FrontRing<NetifTx, SharedPages>, SharedPages) {
        let page = pages(1);
        let mut ring = FrontRing::new(page.clone()).unwrap();
        for id in 0..count {
            ring.push_request(&request(id as u16)).unwrap();
        }
        let _ = ring.commit_requests();
        (ring, page)
    }

    /// A request that is known by its id.
    fn request(id: u16) -> NetifTxRequest {
        NetifTxRequest { id, ..Default::default() }
    }

    #[test]
    fn capacity_is_what_other_implementations_compute() {
        assert_eq!(FrontRing::<NetifTx, _>::new(pages(1)).unwrap().capacity(), 256);
        assert_eq!(FrontRing::<NetifRx, _>::new(pages(1)).unwrap().capacity(), 256);
        for (page_count, slots) in [(1, 32), (2, 64), (4, 128), (8, 256), (16, 512)] {
            assert_eq!(FrontRing::<Blkif, _>::new(pages(page_count)).unwrap().capacity(), slots);
        }
    }

    #[test]
    fn too_little_memory_is_refused() {
        let memory = &pages(1)[..(64 + 108) / 4];
        let error = FrontRing::<Blkif, _>::new(memory).unwrap_err();
        assert_eq!(error, AreaTooSmall { size_bytes: 172, needed_bytes: 64 + 112 });
        assert_eq!(FrontRing::<NetifTx, _>::new(memory).unwrap().capacity(), 8);
    }

    #[test]
    fn a_new_ring_clears_what_was_there() {
        let page = pages(1);
        (0..FIRST_SLOT).for_each(|word| poke(&page, word, 0xdead));
        FrontRing::<NetifTx, _>::new(page.clone()).unwrap();
        let header: Vec<_> = (0..FIRST_SLOT).map(|word| peek(&page, word)).collect();
        assert_eq!(header, [0, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn requests_lie_where_the_header_file_says() {
        let page = pages(1);
        let mut ring = FrontRing::<NetifTx, _>::new(page.clone()).unwrap();
        ring.push_request(&request(0)).unwrap();
        let second =
            NetifTxRequest { gref: GrantReference(0x1111_2222), offset: 0x3333, flags: 4, id: 5, size: 6 };
        assert_eq!(ring.push_request(&second), Ok(1));
        let words: Vec<_> = (0..3).map(|word| peek(&page, FIRST_SLOT + 3 + word)).collect();
        assert_eq!(words, [0x1111_2222, 0x0004_3333, 0x0006_0005]);
    }

    #[test]
    fn only_what_is_in_use_of_a_request_is_written() {
        let page = pages(1);
        let mut ring = FrontRing::<Blkif, _>::new(page.clone()).unwrap();
        (FIRST_SLOT..FIRST_SLOT + 28).for_each(|word| poke(&page, word, 0xeeee_eeee));
        let mut request = BlkifRequest { id: 1, nr_segments: 1, ..Default::default() };
        (request.seg[0].gref, request.seg[1].gref) = (GrantReference(5), GrantReference(6));
        ring.push_request(&request).unwrap();
        let words = [2, 6, 7, 8, 27].map(|word| peek(&page, FIRST_SLOT + word));
        assert_eq!(words, [1, 5, 0, 0xeeee_eeee, 0xeeee_eeee]);
    }

    #[test]
    fn a_slot_that_spans_two_pages_is_one_slot() {
        let pages = pages(4);
        let mut ring = FrontRing::<Blkif, _>::new(pages.clone()).unwrap();
        for id in 0..128 {
            let mut request = BlkifRequest { id, nr_segments: 11, ..Default::default() };
            request.seg[10].gref = GrantReference(!id as u32);
            ring.push_request(&request).unwrap();
        }
        // Slot 72 starts 64 bytes before the end of the second page.
        let first_word = (64 + 72 * 112) / 4;
        assert_eq!(first_word, 2 * WORDS_PER_PAGE - 16);
        assert_eq!(peek(&pages, first_word + 2), 72);
        assert_eq!(peek(&pages, first_word + 26), !72);
    }

    #[test]
    fn nothing_is_visible_before_the_commit() {
        let page = pages(1);
        let mut ring = FrontRing::<NetifTx, _>::new(page.clone()).unwrap();
        ring.push_request(&request(1)).unwrap();
        assert_eq!(peek(&page, REQ_PROD), 0);
        assert_eq!(ring.commit_requests(), NotifyPeer::Yes);
        assert_eq!(peek(&page, REQ_PROD), 1);
    }

    #[test]
    fn reverted_requests_are_never_seen() {
        let (mut ring, page) = ring_with_requests(1);
        ring.push_request(&request(10)).unwrap();
        ring.push_request(&request(11)).unwrap();
        ring.revert_requests();
        assert_eq!(ring.commit_requests(), NotifyPeer::No);
        assert_eq!((peek(&page, REQ_PROD), ring.free_requests()), (1, 255));
    }

    #[test]
    fn a_full_ring_takes_no_request_until_a_response_is_taken() {
        let (mut ring, page) = ring_with_requests(256);
        assert_eq!((ring.free_requests(), ring.push_request(&request(0))), (0, Err(Full)));
        poke(&page, RSP_PROD, 1);
        assert_eq!(ring.push_request(&request(0)), Err(Full));
        assert!(ring.take_response().unwrap().is_some());
        assert_eq!(ring.push_request(&request(0)), Ok(0));
    }

    #[test]
    fn more_responses_than_requests_are_corrupt() {
        let (mut ring, page) = ring_with_requests(3);
        poke(&page, RSP_PROD, 4);
        let error = Corrupt { index: PeerIndex::ResponseProducer, found: 4, lowest: 0, highest: 3 };
        assert_eq!(ring.take_response(), Err(error));
        assert_eq!(ring.final_check_for_responses(), Err(error));
    }

    #[test]
    fn a_response_to_a_request_not_yet_committed_is_corrupt() {
        let (mut ring, page) = ring_with_requests(0);
        ring.push_request(&request(0)).unwrap();
        poke(&page, RSP_PROD, 1);
        assert!(ring.take_response().is_err());
    }

    #[test]
    fn a_response_index_that_goes_back_is_corrupt() {
        let (mut ring, page) = ring_with_requests(3);
        poke(&page, RSP_PROD, 2);
        assert!(ring.take_response().unwrap().is_some());
        assert!(ring.take_response().unwrap().is_some());
        poke(&page, RSP_PROD, 1);
        let error = Corrupt { index: PeerIndex::ResponseProducer, found: 1, lowest: 2, highest: 3 };
        assert_eq!(ring.take_response(), Err(error));
    }

    #[test]
    fn a_corrupt_index_changes_nothing_here() {
        let (mut ring, page) = ring_with_requests(3);
        for wrong in [4, 5, 257, 0x8000_0000, u32::MAX] {
            poke(&page, RSP_PROD, wrong);
            assert!(ring.take_response().is_err(), "{wrong:#x}");
        }
        poke(&page, RSP_PROD, 3);
        for _ in 0..3 {
            assert!(ring.take_response().unwrap().is_some());
        }
        assert_eq!(ring.take_response(), Ok(None));
    }

    #[test]
    fn our_indexes_are_not_read_back() {
        let (mut ring, page) = ring_with_requests(3);
        poke(&page, REQ_PROD, 200);
        poke(&page, RSP_EVENT, 200);
        assert_eq!((ring.free_requests(), ring.unanswered_requests()), (253, 3));
        assert_eq!(ring.push_request(&request(0)), Ok(3));
        let _ = ring.commit_requests();
        assert_eq!(peek(&page, REQ_PROD), 4);
    }

    #[test]
    fn the_back_end_is_notified_only_where_it_asked() {
        let (mut ring, page) = ring_with_requests(1);
        ring.push_request(&request(1)).unwrap();
        assert_eq!(ring.commit_requests(), NotifyPeer::No, "it asked for the first message only");
        poke(&page, REQ_EVENT, 5);
        for (id, expected) in [(2, NotifyPeer::No), (3, NotifyPeer::No), (4, NotifyPeer::Yes)] {
            ring.push_request(&request(id)).unwrap();
            assert_eq!(ring.commit_requests(), expected, "request {id}");
        }
        poke(&page, REQ_EVENT, 7);
        (0..3).for_each(|_| assert!(ring.push_request(&request(9)).is_ok()));
        assert_eq!(ring.commit_requests(), NotifyPeer::Yes, "asked for one in the middle of the batch");
        assert_eq!(ring.commit_requests(), NotifyPeer::No, "nothing new");
    }

    #[test]
    fn a_patient_front_end_is_woken_after_several_responses() {
        let (mut ring, page) = ring_with_requests(6);
        assert_eq!(ring.final_check_for_many_responses(3), Ok(FinalCheck::MayWait));
        assert_eq!(peek(&page, RSP_EVENT), 3);
        poke(&page, RSP_PROD, 2);
        assert_eq!(ring.final_check_for_many_responses(3), Ok(FinalCheck::MayWait));
        poke(&page, RSP_PROD, 3);
        assert_eq!(ring.final_check_for_many_responses(3), Ok(FinalCheck::MoreToTake));
    }

    #[test]
    fn a_patient_front_end_never_waits_for_more_than_can_come() {
        let (mut ring, page) = ring_with_requests(2);
        assert_eq!(ring.final_check_for_many_responses(100), Ok(FinalCheck::MayWait));
        assert_eq!(peek(&page, RSP_EVENT), 2);
        assert_eq!(ring.final_check_for_many_responses(0), Ok(FinalCheck::MayWait));
        assert_eq!(peek(&page, RSP_EVENT), 1);
    }

    #[test]
    fn responses_come_from_the_slots_of_their_requests_where_a_protocol_wants_that() {
        let page = pages(1);
        let mut ring = FrontRing::<NetifRx, _>::starting_at(page.clone(), u32::MAX);
        let slots: Vec<_> = (0..3)
            .map(|id| ring.push_request(&NetifRxRequest { id, ..Default::default() }).unwrap())
            .collect();
        assert_eq!(slots, [255, 0, 1]);
        let _ = ring.commit_requests();
        poke(&page, RSP_PROD, 2);
        for slot in slots {
            assert_eq!(ring.next_response_slot(), slot);
            assert!(ring.take_response().unwrap().is_some());
        }
    }
}
