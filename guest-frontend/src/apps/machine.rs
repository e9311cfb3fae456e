//! What commands work on: the domain's devices, which may come and go.

use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::time::Duration;

use ip_stack::{AddressPlan, Port, Stack};
use pv_runtime::BootInfo;
use pv_runtime::executor::{JoinHandle, spawn, timeout};
use pv_runtime::xenbus::{Device, Store, StoreError};

#[cfg(target_os = "none")]
use {
    crate::block::OwnedDisk,
    crate::pci::{PciDriver, PciFront},
    device_drivers::disk,
    device_drivers::pci::{Address, Bus, ConfigPorts, scan},
    device_drivers::start::{self, DiskKind, RECEIVE, SEND, virtio_network_card},
    device_drivers::virtio::{DeviceKind, SetupError},
    device_drivers::virtio_net::Offloads,
    hypercall_abi::Errno,
    ip_stack::Card,
    pv_runtime::executor::{Notify, select},
};

use super::failure::Failure;
use crate::block::{Disk, VbdDriver};
use crate::lifecycle;
use crate::net::{NetPort, VifDriver};

/// Pages of a network card of this domain's own: as many as there may be frames under way, out and in.
#[cfg(target_os = "none")]
const CARD_BUFFERS: usize = 512;
/// How long devices may take to come up before the guest goes on without them.
const START_TIME: Duration = Duration::from_secs(20);

/// A disk and its number in the store.
#[derive(Clone)]
pub struct NamedDisk {
    /// The number by which the toolstack knows it.
    pub number: u32,
    /// The disk.
    pub disk: Disk,
}

/// All disks there ever were, in the order in which they were found. A disk that went and comes back keeps its
/// place.
#[derive(Clone, Default)]
struct Disks(Rc<RefCell<Vec<NamedDisk>>>);

impl Disks {
    /// Makes a disk for a device that has just appeared.
    fn add(&self, number: u32) -> Disk {
        let mut disks = self.0.borrow_mut();
        let disk = Disk::new();
        match disks.iter_mut().find(|named| named.number == number) {
            Some(named) => named.disk = disk.clone(),
            None => disks.push(NamedDisk { number, disk: disk.clone() }),
        }
        disk
    }
}

/// The network cards that this domain drives itself, in the order in which they were found.
type Cards = Rc<RefCell<Vec<Rc<dyn Port>>>>;

/// The domain with its devices.
pub struct Machine {
    /// What the domain was told when it started.
    pub info: &'static BootInfo,
    /// The connection to the store.
    pub store: Option<Store>,
    /// The first network interface that somebody else drives.
    port: Rc<NetPort>,
    /// Whether there was one at start-up.
    has_vif: bool,
    cards: Cards,
    /// TCP/IP, if it can come.
    stack: Option<Stack>,
    disks: Disks,
}

impl Machine {
    /// Finds the devices and starts to connect them, and those that will come. Without a `plan` for its address the
    /// network interface is left alone.
    pub async fn start(info: &'static BootInfo, store: Option<Store>, plan: Option<AddressPlan>) -> Self {
        let mut machine = Self {
            info,
            store,
            port: Rc::new(NetPort::new()),
            has_vif: false,
            cards: Cards::default(),
            stack: None,
            disks: Disks::default(),
        };
        if let Some(store) = machine.store.clone()
            && let Err(error) = machine.find_devices(store).await
        {
            log::error!("devices cannot be looked for: {error}");
        }
        #[cfg(target_os = "none")]
        if info.is_initial_domain
            && let Err(errno) = machine.find_own_devices().await
        {
            log::error!("the machine's devices cannot be reached: {errno}");
        }
        let may_have_network = machine.store.is_some() || machine.has_network();
        machine.stack = plan.filter(|_| may_have_network).map(|plan| Stack::start(machine.interface(), plan));
        machine
    }

