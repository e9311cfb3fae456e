//! Frames that are in use as something in particular, given up, exchanged, or made something else.
//!
//! What is in use as a table, or held for somebody else, must stay what it is until that use ends.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::slice;

use hypercall_abi::grant_table::*;
use hypercall_abi::memory::*;
use hypercall_abi::xen::{
    HYPERVISOR_SET_GDT, MMUEXT_CLEAR_PAGE, MMUEXT_COPY_PAGE, MMUEXT_NEW_BASEPTR, MMUEXT_NEW_USER_BASEPTR,
};
use hypercall_abi::{DomainId, MachineFrame};
use pv_runtime::grant::{Grant, GrantAccess};

use crate::attacker::Attacker;
use crate::calls::Answer;
use crate::entry::*;
use crate::grants::grant_to;
use crate::report::{Outcome, accepted, cases, expect, refused};
use crate::slot::{Slot, page};
use crate::surroundings::number_of;
use crate::table::{Table, tables_of};

cases!("kept_frames":
    page_tables, pinned_tables, descriptor_tables, mapped_pages, granted_pages, pages_a_device_reaches,
    the_grant_table, a_frame_among_good_ones,
);

fn give_up(attacker: &Attacker, frame: MachineFrame) -> Answer {
    attacker.reservation(XENMEM_DECREASE_RESERVATION, &mut [frame.0], 0)
}

fn exchange(attacker: &Attacker, old: &mut [u64], new: &mut [u64]) -> Answer {
    let list = |extents: &mut [u64]| MemoryReservation {
        extent_start: extents.as_mut_ptr() as u64,
        nr_extents: extents.len() as u64,
        domid: DomainId::SELF,
        ..Default::default()
    };
    let mut argument = MemoryExchange { r#in: list(old), out: list(new), nr_exchanged: 0 };
    attacker.memory_op(XENMEM_EXCHANGE, &mut argument)
}

/// A frame in use is exchanged for no other, alone or in a row.
fn not_exchanged(attacker: &Attacker, frame: MachineFrame) -> Outcome {
    refused(format!("exchanging {frame}"), exchange(attacker, &mut [frame.0], &mut [0]))?;
    refused(format!("exchanging {frame} twice"), exchange(attacker, &mut [frame.0; 2], &mut [0, 1]))
}

/// A table of whatever kind is not given up, exchanged, written, or made another kind of table.
fn stays_a_table(attacker: &Attacker, frame: MachineFrame, level: Option<u32>) -> Outcome {
    let slot = Slot::new(attacker)?;
    let given = give_up(attacker, frame);
    expect(matches!(given, Ok(0) | Err(_)), format!("table {frame} was given up"))?;
    not_exchanged(attacker, frame)?;
    refused("a writable mapping of it", slot.map(entry(frame, WRITE)))?;
    refused("clearing it", attacker.mmuext(MMUEXT_CLEAR_PAGE, frame.0, 0))?;
    refused("copying over it", attacker.mmuext(MMUEXT_COPY_PAGE, frame.0, slot.frame().0))?;
    for other in (1..=4).filter(|other| Some(*other) != level) {
        refused(format!("a table of level {other} of it"), attacker.pin(frame, other))?;
    }
    if level != Some(4) {
        refused("a root of it", attacker.mmuext(MMUEXT_NEW_BASEPTR, frame.0, 0))?;
        refused("a user root of it", attacker.mmuext(MMUEXT_NEW_USER_BASEPTR, frame.0, 0))?;
    }
    Ok(())
}

fn page_tables(attacker: &Attacker) -> Outcome {
    let slot = Slot::new(attacker)?;
    for (step, table) in (0..).zip(tables_of(attacker, slot.address())?) {
        stays_a_table(attacker, table, Some(4 - step))?;
    }
    accepted("its own page elsewhere", slot.map(entry(slot.frame(), READ))).map(drop)
}

fn pinned_tables(attacker: &Attacker) -> Outcome {
    for level in 1..=4 {
        let table = Table::new(attacker, [])?;
        accepted("pinning a table", attacker.pin(table.frame(), level))?;
        stays_a_table(attacker, table.frame(), Some(level))?;
        accepted("unpinning it", attacker.unpin(table.frame()))?;
        expect(table.is_plain(), "it stays a table")?;
    }
    Ok(())
}

fn descriptor_tables(attacker: &Attacker) -> Outcome {
    let table = Table::new(attacker, [])?;
    let set = |frames: &mut [u64], count: u64| {
        attacker.call(HYPERVISOR_SET_GDT, &[frames.as_mut_ptr() as u64, count])
    };
    accepted("a descriptor table", set(&mut [table.frame().0], 512))?;
    let outcome = stays_a_table(attacker, table.frame(), None);
    accepted("no descriptor table", set(&mut [0], 0))?;
    outcome?;
    expect(table.is_plain(), "it stays a table")
}

/// A page of this domain's own that others may use too, and how it is kept.
struct Granted<'a> {
    slot: Slot<'a>,
    grant: Grant,
    mapped: GnttabMapGrantRef,
}

impl<'a> Granted<'a> {
    /// Grants the page of a slot to this domain itself, and maps it with these flags at another.
    fn new(attacker: &'a Attacker, flags: u32, place: &Slot<'_>) -> Result<Self, String> {
        let slot = Slot::new(attacker)?;
        let grant = grant_to(attacker, slot.frame(), GrantAccess::ReadWrite)?;
        let mut mapped = GnttabMapGrantRef {
            host_addr: place.address(),
            flags,
            r#ref: grant.reference(),
            dom: attacker.own_id,
            status: 1,
            ..Default::default()
        };
        accepted("mapping", attacker.grant_op(GNTTABOP_MAP_GRANT_REF, slice::from_mut(&mut mapped)))?;
        expect(mapped.status == GNTST_OKAY, format!("mapping gave {}", mapped.status))?;
        Ok(Self { slot, grant, mapped })
    }

