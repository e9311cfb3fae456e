#![expect(unsafe_code, reason = "writes to page tables by ordinary instructions, and runs random ones")]
//! Writing to page tables with ordinary instructions.
//!
//! They are read-only to a guest. A hypervisor may still do for it what a store would have done, after the same checks
//! as by hypercall; so the stores here either fault or have no more effect than an update would. Doing it for the guest
//! means decoding the guest's instructions, and what decodes must survive any bytes there are.

use alloc::format;
use alloc::string::String;
use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

use hypercall_abi::MachineFrame;
use pv_runtime::memory::{Page, PageRun, SharedMemory};
use pv_runtime::traps::Fault;

use crate::attacker::Attacker;
use crate::entry::*;
use crate::instructions::PAGE_FAULT;
use crate::report::{Outcome, accepted, cases, expect, faulted};
use crate::slot::{Slot, page};
use crate::surroundings::Surroundings;
use crate::table::{Table, tables_of};

cases!("table_writes":
    stores_of_good_entries, stores_of_bad_entries, stores_in_parts, tables_of_higher_levels, changed_bits,
    any_instruction, instructions_at_the_edge,
);

/// What [`store`] writes.
static VALUE: AtomicU64 = AtomicU64::new(0);

/// Declares a function that writes [`VALUE`] to its argument's address by one instruction.
macro_rules! writer {
    ($text:literal) => {{
        /// # Safety
        ///
        /// To be called so that a fault is caught, with the address of a page-table entry.
        unsafe extern "C" fn write(address: u64) {
            let value = VALUE.load(Ordering::Relaxed);
            // SAFETY: the hypervisor checks the entry that this makes, or the write faults, which is caught.
            unsafe { asm!($text, inout("rsi") value => _, in("rdi") address, out("rax") _, options(nostack)) };
        }
        write as unsafe extern "C" fn(u64)
    }};
}

/// Ways to write eight bytes.
fn writers() -> [(&'static str, unsafe extern "C" fn(u64)); 5] {
    [
        ("mov", writer!("mov [rdi], rsi")),
        ("xchg", writer!("xchg [rdi], rsi")),
        ("cmpxchg", writer!("mov rax, [rdi]; lock cmpxchg [rdi], rsi")),
        ("two halves", writer!("mov [rdi], esi; shr rsi, 32; mov [rdi + 4], esi")),
        ("or", writer!("mov qword ptr [rdi], 0; lock or [rdi], rsi")),
    ]
}

fn write(
    attacker: &Attacker,
    writer: unsafe extern "C" fn(u64),
    address: u64,
    value: u64,
) -> Result<(), Fault> {
    VALUE.store(value, Ordering::Relaxed);
    attacker.run(writer, address)
}

/// A table of level 1 in use, and a page to map.
struct Target<'a> {
    attacker: &'a Attacker,
    table: Table<'a>,
    page: Page,
    surroundings: Surroundings,
}

impl<'a> Target<'a> {
    fn new(attacker: &'a Attacker) -> Result<Self, String> {
        let table = Table::new(attacker, [])?;
        accepted("pinning a table", attacker.pin(table.frame(), 1))?;
        Ok(Self { attacker, table, page: page()?, surroundings: Surroundings::look(attacker)? })
    }

    fn entry_address(&self, index: usize) -> u64 {
        self.table.address() + 8 * index as u64
    }

    /// What must hold whatever was tried: every entry maps this domain's page or nothing. A few bytes more or less
    /// may be those of another page of its own, if that is no table.
    fn check(&self, after: impl core::fmt::Display) -> Outcome {
        let is_other = |entry: &u64| entry & PRESENT != 0 && frame_of(*entry) != self.page.machine_frame();
        for found in (0..512).map(|index| self.table.entry(index)).filter(is_other) {
            let is_own = self.surroundings.is_own(frame_of(found));
            let is_table = frame_of(found) == self.table.frame();
            expect(is_own && (found & WRITABLE == 0 || !is_table), format!("{after} left {found:#x}"))?;
        }
        Ok(())
    }
}

