//! What is done with guests that are there: asking them to end, pausing them, taking them apart.

use alloc::format;
use core::fmt;
use core::time::Duration;

use hypercall_abi::Errno;
use pv_runtime::executor::{now, sleep, timeout};
use pv_runtime::xenbus::{XenbusState, domain_path, wait_for_state};

use super::control;
use super::destruction::take_apart;
use super::guest::{Fate, Guest, Stage};
use super::{Toolstack, nodes};

/// How long a back end may take to let go of a guest that is gone.
const CLOSE_TIME: Duration = Duration::from_secs(2);
/// How often it is looked whether a guest is gone.
const LOOK: Duration = Duration::from_millis(20);

/// What a guest is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShutdownRequest {
    /// To switch itself off.
    PowerOff,
    /// To end in order to be made anew.
    Reboot,
}

impl fmt::Display for ShutdownRequest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::PowerOff => "poweroff",
            Self::Reboot => "reboot",
        })
    }
}

impl Toolstack {
    /// Asks a guest to end. Whether and when it does is its own affair.
    ///
    /// # Errors
    ///
    /// What the store says.
    pub fn request_shutdown(
        &self,
        guest: &Guest,
        request: ShutdownRequest,
    ) -> Result<(), crate::store::Error> {
        let path = format!("{}/control/shutdown", domain_path(guest.domain));
        self.service.with(|server| server.write(&path, format!("{request}")))
    }

    /// Waits until a guest is gone; false if it is still there when the time is up.
    pub async fn wait_until_gone(&self, guest: &Guest, limit: Duration) -> bool {
        let deadline = now() + limit;
        while self.has(guest) {
            if now() >= deadline {
                return false;
            }
            sleep(LOOK).await;
        }
        true
    }

    /// Whether a guest is there. Its number alone does not say so: another may have it by now.
    pub fn has(&self, guest: &Guest) -> bool {
        self.guests.borrow().get(&guest.domain).is_some_and(|known| known.handle == guest.handle)
    }

    /// Stops a guest until it is unpaused.
    ///
    /// # Errors
    ///
    /// `EBUSY` if it is paused already, or what the hypervisor says.
    pub fn pause(&self, guest: &Guest) -> Result<(), Errno> {
        if guest.is_paused.get() {
            return Err(Errno::EBUSY);
        }
        control::pause_domain(guest.domain)?;
        guest.is_paused.set(true);
        Ok(())
    }

    /// Lets a paused guest run.
    ///
    /// # Errors
    ///
    /// `EINVAL` if it is not paused, or what the hypervisor says.
    pub fn unpause(&self, guest: &Guest) -> Result<(), Errno> {
        if !guest.is_paused.get() {
            return Err(Errno::EINVAL);
        }
        control::unpause_domain(guest.domain)?;
        guest.is_paused.set(false);
        Ok(())
    }

    /// Takes a guest apart, whatever it is doing. Returns when nothing of it is left.
    pub async fn end(&self, guest: &Guest) {
        let stage = guest.stage.replace(Stage::Ending);
        if stage == Stage::Ending {
            while self.has(guest) {
                sleep(LOOK).await;
            }
            return;
        }
        // It must not go on with devices that go away. It may be gone or dying already.
        let _ = control::pause_domain(guest.domain);
        self.close_back_ends(guest).await;
        self.consoles.close(guest.domain);
        self.service.with(|server| {
            // Not introduced if it was never finished.
            let _ = server.release(guest.domain);
            server.nodes(|all| nodes::remove(all, guest.domain, guest.handle));
        });
        take_apart(guest.domain).await;
        self.guests.borrow_mut().remove(&guest.domain);
        log::info!("domain {} ({}) is gone", guest.domain, guest.name());
        if stage == Stage::Alive {
            guest.fate.set(Fate::Destroyed);
        }
    }

    /// Has the back ends let go of the guest's memory, and waits for each of them.
    async fn close_back_ends(&self, guest: &Guest) {
        let directories = self.service.with(|server| {
            server.nodes(|all| {
                nodes::announce_end(all, guest.domain);
                nodes::back_ends(all, guest.domain)
            })
        });
        for directory in directories {
            let is_closed = |state| matches!(state, XenbusState::Closed | XenbusState::Unknown);
            let closed = wait_for_state(&self.store, &directory, is_closed);
            match timeout(CLOSE_TIME, closed).await {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => log::warn!("{directory}: {error:?}"),
                Err(_) => log::warn!("{directory}: the back end does not let go"),
            }
        }
    }

    /// Ends every guest for good: asks first, and takes those apart that are still there when the time is up.
    pub async fn end_all(&self, limit: Duration) {
        self.is_closing.set(true);
        let guests = self.guests();
        for guest in &guests {
            let is_able = guest.stage.get() == Stage::Alive && !guest.is_paused.get();
            if is_able && let Err(error) = self.request_shutdown(guest, ShutdownRequest::PowerOff) {
                log::warn!("{}: {error}", guest.name());
            }
        }
        let deadline = now() + limit;
        for guest in &guests {
            let is_able = guest.stage.get() != Stage::Preserved && !guest.is_paused.get();
            let left = if is_able { deadline.saturating_sub(now()) } else { Duration::ZERO };
            if !self.wait_until_gone(guest, left).await {
                self.end(guest).await;
            }
        }
    }
}
