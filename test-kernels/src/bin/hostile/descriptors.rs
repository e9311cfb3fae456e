//! Descriptor tables with ways into ring 0, and descriptor tables in frames that are something else.

use alloc::format;
use alloc::string::String;

use hypercall_abi::MachineFrame;
use hypercall_abi::memory::XENMEM_DECREASE_RESERVATION;
use hypercall_abi::xen::{HYPERVISOR_SET_GDT, HYPERVISOR_UPDATE_DESCRIPTOR, MMUEXT_SET_LDT};

use crate::attacker::Attacker;
use crate::calls::Answer;
use crate::entry::*;
use crate::report::{Outcome, accepted, cases, expect, refused};
use crate::slot::Slot;
use crate::surroundings::Surroundings;
use crate::table::{Table, tables_of};

cases!("descriptors":
    a_table_of_its_own, segments_of_ring_0, gates_and_system_segments, single_descriptors, frames_that_are_not_its_own,
    a_table_in_use, frames_in_other_use, too_many_entries, local_tables,
);

/// Flat code of ring 3, 64 bits.
const CODE: u64 = 0x00af_fb00_0000_ffff;
/// Flat data of ring 3.
const DATA: u64 = 0x00cf_f300_0000_ffff;
/// The privilege level in a descriptor.
const LEVEL: u64 = 3 << 45;
/// Entries in a page.
const ENTRIES: u64 = 512;
/// Present, and no segment: the other bits say what.
const SYSTEM: u64 = 1 << 47;

fn set_gdt(attacker: &Attacker, frames: &mut [u64], entries: u64) -> Answer {
    attacker.call(HYPERVISOR_SET_GDT, &[frames.as_mut_ptr() as u64, entries])
}

/// No table of its own any more.
fn no_gdt(attacker: &Attacker) -> Outcome {
    accepted("setting no table", set_gdt(attacker, &mut [0], 0)).map(drop)
}

fn update(attacker: &Attacker, place: u64, descriptor: u64) -> Answer {
    attacker.call(HYPERVISOR_UPDATE_DESCRIPTOR, &[place, descriptor])
}

/// Every kind of system segment and gate, of every privilege level.
fn system_descriptors() -> impl Iterator<Item = u64> {
    let kinds = 0..16u64;
    kinds.flat_map(|kind| (0..4).map(move |level| SYSTEM | kind << 40 | level << 45 | 0xe008 << 16 | 0xffff))
}

fn table_with<'a>(attacker: &'a Attacker, descriptor: u64) -> Result<Table<'a>, String> {
    Table::new(attacker, [(1, CODE), (2, DATA), (3, descriptor)])
}

fn a_table_of_its_own(attacker: &Attacker) -> Outcome {
    let table = table_with(attacker, CODE)?;
    accepted("a good table", set_gdt(attacker, &mut [table.frame().0], ENTRIES))?;
    expect(!table.is_plain(), "the table in use can be written")?;
    no_gdt(attacker)?;
    expect(table.is_plain(), "a table out of use stays one")
}

/// A segment of a lower level becomes one of ring 3, or is refused.
fn segments_of_ring_0(attacker: &Attacker) -> Outcome {
    for segment in [CODE, DATA, CODE | 1 << 42, 0x00cf_fb00_0000_ffff] {
        for level in 0..3u64 {
            let descriptor = segment & !LEVEL | level << 45;
            let table = table_with(attacker, descriptor)?;
            if set_gdt(attacker, &mut [table.frame().0], ENTRIES).is_err() {
                continue;
            }
            let found = table.entry(3);
            expect(found & LEVEL == LEVEL, format!("{descriptor:#x} was taken and is {found:#x}"))?;
            no_gdt(attacker)?;
        }
    }
    Ok(())
}

fn gates_and_system_segments(attacker: &Attacker) -> Outcome {
    for descriptor in system_descriptors() {
        let table = table_with(attacker, descriptor)?;
        let answer = set_gdt(attacker, &mut [table.frame().0], ENTRIES);
        refused(format!("a table with {descriptor:#x}"), answer)?;
        expect(table.is_plain(), "the refused table stays one")?;
        // What is not present only ever faults.
        let absent = table_with(attacker, descriptor & !SYSTEM)?;
        accepted("a table with an absent one", set_gdt(attacker, &mut [absent.frame().0], ENTRIES))?;
        no_gdt(attacker)?;
    }
    Ok(())
}

fn single_descriptors(attacker: &Attacker) -> Outcome {
    let table = table_with(attacker, CODE)?;
    accepted("a good table", set_gdt(attacker, &mut [table.frame().0], ENTRIES))?;
    accepted("a descriptor", update(attacker, table.place(5), DATA))?;
    expect(table.entry(5) == DATA, "the descriptor is not there")?;
    for descriptor in system_descriptors() {
        refused(format!("descriptor {descriptor:#x}"), update(attacker, table.place(5), descriptor))?;
    }
    if update(attacker, table.place(6), CODE & !LEVEL).is_ok() {
        expect(table.entry(6) & LEVEL == LEVEL, "there is a segment of ring 0")?;
    }
    for misplaced in [1, 2, 4, 7] {
        let place = table.place(5) + misplaced;
        refused(format!("a descriptor at {place:#x}"), update(attacker, place, DATA))?;
    }
    no_gdt(attacker)?;
    let slot = Slot::new(attacker)?;
    for table in tables_of(attacker, slot.address())? {
        refused(format!("a descriptor in page table {table}"), update(attacker, place_of(table, 300), DATA))?;
    }
    let surroundings = Surroundings::look(attacker)?;
    let odd = [surroundings.last.0 + 1, 0xfee00, 1 << 40, (1 << 52) - 1].map(MachineFrame);
    for frame in surroundings.samples().into_iter().chain(odd) {
        refused(format!("a descriptor in frame {frame}"), update(attacker, place_of(frame, 5), 0))?;
    }
    Ok(())
}

