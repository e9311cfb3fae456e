//! Large pages, tables that are their own parents, the hypervisor's own entries, and counts run to their ends.

use alloc::format;
use alloc::vec::Vec;

use hypercall_abi::MachineFrame;
use hypercall_abi::arch_x86::HYPERVISOR_VIRT_START;
use pv_runtime::memory::{BuilderPage, SharedMemory};

use crate::attacker::Attacker;
use crate::entry::*;
use crate::report::{Outcome, accepted, cases, expect, refused};
use crate::slot::{Slot, read_entry};
use crate::table::{Table, tables_of};

cases!("large_tables":
    large_pages, tables_in_themselves, the_hypervisors_entries, the_hypervisors_entries_of_a_new_root,
    one_page_mapped_very_often, one_table_used_very_often,
);

/// A free entry in a root.
const FREE_SLOT: usize = 100;

fn large_pages(attacker: &Attacker) -> Outcome {
    let slot = Slot::new(attacker)?;
    let [root, third, second, first] = tables_of(attacker, slot.address())?;
    for (level, table) in [(4, root), (3, third), (2, second)] {
        for flags in [READ | LARGE, WRITE | LARGE, TABLE | LARGE] {
            for frame in [slot.frame(), first, MachineFrame(0), MachineFrame(slot.frame().0 & !511)] {
                let answer = attacker.set_entry(place_of(table, FREE_SLOT), entry(frame, flags));
                refused(format!("a large page at level {level} ({flags:#x})"), answer)?;
                let fresh = Table::new(attacker, [(FREE_SLOT, entry(frame, flags))])?;
                let answer = attacker.pin(fresh.frame(), level);
                refused(format!("a table of level {level} with a large page ({flags:#x})"), answer)?;
            }
        }
    }
    // Making an entry in use large, which keeps the frame it names.
    let place = place_of(second, index_of(slot.address(), 2));
    let present = read_entry(place);
    refused("a table's entry made large", attacker.set_entry(place, present | LARGE))?;
    accepted("the same entry again", attacker.set_entry(place, present))?;
    Ok(())
}

fn tables_in_themselves(attacker: &Attacker) -> Outcome {
    let slot = Slot::new(attacker)?;
    let tables = tables_of(attacker, slot.address())?;
    for table in [tables[0], tables[1], tables[2]] {
        for flags in [TABLE, TABLE & !WRITABLE] {
            refused(
                "a table in itself",
                attacker.set_entry(place_of(table, FREE_SLOT), entry(table, flags)),
            )?;
        }
    }
    for level in 2..=4 {
        let fresh = Table::new(attacker, [])?;
        accepted(format!("pinning a table of level {level}"), attacker.pin(fresh.frame(), level))?;
        let answer = attacker.set_entry(fresh.place(FREE_SLOT), entry(fresh.frame(), TABLE));
        refused(format!("a table of level {level} in itself"), answer)?;
        accepted("unpinning it", attacker.unpin(fresh.frame()))?;
    }
    // From the start: the frame must be told before its table refers to itself.
    for level in 2..=4 {
        let table = Table::of_itself(attacker, |frame| [(FREE_SLOT, entry(frame, TABLE))])?;
        refused(format!("pinning a table of level {level} in itself"), attacker.pin(table.frame(), level))?;
        expect(table.is_plain(), "the refused table stays one")?;
    }
    Ok(())
}

/// What a root says in the hypervisor's place.
fn hypervisor_entries(root: MachineFrame) -> Vec<u64> {
    let page = BuilderPage::find(root).expect("the root is this domain's");
    (256..272).map(|index| page.read(8 * index)).collect()
}

