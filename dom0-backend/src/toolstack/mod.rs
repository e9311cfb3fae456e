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

mod adjust;
mod builder;
mod configuration;
pub mod control;
mod cpus;
mod destruction;
mod devices;
mod disk;
mod error;
pub mod faults;
mod from_file;
mod guest;
mod handle;
mod hot_plug;
mod lifecycle;
mod memory;
mod nic;
mod nodes;
mod pci;
pub mod processors;
mod watch;

use alloc::borrow::{Cow, ToOwned};
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

use hypercall_abi::{DomainId, Errno};
use pv_runtime::executor::wall_clock;
use pv_runtime::xenbus::Store;

use crate::archive::Archive;
use crate::block::{BlockDevice, DiskRange, Images};
use crate::console::Consoles;
use crate::file_system::{DiskSource, FileSystem, FileSystemError};
use crate::pci::PciFunctions;
use crate::store_service::StoreService;
use builder::{BuiltDomain, Parts};
use faults::Faults;
use nodes::Built;

pub use adjust::AdjustError;
pub use configuration::{DEFAULT_MEMORY, GuestConfiguration, Reaction, SettingError};
pub use cpus::{CpuSet, CpuSetError};
pub use devices::{Inventory, MachineDisk};
pub use disk::{DiskError, GuestDisk, Part, Target};
pub use error::{CreateError, Shortage};
pub use from_file::{Described, FileError};
pub use guest::{Fate, Guest, Stage};
pub use handle::Handle;
pub use hot_plug::{Plug, PlugError};
pub use lifecycle::ShutdownRequest;
pub use nic::{GuestNic, MacAddress, NicError, SWITCH};
pub use pci::{GuestPci, PciError};
pub use processors::{PinError, PinOrder};
pub use watch::look_after_guests;

/// Where configuration files of guests lie that start by themselves.
const AUTOMATIC: &str = "auto";
/// What dom0 is called.
const DOM0: &str = "Domain-0";

fn is_automatic(name: &str) -> bool {
    name.strip_prefix(AUTOMATIC).is_some_and(|rest| rest.starts_with('/') && rest.ends_with(".cfg"))
}

/// The file system on a disk of the machine that holds dom0's own files.
#[derive(Clone)]
struct Home {
    part: Part,
    device: Rc<dyn BlockDevice>,
    files: Rc<FileSystem<DiskSource>>,
}

/// The toolstack.
pub struct Toolstack {
    service: Rc<StoreService>,
    store: Store,
    consoles: Consoles,
    archive: Archive<'static>,
    inventory: Inventory,
    functions: Rc<PciFunctions>,
    home: RefCell<Option<Home>>,
    /// Files of that file system that are disks.
    images: Rc<Images>,
    guests: RefCell<BTreeMap<DomainId, Rc<Guest>>>,
    /// Guests that are being made, by name: what they are to be like, once that is checked.
    in_making: RefCell<BTreeMap<String, Option<GuestConfiguration>>>,
    /// Guests made so far.
    made: Cell<u64>,
    /// No more guests are made.
    is_closing: Cell<bool>,
    faults: Faults,
}

impl Toolstack {
    /// A toolstack without guests.
    pub fn new(
        service: Rc<StoreService>,
        archive: Archive<'static>,
        inventory: Inventory,
        images: Rc<Images>,
    ) -> Rc<Self> {
        Self::with_functions(service, archive, inventory, images, Rc::default())
    }

