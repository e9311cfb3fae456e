//! The toolstack: how guests are made, looked after and ended.
//!
//! ```text
//!   configuration ─► builder ─► a paused domain ─► nodes in the store, console, store ring ─► it runs
//!                                                                                              │
//!   VIRQ_DOM_EXC ─► a domain has ended: why? ─► back ends let go, nodes go, domain goes ◄──────┘
//!                                └─► made anew, if it wanted a restart
//! ```
//!
//! A guest that cannot be made leaves nothing behind. One that ends is taken apart in an order in which nobody
//! uses what is gone: first the back ends are told and waited for, then the rings of store and console are let
//! go of, last the domain itself.

mod builder;
mod configuration;
pub mod control;
mod destruction;
mod disk;
mod error;
mod guest;
mod handle;
mod lifecycle;
mod memory;
mod nic;
mod nodes;
mod watch;

use alloc::borrow::ToOwned;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

use hypercall_abi::{DomainId, Errno};
use pv_runtime::executor::{Signal, wall_clock};
use pv_runtime::xenbus::Store;

use crate::archive::Archive;
use crate::block::SECTOR_SIZE;
use crate::console::Consoles;
use crate::store_service::StoreService;
use builder::{BuiltDomain, Parts};
use nodes::Built;

pub use configuration::{DEFAULT_MEMORY, GuestConfiguration, Reaction, SettingError};
pub use disk::{DiskError, GuestDisk, Target};
pub use error::CreateError;
pub use guest::{Fate, Guest, Stage};
pub use handle::Handle;
pub use lifecycle::ShutdownRequest;
pub use nic::{GuestNic, MacAddress, NicError};
pub use watch::look_after_guests;

/// A disk of the machine.
#[derive(Clone, Debug)]
pub struct MachineDisk {
    /// What it is called.
    pub name: String,
    /// Its size in sectors of 512 bytes.
    pub sectors: u64,
}

/// What the machine has for guests.
#[derive(Clone, Debug, Default)]
pub struct Inventory {
    /// Its disks.
    pub disks: Vec<MachineDisk>,
    /// Whether there is a switch to which interfaces of guests can be connected.
    pub has_switch: bool,
}

/// The toolstack.
pub struct Toolstack {
    service: Rc<StoreService>,
    store: Store,
    consoles: Consoles,
    archive: Archive<'static>,
    inventory: Inventory,
    guests: RefCell<BTreeMap<DomainId, Rc<Guest>>>,
    /// Names of guests that are being made.
    in_making: RefCell<BTreeSet<String>>,
    /// Guests made so far.
    made: Cell<u64>,
    /// No more guests are made.
    is_closing: Cell<bool>,
}

impl Toolstack {
    /// A toolstack without guests.
    pub fn new(service: Rc<StoreService>, archive: Archive<'static>, inventory: Inventory) -> Rc<Self> {
        let store = service.connect();
        Rc::new(Self {
            service,
            store,
            consoles: Consoles::default(),
            archive,
            inventory,
            guests: RefCell::default(),
            in_making: RefCell::default(),
            made: Cell::new(0),
            is_closing: Cell::new(false),
        })
    }

    /// Says in the store who dom0 is.
    ///
    /// # Errors
    ///
    /// What the store says.
    pub fn introduce_dom0(&self, memory_pages: usize) -> Result<(), crate::store::Error> {
        self.service.with(|server| server.transaction(|all| nodes::write_dom0(all, memory_pages)))
    }

    /// The store.
    pub fn service(&self) -> &Rc<StoreService> {
        &self.service
    }

    /// The guests' consoles.
    pub fn consoles(&self) -> &Consoles {
        &self.consoles
    }

    /// What the machine has for guests.
    pub fn inventory(&self) -> &Inventory {
        &self.inventory
    }

