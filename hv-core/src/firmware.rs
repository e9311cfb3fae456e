//! ACPI tables: the few facts the hypervisor needs from firmware.
//!
//! Where the I/O APIC is, which processors there are, and how the machine powers off. Tables are read
//! through [`PhysicalMemory`] with their lengths and checksums tested; what is damaged is left out. No byte code is
//! run: the one value that only byte code holds, the power-off code `\_S5`, is found by its name.

use crate::{boot_info::PhysicalMemory, cpu::MOST_CPUS};
use core::ops::Range;
use zerocopy::FromBytes;

/// What firmware tells.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Firmware {
    /// Machine address of the I/O APIC whose lines begin at 0.
    pub io_apic: Option<u64>,
    /// Power control: port, and the value that powers off.
    pub power_off: Option<(u16, u16)>,
    /// Local APIC identifiers of the processors that can be used.
    processors: [u32; MOST_CPUS],
    processor_count: usize,
}

impl Firmware {
    /// Local APIC identifiers of the processors that can be used, the boot processor among them.
    pub fn processors(&self) -> &[u32] {
        &self.processors[..self.processor_count]
    }

    fn add_processor(&mut self, id: u32) {
        if let Some(slot) = self.processors.get_mut(self.processor_count) {
            *slot = id;
            self.processor_count += 1;
        }
    }
}

#[derive(FromBytes)]
#[repr(C, packed)]
struct RootPointer {
    signature: [u8; 8],
    checksum: u8,
    oem: [u8; 6],
    revision: u8,
    rsdt: u32,
    length: u32,
    xsdt: u64,
}

#[derive(FromBytes)]
#[repr(C)]
struct Header {
    signature: [u8; 4],
    length: u32,
    rest: [u8; 28],
}

/// Bytes of a table's header.
const HEADER_SIZE: u64 = 36;
/// No table of interest is longer.
const LONGEST_TABLE: u32 = 1 << 20;

/// Reads the tables that the root pointer at `root` leads to.
pub fn read(memory: &impl PhysicalMemory, root: u64) -> Firmware {
    let mut firmware = Firmware::default();
    for table in tables(memory, root) {
        match memory.read::<[u8; 4]>(table.start).as_ref() {
            Some(b"APIC") => read_controllers(memory, &table, &mut firmware),
            Some(b"FACP") => firmware.power_off = power_off(memory, &table),
            _ => {}
        }
    }
    firmware
}

/// Every intact table that the root table lists.
fn tables(memory: &impl PhysicalMemory, root: u64) -> impl Iterator<Item = Range<u64>> {
    let list = root_table(memory, root);
    let mut index = 0;
    core::iter::from_fn(move || {
        let (table, width) = list.clone()?;
        loop {
            let place = table.start + HEADER_SIZE + index * width;
            if place + width > table.end {
                return None;
            }
            index += 1;
            let address =
                if width == 8 { memory.read::<u64>(place)? } else { u64::from(memory.read::<u32>(place)?) };
            if let Some(found) = table_at(memory, address) {
                return Some(found);
            }
        }
    })
}

/// The root table and the width of its entries.
fn root_table(memory: &impl PhysicalMemory, root: u64) -> Option<(Range<u64>, u64)> {
    let pointer: RootPointer = memory.read(root)?;
    if pointer.signature != *b"RSD PTR " {
        return None;
    }
    if pointer.revision >= 2 && pointer.xsdt != 0 {
        return Some((table_at(memory, pointer.xsdt)?, 8));
    }
    Some((table_at(memory, u64::from(pointer.rsdt))?, 4))
}

/// The range of a table whose bytes add up to zero.
fn table_at(memory: &impl PhysicalMemory, address: u64) -> Option<Range<u64>> {
    let header: Header = memory.read(address)?;
    if u64::from(header.length) < HEADER_SIZE || header.length > LONGEST_TABLE {
        return None;
    }
    let range = address..address + u64::from(header.length);
    let sum = memory.bytes(range.clone())?.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
    (sum == 0).then_some(range)
}

/// The entries of the interrupt controller table; an impossible one ends it.
fn read_controllers(memory: &impl PhysicalMemory, table: &Range<u64>, firmware: &mut Firmware) {
    const FIRST_ENTRY: u64 = HEADER_SIZE + 8;
    let mut place = table.start + FIRST_ENTRY;
    while let Some([kind, length]) = memory.read::<[u8; 2]>(place).filter(|_| place + 2 <= table.end) {
        let entry = place..place + u64::from(length);
        if length < 2 || entry.end > table.end || read_controller(memory, kind, &entry, firmware).is_none() {
            return;
        }
        place = entry.end;
    }
}

/// One entry; `None` when its contents cannot be read.
fn read_controller(
    memory: &impl PhysicalMemory,
    kind: u8,
    entry: &Range<u64>,
    firmware: &mut Firmware,
) -> Option<()> {
    const LOCAL_APIC: u8 = 0;
    const IO_APIC: u8 = 1;
    const ENABLED: u32 = 1 << 0;
    match (kind, entry.end - entry.start) {
        (LOCAL_APIC, 8..) => {
            let [_, id]: [u8; 2] = memory.read(entry.start + 2)?;
            let flags: u32 = memory.read(entry.start + 4)?;
            if flags & ENABLED != 0 {
                firmware.add_processor(u32::from(id));
            }
        }
        (IO_APIC, 12..) => {
            let [address, base]: [u32; 2] = memory.read(entry.start + 4)?;
            if base == 0 {
                firmware.io_apic = firmware.io_apic.or(Some(u64::from(address)));
            }
        }
        _ => {}
    }
    Some(())
}

