//! The queue of tasks that have something to do.
//!
//! A task is in the queue at most once: its handle carries a flag that is set when it is queued and cleared
//! just before it is polled, so a wake-up that arrives during the poll queues it again and none is lost.

use alloc::sync::Arc;
use alloc::task::Wake;
use alloc::vec::Vec;
use core::mem;
use core::sync::atomic::{AtomicBool, Ordering};

use spin::Mutex;

/// The tasks to poll next, in the order in which they were woken.
///
/// `Waker` must be `Sync`, hence the lock; with one thread it is never contended.
#[derive(Default)]
pub(super) struct ReadyQueue(Mutex<Vec<Arc<TaskHandle>>>);

impl ReadyQueue {
    /// Whether no task waits to be polled.
    pub(super) fn is_empty(&self) -> bool {
        self.0.lock().is_empty()
    }

    /// Exchanges the waiting tasks for an empty list, so that both lists keep their memory.
    pub(super) fn take(&self, list: &mut Vec<Arc<TaskHandle>>) {
        debug_assert!(list.is_empty());
        mem::swap(&mut *self.0.lock(), list);
    }

    fn push(&self, handle: Arc<TaskHandle>) {
        self.0.lock().push(handle);
    }
}

/// What a waker of a task points to.
pub(super) struct TaskHandle {
    /// The task's place in the executor's table. The place may have gone to another task since, so the
    /// table keeps a pointer to the handle for comparison.
    pub(super) index: usize,
    queued: AtomicBool,
    ready: Arc<ReadyQueue>,
}

impl TaskHandle {
    /// Lets the task be queued again. To be called just before it is polled.
    pub(super) fn leave_queue(&self) {
        self.queued.store(false, Ordering::Relaxed);
    }

    /// A handle for the task at `index`, not queued.
    pub(super) fn new(index: usize, ready: Arc<ReadyQueue>) -> Arc<Self> {
        Arc::new(Self { index, queued: AtomicBool::new(false), ready })
    }
}

impl Wake for TaskHandle {
    fn wake(self: Arc<Self>) {
        // Load before swap: most redundant wake-ups need no locked instruction.
        if !self.queued.load(Ordering::Relaxed) && !self.queued.swap(true, Ordering::Relaxed) {
            let ready = Arc::clone(&self.ready);
            ready.push(self);
        }
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.queued.load(Ordering::Relaxed) && !self.queued.swap(true, Ordering::Relaxed) {
            self.ready.push(Arc::clone(self));
        }
    }
}
