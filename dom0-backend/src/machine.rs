//! The machine's devices, found and started: disks that guests can be given parts of, and the interface that the
//! switch sends and receives by.
//!
//! A device that cannot be started is passed over with a message; the others work without it.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::future::pending;
use core::sync::atomic::Ordering;
use core::time::Duration;

use hypercall_abi::{Errno, PAGE_SIZE};
use pv_runtime::event_channel::EventChannel;
use pv_runtime::executor::{Either, now, select, select4, sleep_until, spawn, yield_now};
use pv_runtime::grant::{CopyBatch, GrantMapping};
use pv_runtime::memory::{PageRun, SharedMemory};

use crate::block::{
    BlockDevice, IoError, Operation, Partition, SECTOR_SIZE, TABLE_SECTORS, partitions, transfer,
};
use crate::net::{Channel, Moderation, Platform, Switch};
use crate::pci::{PciFunctions, Use};
use device_drivers::pci::{Address, ConfigPorts, Function, Reset, report, scan};
use device_drivers::start::{
    CONFIGURATION, DiskDriver, DiskKind, FoundDisk, Interrupts, RECEIVE, SEND, start_disks,
    virtio_network_card,
};
use device_drivers::virtio::{DeviceKind, MappedRegisters, SetupError};
use device_drivers::virtio_net::{Offloads, VirtioNet};
use ip_stack::Card;

/// Pages for frames: what the interface receives into, and as many again for frames to be sent.
const FRAME_BUFFERS: usize = 1024;
/// The same for dom0's own card.
const MANAGEMENT_BUFFERS: usize = 128;

/// Pages that are read when a disk is checked.
const CHECKED_PAGES: usize = 16;

/// What the switch is made of on the machine.
pub enum Machine {}

impl Platform for Machine {
    type Ring = GrantMapping;
    type Channel = Rc<EventChannel>;
    type Copy = CopyBatch;
    type Interface = VirtioNet<MappedRegisters>;
}

impl Channel for Rc<EventChannel> {
    #[inline]
    fn notify(&self) {
        // Fails only if the guest closed its end, and then it misses nothing.
        let _ = EventChannel::notify(self);
    }
}

/// The switch of the machine.
pub type MachineSwitch = Rc<RefCell<Switch<Machine>>>;

/// A disk of the machine.
#[derive(Clone)]
pub struct Disk {
    /// What it is called: `disk0` and so on.
    pub name: String,
    /// The disk.
    pub device: Rc<dyn BlockDevice>,
}

/// What was found and works.
#[derive(Default)]
pub struct Devices {
    /// The disks, in the order in which they are plugged in.
    pub disks: Vec<Disk>,
    /// The switch, if the machine has an interface for it.
    pub switch: Option<MachineSwitch>,
    /// The network card that is dom0's own.
    pub management: Option<Rc<ManagementCard>>,
    /// All PCI functions, and what is done with each.
    pub functions: Rc<PciFunctions>,
    /// What drives the disks, by the function that does it.
    pub drivers: BTreeMap<Address, DiskDriver>,
    /// How long a disk may take for a request.
    patience: Duration,
    /// Network cards that were found.
    cards: usize,
}

/// The network card by which dom0 itself is reached, and nobody else.
pub type ManagementCard = Card<VirtioNet<MappedRegisters>>;

/// Finds the machine's devices, tells the hypervisor of them, and starts those that there are drivers for, but for those
/// `hidden`, which are kept for guests. The network card called `management`, such as `nic1`, is kept for dom0 itself. A
/// disk may take as long as `patience` for a request.
///
/// # Errors
///
/// [`Errno`] if the hypervisor lets us at no devices at all.
pub async fn start_devices(
    management: Option<&str>,
    hidden: &[Address],
    patience: Duration,
) -> Result<Devices, Errno> {
    let config = ConfigPorts::open()?;
    let mut devices = Devices { patience, ..Devices::default() };
    for function in scan(&config) {
        if let Err(errno) = report(function.address) {
            log::debug!("{}: not taken note of by the hypervisor: {errno}", function.address);
        }
        let used = match hidden.contains(&function.address) {
            true => Use::Assignable,
            false => start(&config, &function, management, &mut devices).await,
        };
        let has_reset = Reset::find(&config, &function).is_some();
        let is_ours = matches!(used, Use::Driven(_));
        devices.functions.add(function, if has_reset || is_ours { used } else { Use::NoReset });
    }
    Ok(devices)
}

/// Starts a function's driver, if there is one and nothing is wrong.
async fn start(
    config: &ConfigPorts,
    function: &Function,
    management: Option<&str>,
    devices: &mut Devices,
) -> Use {
    let address = function.address;
    let started = match (DiskKind::of(function), DeviceKind::of(function)) {
        (Some(kind), _) => start_disk(config, address, kind, devices).await,
        (None, Some(DeviceKind::NETWORK)) => {
            let name = format!("nic{}", devices.cards);
            devices.cards += 1;
            if management == Some(name.as_str()) {
                start_management(config, address, devices)
            } else {
                start_interface(config, address, devices)
            }
        }
        _ => return Use::Nothing,
    };
    match started {
        Ok(name) => name.map_or(Use::Nothing, Use::Driven),
        Err(error) => {
            log::error!("{address}: not started: {error}");
            Use::Nothing
        }
    }
}

