//! Mapping what was not granted, more than was granted, and into tables of the wrong level.
//!
//! A domain may grant pages to itself, so one domain plays both sides here.

use alloc::format;
use alloc::string::String;

use hypercall_abi::grant_table::*;
use hypercall_abi::{DomainId, GrantReference, MachineFrame};
use pv_runtime::grant::{Grant, GrantAccess, grant_access};

use crate::attacker::Attacker;
use crate::entry::*;
use crate::mapping::others_numbers;
use crate::report::{Outcome, accepted, cases, expect, refused};
use crate::slot::Slot;
use crate::surroundings::Surroundings;
use crate::table::{Table, tables_of};

cases!("grants":
    references_that_grant_nothing, more_than_was_granted, grants_of_foreign_frames, grants_of_tables,
    other_domains_grants, flags_that_make_no_sense, places_that_are_no_entries, handles_that_are_none,
    entries_changed_behind_its_back, replacements, tables_of_others, versions, exchanged_references,
);

/// The bad handle.
const NO_HANDLE: GrantHandle = GrantHandle(u32::MAX);

/// Takes a page's frame and grants it to this domain itself.
pub fn grant_to(attacker: &Attacker, frame: MachineFrame, access: GrantAccess) -> Result<Grant, String> {
    grant_access(attacker.own_id, frame, access).map_err(|errno| format!("granting frame {frame}: {errno}"))
}

/// Ends a grant, which must not be in use any more.
fn end(grant: Grant) -> Outcome {
    grant.end().map_err(|_| "the grant is still in use".into())
}

fn request(attacker: &Attacker, slot: &Slot<'_>, reference: GrantReference) -> GnttabMapGrantRef {
    GnttabMapGrantRef {
        host_addr: slot.address(),
        flags: GNTMAP_HOST_MAP,
        r#ref: reference,
        dom: attacker.own_id,
        status: 1,
        handle: NO_HANDLE,
        ..Default::default()
    }
}

/// Maps, and says the status.
fn map(attacker: &Attacker, operation: &mut GnttabMapGrantRef) -> Result<i16, String> {
    let answer = attacker.grant_op(GNTTABOP_MAP_GRANT_REF, core::slice::from_mut(operation));
    accepted("a map operation", answer)?;
    Ok(operation.status)
}

fn unmap(attacker: &Attacker, host_addr: u64, handle: GrantHandle) -> Result<i16, String> {
    let mut operation = GnttabUnmapGrantRef { host_addr, handle, status: 1, ..Default::default() };
    let answer = attacker.grant_op(GNTTABOP_UNMAP_GRANT_REF, core::slice::from_mut(&mut operation));
    accepted("an unmap operation", answer)?;
    Ok(operation.status)
}

fn maps(attacker: &Attacker, operation: &mut GnttabMapGrantRef) -> Outcome {
    let status = map(attacker, operation)?;
    expect(status == GNTST_OKAY, format!("a good grant gave {status}"))
}

fn unmaps(attacker: &Attacker, slot: &Slot<'_>, handle: GrantHandle) -> Outcome {
    let status = unmap(attacker, slot.address(), handle)?;
    expect(status == GNTST_OKAY, format!("undoing a mapping gave {status}"))
}

/// What must not be mapped, and is not.
fn map_refused(
    what: impl core::fmt::Display,
    attacker: &Attacker,
    mut operation: GnttabMapGrantRef,
) -> Outcome {
    let status = map(attacker, &mut operation)?;
    expect(status < 0, format!("{what} gave {status}"))
}

