//! How one CPU has another forget its translations, and knows when it has.
//!
//! Requests are numbered. A CPU that serves flushes once for all requests it has seen by then, and says up to which
//! number it has: so requests that come together cost one flush, and nobody waits for a later one's.
//!
//! The order that makes it right: who asks changes the tables *before* it asks; who serves reads the number *before*
//! it flushes. A number that is answered therefore means a flush that began after the change.

use core::sync::atomic::{AtomicU32, Ordering};

/// What this needs of an atomic number: so a checker's can take its place, which tries every order that is allowed.
pub trait Number {
    /// Reads.
    fn load(&self, order: Ordering) -> u32;
    /// Writes.
    fn store(&self, value: u32, order: Ordering);
    /// Adds; returns what was there before.
    fn fetch_add(&self, value: u32, order: Ordering) -> u32;
}

/// What others ask of one CPU.
pub struct FlushRequests<N = AtomicU32> {
    /// Number of the last request.
    asked: N,
    /// Number of the last request that is answered.
    answered: N,
}

/// One request, to be waited for.
#[derive(Clone, Copy)]
#[must_use = "a request that nobody waits for protects nothing"]
pub struct Ticket(u32);

macro_rules! atomic_number {
    ($type:ty) => {
        impl Number for $type {
            #[inline]
            fn load(&self, order: Ordering) -> u32 {
                <$type>::load(self, order)
            }
            #[inline]
            fn store(&self, value: u32, order: Ordering) {
                <$type>::store(self, value, order);
            }
            #[inline]
            fn fetch_add(&self, value: u32, order: Ordering) -> u32 {
                <$type>::fetch_add(self, value, order)
            }
        }
    };
}
atomic_number!(AtomicU32);

impl FlushRequests {
    /// Nothing is asked.
    pub const fn new() -> Self {
        Self { asked: AtomicU32::new(0), answered: AtomicU32::new(0) }
    }
}

impl<N: Number> FlushRequests<N> {
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

    /// One CPU that remembers an entry and serves, and another that clears it and asks.
    mod under_every_order {
        use super::super::{FlushRequests, Number, Ordering};
        use loom::{
            sync::{Arc, atomic::AtomicU32},
            thread,
        };

        atomic_number!(AtomicU32);

        struct Machine {
            requests: FlushRequests<AtomicU32>,
            entry: AtomicU32,
            remembered: AtomicU32,
        }

        impl Machine {
            fn new() -> Arc<Self> {
                let requests = FlushRequests { asked: AtomicU32::new(0), answered: AtomicU32::new(0) };
                Arc::new(Self { requests, entry: AtomicU32::new(1), remembered: AtomicU32::new(1) })
            }

            /// Forgets what is remembered; what is remembered at once after it is what the table says then.
            fn flush(&self) {
                self.remembered.store(self.entry.load(Ordering::Relaxed), Ordering::Relaxed);
            }

            fn clear_and_ask(&self) {
                self.entry.store(0, Ordering::Relaxed);
                let ticket = self.requests.ask();
                while !self.requests.is_answered(ticket) {
                    thread::yield_now();
                }
                assert_eq!(self.remembered.load(Ordering::Relaxed), 0, "the entry is remembered");
            }

            /// Serves as `serve` does it until the request is answered.
            fn run(machine: &Arc<Self>, serve: impl Fn(&Self)) {
                let asker = {
                    let machine = Arc::clone(machine);
                    thread::spawn(move || machine.clear_and_ask())
                };
                while machine.requests.answered.load(Ordering::Relaxed) == 0 {
                    serve(machine);
                    thread::yield_now();
                }
                asker.join().expect("it found its entry forgotten");
            }
        }

        fn check(serve: impl Fn(&Machine) + Clone + Send + Sync + 'static) {
            let mut model = loom::model::Builder::new();
            model.preemption_bound = Some(2);
            model.check(move || Machine::run(&Machine::new(), serve.clone()));
        }

        #[test]
        fn what_is_answered_is_forgotten() {
            check(|machine| machine.requests.serve(|| machine.flush()));
        }

        #[test]
        #[should_panic(expected = "the entry is remembered")]
        fn to_flush_before_looking_at_the_number_would_not_do() {
            check(|machine| {
                machine.flush();
                let asked = machine.requests.asked.load(Ordering::Acquire);
                machine.requests.answered.store(asked, Ordering::Release);
            });
        }
    }
}
