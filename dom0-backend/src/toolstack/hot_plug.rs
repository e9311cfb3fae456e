//! Devices that come and go while their guest runs.
//!
//! ```text
//!   attach: both halves are written ─► the back end makes its offer ─► done; the guest takes it up when it likes
//!   detach: the back end is asked to close ─► the guest closes its half ─► the back end lets go ─► both halves are removed
//! ```
//!
//! A guest may take its time to let a device go, or never do so. Whoever asked for it waits only so long, but the
//! device is removed whenever the guest is ready. With force its half is removed at once, and the back end lets go of
//! what the guest no longer has.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;
use core::time::Duration;

use pv_runtime::executor::{now, sleep, spawn, timeout};
use pv_runtime::xenbus::{XenbusState, wait_for_state};

use super::configuration::{GuestConfiguration, SettingError};
use super::disk::GuestDisk;
use super::error::CreateError;
use super::guest::{Guest, Stage};
use super::nic::{GuestNic, MacAddress};
use super::{Toolstack, nodes};
use crate::store;

/// How long a back end may take to offer a device.
const OFFER_TIME: Duration = Duration::from_secs(10);
/// How long is waited for a guest to let a device go.
const LEAVE_TIME: Duration = Duration::from_secs(10);
/// How often it is looked whether it did.
const LOOK: Duration = Duration::from_millis(20);

/// A device's place in its guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plug {
    /// The disk of this number.
    Disk(u32),
    /// The network interface of this number.
    Nic(u32),
}

impl Plug {
    /// Its kind as the store calls it, and its number.
    const fn place(self) -> (&'static str, u32) {
        match self {
            Self::Disk(number) => ("vbd", number),
            Self::Nic(number) => ("vif", number),
        }
    }
}

/// Why a device cannot be plugged in or taken out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PlugError {
    /// It does not go together with the guest's other devices, or is none.
    Setting(SettingError),
    /// The machine does not have what it is to be, in words.
    NotOnMachine(String),
    /// It cannot be given to this guest.
    Refused(CreateError),
    /// The guest does not run.
    NotRunning(String),
    /// The guest has no such device.
    NoDevice {
        /// The guest.
        guest: String,
        /// What was asked for.
        wanted: String,
        /// What the guest has, in words.
        known: String,
    },
    /// The guest was asked to let a device of this name go, and has not done so.
    IsLeaving(String),
    /// The back end does not offer it.
    NotOffered(String),
    /// The guest does not let it go.
    NotLetGo {
        /// The guest.
        guest: String,
        /// The device.
        device: String,
    },
    /// The guest is gone.
    GuestGone(String),
    /// The store refused what was to be written there.
    Store(store::Error),
}

impl PlugError {
    /// Of what kind it is, in a word that does not change.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Setting(_) => "configuration",
            Self::NotOnMachine(_) | Self::NoDevice { .. } => "no-device",
            Self::Refused(error) => error.kind(),
            Self::NotRunning(_) => "not-running",
            Self::IsLeaving(_) => "leaving",
            Self::NotOffered(_) => "not-offered",
            Self::NotLetGo { .. } => "timed-out",
            Self::GuestGone(_) => "destroyed",
            Self::Store(_) => "store",
        }
    }
}

impl fmt::Display for PlugError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Setting(error) => error.fmt(formatter),
            Self::NotOnMachine(what) => formatter.write_str(what),
            Self::Refused(error) => error.fmt(formatter),
            Self::NotRunning(guest) => write!(formatter, "{guest} does not run"),
            Self::NoDevice { guest, wanted, known } => {
                write!(formatter, "{guest} has no {wanted}; it has {known}")
            }
            Self::IsLeaving(device) => {
                write!(formatter, "{device} is being detached, and the guest has not let it go yet")
            }
            Self::NotOffered(device) => {
                write!(formatter, "domain 0 does not offer {device}; its log says why (`dmesg`)")
            }
            Self::NotLetGo { guest, device } => write!(
                formatter,
                "{guest} has not let go of {device} within {} s; it goes when the guest does so, or at once with --force",
                LEAVE_TIME.as_secs()
            ),
            Self::GuestGone(guest) => write!(formatter, "{guest} is gone meanwhile"),
            Self::Store(error) => write!(formatter, "the store: {error}"),
        }
    }
}

impl core::error::Error for PlugError {}

impl From<SettingError> for PlugError {
    fn from(error: SettingError) -> Self {
        Self::Setting(error)
    }
}

