//! The two-level bitmap of pending event channels in the shared page.
//!
//! The hypervisor sets a port's bit in `evtchn_pending`; if the bit was clear and the port is not masked, it
//! also sets the bit of that word in the selector and then the virtual CPU's pending flag. Taking events goes
//! the other way round and clears each level before it reads the one below, so an event that arrives in the
//! middle is seen now or leaves all three levels set for the next time.

use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use hypercall_abi::Port;

/// Bits in a word, words in the bitmap.
const WORD_BITS: u32 = u64::BITS;

/// References to the four places in the shared page.
#[derive(Clone, Copy)]
pub(crate) struct PendingEvents<'a> {
    /// `evtchn_upcall_pending` of virtual CPU 0: non-zero if the selector may be.
    pub(crate) flag: &'a AtomicU8,
    /// `evtchn_pending_sel` of virtual CPU 0: which words may hold pending ports.
    pub(crate) selector: &'a AtomicU64,
    /// One bit for each port.
    pub(crate) pending: &'a [AtomicU64; 64],
    /// One bit for each port that must not be reported.
    pub(crate) mask: &'a [AtomicU64; 64],
}

impl PendingEvents<'_> {
    /// Hands each pending, unmasked port to `take`, clearing its bit. Returns whether there was anything to
    /// look at. When there is not, this is one load.
    #[inline]
    pub(crate) fn take(&self, mut take: impl FnMut(Port)) -> bool {
        if self.flag.load(Ordering::Relaxed) == 0 {
            return false;
        }
        self.flag.store(0, Ordering::Relaxed);
        // A locked exchange: the flag is clear before the selector is read.
        let mut words = self.selector.swap(0, Ordering::SeqCst);
        while words != 0 {
            let word = words.trailing_zeros();
            words &= words - 1;
            self.take_word(word, &mut take);
        }
        true
    }

    fn take_word(&self, word: u32, take: &mut impl FnMut(Port)) {
        let place = &self.pending[word as usize];
        let mut ports = place.load(Ordering::Relaxed) & !self.mask[word as usize].load(Ordering::Relaxed);
        place.fetch_and(!ports, Ordering::SeqCst);
        while ports != 0 {
            let bit = ports.trailing_zeros();
            ports &= ports - 1;
            take(Port(word * WORD_BITS + bit));
        }
    }

    /// The words of `port` and its bit in them; nothing for a port that does not exist.
    fn place(&self, port: Port) -> Option<(&AtomicU64, &AtomicU64, u64)> {
        let word = (port.0 / WORD_BITS) as usize;
        Some((self.pending.get(word)?, self.mask.get(word)?, 1 << (port.0 % WORD_BITS)))
    }

    /// Keeps `port` from being reported; its events are remembered.
    pub(crate) fn mask(&self, port: Port) {
        if let Some((_, mask, bit)) = self.place(port) {
            mask.fetch_or(bit, Ordering::SeqCst);
        }
    }

    /// Lets `port` be reported again. Returns whether an event came meanwhile; it is taken, and the caller
    /// must treat it as if it came now, for the hypervisor will not report it again.
    #[must_use = "an event that came while the port was masked is reported only here"]
    pub(crate) fn unmask(&self, port: Port) -> bool {
        let Some((pending, mask, bit)) = self.place(port) else { return false };
        mask.fetch_and(!bit, Ordering::SeqCst);
        // A plain load first: the locked instruction is needed only if there is something to take.
        pending.load(Ordering::SeqCst) & bit != 0 && pending.fetch_and(!bit, Ordering::SeqCst) & bit != 0
    }

    /// Masks every port, as at start-up.
    pub(crate) fn mask_all(&self) {
        for word in self.mask {
            word.store(u64::MAX, Ordering::SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    /// A shared page, and the hypervisor's half of the protocol.
    struct SharedPage {
        flag: AtomicU8,
        selector: AtomicU64,
        pending: [AtomicU64; 64],
        mask: [AtomicU64; 64],
    }

    impl SharedPage {
        fn new() -> Self {
            Self {
                flag: AtomicU8::new(0),
                selector: AtomicU64::new(0),
                pending: [const { AtomicU64::new(0) }; 64],
                mask: [const { AtomicU64::new(0) }; 64],
            }
        }

        fn view(&self) -> PendingEvents<'_> {
            PendingEvents {
                flag: &self.flag,
                selector: &self.selector,
                pending: &self.pending,
                mask: &self.mask,
            }
        }

        fn raise(&self, port: u32) {
            let (word, bit) = ((port / 64) as usize, 1 << (port % 64));
            let was_pending = self.pending[word].fetch_or(bit, Ordering::SeqCst) & bit != 0;
            if was_pending || self.mask[word].load(Ordering::SeqCst) & bit != 0 {
                return;
            }
            self.selector.fetch_or(1 << word, Ordering::SeqCst);
            self.flag.store(1, Ordering::SeqCst);
        }

        fn taken(&self) -> Vec<u32> {
            let mut ports = Vec::new();
            self.view().take(|port| ports.push(port.0));
            ports
        }
    }

    #[test]
    fn takes_each_pending_port_once() {
        let page = SharedPage::new();
        for port in [0, 5, 63, 64, 4095] {
            page.raise(port);
        }
        page.raise(5);
        assert_eq!(page.taken(), [0, 5, 63, 64, 4095]);
        assert_eq!(page.taken(), []);
        page.raise(5);
        assert_eq!(page.taken(), [5]);
    }

    #[test]
    fn an_event_on_a_masked_port_is_reported_by_unmask() {
        let page = SharedPage::new();
        page.view().mask(Port(7));
        page.raise(7);
        page.raise(8);
        assert_eq!(page.taken(), [8]);
        assert!(page.view().unmask(Port(7)));
        assert!(!page.view().unmask(Port(7)));
        page.raise(7);
        assert_eq!(page.taken(), [7]);
    }

    #[test]
    fn an_event_raised_while_events_are_taken_is_not_lost() {
        let page = SharedPage::new();
        page.raise(100);
        let mut first = Vec::new();
        page.view().take(|port| {
            first.push(port.0);
            page.raise(100);
            page.raise(3);
        });
        assert_eq!(first, [100]);
        assert_eq!(page.taken(), [3, 100]);
    }

    #[test]
    fn a_port_beyond_the_bitmap_is_ignored() {
        let page = SharedPage::new();
        page.view().mask(Port(4096));
        assert!(!page.view().unmask(Port(u32::MAX)));
        assert_eq!(page.taken(), []);
    }
}