    async fn find_devices(&mut self, store: Store) -> Result<(), StoreError> {
        let port = Rc::clone(&self.port);
        let mut interfaces = Kind::new(store.clone(), "vif");
        // One interface is used; another one only once that is gone.
        let connect = move |_: u32, device: Device| {
            let driver = VifDriver::new(Rc::clone(&port));
            spawn(async move { lifecycle::run(&device, driver).await })
        };
        self.has_vif = interfaces.look(1, &connect).await?;
        spawn(interfaces.follow(1, connect));

        let mut disks = Kind::new(store, "vbd");
        let known = self.disks.clone();
        let connect = move |number: u32, device: Device| {
            // The low half of the number is what requests carry; back ends do not look at it.
            let driver = VbdDriver::new(&known.add(number), number as u16);
            spawn(async move { lifecycle::run(&device, driver).await })
        };
        disks.look(usize::MAX, &connect).await?;
        spawn(disks.follow(usize::MAX, connect));
        #[cfg(target_os = "none")]
        self.find_given_devices().await;
        Ok(())
    }

    /// Starts the devices that were given to this domain, if there are any.
    #[cfg(target_os = "none")]
    async fn find_given_devices(&self) {
        let Some(store) = &self.store else { return };
        let Ok(device) = Device::frontend(store, "pci", 0).await else { return };
        let (disks, cards) = (self.disks.clone(), Rc::clone(&self.cards));
        let patience = patience(self.info);
        let is_up = Rc::new(Notify::new());
        let up = Rc::clone(&is_up);
        let driver = PciDriver::new(async move |bus: &PciFront| {
            start_devices(&disks, &cards, patience, bus).await;
            up.ring();
        });
        spawn(async move { lifecycle::run(&device, driver).await });
        if timeout(START_TIME, is_up.wait()).await.is_err() {
            log::error!("the devices that were given to this domain do not come up");
        }
    }

    /// Starts the machine's devices, for there is nobody else.
    #[cfg(target_os = "none")]
    async fn find_own_devices(&self) -> Result<(), Errno> {
        start_devices(&self.disks, &self.cards, patience(self.info), &ConfigPorts::open()?).await;
        Ok(())
    }

    /// Waits until all devices are up, or have taken too long.
    pub async fn wait_for_devices(&self) {
        for NamedDisk { number, disk } in self.disks() {
            match timeout(START_TIME, disk.geometry()).await {
                Ok(Ok(geometry)) => log::info!("disk {number}: {} sectors", geometry.sectors),
                _ => log::error!("disk {number} does not come up"),
            }
        }
        if let Some(stack) = &self.stack
            && self.has_network()
        {
            match timeout(START_TIME, stack.wait_for_address()).await {
                Ok(address) => log::info!("network: {address}"),
                Err(_) => log::error!("the network does not come up"),
            }
        }
    }

    /// Whether there was a network interface at start-up, of whatever kind.
    fn has_network(&self) -> bool {
        self.has_vif || !self.cards.borrow().is_empty()
    }

    /// Whether the network interface is one that this domain drives itself.
    pub fn is_network_own(&self) -> bool {
        !self.has_vif && !self.cards.borrow().is_empty()
    }

    /// The network interface: one that somebody else drives, or else the first of this domain's own.
    pub fn interface(&self) -> Rc<dyn Port> {
        match self.is_network_own() {
            true => Rc::clone(&self.cards.borrow()[0]),
            false => Rc::clone(&self.port) as Rc<dyn Port>,
        }
    }

    /// The interface that somebody else drives, connected or not.
    pub fn port(&self) -> &NetPort {
        &self.port
    }

    /// The network cards that this domain drives itself.
    pub fn cards(&self) -> Vec<Rc<dyn Port>> {
        self.cards.borrow().clone()
    }

    /// The network, connected or not.
    pub fn stack(&self) -> Option<&Stack> {
        self.stack.as_ref()
    }

    /// The network.
    ///
    /// # Errors
    ///
    /// If there is none.
    pub fn network(&self) -> Result<&Stack, Failure> {
        self.stack().ok_or_else(|| Failure::new("there is no network interface"))
    }

    /// All disks.
    pub fn disks(&self) -> Vec<NamedDisk> {
        self.disks.0.borrow().clone()
    }

    /// A disk, by its place in the list.
    ///
    /// # Errors
    ///
    /// If there is no such disk.
    pub fn disk(&self, index: usize) -> Result<Disk, Failure> {
        let disk = self.disks.0.borrow().get(index).map(|named| named.disk.clone());
        disk.ok_or_else(|| Failure::new(format!("there is no disk {index}")))
    }
}

