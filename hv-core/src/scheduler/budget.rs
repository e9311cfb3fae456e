//! What a domain may use of the CPUs at most.
//!
//! A capped domain has an account of running time, which grows evenly and has a bound. A vCPU that gets a CPU draws from it
//! beforehand and gives back what it did not use; when the account is empty, its vCPUs wait until it is worth while again.
//! Nothing happens for a domain that does not run: the account is brought up to date when somebody draws.

use super::PERIOD;
use core::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering};

/// Less than this is not worth a switch, in nanoseconds, unless a period does not bring more.
const WORTH_WHILE: i64 = 500_000;
/// Per cent in a whole.
const WHOLE: u64 = 100;

/// A domain's account. It changes under the lock of the run queue.
pub struct Budget {
    /// Per cent of one CPU; zero for no limit.
    cap: AtomicU32,
    /// Nanoseconds that its vCPUs may still run; negative after they ran too long.
    left: AtomicI64,
    /// System time up to which it has grown.
    filled_at: AtomicU64,
}

/// What a vCPU is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Draw {
    /// So many nanoseconds; `u64::MAX` without a cap.
    Time(u64),
    /// Nothing before this system time.
    NotBefore(u64),
}

impl Budget {
    /// No cap.
    pub const fn new() -> Self {
        Self { cap: AtomicU32::new(0), left: AtomicI64::new(0), filled_at: AtomicU64::new(0) }
    }

    /// Per cent of one CPU; zero for no limit.
    #[inline]
    pub fn cap(&self) -> u32 {
        self.cap.load(Ordering::Relaxed)
    }

    /// Sets the cap; the account begins anew.
    pub(super) fn set(&self, cap: u32, now: u64) {
        self.cap.store(cap, Ordering::Relaxed);
        self.left.store(0, Ordering::Relaxed);
        self.filled_at.store(now, Ordering::Relaxed);
    }

    /// Draws the time for one vCPU's turn.
    #[inline]
    pub(super) fn draw(&self, now: u64) -> Draw {
        match self.cap() {
            0 => Draw::Time(u64::MAX),
            cap => self.draw_of(u64::from(cap), now),
        }
    }

    #[cold]
    fn draw_of(&self, cap: u64, now: u64) -> Draw {
        let a_period = (PERIOD * cap / WHOLE) as i64;
        let since = self.filled_at.swap(now, Ordering::Relaxed);
        let grown = (now.saturating_sub(since).min(2 * PERIOD) * cap / WHOLE) as i64;
        // Nobody overruns by more than an interrupt takes, unless this machine is itself kept from running. That is not the
        // domain's to pay for.
        let left = self.left.load(Ordering::Relaxed).max(-a_period) + grown;
        let left = left.min(a_period + a_period / 2);
        if left < WORTH_WHILE.min(a_period) {
            self.left.store(left, Ordering::Relaxed);
            return Draw::NotBefore(now + (a_period - left) as u64 * WHOLE / cap);
        }
        let turn = left.min(PERIOD as i64);
        self.left.store(left - turn, Ordering::Relaxed);
        Draw::Time(turn as u64)
    }

    /// A vCPU drew this and ran so long.
    pub(super) fn settle(&self, drawn: u64, ran: u64) {
        self.left.fetch_add(drawn as i64 - ran as i64, Ordering::Relaxed);
    }
}

impl Default for Budget {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLISECOND: u64 = 1_000_000;

    #[test]
    fn without_a_cap_there_is_no_end() {
        assert_eq!(Budget::new().draw(5), Draw::Time(u64::MAX));
    }

    #[test]
    fn an_empty_account_is_worth_while_after_a_period() {
        let budget = Budget::new();
        budget.set(30, 0);
        assert_eq!(budget.draw(0), Draw::NotBefore(10 * MILLISECOND));
        assert_eq!(budget.draw(10 * MILLISECOND), Draw::Time(3 * MILLISECOND));
        assert_eq!(budget.draw(10 * MILLISECOND), Draw::NotBefore(20 * MILLISECOND));
    }

    #[test]
    fn what_is_not_used_comes_back_and_what_is_overrun_is_owed() {
        let budget = Budget::new();
        budget.set(50, 0);
        assert_eq!(budget.draw(10 * MILLISECOND), Draw::Time(5 * MILLISECOND));
        budget.settle(5 * MILLISECOND, 2 * MILLISECOND);
        assert_eq!(budget.draw(10 * MILLISECOND), Draw::Time(3 * MILLISECOND));
        budget.settle(3 * MILLISECOND, 8 * MILLISECOND);
        assert_eq!(budget.draw(10 * MILLISECOND), Draw::NotBefore(30 * MILLISECOND));
    }

    #[test]
    fn no_more_than_a_period_is_owed() {
        let budget = Budget::new();
        budget.set(50, 0);
        budget.settle(0, 1000 * MILLISECOND);
        assert_eq!(budget.draw(0), Draw::NotBefore(20 * MILLISECOND));
    }

    #[test]
    fn an_idle_domain_saves_up_no_more_than_a_period_and_a_half() {
        let budget = Budget::new();
        budget.set(200, 0);
        let mut drawn = 0;
        while let Draw::Time(time) = budget.draw(1000 * MILLISECOND) {
            drawn += time;
        }
        assert_eq!(drawn, 30 * MILLISECOND);
    }
}
