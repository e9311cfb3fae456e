//! How tasks wait for one another: [`Notify`], [`Signal`], [`Channel`], [`AsyncLock`].
//!
//! All of them wake every waiter, and the first to be polled takes what is there. There are one or two
//! waiters in practice, and a waiter that has gone away can then never swallow a wake-up.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell, RefMut};
use core::future::{Future, poll_fn};
use core::ops::{Deref, DerefMut};
use core::pin::Pin;
use core::task::{Context, Poll, Waker};

/// The wakers of those who wait for one condition.
#[derive(Debug, Default)]
struct Waiters(RefCell<Vec<Waker>>);

impl Waiters {
    const fn new() -> Self {
        Self(RefCell::new(Vec::new()))
    }

    fn register(&self, waker: &Waker) {
        let mut wakers = self.0.borrow_mut();
        if !wakers.iter().any(|known| known.will_wake(waker)) {
            wakers.push(waker.clone());
        }
    }

    fn wake_all(&self) {
        // A waker only queues its task, so the list is not touched during the walk.
        for waker in self.0.borrow_mut().drain(..) {
            waker.wake();
        }
    }
}

/// A doorbell: [`ring`](Notify::ring) lets one [`wait`](Notify::wait) pass, now or later. Rings do not add up.
#[derive(Debug, Default)]
pub struct Notify {
    rung: Cell<bool>,
    waiters: Waiters,
}

impl Notify {
    /// A doorbell that has not been rung.
    pub const fn new() -> Self {
        Self { rung: Cell::new(false), waiters: Waiters::new() }
    }

    /// Lets one waiter pass; if there is none, the next one to come.
    pub fn ring(&self) {
        self.rung.set(true);
        self.waiters.wake_all();
    }

    /// Takes a ring, or registers to be woken by the next.
    pub fn poll_wait(&self, context: &mut Context<'_>) -> Poll<()> {
        if self.rung.take() {
            return Poll::Ready(());
        }
        self.waiters.register(context.waker());
        Poll::Pending
    }

    /// Waits for a ring since the last wait.
    pub async fn wait(&self) {
        poll_fn(|context| self.poll_wait(context)).await;
    }
}

/// A slot for the latest value: a new one replaces one not yet taken.
#[derive(Debug, Default)]
pub struct Signal<T> {
    value: RefCell<Option<T>>,
    waiters: Waiters,
}

impl<T> Signal<T> {
    /// An empty slot.
    pub const fn new() -> Self {
        Self { value: RefCell::new(None), waiters: Waiters::new() }
    }

    /// Puts a value in, in place of an older one.
    pub fn set(&self, value: T) {
        let replaced = self.value.replace(Some(value));
        drop(replaced);
        self.waiters.wake_all();
    }

    /// Takes the value, if there is one.
    pub fn try_take(&self) -> Option<T> {
        self.value.take()
    }

    /// Waits for a value and takes it.
    pub async fn take(&self) -> T {
        poll_fn(|context| match self.try_take() {
            Some(value) => Poll::Ready(value),
            None => {
                self.waiters.register(context.waker());
                Poll::Pending
            }
        })
        .await
    }
}

/// A bounded channel had no room; the item comes back.
#[derive(Debug, PartialEq, Eq)]
pub struct ChannelFull<T>(pub T);

/// A first-in-first-out queue between tasks.
#[derive(Debug)]
pub struct Channel<T> {
    items: RefCell<VecDeque<T>>,
    capacity: usize,
    receivers: Waiters,
    senders: Waiters,
}

impl<T> Default for Channel<T> {
    fn default() -> Self {
        Self::unbounded()
    }
}

impl<T> Channel<T> {
    /// A channel that always has room.
    pub const fn unbounded() -> Self {
        Self::bounded(usize::MAX)
    }

    /// A channel with room for `capacity` items.
    pub const fn bounded(capacity: usize) -> Self {
        Self {
            items: RefCell::new(VecDeque::new()),
            capacity,
            receivers: Waiters::new(),
            senders: Waiters::new(),
        }
    }

    /// How many items wait to be received.
    pub fn len(&self) -> usize {
        self.items.borrow().len()
    }

    /// Whether nothing waits to be received.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Puts an item in at once.
    ///
    /// # Errors
    ///
    /// [`ChannelFull`] with the item if there is no room.
    pub fn try_send(&self, item: T) -> Result<(), ChannelFull<T>> {
        if self.len() >= self.capacity {
            return Err(ChannelFull(item));
        }
        self.items.borrow_mut().push_back(item);
        self.receivers.wake_all();
        Ok(())
    }

    /// Waits for room and puts an item in.
    pub fn send(&self, item: T) -> Send<'_, T> {
        Send { channel: self, item: Some(item) }
    }

    /// Takes the oldest item, if there is one.
    pub fn try_receive(&self) -> Option<T> {
        let item = self.items.borrow_mut().pop_front()?;
        self.senders.wake_all();
        Some(item)
    }

    /// Waits for an item and takes it.
    pub fn receive(&self) -> Receive<'_, T> {
        Receive(self)
    }

    /// Takes the oldest item, or registers to be woken by the next.
    pub fn poll_receive(&self, context: &mut Context<'_>) -> Poll<T> {
        match self.try_receive() {
            Some(item) => Poll::Ready(item),
            None => {
                self.receivers.register(context.waker());
                Poll::Pending
            }
        }
    }
}

