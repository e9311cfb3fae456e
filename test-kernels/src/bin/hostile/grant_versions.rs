#![expect(unsafe_code, reason = "maps the frames of its grant table")]
//! Grants of version 2: parts of pages, grants that are passed on, and flags in frames of their own.
//!
//! Each case changes the version, writes entries of its own, and changes it back; this kernel grants nothing meanwhile.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use hypercall_abi::grant_table::*;
use hypercall_abi::memory::{MemoryDomain, XENMEM_CURRENT_RESERVATION, XENMEM_DECREASE_RESERVATION};
use hypercall_abi::{DomainId, Errno, GrantReference, MachineFrame};
use pv_runtime::memory::{Mapping, Protection, SharedMemory, map_own_frames};

use crate::attacker::Attacker;
use crate::entry::{WRITE, entry};
use crate::mapping::others_numbers;
use crate::report::{Outcome, accepted, cases, expect, refused, refused_as};
use crate::slot::{Slot, page};
use crate::surroundings::Surroundings;
use crate::table::tables_of;

cases!("grant_versions":
    more_than_a_part, grants_of_others_passed_on, passed_on_in_circles, frames_that_are_not_its_own,
    page_tables_granted, a_change_while_in_use, flags_of_others, frames_of_flags_as_something_else,
    changes_without_end,
);

/// A reference that a builder does not use.
const REFERENCE: u32 = 8;

fn set_version(attacker: &Attacker, version: u32) -> Result<u64, Errno> {
    let mut operation = GnttabSetVersion { version };
    attacker.grant_op(GNTTABOP_SET_VERSION, core::slice::from_mut(&mut operation))
}

/// The frames of the flags, as many as `frames` has room for.
fn status_frames(attacker: &Attacker, dom: DomainId, frames: &mut [u64]) -> Result<i16, String> {
    let mut operation = GnttabGetStatusFrames {
        nr_frames: frames.len() as u32,
        dom,
        status: 1,
        frame_list: frames.as_mut_ptr() as u64,
    };
    let answer = attacker.grant_op(GNTTABOP_GET_STATUS_FRAMES, core::slice::from_mut(&mut operation));
    accepted("asking for frames of flags", answer)?;
    Ok(operation.status)
}

/// The first frame of a table of version 2, until this is dropped.
struct VersionTwo<'a> {
    attacker: &'a Attacker,
    entries: Mapping,
    /// The frame of the flags.
    status: MachineFrame,
    frame: MachineFrame,
}

impl<'a> VersionTwo<'a> {
    fn begin(attacker: &'a Attacker) -> Result<Self, String> {
        accepted("version 2", set_version(attacker, 2))?;
        let mut frames = [0u64];
        let mut table = GnttabSetupTable {
            dom: DomainId::SELF,
            nr_frames: 1,
            frame_list: frames.as_mut_ptr() as u64,
            ..Default::default()
        };
        let answer = attacker.grant_op(GNTTABOP_SETUP_TABLE, core::slice::from_mut(&mut table));
        accepted("asking for the table", answer)?;
        let frame = MachineFrame(frames[0]);
        let status = status_frames(attacker, DomainId::SELF, &mut frames)?;
        expect(status == GNTST_OKAY, format!("asking for the flags gave {status}"))?;
        // SAFETY: the runtime has the frame as shared memory too.
        let entries = unsafe { map_own_frames(&[frame], Protection::ReadWrite) };
        let entries = entries.map_err(|errno| format!("the table cannot be mapped: {errno}"))?;
        Ok(Self { attacker, entries, status: MachineFrame(frames[0]), frame })
    }

    fn write(&self, reference: u32, entry: impl Into<GrantEntryV2>) {
        self.entries.write(reference as usize * size_of::<GrantEntryV2>(), &entry.into());
    }

    fn header(&self, flags: u16) -> GrantEntryHeader {
        GrantEntryHeader { flags, domid: self.attacker.own_id }
    }

    fn grant_page(&self, frame: u64) {
        let hdr = self.header(GTF_PERMIT_ACCESS);
        self.write(REFERENCE, GrantEntryV2 { hdr, frame, ..Default::default() });
    }

    fn pass_on(&self, trans_domid: DomainId, gref: u32) {
        let (hdr, gref) = (self.header(GTF_TRANSITIVE), GrantReference(gref));
        self.write(REFERENCE, GrantEntryV2Transitive { hdr, trans_domid, gref, ..Default::default() });
    }

    /// The status of a copy from the grant.
    fn read(&self, offset: u16, len: u16) -> Result<i16, String> {
        let mine = page()?;
        let source = GnttabCopyPtr::granted(self.attacker.own_id, GrantReference(REFERENCE), offset);
        let dest = GnttabCopyPtr::own(mine.machine_frame().0, 0);
        self.copy(GnttabCopy {
            source,
            dest,
            len,
            flags: GNTCOPY_SOURCE_GREF,
            status: 1,
            ..Default::default()
        })
    }

