#![expect(unsafe_code, reason = "writes the interrupt tables of PCI devices")]
//! Message-signalled interrupts of PCI devices.
//!
//! A device raises one by writing to an address that the interrupt controllers watch. Which vector the write carries
//! is the hypervisor's to say, so it programs the device itself: either the one message of the MSI capability, or an
//! entry in the MSI-X table, which lies in one of the device's memory windows.

use super::paging;
use crate::pci_config::Function;
use core::sync::atomic::Ordering;
use hypercall_abi::Errno;

const CAPABILITY_MSI: u8 = 0x05;
const CAPABILITY_MSIX: u8 = 0x11;
/// Memory writes with this address reach local APICs; the destination is in bits 12 to 19.
const MESSAGE_ADDRESS: u32 = 0xfee0_0000;

/// Control bits in the first register of the capability.
const MSI_ENABLE: u32 = 1 << 16;
const MSI_MULTIPLE: u32 = 7 << 20;
const MSI_64_BIT: u32 = 1 << 23;
const MSIX_ENABLE: u32 = 1 << 31;
const MSIX_MASK_ALL: u32 = 1 << 30;

/// One message of one device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// The device.
    pub function: Function,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// The single message of the MSI capability at this offset.
    Single { capability: u8 },
    /// An entry of the MSI-X table: the capability's offset and the entry's machine address.
    Entry { capability: u8, address: u64 },
}

impl Message {
    /// Message `entry` of a device, from its MSI-X table if `in_table`.
    ///
    /// # Errors
    /// `ENODEV` when the device has no such capability, `EINVAL` when it has fewer messages.
    pub fn of(function: Function, in_table: bool, entry: i32) -> Result<Self, Errno> {
        let index = u32::try_from(entry).map_err(|_| Errno::EINVAL)?;
        let kind = if in_table { table_entry(function, index)? } else { single(function, index)? };
        Ok(Self { function, kind })
    }
}

fn single(function: Function, index: u32) -> Result<Kind, Errno> {
    let capability = function.capability(CAPABILITY_MSI).ok_or(Errno::ENODEV)?;
    if index != 0 {
        return Err(Errno::EINVAL);
    }
    Ok(Kind::Single { capability })
}

fn table_entry(function: Function, index: u32) -> Result<Kind, Errno> {
    const ENTRY_SIZE: u64 = 16;
    let capability = function.capability(CAPABILITY_MSIX).ok_or(Errno::ENODEV)?;
    let entries = (function.read(capability) >> 16 & 0x7ff) + 1;
    if index >= entries {
        return Err(Errno::EINVAL);
    }
    let table = function.read(capability + 4);
    let window = memory_window(function, (table & 7) as u8)?;
    Ok(Kind::Entry { capability, address: window + u64::from(table & !7) + u64::from(index) * ENTRY_SIZE })
}

/// Machine address of a device's memory window (BAR).
fn memory_window(function: Function, bar: u8) -> Result<u64, Errno> {
    const IS_PORTS: u32 = 1;
    const TYPE_64_BIT: u32 = 4;
    if bar > 5 {
        return Err(Errno::EINVAL);
    }
    let low = function.read(0x10 + 4 * bar);
    if low & IS_PORTS != 0 || low & !0xf == 0 {
        return Err(Errno::EINVAL);
    }
    let high = if low & 0x6 == TYPE_64_BIT && bar < 5 { function.read(0x14 + 4 * bar) } else { 0 };
    Ok(u64::from(low & !0xf) | u64::from(high) << 32)
}

fn message_address() -> u32 {
    MESSAGE_ADDRESS | super::cpu::boot_cpu().apic_id.load(Ordering::Relaxed) << 12
}

/// Delivers the message as `vector` to the boot CPU from now on.
///
/// # Errors
/// `ENXIO` when the device's table cannot be reached.
pub fn enable(message: Message, vector: u8) -> Result<(), Errno> {
    match message.kind {
        Kind::Single { capability } => enable_single(message.function, capability, vector),
        Kind::Entry { capability, address } => {
            write_entry(address, message_address(), u32::from(vector), false)?;
            let control = message.function.read(capability);
            message.function.write(capability, control & !MSIX_MASK_ALL | MSIX_ENABLE);
        }
    }
    Ok(())
}

fn enable_single(function: Function, capability: u8, vector: u8) {
    let control = function.read(capability);
    function.write(capability + 4, message_address());
    let data = if control & MSI_64_BIT != 0 {
        function.write(capability + 8, 0);
        capability + 12
    } else {
        capability + 8
    };
    function.write(data, function.read(data) & 0xffff_0000 | u32::from(vector));
    function.write(capability, control & !MSI_MULTIPLE | MSI_ENABLE);
}

/// Silences the message.
pub fn disable(message: Message) {
    match message.kind {
        Kind::Single { capability } => {
            let control = message.function.read(capability);
            message.function.write(capability, control & !MSI_ENABLE);
        }
        Kind::Entry { address, .. } => {
            if write_entry(address, 0, 0, true).is_err() {
                log::warn!("an interrupt table at {address:#x} is gone; its device stays as it is");
            }
        }
    }
}

/// Writes an entry of an MSI-X table, masked while it changes.
fn write_entry(address: u64, message_address: u32, data: u32, masked: bool) -> Result<(), Errno> {
    let entry = paging::map_device_anywhere(address).ok_or(Errno::ENXIO)?.cast::<u32>();
    // SAFETY: the page was just mapped as device registers, and an entry of four words never crosses a page.
    unsafe {
        entry.add(3).write_volatile(1);
        entry.write_volatile(message_address);
        entry.add(1).write_volatile(0);
        entry.add(2).write_volatile(data);
        entry.add(3).write_volatile(u32::from(masked));
    }
    Ok(())
}