/// How long a disk of this domain's own may take for a request: `disk-timeout=SECONDS` on the command line.
#[cfg(target_os = "none")]
fn patience(info: &BootInfo) -> Duration {
    disk::patience(info.option("disk-timeout")).unwrap_or_else(|error| {
        log::error!("disk-timeout: seconds are expected, or 0 for ever: {error}");
        disk::PATIENCE
    })
}

/// Starts every disk and every network card on a bus.
#[cfg(target_os = "none")]
async fn start_devices(disks: &Disks, cards: &Cards, patience: Duration, bus: &impl Bus) {
    let mut numbers = 0..;
    for function in scan(bus) {
        let started = match (DiskKind::of(&function), DeviceKind::of(&function)) {
            (Some(kind), _) => {
                start::start_disks(bus, function.address, kind, patience).await.map(|driver| {
                    for (found, number) in driver.disks.into_iter().zip(numbers.by_ref()) {
                        spawn(OwnedDisk::new(&disks.add(number), found.device).run());
                    }
                })
            }
            (None, Some(DeviceKind::NETWORK)) => {
                start_card(bus, function.address).map(|card| cards.borrow_mut().push(card))
            }
            _ => continue,
        };
        if let Err(error) = started {
            log::error!("{}: not started: {error}", function.address);
        }
    }
}

#[cfg(target_os = "none")]
fn start_card(bus: &impl Bus, address: Address) -> Result<Rc<dyn Port>, SetupError> {
    let (driver, interrupts) = virtio_network_card(bus, address, Offloads::Refused)?;
    let card = Rc::new(Card::new(driver, CARD_BUFFERS));
    let served = Rc::clone(&card);
    spawn(async move {
        loop {
            select(interrupts.wait(RECEIVE), interrupts.wait(SEND)).await;
            served.ring();
        }
    });
    Ok(card)
}

/// The domain's front ends of one kind, and the tasks that run them.
struct Kind {
    store: Store,
    name: &'static str,
    running: Vec<(u32, JoinHandle<()>)>,
}

impl Kind {
    fn new(store: Store, name: &'static str) -> Self {
        Self { store, name, running: Vec::new() }
    }

    /// Connects front ends that have appeared, as long as fewer than `most` run. Returns whether any run.
    ///
    /// A task ends when its device is removed, or when the back end broke the rules. In the second case the
    /// device is still there, and the task's place stays taken until it is not.
    async fn look(
        &mut self,
        most: usize,
        connect: &impl Fn(u32, Device) -> JoinHandle<()>,
    ) -> Result<bool, StoreError> {
        let numbers = self.numbers().await?;
        self.running.retain(|(number, task)| numbers.contains(number) || !task.is_finished());
        for number in numbers {
            let is_known = self.running.iter().any(|(known, _)| *known == number);
            if is_known || self.running.len() >= most {
                continue;
            }
            // The toolstack may still be at it; there will be another event.
            if let Ok(device) = Device::frontend(&self.store, self.name, number).await {
                self.running.push((number, connect(number, device)));
            }
        }
        Ok(!self.running.is_empty())
    }

    /// Looks again whenever something changes.
    async fn follow(mut self, most: usize, connect: impl Fn(u32, Device) -> JoinHandle<()>) {
        let outcome: Result<(), StoreError> = async {
            let watch = self.store.watch(&format!("device/{}", self.name)).await?;
            loop {
                watch.next().await;
                self.look(most, &connect).await?;
            }
        }
        .await;
        if let Err(error) = outcome {
            log::error!("no more {} devices are looked for: {error}", self.name);
        }
    }

    /// The numbers of the front ends, in order.
    async fn numbers(&self) -> Result<Vec<u32>, StoreError> {
        let names: Vec<String> = match self.store.directory(&format!("device/{}", self.name)).await {
            Err(error) if error.is_not_found() => Vec::new(),
            names => names?,
        };
        let mut numbers: Vec<u32> = names.iter().filter_map(|name| name.parse().ok()).collect();
        numbers.sort_unstable();
        Ok(numbers)
    }
}
