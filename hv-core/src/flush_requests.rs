//! How one CPU has another forget its translations, and knows when it has.
//!
//! Requests are numbered. A CPU that serves flushes once for all requests it has seen by then, and says up to which
//! number it has: so requests that come together cost one flush, and nobody waits for a later one's.
//!
//! The order that makes it right: who asks changes the tables *before* it asks; who serves reads the number *before*
//! it flushes. A number that is answered therefore means a flush that began after the change.

use core::sync::atomic::{AtomicU32, Ordering};

/// What others ask of one CPU.
pub struct FlushRequests {
    /// Number of the last request.
    asked: AtomicU32,
    /// Number of the last request that is answered.
    answered: AtomicU32,
}

/// One request, to be waited for.
#[derive(Clone, Copy)]
#[must_use = "a request that nobody waits for protects nothing"]
pub struct Ticket(u32);

impl FlushRequests {
    /// Nothing is asked.
    pub const fn new() -> Self {
        Self { asked: AtomicU32::new(0), answered: AtomicU32::new(0) }
    }

    /// Asks for a flush that begins after everything the caller has written.
    pub fn ask(&self) -> Ticket {
        Ticket(self.asked.fetch_add(1, Ordering::AcqRel).wrapping_add(1))
    }

    /// True when a flush that began after the request has ended.
    pub fn is_answered(&self, ticket: Ticket) -> bool {
        let ahead = self.answered.load(Ordering::Acquire).wrapping_sub(ticket.0);
        ahead <= u32::MAX / 2
    }

    /// Serves what is asked: only the CPU itself does, which is therefore the only one to write `answered`.
    #[inline]
    pub fn serve(&self, flush: impl FnOnce()) {
        let asked = self.asked.load(Ordering::Acquire);
        if asked != self.answered.load(Ordering::Relaxed) {
            flush();
            self.answered.store(asked, Ordering::Release);
        }
    }
}

impl Default for FlushRequests {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_that_come_together_cost_one_flush() {
        let requests = FlushRequests::new();
        let tickets = [requests.ask(), requests.ask(), requests.ask()];
        assert!(tickets.iter().all(|ticket| !requests.is_answered(*ticket)));
        let mut flushes = 0;
        requests.serve(|| flushes += 1);
        requests.serve(|| flushes += 1);
        assert_eq!(flushes, 1);
        assert!(tickets.iter().all(|ticket| requests.is_answered(*ticket)));
    }

    #[test]
    fn a_request_during_the_flush_is_not_answered_by_it() {
        let requests = FlushRequests::new();
        let early = requests.ask();
        let mut late = None;
        requests.serve(|| late = Some(requests.ask()));
        assert!(requests.is_answered(early));
        assert!(!requests.is_answered(late.unwrap()));
    }

    #[test]
    fn numbers_may_wrap_around() {
        let requests =
            FlushRequests { asked: AtomicU32::new(u32::MAX - 1), answered: AtomicU32::new(u32::MAX - 1) };
        let tickets = [requests.ask(), requests.ask(), requests.ask()];
        assert!(tickets.iter().all(|ticket| !requests.is_answered(*ticket)));
        requests.serve(|| ());
        assert!(tickets.iter().all(|ticket| requests.is_answered(*ticket)));
    }
}
