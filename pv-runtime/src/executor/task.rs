//! The table of tasks, and the loop that polls those that are ready.

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::cell::{Cell, OnceCell, RefCell};
use core::fmt;
use core::future::{Future, poll_fn};
use core::pin::Pin;
use core::task::{Context, Poll, Waker};

use super::ready::{ReadyQueue, TaskHandle};
use super::{platform, timer};
use crate::kernel_local;

type LocalFuture = Pin<Box<dyn Future<Output = ()>>>;

/// A task in the table.
struct Slot {
    handle: Arc<TaskHandle>,
    /// Absent while the task is being polled.
    future: Option<LocalFuture>,
}

/// A task's place in the table, and the address of its handle: the place may go to another task, whose handle
/// is elsewhere as long as anybody holds this one's.
#[derive(Clone, Copy)]
struct Identity {
    index: usize,
    handle: *const TaskHandle,
}

impl Identity {
    fn of(handle: &Arc<TaskHandle>) -> Self {
        Self { index: handle.index, handle: Arc::as_ptr(handle) }
    }
}

/// All tasks, at indexes that are used again.
#[derive(Default)]
struct Table {
    slots: Vec<Option<Slot>>,
    free: Vec<usize>,
}

impl Table {
    fn insert(&mut self, future: LocalFuture, ready: &Arc<ReadyQueue>) -> Arc<TaskHandle> {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        let handle = TaskHandle::new(index, Arc::clone(ready));
        self.slots[index] = Some(Slot { handle: Arc::clone(&handle), future: Some(future) });
        handle
    }

    /// The slot of this very task, if it has not ended.
    fn slot(&mut self, task: Identity) -> Option<&mut Slot> {
        let slot = self.slots.get_mut(task.index)?.as_mut()?;
        (Arc::as_ptr(&slot.handle) == task.handle).then_some(slot)
    }

    /// Takes the task out of the table. The caller drops it, once the table is no longer borrowed.
    fn remove(&mut self, task: Identity) -> Option<Slot> {
        self.slot(task)?;
        self.free.push(task.index);
        self.slots[task.index].take()
    }
}

/// The executor: tasks and the queue of those to poll.
#[derive(Default)]
pub(super) struct Executor {
    table: RefCell<Table>,
    ready: Arc<ReadyQueue>,
    /// The tasks that this turn polls; empty between turns.
    turn: RefCell<Vec<Arc<TaskHandle>>>,
    polls: Cell<u64>,
}

kernel_local! {
    static EXECUTOR: OnceCell<Executor> = OnceCell::new();
}

/// Hands the kernel's executor to `body`.
pub(super) fn with_executor<R>(body: impl FnOnce(&Executor) -> R) -> R {
    EXECUTOR.with(|cell| body(cell.get_or_init(Executor::default)))
}

impl Executor {
    fn spawn(&self, future: LocalFuture) -> Arc<TaskHandle> {
        let handle = self.table.borrow_mut().insert(future, &self.ready);
        Waker::from(Arc::clone(&handle)).wake();
        handle
    }

    fn cancel(&self, task: Identity) {
        let removed = self.table.borrow_mut().remove(task);
        drop(removed);
    }

    fn is_alive(&self, task: Identity) -> bool {
        self.table.borrow_mut().slot(task).is_some()
    }

    /// Polls one task. The table is not borrowed meanwhile, for tasks spawn and cancel tasks.
    fn poll_task(&self, handle: Arc<TaskHandle>) {
        let task = Identity::of(&handle);
        handle.leave_queue();
        let taken = self.table.borrow_mut().slot(task).and_then(|slot| slot.future.take());
        let Some(mut future) = taken else { return };
        self.polls.set(self.polls.get() + 1);
        // The waker keeps the handle, and so the task's identity, until the end of this function.
        let waker = Waker::from(handle);
        let outcome = future.as_mut().poll(&mut Context::from_waker(&waker));
        if outcome.is_ready() {
            drop(future);
            self.cancel(task);
            return;
        }
        let mut unwanted = Some(future);
        if let Some(slot) = self.table.borrow_mut().slot(task) {
            slot.future = unwanted.take();
        }
        // A task cancelled during its own poll is dropped here, with the table free.
        drop(unwanted);
    }

    /// Polls every task that is ready now, then looks for events and expired timers, which may make more
    /// tasks ready. Returns whether any are.
    pub(super) fn turn(&self) -> bool {
        let mut turn = self.turn.borrow_mut();
        self.ready.take(&mut turn);
        for handle in turn.drain(..) {
            self.poll_task(handle);
        }
        platform::dispatch_events();
        timer::wake_expired();
        !self.ready.is_empty()
    }
}

/// Drops every task, and those that are spawned on the way.
#[cfg(not(target_os = "none"))]
pub(super) fn drop_all() {
    loop {
        let table = with_executor(|executor| executor.table.take());
        if table.slots.is_empty() {
            return;
        }
        drop(table);
    }
}

/// Runs tasks for ever, blocking when there is nothing to do.
#[cfg(target_os = "none")]
pub(crate) fn run() -> ! {
    with_executor(|executor| {
        loop {
            if !executor.turn() {
                platform::idle(timer::next_deadline());
            }
        }
    })
}

