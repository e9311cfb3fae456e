//! Entries in use whose flags change and whose frames do not: each change is checked like a new entry.

use alloc::format;
use alloc::vec::Vec;

use hypercall_abi::MachineFrame;
use hypercall_abi::xen::{HYPERVISOR_MMU_UPDATE, MMU_PT_UPDATE_PRESERVE_AD, MmuUpdate};

use crate::attacker::{Attacker, address_of};
use crate::entry::*;
use crate::report::{Outcome, accepted, cases, expect, refused};
use crate::slot::{Slot, read_entry};
use crate::table::{Table, tables_of};

cases!("flag_changes":
    a_mapping_of_a_table_made_writable, all_flags_of_a_mapping_of_a_table, flags_of_upper_entries,
    large_bits_of_upper_entries, many_changes_in_one_call, from_absent_to_present,
);

/// Flags an entry may have or not, one by one: all bits that are not the frame's.
fn flags() -> impl Iterator<Item = u64> {
    (0..12).chain(52..64).map(|bit| 1 << bit)
}

fn a_mapping_of_a_table_made_writable(attacker: &Attacker) -> Outcome {
    let slot = Slot::new(attacker)?;
    for table in tables_of(attacker, slot.address())? {
        accepted("a read-only mapping of a table", slot.map(entry(table, READ)))?;
        for extra in [0, DIRTY, ACCESSED | DIRTY, GLOBAL, WRITE_THROUGH | CACHE_DISABLE, 7 << 9] {
            let value = entry(table, READ | WRITABLE | extra);
            refused(format!("flags {extra:#x} and writable"), slot.map(value))?;
            refused(format!("flags {extra:#x} and writable, by address"), slot.map_by_address(value))?;
            let keeping = attacker.set_entry(slot.place() | MMU_PT_UPDATE_PRESERVE_AD, value);
            refused(format!("flags {extra:#x} and writable, keeping bits"), keeping)?;
        }
        expect(slot.entry() & WRITABLE == 0, "the mapping has become writable")?;
        accepted("its page back", slot.restore())?;
    }
    accepted("its own page read-only", slot.map(entry(slot.frame(), READ)))?;
    accepted("and by its flags writable again", slot.map(entry(slot.frame(), WRITE)))?;
    expect(attacker.write(slot.address()).is_ok(), "it cannot be written")
}

/// Whatever other bits are changed, one at a time: the table stays read-only, and is what the entry names.
fn all_flags_of_a_mapping_of_a_table(attacker: &Attacker) -> Outcome {
    let slot = Slot::new(attacker)?;
    let [_, _, _, first] = tables_of(attacker, slot.address())?;
    for flag in flags() {
        accepted("a read-only mapping of a table", slot.map(entry(first, READ)))?;
        let _ = slot.map(entry(first, READ) ^ flag);
        let now = slot.entry();
        expect(now & WRITABLE == 0 || now & PRESENT == 0, format!("flag {flag:#x} made it writable"))?;
        expect(now & PRESENT == 0 || frame_of(now) == first, format!("flag {flag:#x} moved it"))?;
        refused(
            format!("writable after flag {flag:#x}"),
            slot.map(entry(first, WRITE) ^ flag | PRESENT | WRITABLE),
        )?;
    }
    accepted("its page back", slot.restore()).map(drop)
}

/// The entry on the way to a slot in each upper table: which table, at which level, and what it says.
fn upper_entries(
    attacker: &Attacker,
    slot: &Slot<'_>,
) -> Result<Vec<(u32, u64, u64)>, alloc::string::String> {
    let tables = tables_of(attacker, slot.address())?;
    Ok((0..3)
        .map(|step| {
            let level = 4 - step as u32;
            let place = place_of(tables[step], index_of(slot.address(), level));
            (level, place, read_entry(place))
        })
        .collect())
}

