//! What the executor needs from below: clocks, events, and a way to wait.
//!
//! On the bare-metal target these are the hypervisor's. On a host there are no events and the clock is
//! virtual: waiting for a deadline moves it there at once.

#[cfg(not(target_os = "none"))]
pub(super) use host::*;
#[cfg(target_os = "none")]
pub(super) use hypervisor::*;

#[cfg(target_os = "none")]
mod hypervisor {
    pub(in super::super) use crate::event_channel::dispatch as dispatch_events;
    pub(in super::super) use crate::time::{idle, now, wall_clock};
}

#[cfg(not(target_os = "none"))]
mod host {
    use core::cell::Cell;
    use core::time::Duration;

    crate::kernel_local! {
        static CLOCK: Cell<Duration> = Cell::new(Duration::ZERO);
    }

    /// The virtual clock.
    pub(in super::super) fn now() -> Duration {
        CLOCK.with(Cell::get)
    }

    /// The virtual clock too: a host test starts at the beginning of 1970.
    pub(in super::super) fn wall_clock() -> Duration {
        now()
    }

    /// There are no events on a host.
    pub(in super::super) fn dispatch_events() {}

    /// Sets the virtual clock back to zero.
    pub(in super::super) fn reset_clock() {
        CLOCK.with(|clock| clock.set(Duration::ZERO));
    }

    /// Moves the virtual clock to `deadline`.
    pub(in super::super) fn advance_to(deadline: Duration) {
        CLOCK.with(|clock| clock.set(clock.get().max(deadline)));
    }
}
