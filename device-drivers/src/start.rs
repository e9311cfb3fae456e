//! Starting a device that was found: its interrupts, its registers, its driver, and the task that answers it.

mod disks;

use alloc::rc::Rc;

use crate::net::Interface;
use crate::pci::{Address, Bus, COMMAND_MEMORY, Interrupt, Msix, change_command};
use crate::virtio::{MappedRegisters, SetupError, connect};
use crate::virtio_net::{self, Offloads, VirtioNet};

pub use disks::{DiskDriver, DiskKind, FoundDisk, start_disks};

/// The interrupts of a device, one for each use or fewer.
#[derive(Clone, Debug)]
pub struct Interrupts(Rc<[Interrupt]>);

impl Interrupts {
    /// Binds them.
    ///
    /// # Errors
    ///
    /// [`SetupError`] if the device has none, or the hypervisor gives none.
    pub fn bind(bus: &impl Bus, address: Address, uses: u16) -> Result<Self, SetupError> {
        // The table of messages is in the device's memory, which must answer when entries are written.
        change_command(bus, address, COMMAND_MEMORY, 0);
        let msix = Msix::find(bus, address).ok_or(SetupError::NoInterrupt)?;
        Ok(Self(bus.bind_interrupts(address, &msix, uses)?.into()))
    }

    /// The table entry for use `index`: its own, or the last for all that lack one.
    pub fn entry(&self, index: usize) -> u16 {
        index.min(self.0.len().saturating_sub(1)) as u16
    }

    /// Waits for the interrupt of use `index`; for ever if there is none at all.
    pub async fn wait(&self, index: usize) {
        match self.0.get(usize::from(self.entry(index))) {
            Some(interrupt) => interrupt.wait().await,
            None => core::future::pending().await,
        }
    }
}

/// What every device interrupts for: its configuration has changed. Of a network card that is its link.
pub const CONFIGURATION: usize = 0;
/// The interrupt of a network card for received frames.
pub const RECEIVE: usize = 1;
/// The interrupt of a network card for sent frames.
pub const SEND: usize = 2;

/// A network card and its interrupts, for whose answering its user cares.
pub type NetworkCard = (VirtioNet<MappedRegisters>, Interrupts);

/// Starts a virtio network card.
///
/// # Errors
///
/// [`SetupError`].
pub fn virtio_network_card(
    bus: &impl Bus,
    address: Address,
    offloads: Offloads,
) -> Result<NetworkCard, SetupError> {
    let interrupts = Interrupts::bind(bus, address, 3)?;
    let transport = connect(bus, address)?;
    let vectors = virtio_net::Vectors {
        configuration: interrupts.entry(CONFIGURATION),
        receive: interrupts.entry(RECEIVE),
        send: interrupts.entry(SEND),
    };
    let card = VirtioNet::start(transport, vectors, offloads)?;
    let state = if card.link_is_up() { "up" } else { "down" };
    log::info!("network interface at {address}: {}, link {state}", card.address());
    Ok((card, interrupts))
}