/// Power control from the fixed table and the code of the off state from the byte code it names.
fn power_off(memory: &impl PhysicalMemory, table: &Range<u64>) -> Option<(u16, u16)> {
    const DSDT: u64 = 40;
    const PM1A_CONTROL: u64 = 64;
    const SLEEP_ENABLE: u16 = 1 << 13;
    let dsdt: u32 = memory.read(table.start + DSDT)?;
    let port: u32 = memory.read(table.start + PM1A_CONTROL)?;
    let port = u16::try_from(port).ok().filter(|port| *port != 0)?;
    let code = memory.bytes(table_at(memory, u64::from(dsdt))?)?;
    Some((port, u16::from(off_state(code)?) << 10 | SLEEP_ENABLE))
}

/// The first number in the package named `_S5_`: name, package opcode, length, element count, then a byte constant
/// (with or without its prefix) or the opcodes for 0 and 1.
fn off_state(code: &[u8]) -> Option<u8> {
    const PACKAGE: u8 = 0x12;
    const BYTE_PREFIX: u8 = 0x0a;
    let at = code.windows(5).position(|window| window == [b'_', b'S', b'5', b'_', PACKAGE])?;
    let package = code.get(at + 5..)?;
    let length_bytes = 1 + usize::from(package.first()? >> 6);
    let first = package.get(length_bytes + 1..)?;
    match *first.first()? {
        BYTE_PREFIX => first.get(1).copied(),
        value @ 0..=7 => Some(value),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{vec, vec::Vec};
    use zerocopy::IntoBytes;

    struct Flat(Vec<u8>);

    impl PhysicalMemory for Flat {
        fn bytes(&self, range: Range<u64>) -> Option<&[u8]> {
            self.0.get(range.start as usize..range.end as usize)
        }
    }

    impl Flat {
        /// Puts a table with a right checksum.
        fn table(&mut self, address: usize, signature: &[u8; 4], body: &[u8]) {
            let mut table = vec![0; HEADER_SIZE as usize];
            table.extend_from_slice(body);
            table[..4].copy_from_slice(signature);
            let length = table.len() as u32;
            table[4..8].copy_from_slice(length.as_bytes());
            table[9] = table.iter().fold(0u8, |sum, byte| sum.wrapping_sub(*byte));
            self.0[address..address + table.len()].copy_from_slice(&table);
        }
    }

    fn machine() -> Flat {
        let mut memory = Flat(vec![0; 0x1000]);
        memory.0[..8].copy_from_slice(b"RSD PTR ");
        memory.0[16..20].copy_from_slice(0x100u32.as_bytes());
        memory.table(0x100, b"RSDT", [0x200u32, 0x300].as_bytes());
        let local = [[0u8, 8, 0, 4, 1, 0, 0, 0], [0, 8, 1, 6, 0, 0, 0, 0], [0, 8, 2, 9, 1, 0, 0, 0]].concat();
        let io = [[1u8, 12, 0, 0].as_bytes(), [0xfec0_0000u32, 0].as_bytes()].concat();
        memory.table(0x200, b"APIC", &[&[0; 8], &local[..], &io[..]].concat());
        let mut fixed = [0u8; 40];
        fixed[4..8].copy_from_slice(0x400u32.as_bytes());
        fixed[28..32].copy_from_slice(0x604u32.as_bytes());
        memory.table(0x300, b"FACP", &fixed);
        memory.table(0x400, b"DSDT", &[b"\x08_S5_\x12\x06\x04\x0a\x05".as_slice(), &[0, 0, 0]].concat());
        memory
    }

    #[test]
    fn finds_the_io_apic_the_processors_and_the_way_to_power_off() {
        let firmware = read(&machine(), 0);
        assert_eq!(firmware.io_apic, Some(0xfec0_0000));
        assert_eq!(firmware.power_off, Some((0x604, 5 << 10 | 1 << 13)));
        assert_eq!(firmware.processors(), [4, 9], "and not the one that is switched off");
    }

    #[test]
    fn leaves_out_damaged_tables() {
        let mut memory = machine();
        memory.0[0x210] ^= 1;
        assert_eq!(read(&memory, 0).io_apic, None);
        assert!(read(&memory, 0).power_off.is_some());
    }

    #[test]
    fn there_may_be_more_processors_than_can_be_used() {
        let mut memory = machine();
        let local: Vec<u8> = (0..40).flat_map(|id| [0, 8, id, id, 1, 0, 0, 0]).collect();
        memory.table(0x500, b"APIC", &[&[0; 8], &local[..]].concat());
        memory.table(0x100, b"RSDT", [0x500u32].as_bytes());
        let expected: Vec<u32> = (0..MOST_CPUS as u32).collect();
        assert_eq!(read(&memory, 0).processors(), expected);
        let cut = [[0u8, 8, 0, 1, 1, 0, 0, 0], [0, 1, 0, 2, 1, 0, 0, 0]].concat();
        memory.table(0x500, b"APIC", &[&[0; 8], &cut[..]].concat());
        assert_eq!(read(&memory, 0).processors(), [1], "nothing behind an impossible entry");
    }

    #[test]
    fn a_wild_root_pointer_is_no_firmware() {
        assert_eq!(read(&machine(), 0xfff), Firmware::default());
        assert_eq!(read(&machine(), 0x50), Firmware::default());
    }

    #[test]
    fn knows_the_short_forms_of_numbers() {
        assert_eq!(off_state(b"_S5_\x12\x06\x04\x00\x00\x00"), Some(0));
        assert_eq!(off_state(b"_S5_\x12\x06\x04\x01\x01\x00"), Some(1));
        assert_eq!(off_state(b"_S5_\x12"), None);
        assert_eq!(off_state(b"nothing"), None);
    }
}
