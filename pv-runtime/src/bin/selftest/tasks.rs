//! Checks of tasks, timers and clocks.

use alloc::format;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::time::Duration;

use pv_runtime::executor::{Channel, now, sleep, sleep_until, spawn, timeout, wall_clock, yield_now};
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

/// Sleepers wake in the order of their deadlines, not early and not much too late.
pub async fn timers() -> Outcome {
    let woken = Rc::new(RefCell::new(Vec::new()));
    let sleepers: Vec<_> = [40, 20, 30, 10]
        .into_iter()
        .map(|milliseconds| {
            let woken = Rc::clone(&woken);
            spawn(async move {
                // The processor may be away between two sleepers' starts, so each has its own.
                let deadline = now() + Duration::from_millis(milliseconds);
                sleep_until(deadline).await;
                woken.borrow_mut().push((deadline, now()));
            })
        })
        .collect();
    for sleeper in sleepers {
        sleeper.join().await;
    }
    check_wake_times(&woken.borrow())?;
    let lost = timeout(Duration::from_millis(5), core::future::pending::<()>()).await;
    expect(lost.is_err(), "a time-out did not come")
}

/// Each entry is a deadline, and when its sleeper ran.
fn check_wake_times(woken: &[(Duration, Duration)]) -> Outcome {
    expect(woken.is_sorted_by_key(|(deadline, _)| *deadline), format!("order: {woken:?}"))?;
    for (deadline, time) in woken {
        let late =
            time.checked_sub(*deadline).ok_or_else(|| format!("{deadline:?} came early, at {time:?}"))?;
        expect(late < Duration::from_secs(1), format!("{deadline:?} came {late:?} too late"))?;
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
    // The processor may be away between two readings, so the counter is read before and after the clock.
    let (before, start, behind) = readings();
    sleep(Duration::from_millis(50)).await;
    let (ahead, end, after) = readings();
    let expected = (end - start).as_nanos() as u64 * (time::ticks_per_second() / 1000) / 1_000_000;
    let possible = (ahead - behind) * 9 / 10..=(after - before) * 11 / 10;
    expect(possible.contains(&expected), format!("{expected} ticks are not within {possible:?}"))?;
    let year = wall_clock().as_secs();
    expect(year > YEAR_2020, format!("the wall clock says {year} seconds since 1970"))
}

/// The wall clock of a machine that began `start` seconds after 1970 and whose counter counts nanoseconds since then.
pub async fn date(start: u64) -> Outcome {
    // By then the clock on the board, which counts seconds, has begun another.
    sleep_until(Duration::from_millis(1500)).await;
    let expected = Duration::from_secs(start) + Duration::from_nanos(time::time_stamp_counter());
    let error = wall_clock().abs_diff(expected);
    expect(error < Duration::from_micros(100), format!("the wall clock is {error:?} off"))
}

/// The counter, the clock, and the counter again.
fn readings() -> (u64, Duration, u64) {
    (time::time_stamp_counter(), now(), time::time_stamp_counter())
}
