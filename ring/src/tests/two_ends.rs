//! A front and a back on the same memory, step by random step, against plain queues.

use std::collections::VecDeque;
use std::vec::Vec;

use hypercall_abi::io::netif::{NetifTxRequest, NetifTxResponse};
use proptest::prelude::*;
use proptest::sample::select;

use super::{FIRST_SLOT, SharedPages, pages};
use crate::{BackRing, FinalCheck, FrontRing, NetifTx, NotifyPeer};

/// What one of the two ends does next.
#[derive(Clone, Debug)]
enum Step {
    PushRequests(u32),
    RevertRequests,
    CommitRequests,
    TakeResponses(u32),
    WaitForResponses(u32),
    TakeRequests(u32),
    PushResponses(u32),
    CommitResponses,
    WaitForRequests(u32),
}

fn step() -> impl Strategy<Value = Step> {
    let count = 0..12_u32;
    prop_oneof![
        4 => count.clone().prop_map(Step::PushRequests),
        1 => Just(Step::RevertRequests),
        4 => Just(Step::CommitRequests),
        4 => count.clone().prop_map(Step::TakeResponses),
        2 => (1..6_u32).prop_map(Step::WaitForResponses),
        4 => count.clone().prop_map(Step::TakeRequests),
        4 => count.prop_map(Step::PushResponses),
        4 => Just(Step::CommitResponses),
        2 => (1..6_u32).prop_map(Step::WaitForRequests),
    ]
}

/// One direction of the model: messages on their way, and when their reader wants to be woken.
struct Flow {
    /// Written, not visible.
    pushed: VecDeque<u16>,
    /// Visible, not taken.
    published: VecDeque<u16>,
    /// The reader is to be woken by this many further messages. None: it is awake.
    wake_after: Option<usize>,
}

impl Flow {
    /// Nothing on its way, and the reader waits for the first message.
    fn new() -> Self {
        Self { pushed: VecDeque::new(), published: VecDeque::new(), wake_after: Some(1) }
    }

    /// Makes what was pushed visible.
    fn commit(&mut self) -> NotifyPeer {
        let count = self.pushed.len();
        self.published.append(&mut self.pushed);
        let wake = self.wake_after.is_some_and(|wanted| count >= wanted);
        self.wake_after = match self.wake_after {
            Some(wanted) if count < wanted => Some(wanted - count),
            _ => None,
        };
        NotifyPeer::when(wake)
    }

    /// The reader has nothing to do unless `wanted` messages are there.
    fn wait(&mut self, wanted: usize) -> FinalCheck {
        if self.published.len() >= wanted {
            return FinalCheck::MoreToTake;
        }
        self.wake_after = Some(wanted - self.published.len());
        FinalCheck::MayWait
    }
}

/// Both ends, and queues that should behave the same.
struct World {
    front: FrontRing<NetifTx, SharedPages>,
    back: BackRing<NetifTx, SharedPages>,
    capacity: usize,
    requests: Flow,
    responses: Flow,
    /// Taken by the back end, no response pushed.
    in_work: VecDeque<u16>,
    next_id: u16,
}

impl World {
    fn new(capacity: usize, start: u32) -> Self {
        let memory: SharedPages = pages(1).iter().take(FIRST_SLOT + capacity * 3).map(|_| 0.into()).collect();
        let front = FrontRing::starting_at(memory.clone(), start);
        let back = BackRing::attach(memory).unwrap();
        let (requests, responses) = (Flow::new(), Flow::new());
        Self { front, back, capacity, requests, responses, in_work: VecDeque::new(), next_id: 0 }
    }

    /// Every request that has no response the front end took.
    fn under_way(&self) -> usize {
        let Self { requests, responses, in_work, .. } = self;
        let queues =
            [&requests.pushed, &requests.published, in_work, &responses.pushed, &responses.published];
        queues.iter().map(|queue| queue.len()).sum()
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::PushRequests(count) => (0..count).for_each(|_| self.push_request()),
            Step::RevertRequests => {
                self.front.revert_requests();
                self.requests.pushed.clear();
            }
            Step::CommitRequests => assert_eq!(self.front.commit_requests(), self.requests.commit()),
            Step::TakeResponses(count) => (0..count).for_each(|_| self.take_response()),
            Step::WaitForResponses(count) => self.wait_for_responses(count),
            Step::TakeRequests(count) => (0..count).for_each(|_| self.take_request()),
            Step::PushResponses(count) => (0..count).for_each(|_| self.push_response()),
            Step::CommitResponses => assert_eq!(self.back.commit_responses(), self.responses.commit()),
            Step::WaitForRequests(count) => self.wait_for_requests(count),
        }
        self.compare_counts();
    }

    fn push_request(&mut self) {
        let id = self.next_id;
        let pushed = self.front.push_request(&NetifTxRequest { id, size: !id, ..Default::default() });
        assert_eq!(pushed.is_ok(), self.under_way() < self.capacity);
        if pushed.is_ok() {
            self.requests.pushed.push_back(id);
            self.next_id = self.next_id.wrapping_add(1);
        }
    }

    fn take_request(&mut self) {
        let request = self.back.take_request().unwrap();
        let expected = self.requests.published.pop_front();
        assert_eq!(request.map(|request| (request.id, request.size)), expected.map(|id| (id, !id)));
        self.in_work.extend(expected);
    }

    /// Answers not the oldest request but the newest, as a device may that finishes out of order.
    fn push_response(&mut self) {
        let id = self.in_work.pop_back();
        let response = NetifTxResponse { id: id.unwrap_or(0), status: 1 };
        assert_eq!(self.back.push_response(&response).is_ok(), id.is_some());
        self.responses.pushed.extend(id);
    }

    fn take_response(&mut self) {
        let response = self.front.take_response().unwrap();
        let expected = self.responses.published.pop_front();
        assert_eq!(response, expected.map(|id| NetifTxResponse { id, status: 1 }));
    }

    fn wait_for_responses(&mut self, count: u32) {
        let can_come = self.under_way() - self.requests.pushed.len();
        let wanted = (count as usize).min(can_come).max(1);
        let expected = self.responses.wait(wanted);
        assert_eq!(self.front.final_check_for_many_responses(count), Ok(expected));
    }

    fn wait_for_requests(&mut self, count: u32) {
        let can_come = self.capacity - self.in_work.len() - self.responses.pushed.len();
        let wanted = (count as usize).min(can_come).max(1);
        let expected = self.requests.wait(wanted);
        assert_eq!(self.back.final_check_for_many_requests(count), Ok(expected));
    }

    fn compare_counts(&mut self) {
        assert_eq!(self.front.free_requests() as usize, self.capacity - self.under_way());
        assert_eq!(self.back.unanswered_requests() as usize, self.in_work.len());
        assert_eq!(self.back.waiting_requests(), Ok(self.requests.published.len() as u32));
        assert_eq!(self.front.waiting_responses(), Ok(self.responses.published.len() as u32));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    /// Two ends do what queues do, also where indexes wrap, and ask for events exactly where one is needed.
    #[test]
    fn two_ends_behave_like_queues(
        capacity in select(Vec::from([1_usize, 2, 8, 32])),
        start in prop_oneof![Just(0), (0..64_u32).prop_map(|below| u32::MAX - below), any::<u32>()],
        steps in prop::collection::vec(step(), 1..200),
    ) {
        let mut world = World::new(capacity, start);
        steps.iter().for_each(|step| world.step(step));
    }
}