fn references_that_grant_nothing(attacker: &Attacker) -> Outcome {
    let (slot, granted) = (Slot::new(attacker)?, Slot::new(attacker)?);
    let grant = grant_to(attacker, granted.frame(), GrantAccess::ReadWrite)?;
    let mut good = request(attacker, &slot, grant.reference());
    maps(attacker, &mut good)?;
    expect(grant.is_in_use(), "the grant does not look used")?;
    unmaps(attacker, &slot, good.handle)?;
    expect(!grant.is_in_use(), "the grant looks used")?;
    let unused = [grant.reference().0 - 1, 511, 512, 4096, 32767, 32768, 1 << 20, 1 << 31, u32::MAX];
    for reference in unused.map(GrantReference) {
        map_refused(format!("reference {reference}"), attacker, request(attacker, &slot, reference))?;
    }
    end(grant)?;
    map_refused("an ended grant", attacker, good)?;
    accepted("its page back", slot.restore()).map(drop)
}

fn more_than_was_granted(attacker: &Attacker) -> Outcome {
    let (slot, granted) = (Slot::new(attacker)?, Slot::new(attacker)?);
    let grant = grant_to(attacker, granted.frame(), GrantAccess::ReadOnly)?;
    accepted("an address for it", slot.map_by_address(0))?;
    let writing = request(attacker, &slot, grant.reference());
    map_refused("writing", attacker, writing)?;
    let mut reading = GnttabMapGrantRef { flags: GNTMAP_HOST_MAP | GNTMAP_READONLY, ..writing };
    maps(attacker, &mut reading)?;
    expect(attacker.read(slot.address()).is_ok(), "what is mapped cannot be read")?;
    expect(attacker.write(slot.address()).is_err(), "what is mapped can be written")?;
    map_refused("writing beside reading", attacker, writing)?;
    unmaps(attacker, &slot, reading.handle)?;
    end(grant)
}

/// A granter can write any frame number into its entry.
fn grants_of_foreign_frames(attacker: &Attacker) -> Outcome {
    let slot = Slot::new(attacker)?;
    let surroundings = Surroundings::look(attacker)?;
    let odd = [surroundings.last.0 + 1, 0xfee00, 0xfec00, u64::from(u32::MAX)].map(MachineFrame);
    for frame in surroundings.samples().into_iter().chain(odd) {
        let grant = grant_to(attacker, frame, GrantAccess::ReadWrite)?;
        for flags in [GNTMAP_HOST_MAP, GNTMAP_DEVICE_MAP, GNTMAP_HOST_MAP | GNTMAP_READONLY] {
            let operation = GnttabMapGrantRef { flags, ..request(attacker, &slot, grant.reference()) };
            map_refused(format!("frame {frame}"), attacker, operation)?;
        }
        end(grant)?;
    }
    Ok(())
}

/// A table can be granted for reading, never for writing; and a page that is granted for writing is no table.
fn grants_of_tables(attacker: &Attacker) -> Outcome {
    let slot = Slot::new(attacker)?;
    for table in tables_of(attacker, slot.address())? {
        let grant = grant_to(attacker, table, GrantAccess::ReadWrite)?;
        for flags in [GNTMAP_HOST_MAP, GNTMAP_DEVICE_MAP, GNTMAP_HOST_MAP | GNTMAP_DEVICE_MAP] {
            let operation = GnttabMapGrantRef { flags, ..request(attacker, &slot, grant.reference()) };
            map_refused(format!("page table {table}"), attacker, operation)?;
        }
        end(grant)?;
    }
    let table = Table::new(attacker, [])?;
    let grant = grant_to(attacker, table.frame(), GrantAccess::ReadWrite)?;
    let mut operation = request(attacker, &slot, grant.reference());
    maps(attacker, &mut operation)?;
    for level in 1..=4 {
        refused(format!("a granted page as table of level {level}"), attacker.pin(table.frame(), level))?;
    }
    unmaps(attacker, &slot, operation.handle)?;
    accepted("the same page, not mapped any more", attacker.pin(table.frame(), 1))?;
    map_refused("a table", attacker, operation)?;
    accepted("unpinning it", attacker.unpin(table.frame()))?;
    end(grant)
}

