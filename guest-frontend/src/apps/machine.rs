//! What commands work on: the domain's devices.

use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use pv_runtime::BootInfo;
use pv_runtime::executor::{spawn, timeout};
use pv_runtime::xenbus::{Device, Store, StoreError};

use super::failure::Failure;
use crate::block::{Disk, VbdDriver};
use crate::lifecycle;
use crate::net::{NetPort, VifDriver};
use crate::stack::{AddressPlan, Stack};

/// How long devices may take to come up before the guest goes on without them.
const START_TIME: Duration = Duration::from_secs(20);

/// A disk and its number in the store.
pub struct NamedDisk {
    /// The number by which the toolstack knows it.
    pub number: u32,
    /// The disk.
    pub disk: Disk,
}

/// The domain with its devices.
pub struct Machine {
    /// What the domain was told when it started.
    pub info: &'static BootInfo,
    /// The connection to the store.
    pub store: Option<Store>,
    /// TCP/IP over the first network interface.
    pub stack: Option<Stack>,
    /// All disks, in the order of their numbers.
    pub disks: Vec<NamedDisk>,
}

impl Machine {
    /// Finds the devices and starts to connect them.
    pub async fn start(info: &'static BootInfo, store: Option<Store>, plan: AddressPlan) -> Self {
        let mut machine = Self { info, store, stack: None, disks: Vec::new() };
        if let Some(store) = machine.store.clone()
            && let Err(error) = machine.find_devices(&store, plan).await
        {
            log::error!("devices cannot be looked for: {error}");
        }
        machine
    }

    async fn find_devices(&mut self, store: &Store, plan: AddressPlan) -> Result<(), StoreError> {
        if let Some(number) = numbers(store, "vif").await?.first() {
            let device = Device::frontend(store, "vif", *number).await?;
            let port = Rc::new(NetPort::new());
            self.stack = Some(Stack::start(Rc::clone(&port), plan));
            spawn(async move { lifecycle::run(&device, VifDriver::new(port)).await });
        }
        for number in numbers(store, "vbd").await? {
            let device = Device::frontend(store, "vbd", number).await?;
            let disk = Disk::new();
            // The low half of the number is what requests carry; back ends do not look at it.
            let driver = VbdDriver::new(&disk, number as u16);
            self.disks.push(NamedDisk { number, disk });
            spawn(async move { lifecycle::run(&device, driver).await });
        }
        Ok(())
    }

    /// Waits until all devices are up, or have taken too long.
    pub async fn wait_for_devices(&self) {
        for NamedDisk { number, disk } in &self.disks {
            match timeout(START_TIME, disk.geometry()).await {
                Ok(Ok(geometry)) => log::info!("disk {number}: {} sectors", geometry.sectors),
                _ => log::error!("disk {number} does not come up"),
            }
        }
        if let Some(stack) = &self.stack {
            match timeout(START_TIME, stack.wait_for_address()).await {
                Ok(address) => log::info!("network: {address}, {}", stack.port().address()),
                Err(_) => log::error!("the network does not come up"),
            }
        }
    }

    /// The network.
    ///
    /// # Errors
    ///
    /// If there is none.
    pub fn network(&self) -> Result<&Stack, Failure> {
        self.stack.as_ref().ok_or_else(|| Failure::new("there is no network interface"))
    }

    /// A disk, by its place in the list.
    ///
    /// # Errors
    ///
    /// If there is no such disk.
    pub fn disk(&self, index: usize) -> Result<&Disk, Failure> {
        let disk = self.disks.get(index).map(|named| &named.disk);
        disk.ok_or_else(|| Failure::new(format!("there is no disk {index}")))
    }
}

/// The numbers of the domain's front ends of a kind, in order.
async fn numbers(store: &Store, kind: &str) -> Result<Vec<u32>, StoreError> {
    let names: Vec<String> = match store.directory(&format!("device/{kind}")).await {
        Err(error) if error.is_not_found() => Vec::new(),
        names => names?,
    };
    let mut numbers: Vec<u32> = names.iter().filter_map(|name| name.parse().ok()).collect();
    numbers.sort_unstable();
    Ok(numbers)
}