    /// The same on a machine with PCI functions for guests.
    pub fn with_functions(
        service: Rc<StoreService>,
        archive: Archive<'static>,
        inventory: Inventory,
        images: Rc<Images>,
        functions: Rc<PciFunctions>,
    ) -> Rc<Self> {
        let store = service.connect();
        Rc::new(Self {
            service,
            store,
            consoles: Consoles::default(),
            archive,
            inventory,
            functions,
            home: RefCell::default(),
            images,
            guests: RefCell::default(),
            in_making: RefCell::default(),
            made: Cell::new(0),
            is_closing: Cell::new(false),
            faults: Faults::default(),
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

    /// The machine's PCI functions.
    pub fn functions(&self) -> &Rc<PciFunctions> {
        &self.functions
    }

    /// Faults on purpose.
    pub fn faults(&self) -> &Faults {
        &self.faults
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

    /// Whether a guest of this name is being made.
    pub fn is_in_making(&self, name: &str) -> bool {
        self.in_making.borrow().contains_key(name)
    }

    /// Makes a guest and lets it run. A device that the machine does not have is left out, with a message.
    ///
    /// # Errors
    ///
    /// [`CreateError`]; nothing is left of the guest then.
    pub async fn create(&self, configuration: &GuestConfiguration) -> Result<Rc<Guest>, CreateError> {
        let reservation = self.reserve(&configuration.name)?;
        let configuration = self.without_missing_devices(configuration).await?;
        self.check_disks(&configuration)?;
        self.check_pci(&configuration)?;
        self.check_addresses(&configuration)?;
        processors::check(&configuration)?;
        reservation.hold(&configuration);
        let handle = configuration.handle.unwrap_or_else(|| Handle::new(self.made.get()));
        self.made.set(self.made.get() + 1);
        let files = self.files(&configuration).await?;
        let built = builder::build(&files.parts(&configuration, handle, &self.faults)).await?;
        drop(files);
        let guest = Rc::new(Guest::new(built.domain, handle, configuration, pv_runtime::executor::now()));
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
        let configuration = guest.configuration();
        self.faults.step("connect its console", || Ok(()))?;
        let opened = self.consoles.open(guest.domain, &guest.name(), built.console.1);
        opened.map_err(|error| {
            log::error!("{}: {error}", guest.name());
            CreateError::Refused { step: "connect its console", errno: Errno::EIO }
        })?;
        let said = Built {
            domain: guest.domain,
            handle: guest.handle,
            configuration: &configuration,
            store: built.store,
            console: built.console,
            start_time: wall_clock().as_secs(),
        };
        let (frame, port) = built.store;
        self.faults.step("write its nodes", || Ok(()))?;
        self.service.with(|server| server.transaction(|all| nodes::write(all, &said)))?;
        self.faults.step("introduce it to the store", || Ok(()))?;
        self.service.with(|server| server.introduce(guest.domain, frame, port))?;
        if !self.service.with(|server| server.is_introduced(guest.domain)) {
            return Err(CreateError::NotIntroduced);
        }
        processors::share_out(guest.domain, &configuration)?;
        if !configuration.starts_paused {
            self.faults.step("start it", || control::unpause_domain(guest.domain))?;
            guest.is_paused.set(false);
        }
        log::info!("domain {} is {}: {} MiB", guest.domain, guest.name(), configuration.memory);
        Ok(())
    }

    /// Keeps others from making a guest of the same name meanwhile.
    fn reserve<'a>(&'a self, name: &str) -> Result<Reservation<'a>, CreateError> {
        if self.is_closing.get() {
            return Err(CreateError::Closing);
        }
        let is_taken = name == DOM0 || self.guests.borrow().values().any(|guest| guest.name() == name);
        if is_taken || self.in_making.borrow().contains_key(name) {
            return Err(CreateError::Exists(name.to_owned()));
        }
        self.in_making.borrow_mut().insert(name.to_owned(), None);
        Ok(Reservation { names: &self.in_making, name: name.to_owned() })
    }

    /// Finds out whether a guest could be made by now, and makes none.
    ///
    /// # Errors
    ///
    /// As [`Self::create`], as far as it can be known beforehand.
    pub async fn try_out(&self, configuration: &GuestConfiguration) -> Result<(), CreateError> {
        let _name = self.reserve(&configuration.name)?;
        let configuration = self.without_missing_devices(configuration).await?;
        self.check_disks(&configuration)?;
        self.check_pci(&configuration)?;
        self.check_addresses(&configuration)?;
        processors::check(&configuration)?;
        let files = self.files(&configuration).await?;
        builder::try_out(&files.parts(&configuration, Handle::DOM0, &self.faults)).await
    }

    /// The files that a guest is made from.
    async fn files(&self, configuration: &GuestConfiguration) -> Result<Files, CreateError> {
        let module = match &configuration.ramdisk {
            Some(name) => self.file(name).await?,
            None => Cow::Borrowed(&[][..]),
        };
        Ok(Files { kernel: self.file(&configuration.kernel).await?, module })
    }

    /// Takes dom0's own files from a disk, too. From now on no guest gets these sectors to write.
    ///
    /// # Errors
    ///
    /// If there is no such disk or partition, or no file system on it.
    pub async fn open_home(&self, name: &str, device: Rc<dyn BlockDevice>) -> Result<(), FileSystemError> {
        let wrong = |words: String| FileSystemError::Other(words);
        let part: Part = name.parse().map_err(|error: DiskError| wrong(error.to_string()))?;
        let part = self.resolve(&part).ok_or_else(|| wrong(format!("the machine has no {name}")))?;
        let geometry = device.geometry();
        let sectors = part.sectors.unwrap_or(geometry.sectors.saturating_sub(part.first_sector));
        let range = DiskRange::new(device, part.first_sector, sectors).map_err(FileSystemError::Disk)?;
        let device: Rc<dyn BlockDevice> = Rc::new(range);
        let files = Rc::new(FileSystem::open(DiskSource(Rc::clone(&device))).await?);
        *self.home.borrow_mut() = Some(Home { part, device, files });
        Ok(())
    }

    /// A file's content: of the boot archive, or else of dom0's own file system.
    ///
    /// # Errors
    ///
    /// [`CreateError::NoFile`], [`CreateError::File`].
    pub async fn file(&self, name: &str) -> Result<Cow<'static, [u8]>, CreateError> {
        if let Some(content) = self.archive.file(name) {
            return Ok(Cow::Borrowed(content));
        }
        let files = self.home.borrow().as_ref().map(|home| Rc::clone(&home.files));
        let read = match &files {
            Some(files) => files.read(name).await,
            None => Err(FileSystemError::NotFound),
        };
        read.map(Cow::Owned).map_err(|error| match error {
            FileSystemError::NotFound => {
                let known: Vec<_> = self.archive.names().collect();
                let known = if known.is_empty() { "nothing".to_owned() } else { known.join(" ") };
                CreateError::NoFile { name: name.to_owned(), known, has_disk: files.is_some() }
            }
            error => CreateError::File { name: name.to_owned(), error },
        })
    }

    /// The configuration files of guests that are to start by themselves, in the order of their names.
    pub async fn automatic(&self) -> Vec<String> {
        let in_archive = self.archive.names().filter(|name| is_automatic(name)).map(ToOwned::to_owned);
        let mut names: Vec<_> = in_archive.collect();
        let files = self.home.borrow().as_ref().map(|home| Rc::clone(&home.files));
        if let Some(files) = files {
            match files.list(AUTOMATIC).await {
                Ok(found) => names.extend(found.iter().map(|name| format!("{AUTOMATIC}/{name}"))),
                Err(FileSystemError::NotFound) => {}
                Err(error) => log::error!("{AUTOMATIC}: {error}"),
            }
        }
        names.retain(|name| is_automatic(name));
        names.sort();
        names.dedup();
        names
    }
}

/// The files that a guest is made from.
struct Files {
    kernel: Cow<'static, [u8]>,
    module: Cow<'static, [u8]>,
}

impl Files {
    fn parts<'a>(
        &'a self,
        configuration: &'a GuestConfiguration,
        handle: Handle,
        faults: &'a Faults,
    ) -> Parts<'a> {
        Parts {
            kernel_name: &configuration.kernel,
            kernel: &self.kernel,
            module: &self.module,
            command_line: &configuration.command_line,
            memory: configuration.memory,
            vcpus: configuration.all_vcpus(),
            most_memory: configuration.most_memory.unwrap_or(configuration.memory),
            handle,
            faults,
        }
    }
}

