//! Running tasks on a host, in virtual time.

use core::cell::RefCell;
use core::future::Future;
use std::rc::Rc;

use super::task::with_executor;
use super::{platform, spawn, timer};

/// Runs `future`, and the tasks it spawns, until it is done. Sleeping costs no time: when no task is ready,
/// the clock jumps to the earliest deadline.
///
/// # Panics
///
/// If the future waits for something that no task and no timer will bring.
pub fn run<F>(future: F) -> F::Output
where
    F: Future + 'static,
{
    let output = Rc::new(RefCell::new(None));
    let shared = Rc::clone(&output);
    let task = spawn(async move {
        let value = future.await;
        *shared.borrow_mut() = Some(value);
    });
    while !task.is_finished() {
        if with_executor(|executor| executor.turn()) {
            continue;
        }
        if task.is_finished() {
            break;
        }
        let deadline = timer::next_deadline().expect("every task waits, and no timer is set");
        platform::advance_to(deadline);
    }
    let value = output.borrow_mut().take();
    value.expect("the task is finished")
}