    fn end(self, attacker: &Attacker) -> Outcome {
        let is_host = self.mapped.flags & GNTMAP_HOST_MAP != 0;
        let mut unmap = GnttabUnmapGrantRef {
            host_addr: if is_host { self.mapped.host_addr } else { 0 },
            dev_bus_addr: if is_host { 0 } else { self.mapped.dev_bus_addr },
            handle: self.mapped.handle,
            status: 1,
            ..Default::default()
        };
        accepted("unmapping", attacker.grant_op(GNTTABOP_UNMAP_GRANT_REF, slice::from_mut(&mut unmap)))?;
        expect(unmap.status == GNTST_OKAY, format!("unmapping gave {}", unmap.status))?;
        self.grant.end().map_err(|_| "the grant is still in use".into())
    }
}

/// What is mapped anywhere is not exchanged, and becomes no table while it is mapped writable.
fn mapped_pages(attacker: &Attacker) -> Outcome {
    let slot = Slot::new(attacker)?;
    not_exchanged(attacker, slot.frame())?;
    for level in 1..=4 {
        refused("a mapped page as table", attacker.pin(slot.frame(), level))?;
    }
    accepted("a read-only mapping", slot.map(entry(slot.frame(), READ)))?;
    not_exchanged(attacker, slot.frame())?;
    accepted("its page back", slot.restore()).map(drop)
}

fn granted_pages(attacker: &Attacker) -> Outcome {
    let place = Slot::new(attacker)?;
    for flags in [GNTMAP_HOST_MAP, GNTMAP_HOST_MAP | GNTMAP_READONLY] {
        let granted = Granted::new(attacker, flags, &place)?;
        // Without a mapping of its own, all that keeps the frame is the grant.
        accepted("its own mapping away", attacker.set_address(granted.slot.address(), 0))?;
        not_exchanged(attacker, granted.slot.frame())?;
        if flags & GNTMAP_READONLY == 0 {
            for level in 1..=4 {
                refused("a granted page as table", attacker.pin(granted.slot.frame(), level))?;
            }
        }
        accepted("its own mapping back", granted.slot.restore())?;
        granted.end(attacker)?;
    }
    Ok(())
}

/// A page that a device may write at any time stays writable memory of this domain's.
fn pages_a_device_reaches(attacker: &Attacker) -> Outcome {
    let place = Slot::new(attacker)?;
    let granted = Granted::new(attacker, GNTMAP_DEVICE_MAP, &place)?;
    accepted("its own mapping away", attacker.set_address(granted.slot.address(), 0))?;
    not_exchanged(attacker, granted.slot.frame())?;
    for level in 1..=4 {
        refused("a page a device writes as table", attacker.pin(granted.slot.frame(), level))?;
    }
    accepted("its own mapping back", granted.slot.restore())?;
    granted.end(attacker)
}

fn the_grant_table(attacker: &Attacker) -> Outcome {
    let slot = Slot::new(attacker)?;
    let mut frames = [0u64];
    let mut table = GnttabSetupTable {
        dom: DomainId::SELF,
        nr_frames: 1,
        frame_list: frames.as_mut_ptr() as u64,
        ..Default::default()
    };
    accepted("asking for it", attacker.grant_op(GNTTABOP_SETUP_TABLE, slice::from_mut(&mut table)))?;
    let frame = MachineFrame(frames[0]);
    accepted("a writable mapping", slot.map(entry(frame, WRITE)))?;
    let given = give_up(attacker, frame);
    expect(matches!(given, Ok(0) | Err(_)), "the grant table was given up")?;
    not_exchanged(attacker, frame)?;
    for level in 1..=4 {
        refused(format!("a table of level {level} of it"), attacker.pin(frame, level))?;
    }
    accepted("its page back", slot.restore()).map(drop)
}

/// A list in which one frame is in use exchanges nothing of the piece that it is in.
fn a_frame_among_good_ones(attacker: &Attacker) -> Outcome {
    let slot = Slot::new(attacker)?;
    let pages: Vec<_> = (0..7).map(|_| page()).collect::<Result<_, _>>()?;
    let mut old: Vec<u64> = pages.iter().map(|page| page.machine_frame().0).collect();
    let numbers: Vec<u64> = old.iter().map(|frame| number_of(MachineFrame(*frame))).collect();
    old.push(tables_of(attacker, slot.address())?[3].0);
    let mut argument = MemoryExchange {
        r#in: MemoryReservation {
            extent_start: old.as_mut_ptr() as u64,
            nr_extents: 8,
            domid: DomainId::SELF,
            ..Default::default()
        },
        out: MemoryReservation {
            extent_start: [0u64].as_mut_ptr() as u64,
            nr_extents: 1,
            extent_order: 3,
            domid: DomainId::SELF,
            ..Default::default()
        },
        nr_exchanged: 0,
    };
    refused("eight frames, one of them a table", attacker.memory_op(XENMEM_EXCHANGE, &mut argument))?;
    for (page, number) in pages.iter().zip(numbers) {
        expect(number_of(page.machine_frame()) == number, "a frame has gone")?;
    }
    Ok(())
}
