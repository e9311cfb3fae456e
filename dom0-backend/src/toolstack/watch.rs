//! Watching over guests: the hypervisor says that *some* domain has ended, and it is looked which one, and why.

use alloc::rc::Rc;
use core::time::Duration;

use hypercall_abi::Errno;
use hypercall_abi::sched::{SHUTDOWN_CRASH, SHUTDOWN_POWEROFF, SHUTDOWN_REBOOT, SHUTDOWN_WATCHDOG};
use hypercall_abi::xen::VIRQ_DOM_EXC;
use pv_runtime::event_channel::EventChannel;
use pv_runtime::executor::{now, spawn};

use super::configuration::{GuestConfiguration, Reaction};
use super::guest::{Fate, Guest, Stage};
use super::{Toolstack, control};
use crate::console::harmless_lines;

/// Lines of a crashed guest's console that are shown: enough for a kernel's last words with its registers and stack.
const LAST_LINES: usize = 60;
/// A guest that crashes sooner than this after it was made would do so again, and again.
const SHORTEST_LIFE: Duration = Duration::from_secs(1);

/// How a guest ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    PoweredOff,
    Rebooted,
    Crashed,
}

impl Ending {
    /// By the reason that the hypervisor was told.
    const fn of(reason: u32) -> Self {
        match reason {
            SHUTDOWN_POWEROFF => Self::PoweredOff,
            SHUTDOWN_REBOOT => Self::Rebooted,
            // Suspension is not offered, so who suspends itself is as dead as after a crash.
            _ => Self::Crashed,
        }
    }

    /// What is done about the end of a guest that lived for some time.
    fn reaction(self, configuration: &GuestConfiguration, life: Duration) -> Reaction {
        match (self, configuration.on_crash) {
            (Self::PoweredOff, _) => configuration.on_poweroff,
            (Self::Rebooted, _) => configuration.on_reboot,
            (Self::Crashed, Reaction::Restart) if life < SHORTEST_LIFE => Reaction::Destroy,
            (Self::Crashed, reaction) => reaction,
        }
    }

    /// What becomes of a guest that ended so, for this reason, and is not started anew.
    const fn fate(self, reason: u32) -> Fate {
        match self {
            Self::PoweredOff | Self::Rebooted => Fate::Ended,
            Self::Crashed => Fate::Crashed(name_of(reason)),
        }
    }
}

/// What a reason is called.
const fn name_of(reason: u32) -> &'static str {
    match reason {
        SHUTDOWN_POWEROFF => "switched itself off",
        SHUTDOWN_REBOOT => "wants to be started anew",
        SHUTDOWN_CRASH => "crashed",
        SHUTDOWN_WATCHDOG => "was stopped by its watchdog",
        _ => "stopped for a reason that is not known here",
    }
}

/// Looks after guests, for ever.
///
/// # Errors
///
/// If the hypervisor does not tell of domains that end.
pub async fn look_after_guests(toolstack: Rc<Toolstack>) -> Result<(), Errno> {
    let channel = EventChannel::bind_virq(VIRQ_DOM_EXC)?;
    loop {
        for guest in toolstack.guests() {
            if guest.stage.get() == Stage::Alive {
                toolstack.look_at(guest);
            }
        }
        channel.wait().await;
    }
}

impl Toolstack {
    /// Reacts if a guest has ended.
    fn look_at(self: &Rc<Self>, guest: Rc<Guest>) {
        match control::domain_info(guest.domain) {
            Ok(info) => {
                if let Some(reason) = info.shutdown_reason() {
                    self.react(guest, reason);
                }
            }
            Err(Errno::ESRCH) => self.react(guest, SHUTDOWN_CRASH),
            Err(errno) => log::warn!("domain {} cannot be looked at: {errno}", guest.domain),
        }
    }

    fn react(self: &Rc<Self>, guest: Rc<Guest>, reason: u32) {
        let ending = Ending::of(reason);
        log::info!("domain {} ({}) {}", guest.domain, guest.name(), name_of(reason));
        // Who watches for domains that end is told, as by any store.
        let _ = self.service.with(|server| server.shut_down(guest.domain));
        if ending == Ending::Crashed {
            self.show_last_lines(&guest);
        }
        let life = now().saturating_sub(guest.made_at);
        let reaction = ending.reaction(&guest.configuration(), life);
        if ending == Ending::Crashed && reaction != guest.configuration().on_crash {
            log::error!(
                "{} is not started anew: it crashed {} ms after its start",
                guest.name(),
                life.as_millis()
            );
        }
        if reaction == Reaction::Preserve {
            guest.stage.set(Stage::Preserved);
            guest.fate.set(ending.fate(reason));
            return;
        }
        guest.stage.set(Stage::Ended);
        let toolstack = Rc::clone(self);
        spawn(async move {
            toolstack.end(&guest).await;
            guest.fate.set(match reaction {
                Reaction::Restart => toolstack.start_anew(&guest).await,
                Reaction::Destroy | Reaction::Preserve => ending.fate(reason),
            });
        });
    }

    /// Makes a guest that is gone once more.
    async fn start_anew(&self, guest: &Guest) -> Fate {
        match self.create(&guest.next_configuration()).await {
            Ok(next) => Fate::Restarted(next),
            Err(error) => {
                log::error!("{} cannot be started anew: {error}", guest.name());
                Fate::NotRestarted(error)
            }
        }
    }

    fn show_last_lines(&self, guest: &Guest) {
        let Some(console) = self.consoles.of(guest.domain) else { return };
        console.catch_up();
        log::warn!("the last lines of {}:", guest.name());
        for line in harmless_lines(&console.last_lines(LAST_LINES)) {
            log::warn!("  {line}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_ending_has_its_reaction() {
        let configuration =
            GuestConfiguration::parse("a", ["on_poweroff=preserve", "on_reboot=destroy", "on_crash=restart"])
                .unwrap();
        let reactions = [SHUTDOWN_POWEROFF, SHUTDOWN_REBOOT, SHUTDOWN_CRASH, SHUTDOWN_WATCHDOG, 77]
            .map(|reason| Ending::of(reason).reaction(&configuration, SHORTEST_LIFE));
        use Reaction::{Destroy, Preserve, Restart};
        assert_eq!(reactions, [Preserve, Destroy, Restart, Restart, Restart]);
    }

    #[test]
    fn only_a_crash_is_a_bad_end() {
        let fate = |reason| Ending::of(reason).fate(reason);
        assert!(matches!(fate(SHUTDOWN_POWEROFF), Fate::Ended));
        assert!(matches!(fate(SHUTDOWN_REBOOT), Fate::Ended));
        assert!(matches!(fate(SHUTDOWN_CRASH), Fate::Crashed("crashed")));
        assert!(matches!(fate(SHUTDOWN_WATCHDOG), Fate::Crashed("was stopped by its watchdog")));
    }

    #[test]
    fn who_crashes_at_once_is_not_started_anew() {
        let life = SHORTEST_LIFE - Duration::from_millis(1);
        let reaction = |word: &str, ending: Ending| {
            ending.reaction(&GuestConfiguration::parse("a", [word]).unwrap(), life)
        };
        assert_eq!(reaction("on_crash=restart", Ending::Crashed), Reaction::Destroy);
        assert_eq!(reaction("on_crash=preserve", Ending::Crashed), Reaction::Preserve);
        assert_eq!(reaction("on_reboot=restart", Ending::Rebooted), Reaction::Restart);
    }
}