impl From<CreateError> for PlugError {
    fn from(error: CreateError) -> Self {
        Self::Refused(error)
    }
}

impl Guest {
    /// The guest's disk of this name or number.
    ///
    /// # Errors
    ///
    /// [`PlugError::NoDevice`].
    pub fn disk(&self, wanted: &str) -> Result<Plug, PlugError> {
        let number = wanted.parse().ok();
        let configuration = self.configuration();
        let is_it = |disk: &&GuestDisk| disk.name == wanted || disk.device_number() == number;
        let found = configuration.disks.iter().filter(|disk| disk.device_number().is_some()).find(is_it);
        let known = configuration.disks.iter().map(|disk| disk.name.clone());
        let found = found.and_then(GuestDisk::device_number).map(Plug::Disk);
        found.ok_or_else(|| self.no_device(format!("disk {wanted:?}"), known.collect(), "disks"))
    }

    /// The guest's network interface of this number or address.
    ///
    /// # Errors
    ///
    /// [`PlugError::NoDevice`].
    pub fn nic(&self, wanted: &str) -> Result<Plug, PlugError> {
        let (number, address) = (wanted.parse().ok(), wanted.parse::<MacAddress>().ok());
        let configuration = self.configuration();
        let is_it =
            |nic: &&GuestNic| Some(nic.number) == number || Some(nic.address(&configuration.name)) == address;
        let found = configuration.nics.iter().find(is_it).map(|nic| Plug::Nic(nic.number));
        let known = configuration.nics.iter().map(|nic| nic.number.to_string());
        found.ok_or_else(|| self.no_device(format!("interface {wanted:?}"), known.collect(), "interfaces"))
    }

    fn no_device(&self, wanted: String, known: Vec<String>, kind: &str) -> PlugError {
        let known = if known.is_empty() { format!("no {kind}") } else { known.join(" ") };
        PlugError::NoDevice { guest: self.name(), wanted, known }
    }

    /// What a device is called.
    fn name_of(&self, plug: Plug) -> String {
        let configuration = self.configuration();
        let has_number = |number| move |disk: &&GuestDisk| disk.device_number() == Some(number);
        match plug {
            Plug::Disk(number) => {
                let disk = configuration.disks.iter().find(has_number(number));
                disk.map_or_else(|| format!("disk {number}"), |disk| disk.name.clone())
            }
            Plug::Nic(number) => format!("interface {number}"),
        }
    }

    fn forget(&self, plug: Plug) {
        let mut configuration = self.configuration.borrow_mut();
        match plug {
            Plug::Disk(number) => configuration.disks.retain(|disk| disk.device_number() != Some(number)),
            Plug::Nic(number) => configuration.nics.retain(|nic| nic.number != number),
        }
        self.leaving.borrow_mut().retain(|leaving| *leaving != plug);
    }

    fn is_leaving(&self, plug: Plug) -> bool {
        self.leaving.borrow().contains(&plug)
    }
}

impl Toolstack {
    /// Gives a running guest another disk; the disk, with the name that it got.
    ///
    /// # Errors
    ///
    /// [`PlugError`]; everything is as before then.
    pub async fn attach_disk(&self, guest: &Guest, mut disk: GuestDisk) -> Result<GuestDisk, PlugError> {
        if !self.locate(&mut disk).await? {
            return Err(PlugError::NotOnMachine(self.missing_disk(&disk)));
        }
        let mut wanted = self.to_be_changed(guest)?;
        if let Ok(plug) = guest.disk(&disk.name)
            && guest.is_leaving(plug)
        {
            return Err(PlugError::IsLeaving(disk.name));
        }
        let disk = wanted.add_disk(disk)?.clone();
        wanted.check()?;
        self.check_disks(&wanted)?;
        *guest.configuration.borrow_mut() = wanted;
        let plug = guest.disk(&disk.name)?;
        let domain = guest.domain;
        self.plug_in(guest, plug, |all| nodes::write_disk(all, domain, &disk)).await?;
        Ok(disk)
    }