/// A name that is not to be had by others.
struct Reservation<'a> {
    names: &'a RefCell<BTreeMap<String, Option<GuestConfiguration>>>,
    name: String,
}

impl Reservation<'_> {
    /// Keeps others from what a checked configuration needs, too.
    fn hold(&self, configuration: &GuestConfiguration) {
        self.names.borrow_mut().insert(self.name.clone(), Some(configuration.clone()));
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        self.names.borrow_mut().remove(&self.name);
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use pv_runtime::executor::testing;

    /// A toolstack without a hypervisor, and with one file that is no kernel.
    pub fn toolstack(inventory: Inventory) -> Rc<Toolstack> {
        Toolstack::new(StoreService::new(), Archive::of("notes", b"hello"), inventory, Rc::default())
    }

    impl Toolstack {
        /// As if a guest of this name were being made, until the value is dropped.
        pub fn hold_name<'a>(&'a self, name: &str) -> impl Drop + 'a {
            self.reserve(name).expect("nobody is called so")
        }

        /// As if a guest had been made.
        pub fn add(&self, guest: Guest) -> Rc<Guest> {
            let guest = Rc::new(guest);
            self.guests.borrow_mut().insert(guest.domain, Rc::clone(&guest));
            guest
        }
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
    fn guests_that_start_by_themselves_have_files_in_a_directory_of_their_own() {
        assert!(is_automatic("auto/web.cfg"));
        for name in ["web.cfg", "auto/web", "automatic/web.cfg", "auto.cfg"] {
            assert!(!is_automatic(name), "{name}");
        }
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
