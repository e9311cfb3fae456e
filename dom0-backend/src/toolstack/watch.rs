//! Watching over guests: the hypervisor says that *some* domain has ended, and it is looked which one, and why.

use alloc::rc::Rc;

use hypercall_abi::Errno;
use hypercall_abi::sched::{SHUTDOWN_CRASH, SHUTDOWN_POWEROFF, SHUTDOWN_REBOOT, SHUTDOWN_WATCHDOG};
use hypercall_abi::xen::VIRQ_DOM_EXC;
use pv_runtime::event_channel::EventChannel;
use pv_runtime::executor::spawn;

use super::configuration::{GuestConfiguration, Reaction};
use super::guest::{Guest, Stage};
use super::{Toolstack, control};
use crate::console::harmless_lines;

/// Lines of a crashed guest's console that are shown.
const LAST_LINES: usize = 12;

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

    const fn reaction(self, configuration: &GuestConfiguration) -> Reaction {
        match self {
            Self::PoweredOff => configuration.on_poweroff,
            Self::Rebooted => configuration.on_reboot,
            Self::Crashed => configuration.on_crash,
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
        let reaction = ending.reaction(&guest.configuration);
        if reaction == Reaction::Preserve {
            guest.stage.set(Stage::Preserved);
            return;
        }
        guest.stage.set(Stage::Ended);
        let toolstack = Rc::clone(self);
        spawn(async move {
            toolstack.end(&guest).await;
            if reaction == Reaction::Restart
                && let Err(error) = toolstack.create(&guest.configuration).await
            {
                log::error!("{} cannot be started anew: {error}", guest.name());
            }
        });
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
            .map(|reason| Ending::of(reason).reaction(&configuration));
        use Reaction::{Destroy, Preserve, Restart};
        assert_eq!(reactions, [Preserve, Destroy, Restart, Restart, Restart]);
    }
}
