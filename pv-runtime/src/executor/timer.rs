//! Sleeping: wakers ordered by their deadlines.
//!
//! An ordered map rather than a heap, because most timers are time-outs that never expire and must be taken
//! out again. The hypervisor's one-shot timer is armed only when the executor goes idle.

use alloc::collections::BTreeMap;
use core::cell::RefCell;
use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll, Waker};
use core::time::Duration;

use super::platform;
use crate::kernel_local;

/// A timer's deadline, and a number that tells timers of one deadline apart.
type TimerKey = (Duration, u64);

/// The wakers of sleeping tasks.
#[derive(Default)]
pub(super) struct Timers {
    wakers: BTreeMap<TimerKey, Waker>,
    next_number: u64,
}

impl Timers {
    const fn new() -> Self {
        Self { wakers: BTreeMap::new(), next_number: 0 }
    }

    fn insert(&mut self, deadline: Duration, waker: Waker) -> TimerKey {
        let key = (deadline, self.next_number);
        self.next_number += 1;
        self.wakers.insert(key, waker);
        key
    }

    /// The earliest deadline.
    fn next_deadline(&self) -> Option<Duration> {
        self.wakers.first_key_value().map(|(key, _)| key.0)
    }

    /// Takes out one waker whose deadline is not after `now`.
    fn pop_expired(&mut self, now: Duration) -> Option<Waker> {
        let first = self.wakers.first_entry()?;
        (first.key().0 <= now).then(|| first.remove())
    }
}

kernel_local! {
    static TIMERS: RefCell<Timers> = RefCell::new(Timers::new());
}

/// The earliest deadline of any sleeper.
pub(super) fn next_deadline() -> Option<Duration> {
    TIMERS.with(|timers| timers.borrow().next_deadline())
}

/// Wakes every sleeper whose deadline has come. Reads the clock only if somebody sleeps.
pub(super) fn wake_expired() {
    TIMERS.with(|timers| {
        if timers.borrow().wakers.is_empty() {
            return;
        }
        let now = platform::now();
        loop {
            let Some(waker) = timers.borrow_mut().pop_expired(now) else { return };
            waker.wake();
        }
    });
}

/// Waits until `duration` has passed.
pub fn sleep(duration: Duration) -> Sleep {
    sleep_until(platform::now().saturating_add(duration))
}

/// Waits until the monotonic clock ([`now`](super::now)) reads `deadline`.
pub fn sleep_until(deadline: Duration) -> Sleep {
    Sleep { deadline, key: None }
}

/// The future of [`sleep`]. Dropping it takes the timer out.
#[derive(Debug)]
#[must_use = "a sleep does nothing unless awaited"]
pub struct Sleep {
    deadline: Duration,
    key: Option<TimerKey>,
}

impl Sleep {
    /// Takes the timer out of the map, if it is still there.
    fn cancel(&mut self) {
        if let Some(key) = self.key.take() {
            TIMERS.with(|timers| timers.borrow_mut().wakers.remove(&key));
        }
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        self.cancel();
        if platform::now() >= self.deadline {
            return Poll::Ready(());
        }
        let waker = context.waker().clone();
        self.key = Some(TIMERS.with(|timers| timers.borrow_mut().insert(self.deadline, waker)));
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        self.cancel();
    }
}

/// The future did not finish in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimedOut;

/// Waits for `future`, but no longer than `duration`.
///
/// # Errors
///
/// [`TimedOut`] if the time is up first; the future is dropped then.
pub async fn timeout<F: Future>(duration: Duration, future: F) -> Result<F::Output, TimedOut> {
    use embassy_futures::select::{Either, select};
    match select(future, sleep(duration)).await {
        Either::First(output) => Ok(output),
        Either::Second(()) => Err(TimedOut),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expire_in_order_of_deadline_and_not_before() {
        let mut timers = Timers::new();
        let waker = Waker::noop();
        timers.insert(Duration::from_millis(30), waker.clone());
        timers.insert(Duration::from_millis(10), waker.clone());
        timers.insert(Duration::from_millis(10), waker.clone());
        assert_eq!(timers.next_deadline(), Some(Duration::from_millis(10)));
        assert!(timers.pop_expired(Duration::from_millis(9)).is_none());
        assert!(timers.pop_expired(Duration::from_millis(10)).is_some());
        assert!(timers.pop_expired(Duration::from_millis(10)).is_some());
        assert!(timers.pop_expired(Duration::from_millis(29)).is_none());
        assert_eq!(timers.next_deadline(), Some(Duration::from_millis(30)));
    }

    #[test]
    fn sleeps_for_the_asked_time_and_leaves_no_timer() {
        super::super::testing::run(async {
            let start = platform::now();
            sleep(Duration::from_secs(3)).await;
            assert_eq!(platform::now() - start, Duration::from_secs(3));
            let lost = timeout(Duration::from_secs(1), sleep(Duration::from_secs(5))).await;
            assert_eq!(lost, Err(TimedOut));
            let won = timeout(Duration::from_secs(9), async { 7 }).await;
            assert_eq!(won, Ok(7));
            assert_eq!(next_deadline(), None);
        });
    }
}
