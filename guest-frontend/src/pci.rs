//! Devices of the machine that were given to this domain: their configuration space by way of dom0, everything else
//! directly.
//!
//! There is one operation at a time, in a page that dom0 may write (`public/io/pciif.h`). Whoever asks waits on the spot:
//! drivers take configuration registers for something that answers at once, and they are needed at start-up only.

use alloc::format;
use alloc::rc::Rc;
use core::sync::atomic::Ordering;
use core::time::Duration;

use device_drivers::pci::{Address, ConfigSpace};
use hypercall_abi::io::pciif::*;
use pv_runtime::event_channel::EventChannel;
use pv_runtime::executor::now;
use pv_runtime::grant::{Grant, GrantAccess, grant_access};
use pv_runtime::hypercall::sched_yield;
use pv_runtime::memory::{Page, SharedMemory};
use pv_runtime::xenbus::{Device, StoreError, Transaction, XenbusState};

use crate::fault::Fault;
use crate::lifecycle::{ConnectError, Driver, wait_until_connected};

/// Where the operation is in the page.
const OPERATION: usize = 4;
/// How long dom0 may take for one.
const PATIENCE: Duration = Duration::from_secs(5);

/// The way to configuration space.
pub struct PciFront {
    page: Rc<Page>,
    grant: Option<Grant>,
    channel: EventChannel,
}

impl PciFront {
    fn new(device: &Device) -> Result<Self, ConnectError> {
        let page = Rc::new(Page::new()?);
        let grant = Some(grant_access(device.peer(), page.machine_frame(), GrantAccess::ReadWrite)?);
        Ok(Self { page, grant, channel: EventChannel::alloc_unbound(device.peer())? })
    }

    async fn publish(&self, device: &Device, transaction: &Transaction) -> Result<(), StoreError> {
        if let Some(grant) = &self.grant {
            transaction.write(&device.key(key::OP_REF), format!("{}", grant.reference())).await?;
        }
        let port = self.channel.port();
        transaction.write(&device.key(key::EVENT_CHANNEL), format!("{port}")).await?;
        transaction.write(&device.key(key::MAGIC), XEN_PCI_MAGIC).await
    }

    /// Has dom0 do an operation on a function, and gives what came of it.
    fn ask(&self, function: Address, mut op: XenPciOp) -> Result<XenPciOp, i32> {
        (op.bus, op.devfn) = (u32::from(function.bus), u32::from(function.devfn));
        let flags = &self.page.words()[0];
        self.page.write(OPERATION, &op);
        // Release: the operation is there before the bit that says so.
        flags.store(XEN_PCIF_ACTIVE, Ordering::Release);
        self.channel.notify().map_err(|_| XEN_PCI_ERR_OP_FAILED)?;
        let deadline = now() + PATIENCE;
        // Acquire: the answer is read after the bit is gone.
        while flags.load(Ordering::Acquire) & XEN_PCIF_ACTIVE != 0 {
            if now() > deadline {
                log::error!("{function}: dom0 does not answer");
                return Err(XEN_PCI_ERR_OP_FAILED);
            }
            sched_yield();
        }
        let answer: XenPciOp = self.page.read(OPERATION);
        if answer.err == XEN_PCI_ERR_SUCCESS { Ok(answer) } else { Err(answer.err) }
    }

    /// A register; all ones where there is none, as on a bus.
    fn read(&self, function: Address, register: u8, size: i32) -> u32 {
        let op = XenPciOp { cmd: XEN_PCI_OP_CONF_READ, offset: register.into(), size, ..Default::default() };
        self.ask(function, op).map_or(u32::MAX, |answer| answer.value)
    }

    fn write(&self, function: Address, register: u8, size: i32, value: u32) {
        let cmd = XEN_PCI_OP_CONF_WRITE;
        let op = XenPciOp { cmd, offset: register.into(), size, value, ..Default::default() };
        if let Err(error) = self.ask(function, op) {
            log::warn!("{function}: register {register:#x} is not written: {error}");
        }
    }
}

impl ConfigSpace for PciFront {
    fn read_u8(&self, function: Address, register: u8) -> u8 {
        self.read(function, register, 1) as u8
    }

    fn read_u16(&self, function: Address, register: u8) -> u16 {
        self.read(function, register, 2) as u16
    }

    fn read_u32(&self, function: Address, register: u8) -> u32 {
        self.read(function, register, 4)
    }

    fn write_u16(&self, function: Address, register: u8, value: u16) {
        self.write(function, register, 2, value.into());
    }

    fn write_u32(&self, function: Address, register: u8, value: u32) {
        self.write(function, register, 4, value);
    }
}

#[cfg(target_os = "none")]
mod interrupts {
    use alloc::vec::Vec;

    use device_drivers::pci::{Address, Bus, Interrupt, Msix};
    use hypercall_abi::io::pciif::*;
    use hypercall_abi::{Errno, PhysicalIrq};

    use super::PciFront;

    impl Bus for PciFront {
        fn bind_interrupts(
            &self,
            function: Address,
            msix: &Msix,
            count: u16,
        ) -> Result<Vec<Interrupt>, Errno> {
            let count = count.min(msix.entries).min(SH_INFO_MAX_VEC as u16);
            let mut op = XenPciOp { cmd: XEN_PCI_OP_ENABLE_MSIX, value: count.into(), ..Default::default() };
            for (place, entry) in op.msix_entries.iter_mut().zip(0..count) {
                place.entry = entry;
            }
            let answer = self.ask(function, op).map_err(|_| Errno::EIO)?;
            let numbers = answer.msix_entries.iter().take(count.into());
            let bind = |entry: &XenMsixEntry| Interrupt::of_number(PhysicalIrq(entry.vector.into()));
            let interrupts = numbers.map(bind).collect::<Result<_, _>>()?;
            msix.enable(self);
            Ok(interrupts)
        }
    }
}

impl Drop for PciFront {
    fn drop(&mut self) {
        // Dom0 has let go of the page when it is closed; else the page is lost, rather than used for something else.
        if let Some(Err(_)) = self.grant.take().map(Grant::end) {
            log::error!("a page is lost: dom0 has hold of it");
            core::mem::forget(Rc::clone(&self.page));
        }
    }
}

/// Connects to the back end, and hands the way to configuration space to `found`.
pub struct PciDriver<F> {
    found: F,
    front: Option<Rc<PciFront>>,
}

impl<F: AsyncFnMut(&PciFront)> PciDriver<F> {
    /// A driver that calls `found` when it is connected.
    pub fn new(found: F) -> Self {
        Self { found, front: None }
    }
}

impl<F: AsyncFnMut(&PciFront)> Driver for PciDriver<F> {
    async fn connect(&mut self, device: &Device) -> Result<(), ConnectError> {
        let front = Rc::new(PciFront::new(device)?);
        device.store().transaction(async |transaction| front.publish(device, transaction).await).await?;
        device.switch_state(XenbusState::Initialised).await?;
        wait_until_connected(device).await?;
        device.switch_state(XenbusState::Connected).await?;
        (self.found)(&front).await;
        self.front = Some(front);
        Ok(())
    }

    /// Everything but configuration space goes by without this.
    async fn serve(&mut self) -> Fault {
        core::future::pending().await
    }

    async fn drain(&mut self) {}

    fn disconnect(&mut self) {
        self.front = None;
    }

    fn give_up(&mut self) {}
}
