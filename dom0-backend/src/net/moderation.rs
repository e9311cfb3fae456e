//! How many packets to wait for.
//!
//! A round of work costs the same hypercalls for one packet as for fifty. So when a sender comes back at once
//! after each round, we ask to be woken only after several packets, and set a timer in case they do not come;
//! the more come, the more we wait for. A sender that takes its time is served packet by packet: nothing is
//! delayed for somebody who waits for an answer.
//!
//! What "at once" means is measured in rounds: a sender is busy if it makes a packet within a few times what a
//! round takes, on whatever machine.

use core::time::Duration;

/// The most packets that are waited for.
const COUNT_MAX: u32 = 64;
/// A sender that makes a packet within so many times the length of a round is busy.
const BUSY: u32 = 12;
/// The timer is set to so many times what the packets are expected to take.
const MARGIN: u32 = 2;
/// Bounds of the timer.
const DELAY_MIN: Duration = Duration::from_micros(20);
const DELAY_MAX: Duration = Duration::from_micros(500);

/// What to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wish {
    /// So many packets.
    pub count: u32,
    /// Or this time.
    pub deadline: Option<Duration>,
}

/// What is known of a sender.
#[derive(Debug)]
pub struct Moderation {
    wish: Wish,
    /// When the last round that found packets ended.
    last_end: Duration,
}

impl Default for Moderation {
    fn default() -> Self {
        Self { wish: Wish { count: 1, deadline: None }, last_end: Duration::ZERO }
    }
}

impl Moderation {
    /// Notes that a round took `taken` packets, and says what to wait for next.
    #[inline]
    pub fn after_round(&mut self, taken: u32, started: Duration, ended: Duration) -> Wish {
        if taken == 0 {
            if self.wish.deadline.is_some_and(|deadline| deadline <= started) {
                self.wish = Wish { count: 1, deadline: None };
            }
            return self.wish;
        }
        let (pause, length) = (started.saturating_sub(self.last_end), ended.saturating_sub(started));
        self.last_end = ended;
        let count = if taken < self.wish.count {
            taken
        } else if pause / taken < length * BUSY {
            (taken * 2).min(COUNT_MAX)
        } else {
            1
        };
        let expected = (pause + length) / taken * count;
        let delay = (expected * MARGIN).clamp(DELAY_MIN, DELAY_MAX);
        self.wish = Wish { count, deadline: (count > 1).then_some(ended + delay) };
        self.wish
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn us(microseconds: u64) -> Duration {
        Duration::from_micros(microseconds)
    }

    /// Packets waited for after each round, with a sender that makes one packet in each `pace`.
    fn counts(pace: u64, rounds: usize) -> std::vec::Vec<u32> {
        let (mut moderation, mut time, mut wish) = (Moderation::default(), 1_000_000, 1);
        let mut counts = std::vec::Vec::new();
        for _ in 0..rounds {
            time += pace * u64::from(wish);
            wish = moderation.after_round(wish, us(time), us(time + 5)).count;
            time += 5;
            counts.push(wish);
        }
        counts
    }

    #[test]
    fn a_busy_sender_is_served_in_ever_larger_batches() {
        assert_eq!(counts(30, 8), [1, 2, 4, 8, 16, 32, 64, 64]);
    }

    #[test]
    fn a_sender_that_takes_its_time_is_never_delayed() {
        assert_eq!(counts(100, 8), [1; 8]);
    }

    #[test]
    fn packets_that_do_not_come_are_not_waited_for_again() {
        let mut moderation = Moderation::default();
        for time in [1000, 1010, 1020, 1030] {
            moderation.after_round(8, us(time), us(time + 5));
        }
        let wish = moderation.after_round(3, us(1200), us(1205));
        assert_eq!(wish.count, 3);
        let deadline = wish.deadline.expect("more than one packet is waited for");
        assert!(deadline > us(1205) && deadline <= us(1205) + DELAY_MAX);
    }

    #[test]
    fn an_idle_sender_costs_no_timer() {
        let mut moderation = Moderation::default();
        for time in [1000, 1010, 1020] {
            moderation.after_round(4, us(time), us(time + 5));
        }
        let waiting = moderation.after_round(0, us(1026), us(1027));
        assert!(waiting.count > 1, "a round for something else changes nothing");
        let deadline = waiting.deadline.expect("packets are waited for");
        let idle = moderation.after_round(0, deadline, deadline + us(1));
        assert_eq!(idle, Wish { count: 1, deadline: None });
        assert_eq!(moderation.after_round(0, us(9000), us(9001)), idle);
    }

    #[test]
    fn the_timer_is_bounded() {
        let mut moderation = Moderation::default();
        moderation.after_round(1, us(91_000), us(91_200));
        let slow = moderation.after_round(1, us(92_000), us(92_200));
        assert_eq!(slow, Wish { count: 2, deadline: Some(us(92_200) + DELAY_MAX) });
        let mut moderation = Moderation::default();
        moderation.after_round(1, us(91_000), us(91_001));
        let fast = moderation.after_round(1, us(91_002), us(91_003));
        assert_eq!(fast.deadline, Some(us(91_003) + DELAY_MIN));
    }
}