/// The future of [`Channel::send`].
#[derive(Debug)]
#[must_use = "nothing is sent unless this is awaited"]
pub struct Send<'a, T> {
    channel: &'a Channel<T>,
    item: Option<T>,
}

impl<T> Unpin for Send<'_, T> {}

impl<T> Future for Send<'_, T> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let Some(item) = self.item.take() else { return Poll::Ready(()) };
        match self.channel.try_send(item) {
            Ok(()) => Poll::Ready(()),
            Err(ChannelFull(item)) => {
                self.item = Some(item);
                self.channel.senders.register(context.waker());
                Poll::Pending
            }
        }
    }
}

/// The future of [`Channel::receive`].
#[derive(Debug)]
#[must_use = "nothing is received unless this is awaited"]
pub struct Receive<'a, T>(&'a Channel<T>);

impl<T> Future for Receive<'_, T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        self.0.poll_receive(context)
    }
}

/// A value that one task at a time may hold across its awaits.
#[derive(Debug, Default)]
pub struct AsyncLock<T> {
    value: RefCell<T>,
    waiters: Waiters,
}

impl<T> AsyncLock<T> {
    /// Wraps a value.
    pub const fn new(value: T) -> Self {
        Self { value: RefCell::new(value), waiters: Waiters::new() }
    }

    /// Waits until nobody else holds the value.
    pub async fn lock(&self) -> AsyncLockGuard<'_, T> {
        poll_fn(|context| match self.value.try_borrow_mut() {
            Ok(value) => Poll::Ready(AsyncLockGuard { value, _unlock: WakeOnDrop(&self.waiters) }),
            Err(_) => {
                self.waiters.register(context.waker());
                Poll::Pending
            }
        })
        .await
    }
}

/// The value of an [`AsyncLock`], for as long as this lives.
#[derive(Debug)]
pub struct AsyncLockGuard<'a, T> {
    // Fields drop in this order: the value is free before the others are told.
    value: RefMut<'a, T>,
    _unlock: WakeOnDrop<'a>,
}

impl<T> Deref for AsyncLockGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> DerefMut for AsyncLockGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.value
    }
}

/// Wakes the waiters of a lock when its guard is gone.
#[derive(Debug)]
struct WakeOnDrop<'a>(&'a Waiters);

impl Drop for WakeOnDrop<'_> {
    fn drop(&mut self) {
        self.0.wake_all();
    }
}

#[cfg(test)]
mod tests {
    use super::super::{select, sleep, spawn, testing, yield_now};
    use super::*;
    use alloc::rc::Rc;
    use core::time::Duration;

    #[test]
    fn a_ring_before_the_wait_is_kept_but_only_once() {
        testing::run(async {
            let bell = Notify::new();
            bell.ring();
            bell.ring();
            bell.wait().await;
            let first = select(bell.wait(), sleep(Duration::from_secs(1))).await;
            assert!(first.is_second());
        });
    }

    #[test]
    fn a_waiter_that_left_does_not_swallow_the_ring() {
        testing::run(async {
            let bell = Rc::new(Notify::new());
            let leaver = spawn({
                let bell = Rc::clone(&bell);
                async move { bell.wait().await }
            });
            let stayer = spawn({
                let bell = Rc::clone(&bell);
                async move { bell.wait().await }
            });
            yield_now().await;
            leaver.cancel();
            bell.ring();
            stayer.join().await;
        });
    }

    #[test]
    fn a_signal_keeps_the_latest_value() {
        testing::run(async {
            let signal = Signal::new();
            signal.set(1);
            signal.set(2);
            assert_eq!(signal.take().await, 2);
            assert_eq!(signal.try_take(), None);
        });
    }

    #[test]
    fn a_bounded_channel_makes_the_sender_wait_and_keeps_order() {
        testing::run(async {
            let channel = Rc::new(Channel::bounded(2));
            let sender = spawn({
                let channel = Rc::clone(&channel);
                async move {
                    for number in 0..10 {
                        channel.send(number).await;
                        assert!(channel.len() <= 2);
                    }
                }
            });
            yield_now().await;
            assert_eq!(channel.try_send(99), Err(ChannelFull(99)));
            for number in 0..10 {
                assert_eq!(channel.receive().await, number);
            }
            sender.join().await;
            assert!(channel.is_empty());
        });
    }

    #[test]
    fn a_lock_is_held_across_awaits() {
        testing::run(async {
            let lock = Rc::new(AsyncLock::new(0));
            let tasks: Vec<_> = (0..3)
                .map(|_| {
                    let lock = Rc::clone(&lock);
                    spawn(async move {
                        let mut value = lock.lock().await;
                        let before = *value;
                        sleep(Duration::from_millis(1)).await;
                        *value = before + 1;
                    })
                })
                .collect();
            for task in tasks {
                task.join().await;
            }
            assert_eq!(*lock.lock().await, 3);
        });
    }
}
