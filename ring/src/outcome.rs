//! The two answers a ring gives that must not be dropped: does the peer need an event, and may we wait for
//! one.

use core::ops::BitOr;

/// Whether the peer must be sent an event.
///
/// Answers of several steps that share an event channel can be joined with `|` and acted on once.
#[must_use = "a peer that is not notified may wait for ever"]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotifyPeer {
    /// Send the event.
    Yes,
    /// The peer is at work already, or there is nothing new.
    No,
}

impl NotifyPeer {
    /// Whether to send the event.
    #[inline]
    #[must_use = "a peer that is not notified may wait for ever"]
    pub const fn needed(self) -> bool {
        matches!(self, Self::Yes)
    }

    /// `Yes` if `needed`.
    #[inline]
    pub const fn when(needed: bool) -> Self {
        if needed { Self::Yes } else { Self::No }
    }
}

impl BitOr for NotifyPeer {
    type Output = Self;

    #[inline]
    fn bitor(self, other: Self) -> Self {
        Self::when(self.needed() || other.needed())
    }
}

/// Whether to wait for the peer's event, after it has been asked for.
#[must_use = "waiting although there is more to take may wait for ever"]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinalCheck {
    /// There was nothing to take (or less than was asked for), and the peer will send an event when there is.
    MayWait,
    /// There is something to take. Take it rather than wait: no event will come for it.
    MoreToTake,
}

impl FinalCheck {
    /// Whether to wait for the peer's event.
    #[inline]
    #[must_use = "waiting although there is more to take may wait for ever"]
    pub const fn may_wait(self) -> bool {
        matches!(self, Self::MayWait)
    }
}