impl Drop for Target<'_> {
    fn drop(&mut self) {
        let unpinned = self.attacker.unpin(self.table.frame());
        assert!(unpinned.is_ok(), "a table that was pinned is not: {unpinned:?}");
    }
}

fn stores_of_good_entries(attacker: &Attacker) -> Outcome {
    let target = Target::new(attacker)?;
    let good = entry(target.page.machine_frame(), WRITE);
    for (name, writer) in writers() {
        accepted("clearing an entry", attacker.set_entry(target.table.place(3), 0))?;
        if write(attacker, writer, target.entry_address(3), good).is_ok() {
            let found = target.table.entry(3);
            expect(frame_of(found) == target.page.machine_frame(), format!("{name} left {found:#x}"))?;
            expect(found & PRESENT != 0, format!("{name} left {found:#x}"))?;
        }
        target.check(name)?;
    }
    Ok(())
}

/// Entries that no update may make.
fn bad_entries(attacker: &Attacker, target: &Target<'_>) -> Result<alloc::vec::Vec<u64>, String> {
    let surroundings = &target.surroundings;
    let tables = tables_of(attacker, target.table.address())?.into_iter().chain([target.table.frame()]);
    let devices = [0xfee00, 0xfec00, surroundings.last.0 + 1].map(MachineFrame);
    let foreign = surroundings.samples().into_iter().chain(devices);
    let all = tables.map(|table| entry(table, WRITE));
    Ok(all.chain(foreign.flat_map(|frame| [entry(frame, READ), entry(frame, WRITE)])).collect())
}

fn stores_of_bad_entries(attacker: &Attacker) -> Outcome {
    let target = Target::new(attacker)?;
    for bad in bad_entries(attacker, &target)? {
        for (name, writer) in writers() {
            let result = write(attacker, writer, target.entry_address(3), bad);
            target.check(format!("{name} of {bad:#x}"))?;
            faulted(format!("{name} of {bad:#x}"), &[PAGE_FAULT], result)?;
        }
    }
    Ok(())
}

/// Byte by byte, from every side: at no moment may the entry be a bad one.
fn stores_in_parts(attacker: &Attacker) -> Outcome {
    let byte = writer!("mov rax, rsi; mov [rdi], al");
    let word = writer!("mov [rdi], si");
    let target = Target::new(attacker)?;
    for bad in bad_entries(attacker, &target)? {
        for (writer, size) in [(byte, 1), (word, 2)] {
            for offset in (0..8).step_by(size).chain((0..8).step_by(size).rev()) {
                let place = target.entry_address(9) + offset as u64;
                let _ = write(attacker, writer, place, bad >> (8 * offset));
                target.check(format!("byte {offset} of {bad:#x}"))?;
            }
        }
        // Over two entries at once.
        let _ = write(attacker, writer!("mov [rdi], rsi"), target.entry_address(9) + 4, bad);
        target.check(format!("{bad:#x} between two entries"))?;
    }
    Ok(())
}

/// Tables above the lowest are changed by hypercall alone.
fn tables_of_higher_levels(attacker: &Attacker) -> Outcome {
    let slot = Slot::new(attacker)?;
    let own = entry(slot.frame(), TABLE);
    for level in 2..=4 {
        let lower = Table::new(attacker, [])?;
        let table = Table::new(attacker, [(1, if level == 2 { entry(lower.frame(), TABLE) } else { 0 })])?;
        accepted("pinning a table", attacker.pin(table.frame(), level))?;
        for index in [0, 1, 256, 300, 511] {
            let before = table.entry(index as usize);
            for (name, writer) in writers() {
                let _ = write(attacker, writer, table.address() + 8 * index, own);
                expect(
                    [before, 0].contains(&table.entry(index as usize)),
                    format!("{name} changed entry {index} of a table of level {level}"),
                )?;
            }
        }
        accepted("unpinning it", attacker.unpin(table.frame()))?;
    }
    Ok(())
}