    /// The status of a copy into the grant.
    fn write_to(&self, offset: u16, len: u16) -> Result<i16, String> {
        let mine = page()?;
        let source = GnttabCopyPtr::own(mine.machine_frame().0, 0);
        let dest = GnttabCopyPtr::granted(self.attacker.own_id, GrantReference(REFERENCE), offset);
        self.copy(GnttabCopy { source, dest, len, flags: GNTCOPY_DEST_GREF, status: 1, ..Default::default() })
    }

    fn copy(&self, mut operation: GnttabCopy) -> Result<i16, String> {
        let answer = self.attacker.grant_op(GNTTABOP_COPY, core::slice::from_mut(&mut operation));
        accepted("a copy", answer).map(|_| operation.status)
    }

    /// Maps the grant for devices; its status, and how to undo it.
    fn map(&self) -> Result<GnttabMapGrantRef, String> {
        let mut operation = GnttabMapGrantRef {
            flags: GNTMAP_DEVICE_MAP,
            r#ref: GrantReference(REFERENCE),
            dom: self.attacker.own_id,
            status: 1,
            ..Default::default()
        };
        let answer = self.attacker.grant_op(GNTTABOP_MAP_GRANT_REF, core::slice::from_mut(&mut operation));
        accepted("a map operation", answer).map(|_| operation)
    }

    fn unmap(&self, mapped: &GnttabMapGrantRef) -> Outcome {
        let mut operation = GnttabUnmapGrantRef {
            dev_bus_addr: mapped.dev_bus_addr,
            handle: mapped.handle,
            status: 1,
            ..Default::default()
        };
        let answer = self.attacker.grant_op(GNTTABOP_UNMAP_GRANT_REF, core::slice::from_mut(&mut operation));
        accepted("an unmap operation", answer)?;
        expect(operation.status == GNTST_OKAY, format!("unmapping gave {}", operation.status))
    }

    /// Neither can be read, nor written, nor mapped.
    fn grants_nothing(&self, what: impl core::fmt::Display) -> Outcome {
        let (read, written) = (self.read(0, 64)?, self.write_to(0, 64)?);
        expect(read < 0 && written < 0, format!("{what} was copied: {read}, {written}"))?;
        let mapped = self.map()?;
        if mapped.status == GNTST_OKAY {
            self.unmap(&mapped)?;
        }
        expect(mapped.status < 0, format!("{what} was mapped"))
    }

    fn works(&self) -> Outcome {
        let mine = page()?;
        self.grant_page(mine.machine_frame().0);
        let (read, written, mapped) = (self.read(0, 4096)?, self.write_to(0, 4096)?, self.map()?);
        expect((read, written, mapped.status) == (0, 0, 0), "a page of its own is not granted")?;
        self.unmap(&mapped)
    }
}

impl Drop for VersionTwo<'_> {
    fn drop(&mut self) {
        self.write(REFERENCE, GrantEntryV2::default());
        // A case that failed half-way leaves version 2, in which the later ones fail too and say so.
        let _ = set_version(self.attacker, 1);
    }
}

fn more_than_a_part(attacker: &Attacker) -> Outcome {
    let table = VersionTwo::begin(attacker)?;
    table.works()?;
    let mine = page()?;
    let (hdr, frame) = (table.header(GTF_PERMIT_ACCESS | GTF_SUB_PAGE), mine.machine_frame().0);
    table.write(REFERENCE, GrantEntryV2SubPage { hdr, page_off: 100, length: 64, frame });
    for (offset, length) in [(100, 64), (163, 1), (130, 20)] {
        expect(table.read(offset, length)? == GNTST_OKAY, "the part cannot be read")?;
        expect(table.write_to(offset, length)? == GNTST_OKAY, "the part cannot be written")?;
    }
    for (offset, length) in [(99, 64), (101, 64), (0, 100), (164, 1), (0, 4096), (4095, 1), (100, 65535)] {
        let (read, written) = (table.read(offset, length)?, table.write_to(offset, length)?);
        expect(read < 0 && written < 0, format!("{length} bytes from {offset} on were copied"))?;
    }
    expect(table.map()?.status < 0, "a part was mapped")?;
    for (page_off, length) in [(4095, 2), (4000, 65535), (65535, 65535), (0, 65535)] {
        table.write(REFERENCE, GrantEntryV2SubPage { hdr, page_off, length, frame });
        for (offset, count) in [(4095, 2), (4096, 1), (65535, 1), (1, 65535)] {
            expect(table.read(offset, count)? < 0, format!("{count} bytes from {offset} on were copied"))?;
        }
    }
    Ok(())
}

/// This domain may pass on only what was granted to it, and nothing was.
fn grants_of_others_passed_on(attacker: &Attacker) -> Outcome {
    let table = VersionTwo::begin(attacker)?;
    for domain in others_numbers(attacker) {
        for reference in [0, 1, 2, 7, 8, 9, 255, 256, 511, 32767, u32::MAX] {
            table.pass_on(domain, reference);
            table.grants_nothing(format!("grant {reference} of domain {domain}"))?;
        }
    }
    table.works()
}

