//! Watches: being told of changes at and below a path.

use alloc::collections::VecDeque;
use alloc::rc::Rc;
use alloc::string::String;
use core::cell::RefCell;

use super::client::Client;
use crate::executor::Notify;

/// Events that may wait to be taken. Others can cause as many as they like, so there must be a bound.
const MOST_EVENTS: usize = 64;

/// The events of one watch that were not taken yet.
#[derive(Debug)]
pub(super) struct WatchQueue {
    /// The watched path.
    path: String,
    events: RefCell<VecDeque<String>>,
    arrived: Notify,
}

impl WatchQueue {
    pub(super) fn new(path: String) -> Rc<Self> {
        Rc::new(Self { path, events: RefCell::default(), arrived: Notify::new() })
    }

    /// Adds an event, unless the same one waits already. Too many become one event for the watched path.
    pub(super) fn push(&self, path: String) {
        let mut events = self.events.borrow_mut();
        if events.contains(&path) {
            return;
        }
        if events.len() == MOST_EVENTS {
            events.clear();
            events.push_back(self.path.clone());
        }
        events.push_back(path);
        self.arrived.ring();
    }

    async fn next(&self) -> String {
        loop {
            if let Some(path) = self.events.borrow_mut().pop_front() {
                return path;
            }
            self.arrived.wait().await;
        }
    }
}

/// Tells of changes at and below a path, until dropped.
///
/// An event says "look there again", no more: several changes may come as one event, and an event may come
/// without a change. The first comes right after the watch is made.
pub struct Watch {
    pub(super) client: Rc<Client>,
    pub(super) token: u32,
    pub(super) queue: Rc<WatchQueue>,
}

impl Watch {
    /// Waits for an event and says where the change was. Waits for ever once the connection is gone.
    pub async fn next(&self) -> String {
        self.queue.next().await
    }

    /// The watched path.
    pub fn path(&self) -> &str {
        &self.queue.path
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.client.unwatch(self.path(), self.token);
    }
}

impl core::fmt::Debug for Watch {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        formatter.debug_struct("Watch").field("path", &self.path()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::executor::testing;
    use alloc::format;
    use alloc::string::ToString;

    #[test]
    fn equal_events_are_merged_and_a_flood_is_bounded() {
        let queue = WatchQueue::new("dir".to_string());
        for _ in 0..10 {
            queue.push("dir/state".to_string());
        }
        assert_eq!(queue.events.borrow().len(), 1);
        for number in 0..1000 {
            queue.push(format!("dir/{number}"));
        }
        assert!(queue.events.borrow().len() <= MOST_EVENTS + 1);
        let first = testing::run(async move { queue.next().await });
        assert_eq!(first, "dir");
    }
}