/// References in the tables of other domains grant this one nothing but what its builder meant for others.
fn other_domains_grants(attacker: &Attacker) -> Outcome {
    let slot = Slot::new(attacker)?;
    for dom in others_numbers(attacker) {
        for reference in (0..600).chain([4096, 32767, u32::MAX]).map(GrantReference) {
            for flags in [GNTMAP_HOST_MAP, GNTMAP_DEVICE_MAP | GNTMAP_READONLY] {
                let operation = GnttabMapGrantRef { dom, flags, ..request(attacker, &slot, reference) };
                map_refused(format!("reference {reference} of domain {dom}"), attacker, operation)?;
            }
        }
    }
    // A grant to somebody else.
    let granted = Slot::new(attacker)?;
    let grant = grant_access(DomainId::ZERO, granted.frame(), GrantAccess::ReadWrite);
    let grant = grant.map_err(|errno| format!("granting to domain 0: {errno}"))?;
    map_refused("its own grant to domain 0", attacker, request(attacker, &slot, grant.reference()))?;
    end(grant)
}

fn flags_that_make_no_sense(attacker: &Attacker) -> Outcome {
    let (slot, granted) = (Slot::new(attacker)?, Slot::new(attacker)?);
    let grant = grant_to(attacker, granted.frame(), GrantAccess::ReadWrite)?;
    for flags in [0, GNTMAP_READONLY, GNTMAP_APPLICATION_MAP, GNTMAP_CONTAINS_PTE, !0 << 16] {
        let operation = GnttabMapGrantRef { flags, ..request(attacker, &slot, grant.reference()) };
        map_refused(format!("flags {flags:#x}"), attacker, operation)?;
    }
    // The bits for the guest's own use must stay within the bits of an entry that are.
    let mut all = GnttabMapGrantRef {
        flags: GNTMAP_HOST_MAP | GNTMAP_READONLY | !0 << 16,
        ..request(attacker, &slot, grant.reference())
    };
    if map(attacker, &mut all)? == GNTST_OKAY {
        expect(slot.entry() & WRITABLE == 0, "a flag made the mapping writable")?;
        expect(frame_of(slot.entry()) == granted.frame(), "a flag changed the frame")?;
        unmaps(attacker, &slot, all.handle)?;
    }
    end(grant)
}

/// With `GNTMAP_contains_pte` the guest names the entry by its machine address.
fn places_that_are_no_entries(attacker: &Attacker) -> Outcome {
    let (slot, granted) = (Slot::new(attacker)?, Slot::new(attacker)?);
    let grant = grant_to(attacker, granted.frame(), GrantAccess::ReadWrite)?;
    let at = |host_addr: u64, flags: u32| GnttabMapGrantRef {
        host_addr,
        flags: GNTMAP_HOST_MAP | flags,
        ..request(attacker, &slot, grant.reference())
    };
    let mut good = at(slot.place(), GNTMAP_CONTAINS_PTE);
    maps(attacker, &mut good)?;
    let status = unmap(attacker, slot.place(), good.handle)?;
    expect(status == GNTST_OKAY, format!("undoing a mapping by its entry gave {status}"))?;
    accepted("its page back", slot.restore())?;

    let surroundings = Surroundings::look(attacker)?;
    let [root, third, second, _] = tables_of(attacker, slot.address())?;
    let pinned = Table::new(attacker, [])?;
    let plain = [slot.frame(), granted.frame(), pinned.frame(), MachineFrame(surroundings.last.0 + 1)];
    let frames =
        surroundings.samples().into_iter().chain([root, third, second, MachineFrame(0xfee00)]).chain(plain);
    for frame in frames {
        for index in [0, 100, 256, 300, 511] {
            let operation = at(place_of(frame, index), GNTMAP_CONTAINS_PTE);
            map_refused(format!("entry {index} of frame {frame}"), attacker, operation)?;
        }
    }
    for place in [slot.place() + 1, slot.place() + 4, slot.place() + 7, u64::MAX, 1 << 63] {
        map_refused(format!("an entry at {place:#x}"), attacker, at(place, GNTMAP_CONTAINS_PTE))?;
    }
    let addresses = [0, 0x1000, 1 << 47, 0xffff_8000_0000_0000, 0xffff_8300_0000_0000, u64::MAX];
    for address in addresses {
        map_refused(format!("a mapping at {address:#x}"), attacker, at(address, 0))?;
    }
    end(grant)
}

