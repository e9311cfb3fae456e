//! Interrupts of a function, as event channels.
//!
//! The hypervisor owns the table that says where a function's messages go. For each entry it gives out a
//! number (a pirq) that an event channel can be bound to, and writes the entry when that happens.

use alloc::vec::Vec;

use hypercall_abi::physdev::{MAP_PIRQ_TYPE_MSI_SEG, PhysdevMapPirq, PhysdevPciDeviceAdd, PhysdevUnmapPirq};
use hypercall_abi::{DomainId, Errno, PhysicalIrq};
use pv_runtime::event_channel::EventChannel;
use pv_runtime::hypercall::physdev_op;

use super::bus::Bus;
use super::capability::Msix;
use super::config_space::Address;
use super::ports::ConfigPorts;

/// Tells the hypervisor that a function is there, before anything else about it.
///
/// # Errors
///
/// What the hypervisor answers.
pub fn report(function: Address) -> Result<(), Errno> {
    physdev_op(&mut PhysdevPciDeviceAdd { bus: function.bus, devfn: function.devfn, ..Default::default() })
}

/// One message-signalled interrupt of a function, given back when this is dropped.
#[derive(Debug)]
pub struct Interrupt {
    // Dropped first: the hypervisor does not take back a number with a channel bound to it.
    channel: EventChannel,
    /// None if the number is somebody else's to give back.
    _number: Option<MappedNumber>,
}

impl Interrupt {
    /// Directs entry `entry` of the function's table to a new event channel.
    ///
    /// # Errors
    ///
    /// `EINVAL` if there is no such entry, or what the hypervisor answers.
    fn bind(function: Address, msix: &Msix, entry: u16) -> Result<Self, Errno> {
        let number = MappedNumber::map(function, msix, entry)?;
        Ok(Self { channel: EventChannel::bind_pirq(number.0)?, _number: Some(number) })
    }

    /// Takes an interrupt whose number a back end has mapped for this domain, and will give back.
    ///
    /// # Errors
    ///
    /// What the hypervisor answers.
    pub fn of_number(number: PhysicalIrq) -> Result<Self, Errno> {
        Ok(Self { channel: EventChannel::bind_pirq(number)?, _number: None })
    }

    /// Waits for the interrupt, and lets the next one come.
    pub async fn wait(&self) {
        self.channel.wait().await;
        if let Err(errno) = self.channel.end_of_interrupt() {
            log::warn!("interrupt on event channel {}: {errno}", self.channel.port());
        }
    }
}

impl Bus for ConfigPorts {
    fn bind_interrupts(&self, function: Address, msix: &Msix, count: u16) -> Result<Vec<Interrupt>, Errno> {
        let entries = 0..count.min(msix.entries);
        let interrupts =
            entries.map(|entry| Interrupt::bind(function, msix, entry)).collect::<Result<_, _>>()?;
        msix.enable(self);
        Ok(interrupts)
    }
}

/// A number for an interrupt, ours until this is dropped.
#[derive(Debug)]
struct MappedNumber(PhysicalIrq);

impl MappedNumber {
    fn map(function: Address, msix: &Msix, entry: u16) -> Result<Self, Errno> {
        let mut operation = PhysdevMapPirq {
            domid: DomainId::SELF,
            r#type: MAP_PIRQ_TYPE_MSI_SEG,
            index: -1,
            pirq: -1,
            bus: i32::from(function.bus),
            devfn: i32::from(function.devfn),
            entry_nr: i32::from(entry),
            table_base: msix.table_memory.address,
            ..Default::default()
        };
        physdev_op(&mut operation)?;
        u32::try_from(operation.pirq).map(|pirq| Self(PhysicalIrq(pirq))).map_err(|_| Errno::EINVAL)
    }
}

impl Drop for MappedNumber {
    fn drop(&mut self) {
        let mut operation =
            PhysdevUnmapPirq { domid: DomainId::SELF, pirq: self.0.0 as i32, ..Default::default() };
        if let Err(errno) = physdev_op(&mut operation) {
            log::warn!("interrupt number {} is not taken back: {errno}", self.0);
        }
    }
}
