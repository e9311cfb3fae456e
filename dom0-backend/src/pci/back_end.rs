//! The back end: one page and one operation for each guest, over all functions that it has.

use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cell::RefCell;
use core::sync::atomic::Ordering;

use device_drivers::pci::{Address, ConfigPorts, Function};
use hypercall_abi::io::pciif::*;
use hypercall_abi::{GrantReference, Port};
use pv_runtime::event_channel::EventChannel;
use pv_runtime::executor::{JoinHandle, spawn};
use pv_runtime::grant::{GrantAccess, GrantMapping, map};
use pv_runtime::memory::SharedMemory;
use pv_runtime::xenbus::Device;

use super::assigned::Assigned;
use super::functions::PciFunctions;
use crate::backend::{BackEnd, ConnectError, Connection};

/// Where the operation is in the page.
const OPERATION: usize = 4;
/// The most functions a guest can have: as many as there are devices on its one bus.
const MOST: u32 = 32;

/// The back end for all guests' functions.
pub struct PciBackEnd {
    functions: Rc<PciFunctions>,
}

impl PciBackEnd {
    /// A back end for these functions.
    pub fn new(functions: Rc<PciFunctions>) -> Self {
        Self { functions }
    }

    /// The functions that the toolstack wants a guest to have.
    async fn wanted(&self, device: &Device) -> Result<Vec<Function>, ConnectError> {
        let count: u32 = device.read_own(key::NUM_DEVS).await?.unwrap_or(0);
        let mut wanted = Vec::new();
        for number in 0..count.min(MOST) {
            let text: String = device.read_own(&format!("{}{number}", key::DEV)).await?.unwrap_or_default();
            let address = text.parse::<Address>().ok();
            let is_free = address.filter(|&address| self.functions.check(address).is_ok());
            let function = is_free.and_then(|address| self.functions.function(address));
            wanted.push(function.ok_or(ConnectError::NoSource(text))?);
        }
        Ok(wanted)
    }
}

impl BackEnd for PciBackEnd {
    const KIND: &'static str = "pci";
    type Connection = PciConnection;

    async fn offer(&self, device: &Device) -> Result<(), ConnectError> {
        let count = self.wanted(device).await?.len();
        for slot in 0..count {
            let place = format!("0000:00:{slot:02x}.0");
            device.store().write(&device.key(&format!("{}{slot}", key::VDEV)), place).await?;
        }
        device.store().write(&device.key(&format!("{}0", key::ROOT)), "0000:00").await?;
        Ok(device.store().write(&device.key(key::ROOT_NUM), "1".to_string()).await?)
    }

    async fn connect(&self, device: &Device) -> Result<PciConnection, ConnectError> {
        let magic: Option<String> = device.read_peer(key::MAGIC).await?;
        if magic.is_some_and(|magic| magic != XEN_PCI_MAGIC) {
            return Err(ConnectError::NotOffered("another version of the protocol"));
        }
        let reference = device.read_peer(key::OP_REF).await?.ok_or(ConnectError::Missing(key::OP_REF))?;
        let port = device.read_peer(key::EVENT_CHANNEL).await?;
        let port = Port(port.ok_or(ConnectError::Missing(key::EVENT_CHANNEL))?);
        let page = map(device.peer(), GrantReference(reference), GrantAccess::ReadWrite)?;
        let channel = EventChannel::bind_interdomain(device.peer(), port)?;
        let config = Rc::new(ConfigPorts::open()?);
        let assigned = self.assign(device, &config).await?;
        let assigned = Rc::new(RefCell::new(assigned));
        let task = spawn(serve(page, channel, Rc::clone(&config), Rc::clone(&assigned)));
        Ok(PciConnection { task, config, assigned, functions: Rc::clone(&self.functions) })
    }
}

impl PciBackEnd {
    /// Gives a guest all its functions, or none.
    async fn assign(&self, device: &Device, config: &ConfigPorts) -> Result<Vec<Assigned>, ConnectError> {
        let mut assigned = Vec::new();
        for function in self.wanted(device).await? {
            match Assigned::begin(config, &function, device.peer()).await {
                Ok(one) => assigned.push(one),
                Err(errno) => {
                    log::error!("{} for domain {}: {errno}", function.address, device.peer());
                    take_back(assigned, config, &self.functions).await;
                    return Err(errno.into());
                }
            }
        }
        Ok(assigned)
    }
}

async fn take_back(assigned: Vec<Assigned>, config: &ConfigPorts, functions: &PciFunctions) {
    for one in assigned {
        if let Err(address) = one.end(config).await {
            functions.give_up(address);
        }
    }
}

/// The functions that a guest has.
pub struct PciConnection {
    task: JoinHandle<()>,
    config: Rc<ConfigPorts>,
    assigned: Rc<RefCell<Vec<Assigned>>>,
    functions: Rc<PciFunctions>,
}

impl Connection for PciConnection {
    /// Nothing that a guest asks for is more than refused.
    async fn failed(&self) -> String {
        core::future::pending().await
    }

    async fn close(self) {
        self.task.cancel();
        let assigned = self.assigned.take();
        take_back(assigned, &self.config, &self.functions).await;
    }
}

/// Does one operation after the other.
async fn serve(
    page: GrantMapping,
    channel: EventChannel,
    config: Rc<ConfigPorts>,
    assigned: Rc<RefCell<Vec<Assigned>>>,
) {
    loop {
        channel.wait().await;
        let flags = &page.words()[0];
        // Acquire: the operation is read after the bit that says it is there.
        if flags.load(Ordering::Acquire) & XEN_PCIF_ACTIVE == 0 {
            continue;
        }
        let mut op: XenPciOp = page.read(OPERATION);
        carry_out(&config, &mut assigned.borrow_mut(), &mut op);
        page.write(OPERATION, &op);
        // Release: the answer is there before the bit goes.
        flags.fetch_and(!XEN_PCIF_ACTIVE, Ordering::Release);
        // Fails only if the guest closed its end, and then it misses nothing.
        let _ = channel.notify();
    }
}

/// Functions are the guest's devices 0, 1 and so on of bus 0, one function each.
fn carry_out(config: &ConfigPorts, assigned: &mut [Assigned], op: &mut XenPciOp) {
    let slot = (op.devfn >> 3) as usize;
    let is_there = op.domain == 0 && op.bus == 0 && op.devfn & 7 == 0;
    match assigned.get_mut(slot).filter(|_| is_there) {
        Some(function) => function.carry_out(config, op),
        None => op.err = XEN_PCI_ERR_DEV_NOT_FOUND,
    }
}
