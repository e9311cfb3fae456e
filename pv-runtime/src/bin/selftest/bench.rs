//! Counts of ticks. Under a machine that makes one tick an instruction, these are instruction counts.

use alloc::rc::Rc;
use core::hint::black_box;
use core::time::Duration;

use pv_runtime::executor::{now, sleep, spawn, yield_now};
use pv_runtime::{hypercall, println, time};

use crate::events;

/// How often each operation is done.
const ROUNDS: u64 = 100;

/// Does something often and prints what one time takes.
fn measure(what: &str, mut operation: impl FnMut()) {
    operation();
    let start = time::time_stamp_counter();
    for _ in 0..ROUNDS {
        operation();
    }
    report(what, time::time_stamp_counter() - start);
}

fn report(what: &str, ticks: u64) {
    println!("bench {what}: {} ticks", ticks / ROUNDS);
}

/// Measures what lies on the paths of events and tasks.
pub async fn run() {
    measure("time stamp counter", || {
        black_box(time::time_stamp_counter());
    });
    measure("clock", || {
        black_box(now());
    });
    measure("null hypercall", || {
        let _ = black_box(hypercall::xen_version());
    });
    let start = time::time_stamp_counter();
    for _ in 0..ROUNDS {
        yield_now().await;
    }
    report("yield, one task", time::time_stamp_counter() - start);
    if events_between_tasks().await.is_err() {
        println!("bench: event channels do not work");
    }
    let start = time::time_stamp_counter();
    for _ in 0..ROUNDS {
        sleep(Duration::from_nanos(1)).await;
    }
    report("shortest sleep", time::time_stamp_counter() - start);
}

async fn events_between_tasks() -> Result<(), alloc::string::String> {
    let (left, right) = events::pair().await?;
    measure("notify, event already pending", || {
        let _ = left.notify();
    });
    yield_now().await;
    right.take_pending();
    let start = time::time_stamp_counter();
    for _ in 0..ROUNDS {
        let _ = left.notify();
        right.wait().await;
    }
    report("notify, taken without a switch", time::time_stamp_counter() - start);
    let (left, right) = (Rc::new(left), Rc::new(right));
    let echo = spawn({
        let right = Rc::clone(&right);
        async move {
            for _ in 0..ROUNDS {
                right.wait().await;
                let _ = right.notify();
            }
        }
    });
    yield_now().await;
    let start = time::time_stamp_counter();
    for _ in 0..ROUNDS {
        let _ = left.notify();
        left.wait().await;
    }
    report("round trip between two tasks", time::time_stamp_counter() - start);
    echo.join().await;
    Ok(())
}