/// How many times a task was polled since start-up.
pub fn polls() -> u64 {
    with_executor(|executor| executor.polls.get())
}

/// Where a task leaves its output.
enum Outcome<T> {
    Running(Option<Waker>),
    Done(Option<T>),
}

/// Starts a task; it first runs after the current one has given way.
///
/// The task goes on when the handle is dropped.
pub fn spawn<F>(future: F) -> JoinHandle<F::Output>
where
    F: Future + 'static,
{
    let outcome = Rc::new(RefCell::new(Outcome::Running(None)));
    let shared = Rc::clone(&outcome);
    let task = async move {
        let output = future.await;
        let before = shared.replace(Outcome::Done(Some(output)));
        if let Outcome::Running(Some(waiter)) = before {
            waiter.wake();
        }
    };
    let handle = with_executor(|executor| executor.spawn(Box::pin(task)));
    JoinHandle { handle, outcome }
}

/// A spawned task: wait for its output, or cancel it.
pub struct JoinHandle<T> {
    handle: Arc<TaskHandle>,
    outcome: Rc<RefCell<Outcome<T>>>,
}

impl<T> JoinHandle<T> {
    /// Ends the task where it stands; what it owns is dropped.
    pub fn cancel(self) {
        with_executor(|executor| executor.cancel(Identity::of(&self.handle)));
    }

    /// Whether the task has ended.
    pub fn is_finished(&self) -> bool {
        !with_executor(|executor| executor.is_alive(Identity::of(&self.handle)))
    }

    /// The task's output, if it has ended and nobody took the output yet.
    pub fn try_output(&self) -> Option<T> {
        match &mut *self.outcome.borrow_mut() {
            Outcome::Done(output) => output.take(),
            Outcome::Running(_) => None,
        }
    }

    /// Waits for the task's output.
    pub async fn join(self) -> T {
        poll_fn(|context| match &mut *self.outcome.borrow_mut() {
            Outcome::Done(output) => output.take().map_or(Poll::Pending, Poll::Ready),
            Outcome::Running(waiter) => {
                *waiter = Some(context.waker().clone());
                Poll::Pending
            }
        })
        .await
    }
}

impl<T> fmt::Debug for JoinHandle<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("JoinHandle").field("index", &self.handle.index).finish()
    }
}

/// Lets every other ready task run once, and looks for events.
pub async fn yield_now() {
    let mut yielded = false;
    poll_fn(|context| {
        if yielded {
            return Poll::Ready(());
        }
        yielded = true;
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;
    use alloc::string::String;

    #[test]
    fn tasks_take_turns_in_the_order_they_were_woken() {
        let story = Rc::new(RefCell::new(String::new()));
        let writer = |mark: char| {
            let story = Rc::clone(&story);
            async move {
                for _ in 0..3 {
                    story.borrow_mut().push(mark);
                    yield_now().await;
                }
            }
        };
        let (first, second) = (writer('a'), writer('b'));
        testing::run(async {
            let (first, second) = (spawn(first), spawn(second));
            first.join().await;
            second.join().await;
        });
        assert_eq!(story.borrow().as_str(), "ababab");
    }

    #[test]
    fn join_returns_the_output_even_of_a_task_long_done() {
        let sum = testing::run(async {
            let early = spawn(async { 40 });
            yield_now().await;
            yield_now().await;
            assert!(early.is_finished());
            early.join().await + spawn(async { 2 }).join().await
        });
        assert_eq!(sum, 42);
    }

    #[test]
    fn cancelling_drops_what_the_task_owns() {
        let owned = Rc::new(());
        let inside = Rc::clone(&owned);
        testing::run(async move {
            let task = spawn(async move {
                core::future::pending::<()>().await;
                drop(inside);
            });
            yield_now().await;
            task.cancel();
        });
        assert_eq!(Rc::strong_count(&owned), 1);
    }

    #[test]
    fn a_task_may_cancel_itself() {
        let slot: Rc<RefCell<Option<JoinHandle<()>>>> = Rc::default();
        let inside = Rc::clone(&slot);
        testing::run(async move {
            let task = spawn({
                let inside = Rc::clone(&inside);
                async move {
                    yield_now().await;
                    let own = inside.borrow_mut().take();
                    own.expect("stored below").cancel();
                    yield_now().await;
                    unreachable!("the task was cancelled");
                }
            });
            *inside.borrow_mut() = Some(task);
            for _ in 0..5 {
                yield_now().await;
            }
        });
    }

    #[test]
    fn a_stale_waker_does_not_disturb_the_next_task_at_its_place() {
        testing::run(async {
            let stale: Rc<RefCell<Option<Waker>>> = Rc::default();
            let keep = Rc::clone(&stale);
            spawn(poll_fn(move |context| {
                *keep.borrow_mut() = Some(context.waker().clone());
                Poll::Ready(())
            }))
            .join()
            .await;
            let polled = Rc::new(Cell::new(0));
            let count = Rc::clone(&polled);
            let next = spawn(poll_fn(move |_| {
                count.set(count.get() + 1);
                Poll::<()>::Pending
            }));
            yield_now().await;
            stale.borrow_mut().take().expect("stored by the task").wake();
            yield_now().await;
            yield_now().await;
            assert_eq!(polled.get(), 1);
            next.cancel();
        });
    }
}
