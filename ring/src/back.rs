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
///   response_published ≤ response_pushed ≤ request_consumed ≤ request_seen ≤ response_published + capacity
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
        if waiting > self.room_for_requests() {
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

    /// Copies what is [in use](Protocol::request_length) of the next request out, if there is one. What `into` has
    /// behind that stays there.
    #[inline]
    pub fn take_request_into(&mut self, into: &mut P::Request) -> Result<bool, Corrupt> {
        if self.request_consumed == self.request_seen && self.waiting_requests()? == 0 {
            return Ok(false);
        }
        self.slots.read_request(self.request_consumed, into);
        self.request_consumed = self.request_consumed.wrapping_add(1);
        Ok(true)
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
        self.final_check_for_many_requests(1)
    }

    /// Asks for an event only when `count` requests wait to be taken, or as many as the front end has room for
    /// if that is fewer, and says whether it is safe to wait for it: for work that needs several of them.
    #[inline]
    pub fn final_check_for_many_requests(&mut self, count: u32) -> Result<FinalCheck, Corrupt> {
        let count = count.min(self.room_for_requests()).max(1);
        if self.waiting_requests()? >= count {
            return Ok(FinalCheck::MoreToTake);
        }
        self.slots.ask_for_event(REQUESTS, self.request_consumed.wrapping_add(count));
        if self.waiting_requests()? >= count {
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

    /// How many more requests than we have taken an honest front end can have made: it reuses a slot only
    /// when it has seen a response.
    #[inline]
    fn room_for_requests(&self) -> u32 {
        self.capacity() - self.request_consumed.wrapping_sub(self.response_published)
    }

    /// The error for a producer index that claims requests which cannot be there.
    #[cold]
    fn corrupt(&self, found: u32) -> Corrupt {
        Corrupt {
            index: PeerIndex::RequestProducer,
            found,
            lowest: self.request_consumed,
            highest: self.response_published.wrapping_add(self.capacity()),
        }
    }
}

#[cfg(test)]
mod tests {
    use hypercall_abi::io::blkif::{
        BLKIF_OP_DISCARD, BLKIF_OP_INDIRECT, BlkifRequest, BlkifRequestDiscard, BlkifRequestIndirect,
    };
    use hypercall_abi::io::netif::{
        NETTXF_EXTRA_INFO, NetifExtraGso, NetifExtraInfo, NetifTxRequest, NetifTxResponse,
        XEN_NETIF_EXTRA_TYPE_GSO,
    };

    use zerocopy::IntoBytes;

    use super::*;
    use crate::error::AreaTooSmall;
    use crate::front::FrontRing;
    use crate::memory::PageList;
    use crate::protocol::{Blkif, NetifTx};
    use crate::tests::{
        FIRST_SLOT, REQ_EVENT, REQ_PROD, RSP_EVENT, RSP_PROD, SharedPages, pages, peek, poke,
    };

    /// A ring on whose front this many requests were made, and its memory.
    fn ring_with_requests(count: u32) -> (BackRing<NetifTx, SharedPages>, SharedPages) {
        let page = pages(1);
        poke(&page, RSP_EVENT, 1);
        poke(&page, REQ_PROD, count);
        (BackRing::attach(page.clone()).unwrap(), page)
    }

    /// A response that is known by its id.
    fn response(id: u16) -> NetifTxResponse {
        NetifTxResponse { id, ..Default::default() }
    }

    #[test]
    fn a_request_is_read_where_the_header_file_says() {
        let (mut ring, page) = ring_with_requests(2);
        for (word, value) in [0x1111_2222, 0x0004_3333, 0x0006_0005].into_iter().enumerate() {
            poke(&page, FIRST_SLOT + 3 + word, value);
        }
        assert_eq!(ring.take_request().unwrap().unwrap().id, 0);
        let request = ring.take_request().unwrap().unwrap();
        assert_eq!((request.gref.0, request.offset, request.flags), (0x1111_2222, 0x3333, 4));
        assert_eq!((request.id, request.size), (5, 6));
    }

    #[test]
    fn only_what_is_in_use_of_a_request_is_read() {
        let page = pages(1);
        poke(&page, RSP_EVENT, 1);
        (FIRST_SLOT..FIRST_SLOT + 6 * 28).for_each(|word| poke(&page, word, 0x0101_0101 * (word % 7) as u32));
        // Operation, segments, and how many bytes are in use then.
        let cases = [(0, 0, 24), (1, 1, 32), (3, 11, 112), (1, 255, 112), (6, 255, 64), (5, 0, 64)];
        for (slot, (operation, segments, _)) in cases.into_iter().enumerate() {
            poke(&page, FIRST_SLOT + 28 * slot, operation | segments << 8);
        }
        poke(&page, REQ_PROD, cases.len() as u32);
        let mut whole = BackRing::<Blkif, _>::attach(page.clone()).unwrap();
        let mut parts = BackRing::<Blkif, _>::attach(page).unwrap();
        for (_, _, length) in cases {
            let expected = whole.take_request().unwrap().unwrap();
            let mut taken = BlkifRequest::default();
            taken.as_mut_bytes().fill(0xee);
            assert_eq!(parts.take_request_into(&mut taken), Ok(true));
            assert_eq!(taken.as_bytes()[..length], expected.as_bytes()[..length]);
            assert!(taken.as_bytes()[length..].iter().all(|byte| *byte == 0xee));
        }
        assert_eq!(parts.take_request_into(&mut BlkifRequest::default()), Ok(false));
    }

    #[test]
    fn a_request_that_changes_after_it_was_taken_stays_as_it_was() {
        let (mut ring, page) = ring_with_requests(1);
        poke(&page, FIRST_SLOT, 7);
        let request = ring.take_request().unwrap().unwrap();
        poke(&page, FIRST_SLOT, 8);
        assert_eq!(request.gref.0, 7);
        assert_eq!(ring.take_request(), Ok(None), "and is not offered again");
    }

    #[test]
    fn a_ring_full_of_requests_is_honest_and_one_more_is_corrupt() {
        let (mut ring, page) = ring_with_requests(256);
        assert_eq!(ring.waiting_requests(), Ok(256));
        poke(&page, REQ_PROD, 257);
        let error = Corrupt { index: PeerIndex::RequestProducer, found: 257, lowest: 0, highest: 256 };
        assert_eq!(ring.waiting_requests(), Err(error));
    }

    #[test]
    fn requests_in_slots_not_answered_yet_are_corrupt() {
        let (mut ring, page) = ring_with_requests(200);
        while ring.take_request().unwrap().is_some() {}
        poke(&page, REQ_PROD, 256);
        assert_eq!(ring.waiting_requests(), Ok(56));
        poke(&page, REQ_PROD, 257);
        assert!(ring.waiting_requests().is_err());
        ring.push_response(&response(0)).unwrap();
        assert!(ring.waiting_requests().is_err(), "nobody can know yet of a response not committed");
        let _ = ring.commit_responses();
        assert_eq!(ring.waiting_requests(), Ok(57), "the slot of an answered request is free again");
    }

    #[test]
    fn a_request_index_that_goes_back_is_corrupt() {
        let (mut ring, page) = ring_with_requests(3);
        while ring.take_request().unwrap().is_some() {}
        poke(&page, REQ_PROD, 2);
        let error = Corrupt { index: PeerIndex::RequestProducer, found: 2, lowest: 3, highest: 256 };
        assert_eq!(ring.take_request(), Err(error));
        assert_eq!(ring.final_check_for_requests(), Err(error));
    }

    #[test]
    fn a_corrupt_index_changes_nothing_here() {
        let (mut ring, page) = ring_with_requests(3);
        for wrong in [257, 300, 0x7fff_ffff, 0x8000_0000, u32::MAX] {
            poke(&page, REQ_PROD, wrong);
            assert!(ring.waiting_requests().is_err(), "{wrong:#x}");
        }
        poke(&page, REQ_PROD, 3);
        for _ in 0..3 {
            assert!(ring.take_request().unwrap().is_some());
        }
        assert_eq!(ring.take_request(), Ok(None));
    }

    #[test]
    fn a_response_without_a_request_is_refused() {
        let (mut ring, page) = ring_with_requests(2);
        assert_eq!(ring.push_response(&response(0)), Err(NothingToAnswer));
        assert!(ring.take_request().unwrap().is_some());
        assert_eq!(ring.push_response(&response(0)), Ok(0));
        assert_eq!(ring.push_response(&response(0)), Err(NothingToAnswer));
        assert_eq!(ring.commit_responses(), NotifyPeer::Yes);
        assert_eq!(peek(&page, RSP_PROD), 1);
    }

    #[test]
    fn our_indexes_are_not_read_back() {
        let (mut ring, page) = ring_with_requests(3);
        while ring.take_request().unwrap().is_some() {}
        poke(&page, RSP_PROD, 100);
        poke(&page, REQ_EVENT, 100);
        assert_eq!(ring.unanswered_requests(), 3);
        assert_eq!(ring.push_response(&response(0)), Ok(0));
        let _ = ring.commit_responses();
        assert_eq!(peek(&page, RSP_PROD), 1);
    }

    #[test]
    fn the_front_end_is_notified_only_where_it_asked() {
        let (mut ring, page) = ring_with_requests(3);
        while ring.take_request().unwrap().is_some() {}
        poke(&page, RSP_EVENT, 2);
        for (id, expected) in [(0, NotifyPeer::No), (1, NotifyPeer::Yes), (2, NotifyPeer::No)] {
            ring.push_response(&response(id)).unwrap();
            assert_eq!(ring.commit_responses(), expected, "response {id}");
        }
        assert_eq!(ring.commit_responses(), NotifyPeer::No, "nothing new");
    }

    #[test]
    fn waiting_asks_for_an_event_at_the_next_request() {
        let (mut ring, page) = ring_with_requests(2);
        assert_eq!(ring.final_check_for_requests(), Ok(FinalCheck::MoreToTake));
        assert_eq!(peek(&page, REQ_EVENT), 0, "no event is asked for while there is work");
        while ring.take_request().unwrap().is_some() {}
        assert_eq!(ring.final_check_for_requests(), Ok(FinalCheck::MayWait));
        assert_eq!(peek(&page, REQ_EVENT), 3);
    }

    #[test]
    fn a_back_end_that_needs_several_requests_is_woken_when_they_are_there() {
        let (mut ring, page) = ring_with_requests(2);
        assert_eq!(ring.final_check_for_many_requests(3), Ok(FinalCheck::MayWait));
        assert_eq!(peek(&page, REQ_EVENT), 3);
        poke(&page, REQ_PROD, 3);
        assert_eq!(ring.final_check_for_many_requests(3), Ok(FinalCheck::MoreToTake));
    }

    #[test]
    fn a_back_end_never_waits_for_more_requests_than_there_is_room_for() {
        let (mut ring, page) = ring_with_requests(250);
        while ring.take_request().unwrap().is_some() {}
        assert_eq!(ring.final_check_for_many_requests(100), Ok(FinalCheck::MayWait));
        assert_eq!(peek(&page, REQ_EVENT), 256);
        ring.push_response(&response(0)).unwrap();
        assert_eq!(ring.final_check_for_many_requests(100), Ok(FinalCheck::MayWait));
        assert_eq!(peek(&page, REQ_EVENT), 256, "a response that is not published makes no room");
        let _ = ring.commit_responses();
        assert_eq!(ring.final_check_for_many_requests(100), Ok(FinalCheck::MayWait));
        assert_eq!(peek(&page, REQ_EVENT), 257);
    }

    #[test]
    fn a_new_back_end_goes_on_after_the_last_response() {
        let (mut ring, page) = ring_with_requests(5);
        for id in 0..3 {
            assert!(ring.take_request().unwrap().is_some());
            ring.push_response(&response(id)).unwrap();
        }
        let _ = ring.commit_responses();
        assert!(ring.take_request().unwrap().is_some());
        let mut next = BackRing::<NetifTx, _>::attach(page).unwrap();
        assert_eq!((next.waiting_requests(), next.next_request_slot()), (Ok(2), 3));
    }

    #[test]
    fn a_ring_that_makes_no_sense_is_not_joined() {
        let page = pages(1);
        poke(&page, RSP_PROD, 10);
        let error = Corrupt { index: PeerIndex::RequestProducer, found: 0, lowest: 10, highest: 266 };
        assert_eq!(BackRing::<NetifTx, _>::attach(page.clone()).unwrap_err(), AttachError::Corrupt(error));
        let error = AreaTooSmall { size_bytes: 64, needed_bytes: 76 };
        let attached = BackRing::<NetifTx, _>::attach(&page[..FIRST_SLOT]);
        assert_eq!(attached.unwrap_err(), AttachError::TooSmall(error));
    }

    #[test]
    fn every_slot_of_a_packet_can_be_read_as_what_it_is() {
        let page = pages(1);
        let mut front = FrontRing::<NetifTx, _>::new(page.clone()).unwrap();
        let mut back = BackRing::<NetifTx, _>::attach(page).unwrap();
        let gso = NetifExtraGso { kind: XEN_NETIF_EXTRA_TYPE_GSO, size: 1448, ..Default::default() };
        let first = NetifTxRequest { flags: NETTXF_EXTRA_INFO, ..Default::default() };
        front.push_request(&first).unwrap();
        front.push_request(&NetifExtraInfo::from(gso).into()).unwrap();
        let _ = front.commit_requests();
        assert_eq!(back.take_request(), Ok(Some(first)));
        assert_eq!(back.take_request().unwrap().unwrap().as_extra_info().as_gso(), gso);
    }

    #[test]
    fn block_requests_of_every_shape_cross_a_ring_of_pages_that_lie_apart() {
        let parts = [pages(1), pages(1), pages(1), pages(1)];
        let mut front = FrontRing::<Blkif, _>::new(PageList::new(&parts[..]).unwrap()).unwrap();
        let mut back = BackRing::<Blkif, _>::attach(PageList::new(&parts[..]).unwrap()).unwrap();
        assert_eq!((front.capacity(), back.capacity()), (128, 128));
        let discard =
            BlkifRequestDiscard { operation: BLKIF_OP_DISCARD, nr_sectors: 8, ..Default::default() };
        let indirect =
            BlkifRequestIndirect { operation: BLKIF_OP_INDIRECT, nr_segments: 99, ..Default::default() };
        let mut full = BlkifRequest { id: 5, nr_segments: 11, ..Default::default() };
        full.seg[10].last_sect = 7;
        let requests: [BlkifRequest; 3] = [discard.into(), indirect.into(), full];
        for round in 0..126 {
            front.push_request(&requests[round % 3]).unwrap();
        }
        let _ = front.commit_requests();
        for _ in 0..42 {
            assert_eq!(back.take_request().unwrap().unwrap().as_discard(), discard);
            assert_eq!(back.take_request().unwrap().unwrap().as_indirect(), indirect);
            assert_eq!(back.take_request(), Ok(Some(full)));
        }
    }
}