    /// Gives a running guest another network interface; the interface, with number and address.
    ///
    /// # Errors
    ///
    /// [`PlugError`]; everything is as before then.
    pub async fn attach_nic(&self, guest: &Guest, nic: GuestNic) -> Result<GuestNic, PlugError> {
        let mut wanted = self.to_be_changed(guest)?;
        if !self.inventory.has_switch {
            return Err(PlugError::NotOnMachine("there is no switch".to_owned()));
        }
        let name = wanted.name.clone();
        let nic = wanted.add_nic(nic);
        nic.mac = Some(nic.address(&name));
        let nic = nic.clone();
        wanted.check()?;
        self.check_addresses(&wanted)?;
        *guest.configuration.borrow_mut() = wanted;
        let domain = guest.domain;
        let write = |all: &mut store::Nodes<'_>| nodes::write_nic(all, domain, &name, &nic);
        self.plug_in(guest, Plug::Nic(nic.number), write).await?;
        Ok(nic)
    }

    /// What a guest that runs is like.
    fn to_be_changed(&self, guest: &Guest) -> Result<GuestConfiguration, PlugError> {
        match guest.stage.get() {
            Stage::Alive => Ok(guest.next_configuration()),
            _ => Err(PlugError::NotRunning(guest.name())),
        }
    }

    /// Writes a device, and waits until the back end offers it.
    async fn plug_in(
        &self,
        guest: &Guest,
        plug: Plug,
        write: impl FnMut(&mut store::Nodes<'_>) -> Result<(), store::Error>,
    ) -> Result<(), PlugError> {
        let written = self.service.with(|server| server.transaction(write));
        let offered = match written {
            Ok(()) => self.wait_for_offer(guest, plug).await,
            Err(error) => Err(PlugError::Store(error)),
        };
        if offered.is_err() {
            self.remove_plug(guest, plug);
        }
        offered
    }

    async fn wait_for_offer(&self, guest: &Guest, plug: Plug) -> Result<(), PlugError> {
        use XenbusState::{Connected, InitWait, Initialised, Initialising};
        let (kind, number) = plug.place();
        let back = nodes::back_end(kind, guest.domain, number);
        let decided = wait_for_state(&self.store, &back, |state| state != Initialising);
        match timeout(OFFER_TIME, decided).await {
            Ok(Ok(InitWait | Initialised | Connected)) => Ok(()),
            _ if guest.stage.get() != Stage::Alive => Err(PlugError::GuestGone(guest.name())),
            _ => Err(PlugError::NotOffered(guest.name_of(plug))),
        }
    }

    /// Takes a device from a guest: asks it to let go, or with force does not ask.
    ///
    /// # Errors
    ///
    /// [`PlugError::NotLetGo`]. The device goes all the same when the guest lets go of it.
    pub async fn detach(
        self: &Rc<Self>,
        guest: &Rc<Guest>,
        plug: Plug,
        is_forced: bool,
    ) -> Result<(), PlugError> {
        let (kind, number) = plug.place();
        let (guest_name, device) = (guest.name(), guest.name_of(plug));
        self.service.with(|server| {
            server.nodes(|all| {
                if is_forced {
                    nodes::remove_path(all, &nodes::front_end(kind, guest.domain, number));
                }
                nodes::ask_to_close(all, &nodes::back_end(kind, guest.domain, number));
            });
        });
        if !guest.is_leaving(plug) {
            guest.leaving.borrow_mut().push(plug);
            spawn(Rc::clone(self).see_off(Rc::clone(guest), plug));
        }
        let deadline = now() + LEAVE_TIME;
        while guest.is_leaving(plug) {
            if now() >= deadline {
                return Err(PlugError::NotLetGo { guest: guest_name, device });
            }
            sleep(LOOK).await;
        }
        Ok(())
    }

    /// Removes a device when its back end has let go.
    async fn see_off(self: Rc<Self>, guest: Rc<Guest>, plug: Plug) {
        let (kind, number) = plug.place();
        let back = nodes::back_end(kind, guest.domain, number);
        let is_closed = |state| matches!(state, XenbusState::Closed | XenbusState::Unknown);
        if let Err(error) = wait_for_state(&self.store, &back, is_closed).await {
            log::warn!("{back}: {error:?}");
        }
        self.remove_plug(&guest, plug);
    }

    /// Removes all that is said of a device. What a guest leaves that is taken apart is removed with it.
    fn remove_plug(&self, guest: &Guest, plug: Plug) {
        let (kind, number) = plug.place();
        if self.has(guest) && guest.stage.get() != Stage::Ending {
            self.service.with(|server| {
                server.nodes(|all| nodes::remove_device(all, kind, guest.domain, number));
            });
        }
        guest.forget(plug);
    }
}

#[cfg(test)]
mod tests;