/// Entries of upper tables that are in use by this very kernel are changed only in a spare table.
fn spare<'a>(
    attacker: &'a Attacker,
    level: u32,
    below: MachineFrame,
) -> Result<Table<'a>, alloc::string::String> {
    let table = Table::new(attacker, [(5, entry(below, TABLE))])?;
    accepted(format!("a spare table of level {level}"), attacker.pin(table.frame(), level))?;
    Ok(table)
}

fn flags_of_upper_entries(attacker: &Attacker) -> Outcome {
    let slot = Slot::new(attacker)?;
    let tables = tables_of(attacker, slot.address())?;
    for step in 0..3 {
        let (level, below) = (4 - step as u32, tables[step + 1]);
        let table = spare(attacker, level, below)?;
        for flag in flags() {
            let _ = attacker.set_entry(table.place(5), entry(below, TABLE) ^ flag);
            let now = table.entry(5);
            expect(now & LARGE == 0, format!("flag {flag:#x} made an entry of level {level} large"))?;
            let is_absent = now & PRESENT == 0;
            expect(is_absent || frame_of(now) == below, format!("flag {flag:#x} at level {level} moved it"))?;
            accepted("the entry as before", attacker.set_entry(table.place(5), entry(below, TABLE)))?;
        }
        refused("the table below mapped writable", slot.map(entry(below, WRITE)))?;
        accepted("unpinning the spare table", attacker.unpin(table.frame()))?;
        expect(table.is_plain(), format!("the spare table of level {level} stays one"))?;
    }
    Ok(())
}

fn large_bits_of_upper_entries(attacker: &Attacker) -> Outcome {
    let slot = Slot::new(attacker)?;
    for (level, place, present) in upper_entries(attacker, &slot)? {
        for flags in [LARGE, LARGE | WRITABLE, LARGE | GLOBAL, LARGE | DIRTY, LARGE | 1 << 12] {
            for place in [place, place | MMU_PT_UPDATE_PRESERVE_AD] {
                let answer = attacker.set_entry(place, present | flags);
                refused(format!("an entry of level {level} with flags {flags:#x}"), answer)?;
            }
        }
        accepted("the same entry again", attacker.set_entry(place, present))?;
        expect(read_entry(place) & LARGE == 0, "the entry is large")?;
    }
    Ok(())
}

/// The good ones before a bad one are done, those behind it are not.
fn many_changes_in_one_call(attacker: &Attacker) -> Outcome {
    let slot = Slot::new(attacker)?;
    let [_, _, _, first] = tables_of(attacker, slot.address())?;
    let set = |val: u64| MmuUpdate { ptr: slot.place(), val };
    let mut updates = [
        set(entry(first, READ)),
        set(entry(first, READ | DIRTY)),
        set(entry(first, WRITE)),
        set(entry(slot.frame(), WRITE)),
    ];
    let arguments = [address_of(&mut updates), 4, 0, u64::from(hypercall_abi::DomainId::SELF.0)];
    refused("a table made writable in between", attacker.call(HYPERVISOR_MMU_UPDATE, &arguments))?;
    let now = slot.entry();
    expect(frame_of(now) == first && now & WRITABLE == 0, format!("the entry is {now:#x}"))?;
    accepted("its page back", slot.restore()).map(drop)
}

/// What an entry says while it is absent is nobody's business, until it is present.
fn from_absent_to_present(attacker: &Attacker) -> Outcome {
    let slot = Slot::new(attacker)?;
    let [root, third, second, first] = tables_of(attacker, slot.address())?;
    for table in [root, third, second, first] {
        accepted("an absent entry", slot.map(entry(table, WRITE) & !PRESENT))?;
        refused("the same, present", slot.map(entry(table, WRITE)))?;
        refused("the same, present, by address", slot.map_by_address(entry(table, WRITE)))?;
        expect(slot.entry() & PRESENT == 0, "it is present")?;
    }
    accepted("its page back", slot.restore()).map(drop)
}
