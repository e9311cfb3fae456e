//! Making page tables of what is none, and of one frame two things at once.

use alloc::format;

use hypercall_abi::xen::{MMUEXT_CLEAR_PAGE, MMUEXT_COPY_PAGE, MMUEXT_PIN_L4_TABLE, MMUEXT_UNPIN_TABLE};
use hypercall_abi::{Errno, MachineFrame};

use crate::attacker::Attacker;
use crate::entry::*;
use crate::mapping::others_numbers;
use crate::report::{Outcome, accepted, cases, expect, refused};
use crate::slot::Slot;
use crate::surroundings::Surroundings;
use crate::table::{Table, tables_of};

cases!("page_tables":
    pins_of_frames_not_its_own, pins_for_others, pins_of_writable_pages, one_frame_as_two_levels,
    tables_of_the_wrong_level, pins_that_are_not_there, tables_with_bad_entries, tables_mapped_writable_below,
    clearing_and_copying, a_long_chain_of_failures,
);

fn pins_of_frames_not_its_own(attacker: &Attacker) -> Outcome {
    for level in 1..=4 {
        let table = Table::new(attacker, [])?;
        accepted(format!("pinning its own page at level {level}"), attacker.pin(table.frame(), level))?;
        accepted("unpinning it", attacker.unpin(table.frame()))?;
    }
    let surroundings = Surroundings::look(attacker)?;
    let odd = [surroundings.last.0 + 1, 0xfee00, 1 << 40, 1 << 52, u64::MAX].map(MachineFrame);
    for frame in surroundings.samples().into_iter().chain(odd) {
        for level in 1..=4 {
            refused(format!("pinning frame {frame} at level {level}"), attacker.pin(frame, level))?;
        }
        refused(format!("unpinning frame {frame}"), attacker.unpin(frame))?;
    }
    Ok(())
}

fn pins_for_others(attacker: &Attacker) -> Outcome {
    let table = Table::new(attacker, [])?;
    for domain in others_numbers(attacker) {
        let pin = attacker.mmuext_of(domain, MMUEXT_PIN_L4_TABLE, table.frame().0, 0);
        refused(format!("pinning for domain {domain}"), pin)?;
        let unpin = attacker.mmuext_of(domain, MMUEXT_UNPIN_TABLE, attacker.root.0, 0);
        refused(format!("unpinning for domain {domain}"), unpin)?;
    }
    expect(table.is_plain(), "the page is a table now")
}

fn pins_of_writable_pages(attacker: &Attacker) -> Outcome {
    let slot = Slot::new(attacker)?;
    for level in 1..=4 {
        refused(format!("pinning a writable page at level {level}"), attacker.pin(slot.frame(), level))?;
    }
    // With its one mapping read-only it can be pinned, and the mapping then stays read-only.
    accepted("write-protecting it", slot.map(entry(slot.frame(), READ)))?;
    accepted("pinning it", attacker.pin(slot.frame(), 1))?;
    refused("making it writable", slot.map(entry(slot.frame(), WRITE)))?;
    accepted("unpinning it", attacker.unpin(slot.frame()))?;
    accepted("making it writable", slot.map(entry(slot.frame(), WRITE)))?;
    Ok(())
}

fn one_frame_as_two_levels(attacker: &Attacker) -> Outcome {
    for first in 1..=4 {
        let table = Table::new(attacker, [])?;
        accepted(format!("pinning at level {first}"), attacker.pin(table.frame(), first))?;
        for second in 1..=4 {
            let answer = attacker.pin(table.frame(), second);
            refused(format!("pinning a table of level {first} at level {second}"), answer)?;
        }
        accepted("unpinning it", attacker.unpin(table.frame()))?;
        expect(table.is_plain(), "an unpinned table stays a table")?;
    }
    Ok(())
}

/// Tables in use, pinned or entered at levels that are not theirs.
fn tables_of_the_wrong_level(attacker: &Attacker) -> Outcome {
    let slot = Slot::new(attacker)?;
    let tables = tables_of(attacker, slot.address())?;
    for (step, table) in tables.into_iter().enumerate() {
        let level = 4 - step as u32;
        for wrong in (1..=4).filter(|wrong| *wrong != level) {
            refused(format!("a table of level {level} at level {wrong}"), attacker.pin(table, wrong))?;
        }
        for (user_step, user) in tables.into_iter().enumerate().filter(|(user, _)| *user < 3) {
            let user_level = 4 - user_step as u32;
            if user_level == level + 1 {
                continue;
            }
            let answer = attacker.set_entry(place_of(user, 300), entry(table, TABLE));
            refused(format!("a table of level {level} in one of level {user_level}"), answer)?;
        }
    }
    Ok(())
}

fn pins_that_are_not_there(attacker: &Attacker) -> Outcome {
    let slot = Slot::new(attacker)?;
    refused("unpinning a page of data", attacker.unpin(slot.frame()))?;
    let [_, third, second, first] = tables_of(attacker, slot.address())?;
    for table in [third, second, first] {
        refused("unpinning a table that is not pinned", attacker.unpin(table))?;
    }
    let table = Table::new(attacker, [])?;
    accepted("pinning", attacker.pin(table.frame(), 2))?;
    refused("pinning twice", attacker.pin(table.frame(), 2))?;
    accepted("unpinning", attacker.unpin(table.frame()))?;
    refused("unpinning twice", attacker.unpin(table.frame()))?;
    expect(table.is_plain(), "an unpinned table stays a table")
}

