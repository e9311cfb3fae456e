//! Running tasks on a host, in virtual time.

use core::future::Future;

use super::task::{drop_all, with_executor};
use super::{platform, spawn, timer};

/// Drops the tasks of a test, also when the test fails.
struct DropTasks;

impl Drop for DropTasks {
    fn drop(&mut self) {
        drop_all();
    }
}

/// Runs `future`, and the tasks it spawns, until it is done; the tasks end with it. The clock starts at zero,
/// and sleeping costs no time: when no task is ready, the clock jumps to the earliest deadline.
///
/// # Panics
///
/// If the future waits for something that no task and no timer will bring.
pub fn run<F>(future: F) -> F::Output
where
    F: Future + 'static,
{
    platform::reset_clock();
    let _drop_tasks = DropTasks;
    let task = spawn(future);
    loop {
        if let Some(output) = task.try_output() {
            return output;
        }
        if !with_executor(|executor| executor.turn()) && !task.is_finished() {
            let deadline = timer::next_deadline().expect("every task waits, and no timer is set");
            platform::advance_to(deadline);
        }
    }
}