fn passed_on_in_circles(attacker: &Attacker) -> Outcome {
    let table = VersionTwo::begin(attacker)?;
    for domain in [attacker.own_id, DomainId::SELF] {
        for reference in [REFERENCE, REFERENCE + 1, 0] {
            table.pass_on(domain, reference);
            table.grants_nothing(format!("its own grant {reference} passed on to itself"))?;
        }
    }
    table.works()
}

fn frames_that_are_not_its_own(attacker: &Attacker) -> Outcome {
    let surroundings = Surroundings::look(attacker)?;
    let table = VersionTwo::begin(attacker)?;
    let own = page()?.machine_frame().0;
    let odd = [surroundings.last.0 + 1, 0xfee00, 1 << 32, 1 << 40, own | 1 << 32, own | 1 << 52, u64::MAX];
    for frame in surroundings.samples().into_iter().map(|frame| frame.0).chain(odd) {
        table.grant_page(frame);
        table.grants_nothing(format!("frame {frame:#x}"))?;
        let hdr = table.header(GTF_PERMIT_ACCESS | GTF_SUB_PAGE);
        table.write(REFERENCE, GrantEntryV2SubPage { hdr, page_off: 0, length: 4096, frame });
        table.grants_nothing(format!("a part of frame {frame:#x}"))?;
    }
    table.works()
}

fn page_tables_granted(attacker: &Attacker) -> Outcome {
    let slot = Slot::new(attacker)?;
    let tables: Vec<_> = tables_of(attacker, slot.address())?.into_iter().collect();
    let table = VersionTwo::begin(attacker)?;
    for frame in tables {
        table.grant_page(frame.0);
        expect(table.write_to(0, 64)? < 0, format!("page table {frame} was written"))?;
        expect(table.map()?.status < 0, format!("page table {frame} was mapped for a device's writing"))?;
        expect(table.read(0, 64)? == GNTST_OKAY, "its own page table cannot be read")?;
    }
    table.works()
}

/// While others hold what an entry said, the entries do not change their form.
fn a_change_while_in_use(attacker: &Attacker) -> Outcome {
    let table = VersionTwo::begin(attacker)?;
    let mine = page()?;
    table.grant_page(mine.machine_frame().0);
    let mapped = table.map()?;
    expect(mapped.status == GNTST_OKAY, "its own page cannot be mapped")?;
    for version in [1, 0, 3, u32::MAX] {
        refused(format!("version {version}"), set_version(attacker, version))?;
    }
    for level in 1..=4 {
        refused("a granted page as table", attacker.pin(mine.machine_frame(), level))?;
    }
    table.unmap(&mapped)?;
    accepted("version 1 afterwards", set_version(attacker, 1))?;
    accepted("version 2 again", set_version(attacker, 2))?;
    table.works()
}

fn flags_of_others(attacker: &Attacker) -> Outcome {
    let table = VersionTwo::begin(attacker)?;
    let mut frames = [0u64; 16];
    for domain in others_numbers(attacker) {
        let status = status_frames(attacker, domain, &mut frames[..1])?;
        expect(status < 0, format!("the flags of domain {domain} gave {status}"))?;
    }
    expect(status_frames(attacker, DomainId::SELF, &mut frames)? < 0, "there are more flags than grants")?;
    expect(frames[0] == table.status.0 || frames[0] == 0, "they are somewhere else now")?;
    table.works()
}

fn frames_of_flags_as_something_else(attacker: &Attacker) -> Outcome {
    let slot = Slot::new(attacker)?;
    let table = VersionTwo::begin(attacker)?;
    for frame in [table.status, table.frame] {
        accepted("a mapping", slot.map(entry(frame, WRITE)))?;
        for level in 1..=4 {
            refused(format!("frame {frame} as table of level {level}"), attacker.pin(frame, level))?;
        }
        let given = attacker.reservation(XENMEM_DECREASE_RESERVATION, &mut [frame.0], 0);
        expect(matches!(given, Ok(0) | Err(_)), "a frame of grants was given up")?;
        accepted("version 1", set_version(attacker, 1))?;
        // Still mapped: whatever it is by now, it must be this domain's own.
        expect(attacker.write(slot.address()).is_ok(), "the mapping is gone")?;
        accepted("version 2", set_version(attacker, 2))?;
        accepted("its page back", slot.restore())?;
    }
    table.works()
}

/// Mapped or not, frames do not pile up.
fn changes_without_end(attacker: &Attacker) -> Outcome {
    let slot = Slot::new(attacker)?;
    let table = VersionTwo::begin(attacker)?;
    let mut own = MemoryDomain { domid: DomainId::SELF };
    let before = accepted("its size", attacker.memory_op(XENMEM_CURRENT_RESERVATION, &mut own))?;
    for _ in 0..200 {
        accepted("mapping the flags", slot.map(entry(table.status, WRITE)))?;
        accepted("version 1", set_version(attacker, 1))?;
        accepted("version 2", set_version(attacker, 2))?;
    }
    accepted("its page back", slot.restore())?;
    let after = accepted("its size", attacker.memory_op(XENMEM_CURRENT_RESERVATION, &mut own))?;
    expect(after == before, format!("it has {after} pages, and had {before}"))?;
    refused_as("version 4", &[Errno::EINVAL], set_version(attacker, 4))?;
    table.works()
}