/// A bad entry anywhere makes the whole table unusable, and what was checked before it is let go.
fn tables_with_bad_entries(attacker: &Attacker) -> Outcome {
    let slot = Slot::new(attacker)?;
    let good = entry(slot.frame(), READ);
    let surroundings = Surroundings::look(attacker)?;
    for bad in surroundings.samples().into_iter().map(|frame| entry(frame, READ)) {
        for index in [0, 1, 300, 511] {
            let table = Table::new(attacker, [((index + 1) % 512, good), (index, bad)])?;
            refused(format!("a table with {bad:#x} at {index}"), attacker.pin(table.frame(), 1))?;
            expect(table.is_plain(), "the refused table stays one")?;
            for level in 2..=4 {
                let upper = Table::new(attacker, [(index % 256, bad | WRITABLE)])?;
                let answer = attacker.pin(upper.frame(), level);
                refused(format!("a table of level {level} with {bad:#x} at {index}"), answer)?;
                expect(upper.is_plain(), "the refused table stays one")?;
            }
        }
    }
    let fine = Table::new(attacker, [(0, good), (511, good)])?;
    accepted("a table with good entries", attacker.pin(fine.frame(), 1))?;
    accepted("unpinning it", attacker.unpin(fine.frame()))?;
    Ok(())
}

/// Tables that map themselves, or the tables above them, writable.
fn tables_mapped_writable_below(attacker: &Attacker) -> Outcome {
    let itself = Table::new(attacker, [])?;
    accepted("pinning a table", attacker.pin(itself.frame(), 1))?;
    refused("an entry for itself", attacker.set_entry(itself.place(0), entry(itself.frame(), WRITE)))?;
    accepted(
        "an entry for itself, read-only",
        attacker.set_entry(itself.place(0), entry(itself.frame(), READ)),
    )?;
    refused("that entry made writable", attacker.set_entry(itself.place(0), entry(itself.frame(), WRITE)))?;
    accepted("the entry taken out", attacker.set_entry(itself.place(0), 0))?;
    accepted("unpinning it", attacker.unpin(itself.frame()))?;

    let lower = Table::new(attacker, [])?;
    let upper = Table::new(attacker, [(0, entry(lower.frame(), TABLE))])?;
    accepted("pinning a table with one below", attacker.pin(upper.frame(), 2))?;
    for frame in [lower.frame(), upper.frame(), attacker.root] {
        let answer = attacker.set_entry(lower.place(7), entry(frame, WRITE));
        refused(format!("table {frame} writable through a table below"), answer)?;
    }
    accepted("unpinning it", attacker.unpin(upper.frame()))?;
    expect(lower.is_plain() && upper.is_plain(), "the tables stay tables")
}

fn clearing_and_copying(attacker: &Attacker) -> Outcome {
    let slot = Slot::new(attacker)?;
    let clear = |frame: MachineFrame| attacker.mmuext(MMUEXT_CLEAR_PAGE, frame.0, 0);
    let copy = |to: MachineFrame, from: MachineFrame| attacker.mmuext(MMUEXT_COPY_PAGE, to.0, from.0);
    let other = Slot::new(attacker)?;
    accepted("clearing its own page", clear(slot.frame()))?;
    accepted("copying its own page", copy(slot.frame(), other.frame()))?;
    for table in tables_of(attacker, slot.address())? {
        refused("clearing a page table", clear(table))?;
        refused("copying over a page table", copy(table, other.frame()))?;
    }
    let surroundings = Surroundings::look(attacker)?;
    let odd = [surroundings.last.0 + 1, 0xfee00, 1 << 52, u64::MAX].map(MachineFrame);
    for frame in surroundings.samples().into_iter().chain(odd) {
        refused(format!("clearing frame {frame}"), clear(frame))?;
        refused(format!("copying to frame {frame}"), copy(frame, slot.frame()))?;
        refused(format!("copying from frame {frame}"), copy(slot.frame(), frame))?;
    }
    Ok(())
}

/// Trees that turn out bad at the very end, one after the other: each leaves tables to be undone.
fn a_long_chain_of_failures(attacker: &Attacker) -> Outcome {
    let slot = Slot::new(attacker)?;
    let bad =
        Surroundings::look(attacker)?.nobodys().into_iter().next().ok_or("there is no foreign frame")?;
    let last = |frame: MachineFrame| [(255, entry(frame, TABLE))];
    let first = Table::new(attacker, [(0, entry(slot.frame(), READ)), (511, entry(bad, READ))])?;
    let second = Table::new(attacker, last(first.frame()))?;
    let third = Table::new(attacker, last(second.frame()))?;
    let fourth = Table::new(attacker, last(third.frame()))?;
    for _ in 0..200 {
        let answer = attacker.pin(fourth.frame(), 4);
        expect(answer == Err(Errno::EINVAL), format!("pinning a tree with a bad leaf gave {answer:?}"))?;
    }
    for table in [first, second, third, fourth] {
        expect(table.is_plain(), "a table of the refused tree stays one")?;
    }
    Ok(())
}
