//! Checks of tasks, timers and clocks.

use alloc::format;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::time::Duration;

use pv_runtime::executor::{Channel, now, sleep, spawn, timeout, wall_clock, yield_now};
use pv_runtime::time;

use crate::{Outcome, expect};

/// The beginning of 2020, in seconds since 1970.
const YEAR_2020: u64 = 1_577_836_800;

/// A thousand tasks hand numbers to one.
pub async fn many_tasks() -> Outcome {
    let channel = Rc::new(Channel::bounded(10));
    for number in 0..1000_u64 {
        let channel = Rc::clone(&channel);
        spawn(async move {
            yield_now().await;
            channel.send(number).await;
        });
    }
    let mut sum = 0;
    for _ in 0..1000 {
        sum += channel.receive().await;
    }
    expect(sum == 999 * 1000 / 2, format!("the sum is {sum}"))
}

/// Sleepers wake in order, not early and not much too late.
pub async fn timers() -> Outcome {
    let woken = Rc::new(RefCell::new(Vec::new()));
    let start = now();
    let sleepers: Vec<_> = [30, 10, 20, 0]
        .into_iter()
        .map(|milliseconds| {
            let woken = Rc::clone(&woken);
            spawn(async move {
                sleep(Duration::from_millis(milliseconds)).await;
                woken.borrow_mut().push((milliseconds, now()));
            })
        })
        .collect();
    for sleeper in sleepers {
        sleeper.join().await;
    }
    check_wake_times(start, &woken.borrow())?;
    let lost = timeout(Duration::from_millis(5), core::future::pending::<()>()).await;
    expect(lost.is_err(), "a time-out did not come")
}

/// Each entry is a time to sleep, in milliseconds, and when it was over.
fn check_wake_times(start: Duration, woken: &[(u64, Duration)]) -> Outcome {
    expect(woken.iter().map(|entry| entry.0).eq([0, 10, 20, 30]), format!("order: {woken:?}"))?;
    for (milliseconds, time) in woken {
        let late = (*time - start).checked_sub(Duration::from_millis(*milliseconds));
        let late = late.ok_or_else(|| format!("{milliseconds} ms were over too early"))?;
        expect(late < Duration::from_secs(1), format!("{milliseconds} ms were over {late:?} too late"))?;
    }
    Ok(())
}

/// Clocks go forward.
pub async fn clocks() -> Outcome {
    let mut last = now();
    for _ in 0..10_000 {
        let next = now();
        expect(next >= last, format!("the clock went back from {last:?} to {next:?}"))?;
        last = next;
    }
    let (ticks, time) = (time::time_stamp_counter(), now());
    sleep(Duration::from_millis(50)).await;
    let (ticks, time) = (time::time_stamp_counter() - ticks, now() - time);
    let expected = time.as_nanos() as u64 * (time::ticks_per_second() / 1000) / 1_000_000;
    expect(ticks.abs_diff(expected) < expected / 10, format!("{ticks} ticks instead of {expected}"))?;
    let year = wall_clock().as_secs();
    expect(year > YEAR_2020, format!("the wall clock says {year} seconds since 1970"))
}
