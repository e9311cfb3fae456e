//! Starting what drives disks, and ending it again. A function may have several.

use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use pv_runtime::executor::{Either, JoinHandle, select, spawn};

use super::{CONFIGURATION, Interrupts};
use crate::disk::BlockDevice;
use crate::nvme::{self, Controller};
use crate::pci::{Address, Bus, COMMAND_BUS_MASTER, Function, MemoryRange, change_command, memory_range};
use crate::registers::MappedRegisters;
use crate::setup_error::SetupError;
use crate::virtio::{DeviceKind, connect};
use crate::virtio_blk::{self, VirtioBlk};

/// What a disk interrupts for.
const REQUESTS: usize = 1;

/// Kinds of functions that drive disks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskKind {
    /// A virtio disk.
    Virtio,
    /// A controller for NVM Express disks.
    Nvme,
}

impl DiskKind {
    /// Of which kind a function is, if there is a driver for its disks.
    pub fn of(function: &Function) -> Option<Self> {
        if DeviceKind::of(function) == Some(DeviceKind::BLOCK) {
            return Some(Self::Virtio);
        }
        (function.class == nvme::CLASS).then_some(Self::Nvme)
    }
}

/// A disk that was found.
#[derive(Clone)]
pub struct FoundDisk {
    /// The disk.
    pub device: Rc<dyn BlockDevice>,
    /// The text that identifies it, which whoever made it chose.
    pub identity: String,
}

/// What drives disks.
enum Driver {
    Virtio(Rc<VirtioBlk<MappedRegisters>>),
    Nvme(Rc<Controller<MappedRegisters>>),
}

/// The disks of a function, and what drives them.
pub struct DiskDriver {
    /// The disks.
    pub disks: Vec<FoundDisk>,
    driver: Driver,
    tasks: Vec<JoinHandle<()>>,
}

/// Starts the disks of a function of this kind, which may take so long for a request.
///
/// # Errors
///
/// [`SetupError`].
pub async fn start_disks(
    bus: &impl Bus,
    address: Address,
    kind: DiskKind,
    patience: Duration,
) -> Result<DiskDriver, SetupError> {
    match kind {
        DiskKind::Virtio => start_virtio(bus, address, patience).await,
        DiskKind::Nvme => start_nvme(bus, address, patience).await,
    }
}

impl DiskDriver {
    /// Ends their use: what is under way fails, what comes is refused, the device is reset and its interrupts are given
    /// back. Afterwards it uses nobody's memory.
    ///
    /// # Errors
    ///
    /// [`SetupError::Stuck`] if it cannot be stopped. Then what is under way stays so for ever.
    pub async fn shut_down(self) -> Result<(), SetupError> {
        match &self.driver {
            Driver::Virtio(disk) => disk.shut_down()?,
            Driver::Nvme(controller) => controller.shut_down().await?,
        }
        self.tasks.into_iter().for_each(JoinHandle::cancel);
        Ok(())
    }
}

async fn start_virtio(
    bus: &impl Bus,
    address: Address,
    patience: Duration,
) -> Result<DiskDriver, SetupError> {
    let interrupts = Interrupts::bind(bus, address, 2)?;
    let transport = connect(bus, address)?;
    let vectors = virtio_blk::Vectors {
        configuration: interrupts.entry(CONFIGURATION),
        requests: interrupts.entry(REQUESTS),
    };
    let disk = Rc::new(VirtioBlk::start(transport, vectors, format!("disk {address}"), patience)?);
    let (served, watched) = (Rc::clone(&disk), Rc::clone(&disk));
    let tasks =
        [spawn(serve_virtio(served, interrupts)), spawn(async move { watched.look_after().await })].into();
    let identity = disk.identify().await.unwrap_or_default();
    let disks = [FoundDisk { device: Rc::clone(&disk) as _, identity }].into();
    Ok(DiskDriver { disks, driver: Driver::Virtio(disk), tasks })
}

async fn serve_virtio(disk: Rc<VirtioBlk<MappedRegisters>>, interrupts: Interrupts) {
    loop {
        if let Either::First(()) = select(interrupts.wait(CONFIGURATION), interrupts.wait(REQUESTS)).await {
            disk.check_health();
        }
        disk.take_completions();
    }
}

async fn start_nvme(bus: &impl Bus, address: Address, patience: Duration) -> Result<DiskDriver, SetupError> {
    // The first entry announces what is asked of the controller itself, which nobody waits for.
    let interrupts = Interrupts::bind(bus, address, 2)?;
    change_command(bus, address, COMMAND_BUS_MASTER, 0);
    let memory = memory_range(bus, address, 0).ok_or(SetupError::BadRegion)?;
    let registers = map(&memory, 0, nvme::REGISTERS_LENGTH)?;
    let doorbells = map(&memory, nvme::REGISTERS_LENGTH, nvme::doorbells_length(&registers))?;
    let (entry, name) = (interrupts.entry(REQUESTS), format!("disk controller {address}"));
    let controller = Rc::new(Controller::new(registers, doorbells, entry, name, patience)?);
    let found = controller.start().await?;
    let disks = found.into_iter().map(|(disk, identity)| FoundDisk { device: disk, identity }).collect();
    let (served, watched) = (Rc::clone(&controller), Rc::clone(&controller));
    let tasks =
        [spawn(serve_nvme(served, interrupts)), spawn(async move { watched.look_after().await })].into();
    Ok(DiskDriver { disks, driver: Driver::Nvme(controller), tasks })
}

/// Maps a part of a function's memory.
fn map(memory: &MemoryRange, offset: usize, length: usize) -> Result<MappedRegisters, SetupError> {
    let address = memory.part(offset as u64, length as u64).ok_or(SetupError::BadRegion)?;
    MappedRegisters::map(address, length)
}

async fn serve_nvme(controller: Rc<Controller<MappedRegisters>>, interrupts: Interrupts) {
    loop {
        interrupts.wait(REQUESTS).await;
        controller.take_completions();
    }
}