    /// The boot archive.
    pub fn archive(&self) -> &Archive<'static> {
        &self.archive
    }

    /// The guests, in the order of their numbers.
    pub fn guests(&self) -> Vec<Rc<Guest>> {
        self.guests.borrow().values().cloned().collect()
    }

    /// The guest of this name or number.
    pub fn find(&self, name_or_number: &str) -> Option<Rc<Guest>> {
        let number = name_or_number.parse().ok().map(DomainId);
        let fits = |guest: &&Rc<Guest>| guest.name() == name_or_number || Some(guest.domain) == number;
        self.guests.borrow().values().find(fits).cloned()
    }

    /// Makes a guest and lets it run. A device that the machine does not have is left out, with a message.
    ///
    /// # Errors
    ///
    /// [`CreateError`]; nothing is left of the guest then.
    pub async fn create(&self, configuration: &GuestConfiguration) -> Result<Rc<Guest>, CreateError> {
        let _name = self.reserve(&configuration.name)?;
        let configuration = self.without_missing_devices(configuration);
        self.check_disks(&configuration)?;
        let handle = Handle::new(self.made.get());
        self.made.set(self.made.get() + 1);
        let built = builder::build(&self.parts(&configuration, handle)?).await?;
        let guest = Rc::new(Guest {
            domain: built.domain,
            handle,
            configuration,
            made_at: pv_runtime::executor::now(),
            stage: Cell::new(Stage::Alive),
            is_paused: Cell::new(true),
            fate: Signal::new(),
        });
        self.guests.borrow_mut().insert(guest.domain, Rc::clone(&guest));
        match self.introduce(&guest, &built) {
            Ok(()) => Ok(guest),
            Err(error) => {
                self.end(&guest).await;
                Err(error)
            }
        }
    }

    /// Connects a built domain to console and store, and lets it run.
    fn introduce(&self, guest: &Guest, built: &BuiltDomain) -> Result<(), CreateError> {
        let opened = self.consoles.open(guest.domain, guest.name(), built.console.1);
        opened.map_err(|error| {
            log::error!("{}: {error}", guest.name());
            CreateError::Refused { step: "connect its console", errno: Errno::EIO }
        })?;
        let said = Built {
            domain: guest.domain,
            handle: guest.handle,
            configuration: &guest.configuration,
            store: built.store,
            console: built.console,
            start_time: wall_clock().as_secs(),
        };
        let (frame, port) = built.store;
        self.service.with(|server| {
            server.transaction(|all| nodes::write(all, &said))?;
            server.introduce(guest.domain, frame, port)
        })?;
        if !self.service.with(|server| server.is_introduced(guest.domain)) {
            return Err(CreateError::NotIntroduced);
        }
        if !guest.configuration.starts_paused {
            control::unpause_domain(guest.domain).map_err(CreateError::in_step("start it"))?;
            guest.is_paused.set(false);
        }
        log::info!("domain {} is {}: {} MiB", guest.domain, guest.name(), guest.configuration.memory);
        Ok(())
    }

    /// Keeps others from making a guest of the same name meanwhile.
    fn reserve<'a>(&'a self, name: &str) -> Result<Reservation<'a>, CreateError> {
        if self.is_closing.get() {
            return Err(CreateError::Closing);
        }
        let is_taken = name == "Domain-0" || self.guests.borrow().values().any(|guest| guest.name() == name);
        if is_taken || !self.in_making.borrow_mut().insert(name.to_owned()) {
            return Err(CreateError::Exists(name.to_owned()));
        }
        Ok(Reservation { names: &self.in_making, name: name.to_owned() })
    }

    fn parts<'a>(
        &self,
        configuration: &'a GuestConfiguration,
        handle: Handle,
    ) -> Result<Parts<'a>, CreateError> {
        let module = configuration.ramdisk.as_deref().map(|name| self.file(name)).transpose()?;
        Ok(Parts {
            kernel_name: &configuration.kernel,
            kernel: self.file(&configuration.kernel)?,
            module: module.unwrap_or_default(),
            command_line: &configuration.command_line,
            memory: configuration.memory,
            vcpus: configuration.vcpus,
            handle,
        })
    }

    fn file(&self, name: &str) -> Result<&'static [u8], CreateError> {
        self.archive.file(name).ok_or_else(|| {
            let known: Vec<_> = self.archive.names().collect();
            let known = if known.is_empty() { "nothing".to_owned() } else { known.join(" ") };
            CreateError::NoFile { name: name.to_owned(), known }
        })
    }

    /// A guest starts without devices that the machine does not have.
    fn without_missing_devices(&self, configuration: &GuestConfiguration) -> GuestConfiguration {
        let mut possible = configuration.clone();
        possible.disks.retain(|disk| {
            let is_there = self.machine_disk(disk).is_some();
            if !is_there {
                pv_runtime::println!("{}", self.missing_disk(&configuration.name, disk));
            }
            is_there
        });
        if !self.inventory.has_switch && !possible.nics.is_empty() {
            pv_runtime::println!(
                "error: {}: there is no switch: the guest starts without network",
                configuration.name
            );
            possible.nics.clear();
        }
        possible
    }

    fn machine_disk(&self, disk: &GuestDisk) -> Option<&MachineDisk> {
        self.inventory.disks.iter().find(|known| known.name == disk.target.disk)
    }

    /// Every disk lies where there is something, and belongs to nobody else who would mind.
    fn check_disks(&self, configuration: &GuestConfiguration) -> Result<(), CreateError> {
        for disk in &configuration.disks {
            let sectors = self.machine_disk(disk).map_or(0, |known| known.sectors);
            if !disk.target.lies_within(sectors) {
                let size = sectors.saturating_mul(u64::from(SECTOR_SIZE));
                return Err(CreateError::NotOnDisk { target: disk.target.clone(), size });
            }
            if let Some(guest) = self.user_of(disk) {
                return Err(CreateError::DiskInUse { target: disk.target.clone(), guest });
            }
        }
        Ok(())
    }

    /// A guest that does not go together with another one having this disk.
    fn user_of(&self, disk: &GuestDisk) -> Option<String> {
        if disk.is_shared {
            return None;
        }
        let guests = self.guests.borrow();
        let uses =
            |guest: &&Rc<Guest>| guest.configuration.disks.iter().any(|used| disk.conflicts_with(used));
        guests.values().find(uses).map(|guest| guest.name().to_owned())
    }

    fn missing_disk(&self, guest: &str, disk: &GuestDisk) -> String {
        let known = match self.inventory.disks.as_slice() {
            [] => "no disks".to_owned(),
            disks => disks.iter().map(|disk| disk.name.as_str()).collect::<Vec<_>>().join(" "),
        };
        let (wanted, name) = (&disk.target.disk, &disk.name);
        format!(
            "error: {guest}: the machine has no {wanted} (it has {known}): the guest starts without {name}"
        )
    }
}

