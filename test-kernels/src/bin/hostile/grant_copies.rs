//! Copies from and to what is neither granted nor the domain's own.

use alloc::format;
use alloc::string::String;

use hypercall_abi::grant_table::*;
use hypercall_abi::{DomainId, GrantReference, MachineFrame};
use pv_runtime::grant::GrantAccess;
use pv_runtime::memory::{Page, SharedMemory};

use crate::attacker::Attacker;
use crate::grants::grant_to;
use crate::mapping::others_numbers;
use crate::report::{Outcome, accepted, cases, expect};
use crate::slot::{Slot, page};
use crate::surroundings::Surroundings;
use crate::table::{Table, tables_of};

cases!("grant_copies":
    its_own_pages, foreign_frames, frames_in_the_name_of_others, page_tables, grants_that_are_none,
    read_only_grants, ranges_over_the_edge, within_one_page,
);

/// One end of a copy.
type End = GnttabCopyPtr;

fn own(page: &Page) -> End {
    End::own(page.machine_frame().0, 0)
}

/// Copies 64 bytes; says the status.
fn copy(attacker: &Attacker, source: End, dest: End, flags: u16) -> Result<i16, String> {
    copy_length(attacker, source, dest, flags, 64)
}

fn copy_length(attacker: &Attacker, source: End, dest: End, flags: u16, len: u16) -> Result<i16, String> {
    let mut operation = GnttabCopy { source, dest, len, flags, status: 1, ..Default::default() };
    accepted("a copy", attacker.grant_op(GNTTABOP_COPY, core::slice::from_mut(&mut operation)))?;
    Ok(operation.status)
}

fn copied(what: impl core::fmt::Display, status: Result<i16, String>) -> Outcome {
    let status = status?;
    expect(status == GNTST_OKAY, format!("{what} gave {status}"))
}

fn not_copied(what: impl core::fmt::Display, status: Result<i16, String>) -> Outcome {
    let status = status?;
    expect(status < 0, format!("{what} gave {status}"))
}

fn its_own_pages(attacker: &Attacker) -> Outcome {
    let (source, dest) = (page()?, page()?);
    source.copy_in(0, b"sixty-four bytes, of which these are the first");
    copied("a copy between its own pages", copy(attacker, own(&source), own(&dest), 0))?;
    let mut text = [0; 10];
    dest.copy_out(0, &mut text);
    expect(&text == b"sixty-four", "the bytes did not arrive")?;
    let grant = grant_to(attacker, source.machine_frame(), GrantAccess::ReadOnly)?;
    let granted = End::granted(attacker.own_id, grant.reference(), 0);
    copied("a copy from a granted page", copy(attacker, granted, own(&dest), GNTCOPY_SOURCE_GREF))?;
    let by_self = End { domid: DomainId::SELF, ..granted };
    copied("a copy from its own grant", copy(attacker, by_self, own(&dest), GNTCOPY_SOURCE_GREF))?;
    grant.end().map_err(|_| "the grant is still in use".into())
}

fn foreign_frames(attacker: &Attacker) -> Outcome {
    let page = page()?;
    let surroundings = Surroundings::look(attacker)?;
    let odd = [surroundings.last.0 + 1, 0xfee00, 1 << 32, 1 << 40, 1 << 52, u64::MAX].map(MachineFrame);
    for frame in surroundings.samples().into_iter().chain(odd) {
        let foreign = End::own(frame.0, 0);
        not_copied(format!("a copy from frame {frame}"), copy(attacker, foreign, own(&page), 0))?;
        not_copied(format!("a copy to frame {frame}"), copy(attacker, own(&page), foreign, 0))?;
        let grant = grant_to(attacker, MachineFrame(frame.0 & 0xffff_ffff), GrantAccess::ReadWrite)?;
        if surroundings.is_own(MachineFrame(frame.0 & 0xffff_ffff)) {
            continue;
        }
        let granted = End::granted(attacker.own_id, grant.reference(), 0);
        let status = copy(attacker, granted, own(&page), GNTCOPY_SOURCE_GREF);
        not_copied(format!("a copy from a grant of frame {frame}"), status)?;
        let status = copy(attacker, own(&page), granted, GNTCOPY_DEST_GREF);
        not_copied(format!("a copy to a grant of frame {frame}"), status)?;
    }
    Ok(())
}

fn frames_in_the_name_of_others(attacker: &Attacker) -> Outcome {
    let (source, dest) = (page()?, page()?);
    let surroundings = Surroundings::look(attacker)?;
    for domid in others_numbers(attacker) {
        for frame in surroundings.samples().into_iter().chain([source.machine_frame()]) {
            let foreign = End { domid, ..End::own(frame.0, 0) };
            let what = format!("frame {frame} of domain {domid}");
            not_copied(format!("a copy from {what}"), copy(attacker, foreign, own(&dest), 0))?;
            not_copied(format!("a copy to {what}"), copy(attacker, own(&dest), foreign, 0))?;
        }
    }
    Ok(())
}