fn handles_that_are_none(attacker: &Attacker) -> Outcome {
    let (slot, granted) = (Slot::new(attacker)?, Slot::new(attacker)?);
    let grant = grant_to(attacker, granted.frame(), GrantAccess::ReadWrite)?;
    let mut good = request(attacker, &slot, grant.reference());
    maps(attacker, &mut good)?;
    for handle in (0..300).chain([1 << 16, 1 << 17, 1 << 31, u32::MAX]).map(GrantHandle) {
        if handle == good.handle {
            continue;
        }
        let status = unmap(attacker, slot.address(), handle)?;
        expect(status < 0, format!("undoing handle {handle} gave {status}"))?;
    }
    for address in [granted.address(), 0x1000, 0xffff_8300_0000_0000, u64::MAX] {
        let status = unmap(attacker, address, good.handle)?;
        expect(status < 0, format!("undoing a mapping at {address:#x} gave {status}"))?;
    }
    expect(attacker.write(slot.address()).is_ok(), "the mapping is gone")?;
    unmaps(attacker, &slot, good.handle)?;
    let status = unmap(attacker, slot.address(), good.handle)?;
    expect(status < 0, format!("undoing a mapping twice gave {status}"))?;
    end(grant)
}

/// A mapping of a grant is the grant table's to undo: nothing else touches its entry.
fn entries_changed_behind_its_back(attacker: &Attacker) -> Outcome {
    let (slot, granted) = (Slot::new(attacker)?, Slot::new(attacker)?);
    let grant = grant_to(attacker, granted.frame(), GrantAccess::ReadOnly)?;
    let mut mapping = GnttabMapGrantRef {
        flags: GNTMAP_HOST_MAP | GNTMAP_READONLY,
        ..request(attacker, &slot, grant.reference())
    };
    maps(attacker, &mut mapping)?;
    let before = slot.entry();
    for value in
        [0, entry(granted.frame(), READ), entry(granted.frame(), WRITE), entry(slot.frame(), WRITE), before]
    {
        refused(format!("the entry set to {value:#x}"), slot.map(value))?;
        refused(format!("the entry set to {value:#x} by address"), slot.map_by_address(value))?;
    }
    let other = Slot::new(attacker)?;
    refused("a copy of the entry elsewhere", other.map(before))?;
    refused("a writable copy of the entry elsewhere", other.map(before | WRITABLE))?;
    let copy = Table::new(attacker, [(0, before)])?;
    refused("a table with a copy of the entry", attacker.pin(copy.frame(), 1))?;
    expect(slot.entry() == before, "the entry has changed")?;
    unmaps(attacker, &slot, mapping.handle)?;
    end(grant)
}

fn replacements(attacker: &Attacker) -> Outcome {
    let (slot, granted, spare) = (Slot::new(attacker)?, Slot::new(attacker)?, Slot::new(attacker)?);
    let grant = grant_to(attacker, granted.frame(), GrantAccess::ReadWrite)?;
    let mut mapping = request(attacker, &slot, grant.reference());
    maps(attacker, &mut mapping)?;
    let replace = |new_addr: u64| {
        let mut operation = GnttabUnmapAndReplace {
            host_addr: slot.address(),
            new_addr,
            handle: mapping.handle,
            status: 1,
            ..Default::default()
        };
        let answer = attacker.grant_op(GNTTABOP_UNMAP_AND_REPLACE, core::slice::from_mut(&mut operation));
        accepted("a replacement", answer).map(|_| operation.status)
    };
    for address in [0x1000, 1 << 47, 0xffff_8000_0000_0000, 0xffff_8300_0000_0000, u64::MAX, slot.address()] {
        let status = replace(address)?;
        expect(status < 0, format!("what is at {address:#x} in its place gave {status}"))?;
    }
    let status = replace(spare.address())?;
    expect(status == GNTST_OKAY, format!("its own page in its place gave {status}"))?;
    expect(frame_of(slot.entry()) == spare.frame(), "the page is not there")?;
    expect(spare.entry() & PRESENT == 0, "the page is mapped twice")?;
    end(grant)
}