/// A name that is not to be had by others.
struct Reservation<'a> {
    names: &'a RefCell<BTreeSet<String>>,
    name: String,
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        self.names.borrow_mut().remove(&self.name);
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use alloc::string::ToString;
    use pv_runtime::executor::testing;

    /// A toolstack without a hypervisor, and with one file that is no kernel.
    pub fn toolstack(inventory: Inventory) -> Rc<Toolstack> {
        Toolstack::new(StoreService::new(), Archive::of("notes", b"hello"), inventory)
    }

    fn create(words: &'static [&'static str]) -> CreateError {
        testing::run(async {
            let toolstack = toolstack(Inventory::default());
            let configuration = GuestConfiguration::parse("web", words.iter().copied()).unwrap();
            let error = toolstack.create(&configuration).await.map(drop).unwrap_err();
            assert!(toolstack.guests().is_empty() && toolstack.in_making.borrow().is_empty());
            error
        })
    }

    #[test]
    fn a_guest_that_cannot_be_made_says_why_and_leaves_nothing() {
        assert_eq!(create(&[]).to_string(), "the boot archive has no file \"guest\"; it has: notes");
        assert_eq!(create(&["kernel=notes"]).to_string(), "notes: the kernel is no ELF file");
        assert!(matches!(create(&["kernel=notes", "ramdisk=none"]), CreateError::NoFile { .. }));
    }

    #[test]
    fn a_name_is_taken_while_its_guest_is_being_made() {
        testing::run(async {
            let toolstack = toolstack(Inventory::default());
            let first = toolstack.reserve("web").map(|_| ());
            assert_eq!(first, Ok(()), "and given back at once");
            let held = toolstack.reserve("web");
            assert!(held.is_ok());
            let second = toolstack.reserve("web").map(|_| ());
            assert_eq!(second, Err(CreateError::Exists("web".into())));
            drop(held);
            assert!(toolstack.reserve("web").is_ok());
            assert!(toolstack.reserve("Domain-0").is_err());
            toolstack.is_closing.set(true);
            assert_eq!(toolstack.reserve("other").map(|_| ()), Err(CreateError::Closing));
        });
    }

    #[test]
    fn only_devices_that_the_machine_has_are_kept() {
        testing::run(async {
            let configuration =
                GuestConfiguration::parse("web", ["disk=disk0", "disk=disk7", "vif"]).unwrap();
            let possible = |disks: &[&str], has_switch| {
                let disks =
                    disks.iter().map(|name| MachineDisk { name: name.to_string(), sectors: 2048 }).collect();
                let toolstack = toolstack(Inventory { disks, has_switch });
                let possible = toolstack.without_missing_devices(&configuration);
                (possible.disks.len(), possible.nics.len())
            };
            assert_eq!(possible(&["disk0", "disk7"], true), (2, 1));
            assert_eq!(possible(&["disk0"], false), (1, 0));
            assert_eq!(possible(&[], true), (0, 1));
            let message = toolstack(Inventory::default()).missing_disk("web", &configuration.disks[1]);
            assert_eq!(
                message,
                "error: web: the machine has no disk7 (it has no disks): the guest starts without xvdb"
            );
        });
    }

    #[test]
    fn disks_must_be_there_and_free() {
        testing::run(async {
            let disks = Vec::from([MachineDisk { name: "disk0".into(), sectors: 2048 }]);
            let toolstack = toolstack(Inventory { disks, has_switch: true });
            let check = |word: &str| {
                let checked = toolstack.check_disks(&GuestConfiguration::parse("web", [word]).unwrap());
                checked.map_err(|error| error.to_string())
            };
            assert_eq!(check("disk=disk0"), Ok(()));
            assert_eq!(
                check("disk=disk0@1M"),
                Err("disk0@1048576 is not on the disk: disk0 has 1048576 bytes".into())
            );
            let other = Guest {
                domain: DomainId(3),
                handle: Handle::DOM0,
                configuration: GuestConfiguration::parse("other", ["disk=disk0@512K"]).unwrap(),
                made_at: core::time::Duration::ZERO,
                stage: Cell::new(Stage::Alive),
                is_paused: Cell::new(false),
                fate: Signal::new(),
            };
            toolstack.guests.borrow_mut().insert(other.domain, Rc::new(other));
            let in_use = check("disk=disk0").unwrap_err();
            assert!(in_use.starts_with("disk0 is in use by other; "), "{in_use}");
            assert_eq!(check("disk=disk0,xvda,r!"), Ok(()));
            assert_eq!(check("disk=disk0@0+512K"), Ok(()));
        });
    }

    #[test]
    fn dom0_is_in_the_store() {
        testing::run(async {
            let toolstack = toolstack(Inventory::default());
            toolstack.introduce_dom0(256).unwrap();
            let name = toolstack.service().with(|server| server.read("/local/domain/0/memory/target"));
            assert_eq!(&*name.unwrap(), b"1024");
        });
    }
}