fn page_tables(attacker: &Attacker) -> Outcome {
    let page = page()?;
    page.copy_in(0, &[0xff; 64]);
    let table = Table::new(attacker, [])?;
    accepted("pinning a table", attacker.pin(table.frame(), 1))?;
    let slot = Slot::new(attacker)?;
    for frame in tables_of(attacker, slot.address())?.into_iter().chain([table.frame()]) {
        copied("a copy from a page table", copy(attacker, End::own(frame.0, 0), own(&page), 0))?;
        page.copy_in(0, &[0xff; 64]);
        not_copied("a copy to a page table", copy(attacker, own(&page), End::own(frame.0, 0x900), 0))?;
        let grant = grant_to(attacker, frame, GrantAccess::ReadWrite)?;
        let granted = End::granted(attacker.own_id, grant.reference(), 0x900);
        let status = copy(attacker, own(&page), granted, GNTCOPY_DEST_GREF);
        not_copied("a copy to a grant of a page table", status)?;
        grant.end().map_err(|_| "the grant is still in use")?;
    }
    expect((0..512).all(|index| table.entry(index) == 0), "a page table has changed")?;
    accepted("unpinning it", attacker.unpin(table.frame())).map(drop)
}

fn grants_that_are_none(attacker: &Attacker) -> Outcome {
    let page = page()?;
    for reference in [9, 511, 512, 32767, 32768, 1 << 31, u32::MAX].map(GrantReference) {
        for domid in others_numbers(attacker).chain([attacker.own_id]) {
            let end = End::granted(domid, reference, 0);
            let what = format!("reference {reference} of domain {domid}");
            let status = copy(attacker, end, own(&page), GNTCOPY_SOURCE_GREF);
            not_copied(format!("a copy from {what}"), status)?;
            let status = copy(attacker, own(&page), end, GNTCOPY_DEST_GREF);
            not_copied(format!("a copy to {what}"), status)?;
            let status = copy(attacker, end, end, GNTCOPY_SOURCE_GREF | GNTCOPY_DEST_GREF);
            not_copied(format!("a copy within {what}"), status)?;
        }
    }
    Ok(())
}

fn read_only_grants(attacker: &Attacker) -> Outcome {
    let (granted, page) = (page()?, page()?);
    let grant = grant_to(attacker, granted.machine_frame(), GrantAccess::ReadOnly)?;
    let end = End::granted(attacker.own_id, grant.reference(), 0);
    copied("reading", copy(attacker, end, own(&page), GNTCOPY_SOURCE_GREF))?;
    not_copied("writing", copy(attacker, own(&page), end, GNTCOPY_DEST_GREF))?;
    let both = GNTCOPY_SOURCE_GREF | GNTCOPY_DEST_GREF;
    not_copied("writing while reading", copy(attacker, end, end, both))?;
    grant.end().map_err(|_| "the grant is still in use".into())
}

fn ranges_over_the_edge(attacker: &Attacker) -> Outcome {
    let (source, dest) = (page()?, page()?);
    let grant = grant_to(attacker, source.machine_frame(), GrantAccess::ReadWrite)?;
    let ranges = [
        (0, 4097),
        (1, 4096),
        (4095, 2),
        (4096, 1),
        (4000, 97),
        (0, u16::MAX),
        (u16::MAX, 1),
        (u16::MAX, u16::MAX),
    ];
    for (offset, length) in ranges {
        let what = format!("{length} bytes at {offset}");
        let granted = End::granted(attacker.own_id, grant.reference(), offset);
        let near = |page: &Page| End::own(page.machine_frame().0, offset);
        let status = copy_length(attacker, near(&source), own(&dest), 0, length);
        not_copied(format!("a copy from {what}"), status)?;
        let status = copy_length(attacker, own(&source), near(&dest), 0, length);
        not_copied(format!("a copy to {what}"), status)?;
        let status = copy_length(attacker, granted, own(&dest), GNTCOPY_SOURCE_GREF, length);
        not_copied(format!("a copy from {what} of a grant"), status)?;
        let status = copy_length(attacker, own(&dest), granted, GNTCOPY_DEST_GREF, length);
        not_copied(format!("a copy to {what} of a grant"), status)?;
    }
    for (offset, length) in [(0, 4096), (4095, 1), (1, 4095), (4096, 0)] {
        let end = End::own(source.machine_frame().0, offset);
        let status = copy_length(attacker, end, own(&dest), 0, length)?;
        expect(status == GNTST_OKAY || length == 0, format!("{length} bytes at {offset} gave {status}"))?;
    }
    grant.end().map_err(|_| "the grant is still in use".into())
}

/// Overlapping ranges give some mixture of bytes, and touch nothing beyond them.
fn within_one_page(attacker: &Attacker) -> Outcome {
    let page = page()?;
    let frame = page.machine_frame().0;
    for (from, to) in [(0, 1), (1, 0), (0, 4000), (4000, 0), (100, 100)] {
        page.clear();
        page.copy_in(0, &[7; 64]);
        let status = copy_length(attacker, End::own(frame, from), End::own(frame, to), 0, 96)?;
        expect(status == GNTST_OKAY, format!("a copy from {from} to {to} gave {status}"))?;
    }
    Ok(())
}
