//! Watching over the requests that a device has, so that one that is never answered is noticed.
//!
//! No clock is read for a request: it notes in which tick it began, and is overdue when more ticks than it may take
//! have passed. Ticks go by only while there are requests; a disk that nobody uses wakes nobody.

use core::cell::Cell;
use core::future::pending;
use core::num::ParseIntError;
use core::time::Duration;

use pv_runtime::executor::{Notify, sleep};

/// How long a device may take for a request, unless its owner says otherwise. It is given up to a third more.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// How long a device may take if its owner says so many seconds, or nothing; 0 is for ever.
///
/// # Errors
///
/// If that is no number.
pub fn patience(seconds: Option<&str>) -> Result<Duration, ParseIntError> {
    seconds.map_or(Ok(PATIENCE), |text| text.parse().map(Duration::from_secs))
}

/// Ticks that a request may take, that in which it began not counted.
const TICKS: u32 = 3;

/// A tick's number. It comes round again after so long that nothing is under way any more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tick(u32);

/// The ticks of one device.
#[derive(Debug)]
pub struct Watch {
    now: Cell<u32>,
    length: Duration,
    is_awake: Cell<bool>,
    bell: Notify,
}

impl Watch {
    /// A watch by which a request is overdue after `patience` at the earliest, and a third more at the latest. With none, no
    /// request ever is, and nobody is woken to look.
    pub fn new(patience: Duration) -> Self {
        Self { now: Cell::new(0), length: patience / TICKS, is_awake: Cell::new(false), bell: Notify::new() }
    }

    /// The tick in which a request begins.
    #[inline]
    pub fn begin(&self) -> Tick {
        if !self.is_awake.replace(true) {
            self.bell.ring();
        }
        Tick(self.now.get())
    }

    /// Whether a request that began then should have been answered.
    pub fn is_overdue(&self, begun: Tick) -> bool {
        self.now.get().wrapping_sub(begun.0) > TICKS
    }

    /// Waits for the end of the tick; if nothing is under way, of that in which the next request begins.
    pub async fn next(&self, is_idle: bool) {
        if is_idle {
            self.is_awake.set(false);
            self.bell.wait().await;
        }
        if self.length.is_zero() {
            pending::<()>().await;
        }
        sleep(self.length).await;
        self.now.set(self.now.get().wrapping_add(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::rc::Rc;
    use pv_runtime::executor::{now, spawn, testing, timeout};

    #[test]
    fn a_request_is_overdue_when_its_time_is_up_and_not_before() {
        testing::run(async {
            let watch = Watch::new(Duration::from_secs(30));
            let begun = watch.begin();
            for _ in 0..3 {
                watch.next(false).await;
                assert!(!watch.is_overdue(begun), "{:?}", now());
            }
            watch.next(false).await;
            assert!(watch.is_overdue(begun) && !watch.is_overdue(watch.begin()));
            assert_eq!(now(), Duration::from_secs(40));
        });
    }

    #[test]
    fn a_watch_without_end_never_wakes_anybody() {
        testing::run(async {
            let watch = Watch::new(Duration::ZERO);
            let begun = watch.begin();
            assert!(timeout(Duration::from_secs(86_400), watch.next(false)).await.is_err());
            assert!(!watch.is_overdue(begun));
        });
    }

    #[test]
    fn an_owner_says_how_long_or_nothing() {
        assert_eq!(patience(None), Ok(PATIENCE));
        assert_eq!(patience(Some("0")), Ok(Duration::ZERO));
        assert_eq!(patience(Some("5")), Ok(Duration::from_secs(5)));
        assert!(patience(Some("x")).is_err() && patience(Some("-1")).is_err());
    }

    #[test]
    fn without_requests_no_time_passes() {
        testing::run(async {
            let watch = Rc::new(Watch::new(Duration::from_secs(3)));
            let day = Duration::from_secs(86_400);
            assert!(timeout(day, watch.next(true)).await.is_err());
            let ticking = spawn({
                let watch = Rc::clone(&watch);
                async move { watch.next(true).await }
            });
            let begun = watch.begin();
            ticking.join().await;
            assert_eq!((now(), watch.is_overdue(begun)), (day + Duration::from_secs(1), false));
        });
    }
}