/// A mapping of a page table becomes writable by no instruction that sets a bit.
fn changed_bits(attacker: &Attacker) -> Outcome {
    let setters: [(&str, unsafe extern "C" fn(u64)); 5] = [
        ("or", writer!("lock or qword ptr [rdi], 2")),
        ("or of a byte", writer!("or byte ptr [rdi], 2")),
        ("bts", writer!("lock bts qword ptr [rdi], 1")),
        ("bts with a register", writer!("mov eax, 1; bts [rdi], rax")),
        ("xor", writer!("xor byte ptr [rdi], 2")),
    ];
    let target = Target::new(attacker)?;
    for table in tables_of(attacker, target.table.address())?.into_iter().chain([target.table.frame()]) {
        for (name, setter) in setters {
            let place = target.table.place(5);
            accepted("a read-only mapping of a table", attacker.set_entry(place, entry(table, READ)))?;
            faulted(name, &[PAGE_FAULT], attacker.run(setter, target.entry_address(5)))?;
            expect(target.table.entry(5) & WRITABLE == 0, format!("{name} made a page table writable"))?;
            accepted("no mapping", attacker.set_entry(place, 0))?;
        }
    }
    Ok(())
}

/// A page that can be written and executed, for instructions made while running.
struct Code<'a> {
    attacker: &'a Attacker,
    slot: Slot<'a>,
    /// Where the instructions begin.
    start: usize,
}

impl<'a> Code<'a> {
    /// Code that begins by loading the registers, but for `rdi` and the stack pointer, with these values in turn.
    fn with_registers(attacker: &'a Attacker, values: &[u64]) -> Result<Self, String> {
        const LOADED: [u8; 14] = [0, 1, 2, 3, 5, 6, 8, 9, 10, 11, 12, 13, 14, 15];
        let slot = Slot::new(attacker)?;
        accepted("an executable page", slot.map_by_address(entry(slot.frame(), WRITE) & !NO_EXECUTE))?;
        let mut code = Self { attacker, slot, start: 0 };
        for (register, value) in LOADED.into_iter().zip(values.iter().cycle()) {
            let opcode = [0x48 | register >> 3, 0xb8 | register & 7];
            code.write(code.start, &opcode);
            code.write(code.start + 2, &value.to_le_bytes());
            code.start += 10;
        }
        Ok(code)
    }

    fn write(&self, offset: usize, bytes: &[u8]) {
        assert!(offset + bytes.len() <= 4096, "the code is too long");
        let place = (self.slot.address() as usize + offset) as *mut u8;
        for (index, byte) in bytes.iter().enumerate() {
            // SAFETY: the page is this value's, mapped and writable, and the place lies in it.
            unsafe { place.add(index).write_volatile(*byte) };
        }
    }

    /// Runs an instruction, followed by enough of nothing and an invalid one, with `rdi` set to the argument.
    fn run(&self, bytes: &[u8], argument: u64) -> Result<(), Fault> {
        const NOTHING: u8 = 0x90;
        let mut code = [NOTHING; 32];
        code[..bytes.len()].copy_from_slice(bytes);
        code[30..].copy_from_slice(&[0x0f, 0x0b]);
        self.write(self.start, &code);
        // SAFETY: the code ends by a fault, which is caught, whatever it is; what it writes to is the page table that
        // the argument points to, or nothing, because no other register holds an address.
        let function = unsafe { core::mem::transmute::<u64, unsafe extern "C" fn(u64)>(self.slot.address()) };
        self.attacker.run(function, argument)
    }
}