fn tables_of_others(attacker: &Attacker) -> Outcome {
    let mut frames = [0u64; 4];
    for dom in others_numbers(attacker) {
        let frame_list = frames.as_mut_ptr() as u64;
        let mut table = GnttabSetupTable { dom, nr_frames: 1, status: 1, frame_list, ..Default::default() };
        let answer = attacker.grant_op(GNTTABOP_SETUP_TABLE, core::slice::from_mut(&mut table));
        expect(answer.is_err() || table.status < 0, format!("the table of domain {dom}"))?;
        let mut size = GnttabQuerySize { dom, status: 1, ..Default::default() };
        let answer = attacker.grant_op(GNTTABOP_QUERY_SIZE, core::slice::from_mut(&mut size));
        expect(answer.is_err() || size.status < 0, format!("the size of domain {dom}'s table"))?;
        let mut version = GnttabGetVersion { dom, ..Default::default() };
        let answer = attacker.grant_op(GNTTABOP_GET_VERSION, core::slice::from_mut(&mut version));
        refused(format!("the version of domain {dom}'s table"), answer)?;
    }
    expect(frames == [0; 4], "another domain's frames were told")?;
    for count in [65, 1 << 20, u32::MAX] {
        let frame_list = frames.as_mut_ptr() as u64;
        let mut table = GnttabSetupTable {
            dom: DomainId::SELF,
            nr_frames: count,
            status: 1,
            frame_list,
            ..Default::default()
        };
        let answer = attacker.grant_op(GNTTABOP_SETUP_TABLE, core::slice::from_mut(&mut table));
        expect(answer.is_err() || table.status < 0, format!("a table of {count} frames"))?;
    }
    Ok(())
}

fn versions(attacker: &Attacker) -> Outcome {
    let set = |version: u32| {
        let mut operation = GnttabSetVersion { version };
        attacker.grant_op(GNTTABOP_SET_VERSION, core::slice::from_mut(&mut operation))
    };
    for version in [0, 3, 1 << 31, u32::MAX] {
        refused(format!("version {version}"), set(version))?;
    }
    accepted("version 1", set(1)).map(drop)
}

fn exchanged_references(attacker: &Attacker) -> Outcome {
    let swap = |first: u32, second: u32| {
        let mut operation = GnttabSwapGrantRef {
            ref_a: GrantReference(first),
            ref_b: GrantReference(second),
            status: 1,
            ..Default::default()
        };
        let answer = attacker.grant_op(GNTTABOP_SWAP_GRANT_REF, core::slice::from_mut(&mut operation));
        accepted("an exchange", answer).map(|_| operation.status)
    };
    let (slot, granted) = (Slot::new(attacker)?, Slot::new(attacker)?);
    let grant = grant_to(attacker, granted.frame(), GrantAccess::ReadWrite)?;
    let reference = grant.reference().0;
    expect(swap(reference, reference)? == GNTST_OKAY, "a grant cannot be exchanged with itself")?;
    for other in [32768, 1 << 20, u32::MAX] {
        let status = swap(reference, other)?;
        expect(status < 0, format!("an exchange with reference {other} gave {status}"))?;
    }
    let mut mapping = request(attacker, &slot, grant.reference());
    maps(attacker, &mut mapping)?;
    let status = swap(reference, 7)?;
    expect(status < 0, format!("an exchange of a grant in use gave {status}"))?;
    unmaps(attacker, &slot, mapping.handle)?;
    end(grant)
}
