//! What serving one device costs domain 0.
//!
//! A back end does its work in rounds, and nothing else runs in the middle of one. So what a round cost is the difference
//! of two readings, of the time stamp counter and of what this kernel asked of the hypervisor: some tens of instructions
//! for a round, however many requests or packets it moves. Whatever way data takes, it is counted.
//!
//! The hypervisor's part in it is what the hypercalls for grants took within the round. Not in it: sending events, for who
//! is woken may have the CPU before the hypercall returns; what domain 0 does for all devices together (taking events, a
//! disk's or card's interrupts); and the guest's part.

use core::cell::Cell;
use core::ops::Sub;

use pv_runtime::event_channel;
use pv_runtime::grant::grant_counters;
use pv_runtime::time::time_stamp_counter;

/// Amounts of what is counted: since a beginning, or between two readings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amounts {
    /// Rounds.
    pub rounds: u64,
    /// Ticks of the time stamp counter, hypercalls included but for those that send events.
    pub ticks: u64,
    /// Those of them that hypercalls for grants took.
    pub grant_ticks: u64,
    /// Hypercalls for maps, unmaps and copies.
    pub grant_calls: u64,
    /// Pages mapped, or made known to devices.
    pub grant_maps: u64,
    /// Copies by the hypervisor.
    pub copies: u64,
    /// Bytes copied by it.
    pub bytes_copied: u64,
    /// Events sent, one hypercall each.
    pub events_sent: u64,
    /// Events of the guest's that were taken.
    pub events_received: u64,
}

impl Amounts {
    /// Readings whose beginning is that of this kernel.
    #[inline]
    fn now() -> Self {
        let (grants, events) = (grant_counters(), event_channel::counters());
        Self {
            rounds: 0,
            ticks: time_stamp_counter().wrapping_sub(events.notification_ticks),
            grant_ticks: grants.ticks,
            grant_calls: grants.calls,
            grant_maps: grants.maps,
            copies: grants.copies,
            bytes_copied: grants.bytes_copied,
            events_sent: events.notifications,
            events_received: 0,
        }
    }

    /// Hypercalls of all kinds.
    pub fn hypercalls(&self) -> u64 {
        self.grant_calls + self.events_sent
    }

    #[inline]
    fn combine(self, other: Self, with: impl Fn(u64, u64) -> u64) -> Self {
        Self {
            rounds: with(self.rounds, other.rounds),
            ticks: with(self.ticks, other.ticks),
            grant_ticks: with(self.grant_ticks, other.grant_ticks),
            grant_calls: with(self.grant_calls, other.grant_calls),
            grant_maps: with(self.grant_maps, other.grant_maps),
            copies: with(self.copies, other.copies),
            bytes_copied: with(self.bytes_copied, other.bytes_copied),
            events_sent: with(self.events_sent, other.events_sent),
            events_received: with(self.events_received, other.events_received),
        }
    }

    /// Both together.
    #[must_use]
    #[inline]
    pub fn and(self, other: Self) -> Self {
        self.combine(other, u64::wrapping_add)
    }
}

impl Sub for Amounts {
    type Output = Self;

    #[inline]
    fn sub(self, earlier: Self) -> Self {
        self.combine(earlier, u64::wrapping_sub)
    }
}

/// What a device has cost since its guest connected.
#[derive(Debug, Default)]
pub struct Cost(Cell<Amounts>);

impl Cost {
    /// Does a round, and counts it.
    #[inline]
    pub fn of_round<R>(&self, round: impl FnOnce() -> R) -> R {
        let before = Amounts::now();
        let outcome = round();
        let spent = Amounts { rounds: 1, ..Amounts::now() - before };
        self.0.set(self.0.get().and(spent));
        outcome
    }

    /// Counts an event of the guest's.
    #[inline]
    pub fn note_event(&self) {
        let amounts = self.0.get();
        self.0.set(Amounts { events_received: amounts.events_received + 1, ..amounts });
    }

    /// The amounts up to now.
    pub fn get(&self) -> Amounts {
        self.0.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hypercall_abi::MachineFrame;
    use pv_runtime::grant::{CopyBatch, CopyEnd};

    #[test]
    fn a_round_costs_what_was_done_in_it_and_nothing_else() {
        let copy = |length| {
            let mut batch = CopyBatch::new();
            let end = CopyEnd::Own { frame: MachineFrame(1), offset: 0 };
            batch.push(end, end, length);
            batch.submit();
        };
        let cost = Cost::default();
        copy(1);
        assert_eq!(cost.of_round(|| 7), 7);
        copy(2);
        cost.of_round(|| copy(100));
        cost.note_event();
        let Amounts { rounds, grant_calls, copies, bytes_copied, events_received, .. } = cost.get();
        assert_eq!((rounds, grant_calls, copies, bytes_copied, events_received), (2, 1, 1, 100, 1));
        assert!(cost.get().ticks >= cost.get().grant_ticks);
        assert_eq!(cost.get().and(cost.get()) - cost.get(), cost.get());
    }
}