fn frames_that_are_not_its_own(attacker: &Attacker) -> Outcome {
    let good = table_with(attacker, CODE)?;
    let surroundings = Surroundings::look(attacker)?;
    let odd = [surroundings.last.0 + 1, 0xfee00, 1 << 40, 1 << 52, u64::MAX].map(MachineFrame);
    for frame in surroundings.samples().into_iter().chain(odd) {
        refused(format!("a table in frame {frame}"), set_gdt(attacker, &mut [frame.0], ENTRIES))?;
        let both = set_gdt(attacker, &mut [good.frame().0, frame.0], 2 * ENTRIES);
        refused(format!("a table in its own frame and {frame}"), both)?;
        expect(good.is_plain(), "the good frame of a refused table stays one")?;
    }
    Ok(())
}

fn a_table_in_use(attacker: &Attacker) -> Outcome {
    let table = table_with(attacker, CODE)?;
    accepted("a good table", set_gdt(attacker, &mut [table.frame().0], ENTRIES))?;
    let slot = Slot::new(attacker)?;
    refused("a writable mapping", slot.map(entry(table.frame(), WRITE)))?;
    accepted("a read-only mapping", slot.map(entry(table.frame(), READ)))?;
    refused("that mapping made writable", slot.map(entry(table.frame(), WRITE)))?;
    for level in 1..=4 {
        refused(format!("a page table of level {level}"), attacker.pin(table.frame(), level))?;
    }
    let given = attacker.reservation(XENMEM_DECREASE_RESERVATION, &mut [table.frame().0], 0);
    expect(matches!(given, Ok(0) | Err(_)), "it was given up")?;
    accepted("the same frame twice", set_gdt(attacker, &mut [table.frame().0; 3], 3 * ENTRIES))?;
    no_gdt(attacker)
}

fn frames_in_other_use(attacker: &Attacker) -> Outcome {
    let slot = Slot::new(attacker)?;
    refused("a writable page", set_gdt(attacker, &mut [slot.frame().0], ENTRIES))?;
    for table in tables_of(attacker, slot.address())? {
        refused(format!("page table {table}"), set_gdt(attacker, &mut [table.0], ENTRIES))?;
    }
    for level in 1..=4 {
        let table = Table::new(attacker, [])?;
        accepted("pinning a table", attacker.pin(table.frame(), level))?;
        refused("a pinned page table", set_gdt(attacker, &mut [table.frame().0], ENTRIES))?;
        accepted("unpinning it", attacker.unpin(table.frame()))?;
    }
    Ok(())
}

fn too_many_entries(attacker: &Attacker) -> Outcome {
    /// The last fourteen pages are the hypervisor's.
    const MOST: u64 = 14 * ENTRIES;
    let table = table_with(attacker, CODE)?;
    let mut frames = [table.frame().0; 32];
    accepted("as many as there may be", set_gdt(attacker, &mut frames, MOST))?;
    no_gdt(attacker)?;
    for entries in [MOST + 1, 15 * ENTRIES, 16 * ENTRIES, 1 << 31, u64::from(u32::MAX), 1 << 32, u64::MAX] {
        refused(format!("{entries} entries"), set_gdt(attacker, &mut frames, entries))?;
    }
    expect(table.is_plain(), "the frame of a refused table stays one")
}

fn local_tables(attacker: &Attacker) -> Outcome {
    let set = |base: u64, entries: u64| attacker.mmuext(MMUEXT_SET_LDT, base, entries);
    let table = table_with(attacker, CODE)?;
    accepted("a good table", set(table.address(), ENTRIES))?;
    expect(!table.is_plain(), "the table in use can be written")?;
    accepted("no table", set(0, 0))?;
    expect(table.is_plain(), "a table out of use stays one")?;
    for descriptor in system_descriptors() {
        let bad = table_with(attacker, descriptor)?;
        refused(format!("a table with {descriptor:#x}"), set(bad.address(), ENTRIES))?;
    }
    for entries in [8193, 1 << 16, u64::from(u32::MAX)] {
        refused(format!("{entries} entries"), set(table.address(), entries))?;
    }
    let slot = Slot::new(attacker)?;
    let addresses = [0x1000, 0x8000_0000_0000, 0xffff_8000_0000_0000, 0xffff_8300_0000_0000, !4095];
    for address in addresses.into_iter().chain([table.address() + 8, slot.address()]) {
        refused(format!("a table at {address:#x}"), set(address, ENTRIES))?;
    }
    for frame in tables_of(attacker, slot.address())? {
        accepted("a page table, read-only", slot.map(entry(frame, READ)))?;
        refused("a page table as descriptor table", set(slot.address(), ENTRIES))?;
    }
    Ok(())
}