/// Every opcode of the one-byte and two-byte maps and of the three-byte ones, with a memory operand at the entry, every
/// register number, and with every prefix that changes what it does.
fn any_instruction(attacker: &Attacker) -> Outcome {
    const PREFIXES: [&[u8]; 10] =
        [&[], &[0x48], &[0x66], &[0xf0], &[0xf2], &[0xf3], &[0xf0, 0x48], &[0x66, 0xf0], &[0x44], &[0x67]];
    const MAPS: [&[u8]; 4] = [&[], &[0x0f], &[0x0f, 0x38], &[0x0f, 0x3a]];
    let target = Target::new(attacker)?;
    let good = entry(target.page.machine_frame(), READ);
    let foreign = target.surroundings.others().into_iter().next().ok_or("no other domain has memory")?;
    // Entries that map what they may not. None is an address, for their highest bit stands alone.
    let bad = [target.table.frame(), foreign, MachineFrame(0xfee00), attacker.root]
        .map(|frame| entry(frame, WRITE));
    let code = Code::with_registers(attacker, &bad)?;
    for map in MAPS {
        for opcode in 0..=255u8 {
            if leaves_this_kernel(map, opcode) {
                continue;
            }
            accepted("an entry to write to", attacker.set_entry(target.table.place(200), good))?;
            for register in (0..8u8).filter(|register| *register != STACK_POINTER || is_group(map, opcode)) {
                // [rdi], and [rdi + 8] with the displacement in the instruction.
                for (operand, displacement) in [(0x07, &[][..]), (0x47, &[8][..])] {
                    for prefix in PREFIXES {
                        let operand = operand | register << 3;
                        let bytes = [prefix, map, &[opcode, operand], displacement].concat();
                        let _ = code.run(&bytes, target.entry_address(200));
                    }
                }
            }
            target.check(format!("opcode {map:x?} {opcode:#x}"))?;
        }
    }
    Ok(())
}

/// The register that must keep its value: without a stack this kernel takes no exception.
const STACK_POINTER: u8 = 4;

/// Opcodes in which the register's number says which instruction it is.
fn is_group(map: &[u8], opcode: u8) -> bool {
    match map {
        [] => {
            matches!(opcode, 0x80..=0x83 | 0x8f | 0xc0 | 0xc1 | 0xc6 | 0xc7 | 0xd0..=0xd3 | 0xf6 | 0xf7 | 0xfe | 0xff)
        }
        [0x0f] => matches!(opcode, 0x00 | 0x01 | 0x0d | 0x18 | 0x71..=0x73 | 0xae | 0xba | 0xc7),
        _ => false,
    }
}

/// Instructions that take this kernel elsewhere without a fault, or away from its stack: hypercalls, jumps, returns,
/// and those that change the flags or the stack pointer. Their operand is not the entry anyway; nor that of the bit
/// instructions with a register, which may reach far from it.
fn leaves_this_kernel(map: &[u8], opcode: u8) -> bool {
    match map {
        [] => matches!(
            opcode,
            0x5c | 0x70..=0x7f | 0x94 | 0x9d | 0xb4 | 0xbc | 0xc2 | 0xc3 | 0xc8..=0xcb | 0xcd..=0xcf | 0xe0..=0xe3 | 0xe8..=0xeb
        ),
        [0x0f] => matches!(opcode, 0x05 | 0x34 | 0x80..=0x8f | 0xab | 0xb3 | 0xbb | 0xcc),
        _ => false,
    }
}

/// Instructions that end with the page, or leave it.
fn instructions_at_the_edge(attacker: &Attacker) -> Outcome {
    let target = Target::new(attacker)?;
    let run = PageRun::new(2).map_err(|errno| format!("there are no pages: {errno}"))?;
    let (start, frames) = (run.virtual_address() as u64, [0, 1].map(|index| run.machine_frame(index)));
    // mov qword [rdi], 0 with a long constant; every prefix of it at the very end.
    let bytes = [0x48, 0xc7, 0x07, 0, 0, 0, 0];
    run.copy_in(4096 - bytes.len(), &bytes);
    accepted("an executable page", attacker.set_address(start, entry(frames[0], WRITE) & !NO_EXECUTE))?;
    accepted("no page behind it", attacker.set_address(start + 4096, 0))?;
    let mut outcome = Ok(());
    for length in 1..=bytes.len() {
        run.copy_in(4096 - length, &bytes[..length]);
        // SAFETY: the code is there; it ends by a fault, which is caught.
        let function =
            unsafe { core::mem::transmute::<u64, unsafe extern "C" fn(u64)>(start + 4096 - length as u64) };
        outcome = outcome.and(faulted(
            "what leaves the page",
            &[PAGE_FAULT],
            attacker.run(function, target.entry_address(0)),
        ));
    }
    for (address, frame) in [(start, frames[0]), (start + 4096, frames[1])] {
        accepted("a page back", attacker.set_address(address, entry(frame, WRITE)))?;
    }
    outcome.and(target.check("an instruction at the edge"))
}