fn the_hypervisors_entries(attacker: &Attacker) -> Outcome {
    let before = hypervisor_entries(attacker.root);
    let slot = Slot::new(attacker)?;
    let [_, third, ..] = tables_of(attacker, slot.address())?;
    accepted("a free entry", attacker.set_entry(place_of(attacker.root, FREE_SLOT), entry(third, TABLE)))?;
    accepted("the same entry cleared", attacker.set_entry(place_of(attacker.root, FREE_SLOT), 0))?;
    for index in 256..272 {
        for value in [0, entry(third, TABLE), before[0], 0xffff_ffff_ffff_fffe] {
            let answer = attacker.set_entry(place_of(attacker.root, index), value);
            refused(format!("entry {index} set to {value:#x}"), answer)?;
        }
    }
    expect(hypervisor_entries(attacker.root) == before, "the entries have changed")?;
    expect(attacker.read(HYPERVISOR_VIRT_START).is_ok(), "the machine-to-physical table is gone")
}

/// Whatever a frame holds there when it becomes a root, the hypervisor's entries replace it; and the hypervisor's
/// entries are not left behind for reading or for use.
fn the_hypervisors_entries_of_a_new_root(attacker: &Attacker) -> Outcome {
    let slot = Slot::new(attacker)?;
    let [_, third, ..] = tables_of(attacker, slot.address())?;
    let root = Table::new(attacker, (256..272).map(|index| (index, entry(third, TABLE))))?;
    accepted("pinning it", attacker.pin(root.frame(), 4))?;
    for index in 256..272 {
        expect(root.entry(index) != entry(third, TABLE), format!("entry {index} is the guest's own"))?;
        let answer = attacker.set_entry(root.place(index), entry(third, TABLE));
        refused(format!("entry {index} of the new root"), answer)?;
    }
    // Entries of the same frame: what was refused as a guest's entry must not come back as one of another level.
    let copied = root.entry(256);
    accepted("unpinning it", attacker.unpin(root.frame()))?;
    let copy = Table::new(attacker, [(0, copied)])?;
    for level in 1..=4 {
        refused(
            format!("the hypervisor's entry in a table of level {level}"),
            attacker.pin(copy.frame(), level),
        )?;
    }
    Ok(())
}

/// More writable mappings of one page than a count can hold.
fn one_page_mapped_very_often(attacker: &Attacker) -> Outcome {
    const TABLES: usize = 520;
    let slot = Slot::new(attacker)?;
    let everywhere = entry(slot.frame(), WRITE);
    let mut pinned = Vec::new();
    let mut refusals = 0;
    for _ in 0..TABLES {
        let table = Table::new(attacker, (0..512).map(|index| (index, everywhere)))?;
        match attacker.pin(table.frame(), 1) {
            Ok(_) => pinned.push(table),
            Err(_) => refusals += 1,
        }
    }
    let count = pinned.len();
    for table in &pinned {
        accepted("unpinning one of many tables", attacker.unpin(table.frame()))?;
    }
    drop(pinned);
    expect(count >= 16, format!("only {count} tables of one page were taken"))?;
    expect(refusals > 0 || count == TABLES, "tables are missing")?;
    // If the count had gone round, the page could be a table by now although it is mapped.
    refused("a mapped page as a table", attacker.pin(slot.frame(), 1))?;
    accepted("its page read-only", slot.map(entry(slot.frame(), READ)))?;
    accepted("its page as a table", attacker.pin(slot.frame(), 1))?;
    accepted("its page as data", attacker.unpin(slot.frame()))?;
    Ok(())
}

/// More uses of one table than a count can hold.
fn one_table_used_very_often(attacker: &Attacker) -> Outcome {
    const TABLES: usize = 520;
    let lowest = Table::new(attacker, [])?;
    let everywhere = entry(lowest.frame(), TABLE);
    let mut pinned = Vec::new();
    for _ in 0..TABLES {
        let table = Table::new(attacker, (0..512).map(|index| (index, everywhere)))?;
        if attacker.pin(table.frame(), 2).is_ok() {
            pinned.push(table);
        }
    }
    expect(pinned.len() >= 16, format!("only {} tables of one table were taken", pinned.len()))?;
    expect(!lowest.is_plain(), "a table in use can be written")?;
    for table in pinned {
        accepted("unpinning one of many tables", attacker.unpin(table.frame()))?;
        expect(table.is_plain(), "an unpinned table stays a table")?;
    }
    expect(lowest.is_plain(), "a table that nobody uses stays a table")
}
