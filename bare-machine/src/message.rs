#![expect(unsafe_code, reason = "writes the interrupt tables of PCI devices")]
//! Interrupt messages of PCI devices: entries of their MSI-X tables.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use hypercall_abi::physdev::PhysdevMapPirq;
use hypercall_abi::{Errno, PhysicalIrq};

use crate::interrupt::{FIRST_MESSAGE, LOCAL_APIC, MESSAGES};
use crate::port;

const ADDRESS_PORT: u16 = 0xcf8;
const DATA_PORT: u16 = 0xcfc;
const CAPABILITY_MSIX: u8 = 0x11;
/// A list of capabilities that is longer goes round in a circle.
const MOST_CAPABILITIES: usize = 48;
const ENTRY_BYTES: u64 = 16;

/// Where each message's table entry is; zero for a number that is free.
static ENTRIES: [AtomicU64; MESSAGES] = [const { AtomicU64::new(0) }; MESSAGES];

/// Gives a number to a table entry.
///
/// # Errors
///
/// `ENODEV` if the device has no such table, `ENOSPC` if no number is free.
pub fn add(map: &PhysdevMapPirq) -> Result<PhysicalIrq, Errno> {
    let function = 1 << 31 | (map.bus as u32 & 0xff) << 16 | (map.devfn as u32 & 0xff) << 8;
    let capability = capability(function).ok_or(Errno::ENODEV)?;
    let offset = u64::from(read(function, capability + 4) & !7);
    let address = map.table_base + offset + map.entry_nr as u64 * ENTRY_BYTES;
    let free = ENTRIES.iter().position(|entry| entry.load(Relaxed) == 0).ok_or(Errno::ENOSPC)?;
    ENTRIES[free].store(address, Relaxed);
    Ok(PhysicalIrq(free as u32))
}

/// Takes a number back.
///
/// # Errors
///
/// `EINVAL` if there is no such number.
pub fn remove(irq: i32) -> Result<(), Errno> {
    let entry = usize::try_from(irq).ok().and_then(|irq| ENTRIES.get(irq)).ok_or(Errno::EINVAL)?;
    write(entry.swap(0, Relaxed), 0, true);
    Ok(())
}

/// Lets a message through.
///
/// # Errors
///
/// `EINVAL` if there is no such number.
pub fn enable(irq: PhysicalIrq) -> Result<(), Errno> {
    let address = ENTRIES.get(irq.0 as usize).map_or(0, |entry| entry.load(Relaxed));
    if address == 0 {
        return Err(Errno::EINVAL);
    }
    write(address, u32::from(FIRST_MESSAGE) + irq.0, false);
    Ok(())
}

/// Writes a table entry: where messages go, with which vector, and whether they are held back.
fn write(address: u64, vector: u32, is_masked: bool) {
    let entry = address as *mut u32;
    // SAFETY: device memory is mapped one to one; the entry's place is what the device itself says.
    unsafe {
        entry.add(3).write_volatile(1);
        entry.write_volatile(LOCAL_APIC as u32);
        entry.add(1).write_volatile(0);
        entry.add(2).write_volatile(vector);
        entry.add(3).write_volatile(u32::from(is_masked));
    }
}

fn read(function: u32, register: u8) -> u32 {
    port::write_u32(ADDRESS_PORT, function | u32::from(register & !3));
    port::read_u32(DATA_PORT)
}

/// Where the function's MSI-X capability is.
fn capability(function: u32) -> Option<u8> {
    let follow = |&register: &u8| Some((read(function, register) >> 8) as u8 & !3);
    let first = read(function, 0x34) as u8 & !3;
    core::iter::successors(Some(first), follow)
        .take(MOST_CAPABILITIES)
        .take_while(|&register| register >= 0x40)
        .find(|&register| read(function, register) as u8 == CAPABILITY_MSIX)
}
