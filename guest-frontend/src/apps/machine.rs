//! What commands work on: the domain's devices, which may come and go.

use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::time::Duration;

use ip_stack::{AddressPlan, Stack};
use pv_runtime::BootInfo;
use pv_runtime::executor::{JoinHandle, spawn, timeout};
use pv_runtime::xenbus::{Device, Store, StoreError};

#[cfg(target_os = "none")]
use {
    crate::block::OwnedDisk,
    crate::pci::{PciDriver, PciFront},
    device_drivers::disk::PATIENCE,
    device_drivers::pci::{Bus, ConfigPorts, scan},
    device_drivers::start::{self, DiskKind},
    hypercall_abi::Errno,
    pv_runtime::executor::Notify,
};

use super::failure::Failure;
use crate::block::{Disk, VbdDriver};
use crate::lifecycle;
use crate::net::{NetPort, VifDriver};

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

/// The domain with its devices.
pub struct Machine {
    /// What the domain was told when it started.
    pub info: &'static BootInfo,
    /// The connection to the store.
    pub store: Option<Store>,
    /// The first network interface.
    port: Rc<NetPort>,
    /// TCP/IP over it, if it can come.
    stack: Option<Stack>,
    /// Whether there was a network interface at start-up.
    expects_network: bool,
    disks: Disks,
}

impl Machine {
    /// Finds the devices and starts to connect them, and those that will come.
    pub async fn start(info: &'static BootInfo, store: Option<Store>, plan: AddressPlan) -> Self {
        let mut machine = Self {
            info,
            store,
            port: Rc::new(NetPort::new()),
            stack: None,
            expects_network: false,
            disks: Disks::default(),
        };
        if let Some(store) = machine.store.clone()
            && let Err(error) = machine.find_devices(store, plan).await
        {
            log::error!("devices cannot be looked for: {error}");
        }
        #[cfg(target_os = "none")]
        if info.is_initial_domain
            && let Err(errno) = machine.find_own_disks().await
        {
            log::error!("the machine's devices cannot be reached: {errno}");
        }
        machine
    }

    async fn find_devices(&mut self, store: Store, plan: AddressPlan) -> Result<(), StoreError> {
        let port = Rc::clone(&self.port);
        let mut interfaces = Kind::new(store.clone(), "vif");
        // One interface is used; another one only once that is gone.
        let connect = {
            let port = Rc::clone(&port);
            move |_: u32, device: Device| {
                let driver = VifDriver::new(Rc::clone(&port));
                spawn(async move { lifecycle::run(&device, driver).await })
            }
        };
        self.expects_network = interfaces.look(1, &connect).await?;
        self.stack = Some(Stack::start(port, plan));
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

    /// Starts the disks among the devices that were given to this domain, if there are any.
    #[cfg(target_os = "none")]
    async fn find_given_devices(&self) {
        let Some(store) = &self.store else { return };
        let Ok(device) = Device::frontend(store, "pci", 0).await else { return };
        let (disks, is_up) = (self.disks.clone(), Rc::new(Notify::new()));
        let up = Rc::clone(&is_up);
        let driver = PciDriver::new(async move |bus: &PciFront| {
            start_disks(&disks, bus).await;
            up.ring();
        });
        spawn(async move { lifecycle::run(&device, driver).await });
        if timeout(START_TIME, is_up.wait()).await.is_err() {
            log::error!("the devices that were given to this domain do not come up");
        }
    }

    /// Starts the disks that this domain drives itself, for there is nobody else.
    #[cfg(target_os = "none")]
    async fn find_own_disks(&self) -> Result<(), Errno> {
        start_disks(&self.disks, &ConfigPorts::open()?).await;
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
            && self.expects_network
        {
            match timeout(START_TIME, stack.wait_for_address()).await {
                Ok(address) => log::info!("network: {address}"),
                Err(_) => log::error!("the network does not come up"),
            }
        }
    }

    /// The network interface, connected or not.
    pub fn port(&self) -> &NetPort {
        &self.port
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

/// Starts every disk on a bus.
#[cfg(target_os = "none")]
async fn start_disks(disks: &Disks, bus: &impl Bus) {
    let mut numbers = 0..;
    for function in scan(bus) {
        let Some(kind) = DiskKind::of(&function) else { continue };
        match start::start_disks(bus, function.address, kind, PATIENCE).await {
            Ok(driver) => {
                for (found, number) in driver.disks.into_iter().zip(numbers.by_ref()) {
                    spawn(OwnedDisk::new(&disks.add(number), found.device).run());
                }
            }
            Err(error) => log::error!("{}: not started: {error}", function.address),
        }
    }
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