/// Reads the first sectors of a disk and says what they add up to, so that somebody who knows what is on the disk
/// can tell whether it works.
///
/// # Errors
///
/// [`IoError`].
pub async fn check_disk(disk: &Disk) -> Result<(), IoError> {
    let memory = PageRun::new(CHECKED_PAGES).map_err(|_| IoError::Device)?;
    let (result, memory) = transfer(&*disk.device, Operation::Read, 0, memory).await;
    result?;
    let sum = memory.bytes().iter().map(|byte| u64::from(byte.load(Ordering::Relaxed))).sum::<u64>();
    log::info!("{}: the bytes of its first {} sum up to {sum}", disk.name, memory.size());
    Ok(())
}

/// The partitions of a disk.
///
/// # Errors
///
/// [`IoError`].
pub async fn disk_partitions(disk: &Disk) -> Result<Vec<Partition>, IoError> {
    let sectors = disk.device.geometry().sectors;
    let bytes = (TABLE_SECTORS * u64::from(SECTOR_SIZE)) as usize;
    let memory = PageRun::new(bytes.div_ceil(PAGE_SIZE)).map_err(|_| IoError::Device)?;
    if sectors < memory.size() as u64 / u64::from(SECTOR_SIZE) {
        // Too small to be worth dividing.
        return Ok(Vec::new());
    }
    let (result, memory) = transfer(&*disk.device, Operation::Read, 0, memory).await;
    result?;
    let mut start = vec![0; memory.size()];
    memory.copy_out(0, &mut start);
    Ok(partitions(&start, sectors))
}

/// Starts the disks of a function; what they are called.
async fn start_disk(
    config: &ConfigPorts,
    address: Address,
    kind: DiskKind,
    devices: &mut Devices,
) -> Result<Option<String>, SetupError> {
    let driver = start_disks(config, address, kind, devices.patience).await?;
    let first = devices.disks.len();
    devices.disks.extend((first..).zip(&driver.disks).map(|(number, found)| disk(number, found, address)));
    devices.drivers.insert(address, driver);
    let names: Vec<_> = devices.disks[first..].iter().map(|disk| disk.name.as_str()).collect();
    Ok((!names.is_empty()).then(|| names.join(" and ")))
}

fn disk(number: usize, found: &FoundDisk, address: Address) -> Disk {
    let name = format!("disk{number}");
    let FoundDisk { device, identity } = found;
    let geometry = device.geometry();
    let megabytes = geometry.sectors / (1024 * 1024 / u64::from(SECTOR_SIZE));
    let access = if geometry.is_read_only { "read-only" } else { "read and write" };
    log::info!("{name} at {address}: {megabytes} MiB, {access}, {identity:?}");
    Disk { name, device: Rc::clone(device) }
}

fn start_interface(
    config: &ConfigPorts,
    address: Address,
    devices: &mut Devices,
) -> Result<Option<String>, SetupError> {
    if devices.switch.is_some() {
        log::warn!("{address}: a second network interface is not used");
        return Ok(None);
    }
    let (interface, interrupts) = virtio_network_card(config, address, Offloads::Taken)?;
    let mut switch = Switch::new([CopyBatch::new(), CopyBatch::new()], FRAME_BUFFERS);
    switch.set_interface(interface);
    let switch = Rc::new(RefCell::new(switch));
    spawn(serve_interface(Rc::clone(&switch), interrupts));
    devices.switch = Some(switch);
    Ok(Some("the switch's network card".into()))
}

/// Notes whether the switch's network card has a link.
fn look_at_link(switch: &MachineSwitch) {
    match switch.borrow_mut().look_at_link() {
        Some(true) => log::warn!("the switch's network card has a link again"),
        Some(false) => log::warn!("the switch's network card has no link"),
        None => {}
    }
}

/// Starts a card for dom0 itself. What comes and goes there is little, so it is done without the card's help.
fn start_management(
    config: &ConfigPorts,
    address: Address,
    devices: &mut Devices,
) -> Result<Option<String>, SetupError> {
    let (interface, interrupts) = virtio_network_card(config, address, Offloads::Refused)?;
    let card = Rc::new(Card::new(interface, MANAGEMENT_BUFFERS));
    spawn(serve_management(Rc::clone(&card), interrupts));
    devices.management = Some(card);
    Ok(Some("domain 0's own network card".into()))
}

async fn serve_management(card: Rc<ManagementCard>, interrupts: Interrupts) {
    loop {
        select(interrupts.wait(RECEIVE), interrupts.wait(SEND)).await;
        card.ring();
    }
}

async fn serve_interface(switch: MachineSwitch, interrupts: Interrupts) {
    let bell = Rc::clone(switch.borrow().interface_bell());
    let counters = Rc::clone(switch.borrow().counters());
    let mut moderation = Moderation::default();
    loop {
        let start = now();
        let round = counters.cost.of_round(|| switch.borrow_mut().serve_interface(start));
        let wish = moderation.after_round(round.taken, start, now());
        if switch.borrow_mut().ask_for_frames(wish.count) {
            yield_now().await;
            continue;
        }
        let time = async {
            match wish.deadline {
                Some(deadline) => sleep_until(deadline).await,
                None => pending().await,
            }
        };
        let work = select4(interrupts.wait(RECEIVE), interrupts.wait(SEND), bell.wait(), time);
        if let Either::First(()) = select(interrupts.wait(CONFIGURATION), work).await {
            look_at_link(&switch);
        }
    }
}
