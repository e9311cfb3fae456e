//! A function while a guest has it: its rights, its interrupts, and how it is taken back.

use alloc::vec::Vec;
use core::ops::RangeInclusive;

use device_drivers::pci::{
    Address, BASE_ADDRESS_COUNT, ConfigPorts, Function, Msix, Reset, memory_range, port_range,
};
use hypercall_abi::io::pciif::*;
use hypercall_abi::physdev::{MAP_PIRQ_TYPE_MSI_SEG, PhysdevMapPirq, PhysdevUnmapPirq};
use hypercall_abi::{DomainId, Errno, PAGE_SHIFT, PhysicalIrq};
use pv_runtime::hypercall::physdev_op;

use super::registers::{Refused, Registers};
use crate::toolstack::control::{self, IoRange};

/// A function that a guest has.
pub struct Assigned {
    guest: DomainId,
    address: Address,
    reset: Reset,
    registers: Registers,
    rights: Vec<IoRange>,
    interrupts: Vec<PhysicalIrq>,
}

impl Assigned {
    /// Resets a function, and gives a guest the right to its memory and ports.
    ///
    /// # Errors
    ///
    /// `EOPNOTSUPP` if it cannot be reset, `EIO` if it does not come out of it, `EINVAL` if its memory shares a page with
    /// something else, or what the hypervisor says; the guest has no rights then.
    pub async fn begin(config: &ConfigPorts, function: &Function, guest: DomainId) -> Result<Self, Errno> {
        let address = function.address;
        let reset = Reset::find(config, function).ok_or(Errno::EOPNOTSUPP)?;
        reset.run(config, address).await.map_err(|_| Errno::EIO)?;
        let registers = Registers::of(config, address);
        let mut assigned =
            Self { guest, address, reset, registers, rights: Vec::new(), interrupts: Vec::new() };
        for range in ranges(config, address)? {
            match control::allow_io(guest, &range, true) {
                Ok(()) => assigned.rights.push(range),
                Err(errno) => {
                    assigned.revoke();
                    return Err(errno);
                }
            }
        }
        Ok(assigned)
    }

    /// Does what the guest asks for, and writes the answer into `op`.
    pub fn carry_out(&mut self, config: &ConfigPorts, op: &mut XenPciOp) {
        op.err = match op.cmd {
            XEN_PCI_OP_CONF_READ => match self.registers.read(config, op.offset, op.size) {
                Ok(value) => {
                    op.value = value;
                    XEN_PCI_ERR_SUCCESS
                }
                Err(refused) => error_of(refused),
            },
            XEN_PCI_OP_CONF_WRITE => {
                let written = self.registers.write(config, op.offset, op.size, op.value);
                written.map_or_else(error_of, |()| XEN_PCI_ERR_SUCCESS)
            }
            XEN_PCI_OP_ENABLE_MSI => self.enable_message(op),
            XEN_PCI_OP_ENABLE_MSIX => self.enable_messages(config, op),
            XEN_PCI_OP_DISABLE_MSI | XEN_PCI_OP_DISABLE_MSIX => {
                self.release_interrupts();
                XEN_PCI_ERR_SUCCESS
            }
            _ => XEN_PCI_ERR_NOT_IMPLEMENTED,
        };
    }

    fn enable_message(&mut self, op: &mut XenPciOp) -> i32 {
        match self.add_interrupt(0, 0) {
            Ok(interrupt) => {
                op.value = interrupt.0;
                XEN_PCI_ERR_SUCCESS
            }
            Err(_) => XEN_PCI_ERR_OP_FAILED,
        }
    }

    /// Gives the guest an interrupt for each of the table entries that it names.
    fn enable_messages(&mut self, config: &ConfigPorts, op: &mut XenPciOp) -> i32 {
        let Some(msix) = Msix::find(config, self.address) else { return XEN_PCI_ERR_OP_FAILED };
        let count = op.value as usize;
        if count > SH_INFO_MAX_VEC {
            return XEN_PCI_ERR_INVALID_OFFSET;
        }
        for place in 0..count {
            let entry = op.msix_entries[place].entry;
            match self.add_interrupt(entry, msix.table_memory.address) {
                Ok(interrupt) => op.msix_entries[place].vector = interrupt.0 as u16,
                Err(errno) => {
                    log::warn!("{}: no interrupt for entry {entry}: {errno}", self.address);
                    self.release_interrupts();
                    return XEN_PCI_ERR_OP_FAILED;
                }
            }
        }
        op.value = 0;
        XEN_PCI_ERR_SUCCESS
    }

    fn add_interrupt(&mut self, entry: u16, table: u64) -> Result<PhysicalIrq, Errno> {
        let mut map = PhysdevMapPirq {
            domid: self.guest,
            r#type: MAP_PIRQ_TYPE_MSI_SEG,
            index: -1,
            pirq: -1,
            bus: i32::from(self.address.bus),
            devfn: i32::from(self.address.devfn),
            entry_nr: i32::from(entry),
            table_base: table,
            ..Default::default()
        };
        physdev_op(&mut map)?;
        let interrupt = PhysicalIrq(u32::try_from(map.pirq).map_err(|_| Errno::EINVAL)?);
        if !self.interrupts.contains(&interrupt) {
            self.interrupts.push(interrupt);
        }
        control::allow_interrupt(self.guest, interrupt, true)?;
        Ok(interrupt)
    }

    /// Takes the interrupts back. One that the guest still listens to stays its until it is gone.
    fn release_interrupts(&mut self) {
        for interrupt in self.interrupts.drain(..) {
            let mut unmap =
                PhysdevUnmapPirq { domid: self.guest, pirq: interrupt.0 as i32, ..Default::default() };
            if let Err(errno) = physdev_op(&mut unmap) {
                log::debug!("interrupt {} of domain {}: {errno}", interrupt.0, self.guest);
            }
            // The right goes with the domain at the latest.
            let _ = control::allow_interrupt(self.guest, interrupt, false);
        }
    }

    fn revoke(&mut self) {
        for range in self.rights.drain(..) {
            if let Err(errno) = control::allow_io(self.guest, &range, false) {
                log::debug!("{}: {errno}", self.address);
            }
        }
    }

    /// Takes the function back: it is off the bus and reset before this returns, so it uses none of the guest's memory.
    ///
    /// # Errors
    ///
    /// The function, if it could not be reset. It is off the bus all the same, and nobody should get it.
    pub async fn end(mut self, config: &ConfigPorts) -> Result<(), Address> {
        let reset = self.reset.run(config, self.address).await;
        self.release_interrupts();
        self.revoke();
        reset.map_err(|error| {
            log::error!("{}: not reset: {error}", self.address);
            self.address
        })
    }
}

fn error_of(refused: Refused) -> i32 {
    match refused {
        Refused::Offset => XEN_PCI_ERR_INVALID_OFFSET,
        Refused::Write => XEN_PCI_ERR_ACCESS_DENIED,
    }
}

/// What a guest must be let at: the function's ports, and its memory but for the table of interrupt messages, which is
/// the hypervisor's.
fn ranges(config: &ConfigPorts, address: Address) -> Result<Vec<IoRange>, Errno> {
    let table = Msix::find(config, address).map(|msix| msix.table());
    let mut ranges = Vec::new();
    for index in 0..BASE_ADDRESS_COUNT {
        if let Some((first, count)) = port_range(config, address, index) {
            ranges.push(IoRange::Ports(first, count));
        }
        let Some(memory) = memory_range(config, address, index) else { continue };
        let frames = memory.address >> PAGE_SHIFT..=(memory.address + memory.size - 1) >> PAGE_SHIFT;
        if !memory.address.is_multiple_of(1 << PAGE_SHIFT) || !memory.size.is_multiple_of(1 << PAGE_SHIFT) {
            return Err(Errno::EINVAL);
        }
        let kept = table.as_ref().map(|table| table.start >> PAGE_SHIFT..=(table.end - 1) >> PAGE_SHIFT);
        ranges.extend(without(frames, kept).map(|(first, count)| IoRange::Memory(first, count)));
    }
    Ok(ranges)
}

/// The parts of `frames` before and behind `kept`, each as its first and how many.
fn without(
    frames: RangeInclusive<u64>,
    kept: Option<RangeInclusive<u64>>,
) -> impl Iterator<Item = (u64, u64)> {
    let (first, last) = frames.into_inner();
    let parts = match kept.map(RangeInclusive::into_inner) {
        Some((start, end)) if start <= last && end >= first => [(first, start), (end + 1, last + 1)],
        _ => [(first, last + 1), (0, 0)],
    };
    parts.into_iter().filter(|(start, end)| start < end).map(|(start, end)| (start, end - start))
}
