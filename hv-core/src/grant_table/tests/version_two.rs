//! Version 2: flags of their own, parts of pages, and grants that are passed on.

use super::*;
use crate::{
    frame_allocator,
    test_support::{ARGUMENTS, begin_to_die, errno, machine_of},
};
use hypercall_abi::{
    Errno,
    grant_table::{
        GNTCOPY_DEST_GREF, GNTCOPY_SOURCE_GREF, GNTST_BAD_DOMAIN, GNTST_BAD_GNTREF, GNTST_BAD_PAGE,
        GNTST_EAGAIN, GNTST_GENERAL_ERROR, GNTST_PERMISSION_DENIED, GNTTAB_CACHE_CLEAN, GNTTAB_CACHE_INVAL,
        GNTTAB_CACHE_SOURCE_GREF, GNTTABOP_CACHE_FLUSH, GNTTABOP_GET_STATUS_FRAMES, GNTTABOP_GET_VERSION,
        GNTTABOP_SET_VERSION, GNTTABOP_SWAP_GRANT_REF, GTF_SUB_PAGE, GTF_TRANSITIVE, GnttabCacheFlush,
        GnttabCopyPtr, GnttabGetStatusFrames, GnttabGetVersion, GnttabSetVersion, GnttabSwapGrantRef,
        GrantEntryHeader, GrantEntryV2, GrantEntryV2SubPage, GrantEntryV2Transitive,
    },
};

/// A domain that only passes on.
const PASSER: DomainId = DomainId(3);

/// Asks for a version, and says what came of it and which version there is.
fn set_version(guest: &Guest, version: u32) -> (Result<u64, Errno>, u32) {
    let mut ops = [GnttabSetVersion { version }];
    let result = match guest.call(grant_table_op, GNTTABOP_SET_VERSION, &mut ops) {
        Ok(value) => Ok(value),
        refused => Err(errno(refused)),
    };
    (result, ops[0].version)
}

fn with_version_two(number: u16) -> Guest {
    let guest = Guest::new(number);
    assert_eq!(set_version(&guest, 2), (Ok(0), 2));
    guest
}

fn place(guest: &Guest, reference: u32) -> (MachineFrame, usize) {
    let frame = frame_for_index(guest.domain(), reference / 256).expect("a table that large");
    (frame, reference as usize % 256 * 16)
}

fn write_entry(guest: &Guest, reference: u32, entry: impl Into<GrantEntryV2>) {
    let (frame, offset) = place(guest, reference);
    direct_map::write_bytes(frame, offset, entry.into().as_bytes());
}

fn header(flags: u16, domid: DomainId) -> GrantEntryHeader {
    GrantEntryHeader { flags, domid }
}

/// Grants a fresh frame.
fn grant_page(guest: &Guest, reference: u32, grantee: DomainId, extra_flags: u16) -> MachineFrame {
    let frame = guest.inner.frame();
    let hdr = header(GTF_PERMIT_ACCESS | extra_flags, grantee);
    write_entry(guest, reference, GrantEntryV2 { hdr, frame: frame.0, ..Default::default() });
    frame
}

fn grant_part(guest: &Guest, reference: u32, page_off: u16, length: u16) -> MachineFrame {
    let frame = guest.inner.frame();
    let hdr = header(GTF_PERMIT_ACCESS | GTF_SUB_PAGE, GRANTEE);
    write_entry(guest, reference, GrantEntryV2SubPage { hdr, page_off, length, frame: frame.0 });
    frame
}

fn pass_on(guest: &Guest, reference: u32, to: DomainId, from: DomainId, gref: u32) {
    let hdr = header(GTF_TRANSITIVE, to);
    let gref = GrantReference(gref);
    write_entry(
        guest,
        reference,
        GrantEntryV2Transitive { hdr, trans_domid: from, gref, ..Default::default() },
    );
}

/// The frames of the guest's status words.
fn status_frames(guest: &Guest, count: u32) -> Result<Vec<u64>, i16> {
    let frame_list = ARGUMENTS + 4096;
    let mut ops =
        [GnttabGetStatusFrames { nr_frames: count, dom: DomainId::SELF, frame_list, ..Default::default() }];
    guest.call(grant_table_op, GNTTABOP_GET_STATUS_FRAMES, &mut ops).unwrap();
    if ops[0].status != GNTST_OKAY {
        return Err(ops[0].status);
    }
    let mut pages = [0u64; 1024];
    guest.read_arguments(&mut pages);
    Ok(pages[512..][..count as usize].to_vec())
}

/// The flags that tell the guest of uses of its grant.
fn uses(guest: &Guest, reference: u32) -> u16 {
    let count = reference / 2048 + 1;
    let frame = MachineFrame(status_frames(guest, count).unwrap()[count as usize - 1]);
    direct_map::atomic::<u16>(frame, reference as usize % 2048 * 2).load(Ordering::SeqCst)
}

fn read_part(guest: &Guest, dom: DomainId, reference: u32, offset: u16, len: u16) -> i16 {
    let source = GnttabCopyPtr::granted(dom, GrantReference(reference), offset);
    let dest = GnttabCopyPtr::own(guest.inner.frame().0, 0);
    copy(guest, GnttabCopy { source, dest, len, flags: GNTCOPY_SOURCE_GREF, ..Default::default() })
}

fn write_part(guest: &Guest, dom: DomainId, reference: u32, offset: u16, len: u16) -> i16 {
    let source = GnttabCopyPtr::own(guest.inner.frame().0, 0);
    let dest = GnttabCopyPtr::granted(dom, GrantReference(reference), offset);
    copy(guest, GnttabCopy { source, dest, len, flags: GNTCOPY_DEST_GREF, ..Default::default() })
}

#[test]
fn a_guest_chooses_its_version() {
    let _machine = machine_of(256);
    let guest = Guest::new(1);
    assert_eq!(status_frames(&guest, 1), Err(GNTST_GENERAL_ERROR), "version 1 has none");
    assert_eq!(set_version(&guest, 1), (Ok(0), 1));
    for wrong in [0, 3, u32::MAX] {
        assert_eq!(set_version(&guest, wrong), (Err(Errno::EINVAL), 1));
    }
    assert_eq!(set_version(&guest, 2), (Ok(0), 2));
    let mut get = [GnttabGetVersion { dom: DomainId::SELF, ..Default::default() }];
    guest.call(grant_table_op, GNTTABOP_GET_VERSION, &mut get).unwrap();
    assert_eq!(get[0].version, 2);
    frame_for_index(guest.domain(), 3).unwrap();
    assert_eq!(status_frames(&guest, 1).map(|frames| frames.len()), Ok(1));
    assert_eq!(status_frames(&guest, 2), Err(GNTST_GENERAL_ERROR));
    assert_eq!(set_version(&guest, 1), (Ok(0), 1));
}

#[test]
fn the_toolstack_may_keep_a_guest_to_version_one() {
    let _machine = machine_of(256);
    let guest = Guest::new(1);
    let mut old = super::super::active::Granted::new(4, super::super::Version::One);
    assert_eq!(old.set_version(guest.domain(), super::super::Version::Two), Err(Errno::ENOSYS));
}

#[test]
fn the_flags_of_uses_are_in_their_own_words() {
    let _machine = machine_of(256);
    let (granter, grantee) = (with_version_two(1), Guest::new(2));
    for reference in [8, 255, 256, 700] {
        let frame = grant_page(&granter, reference, GRANTEE, 0);
        let reader = map_well(&grantee, GRANTER, reference, HOST | READ_ONLY, address(40));
        assert_eq!(uses(&granter, reference), GTF_READING);
        let writer = map_well(&grantee, GRANTER, reference, DEVICE, 0);
        assert_eq!(writer.dev_bus_addr, frame.physical_address());
        assert_eq!(uses(&granter, reference), GTF_READING | GTF_WRITING);
        assert_eq!(type_of(frame), FrameType::Writable);
        assert_eq!(unmap(&grantee, writer.handle, 0, writer.dev_bus_addr), GNTST_OKAY);
        assert_eq!(uses(&granter, reference), GTF_READING);
        assert_eq!(unmap(&grantee, reader.handle, address(40), 0), GNTST_OKAY);
        assert_eq!(uses(&granter, reference), 0);
        assert_eq!(references(frame), 1);
    }
}

#[test]
fn what_is_not_granted_is_refused() {
    let _machine = machine_of(256);
    let (granter, grantee) = (with_version_two(1), Guest::new(2));
    let status = |reference, flags| map(&grantee, map_op(GRANTER, reference, flags, address(40))).status;
    grant_page(&granter, 8, DomainId(7), 0);
    assert_eq!(status(8, HOST), GNTST_GENERAL_ERROR, "another domain's");
    grant_page(&granter, 9, GRANTEE, GTF_READONLY);
    assert_eq!(status(9, HOST), GNTST_GENERAL_ERROR, "for reading only");
    assert_eq!(uses(&granter, 9), 0);
    grant_part(&granter, 10, 0, 4096);
    assert_eq!(status(10, HOST | READ_ONLY), GNTST_GENERAL_ERROR, "a part is for copying");
    pass_on(&granter, 11, GRANTEE, DomainId(0), 3);
    assert_eq!(status(11, HOST | READ_ONLY), GNTST_GENERAL_ERROR, "what is passed on is for copying");
    for frame in [granter.branch.l1.0 | 1 << 40, u64::MAX, 1 << 32] {
        let hdr = header(GTF_PERMIT_ACCESS, GRANTEE);
        write_entry(&granter, 12, GrantEntryV2 { hdr, frame, ..Default::default() });
        assert_eq!(status(12, DEVICE), GNTST_BAD_PAGE, "{frame:#x}");
        assert_eq!(read_part(&grantee, GRANTER, 12, 0, 8), GNTST_BAD_PAGE);
    }
    let hdr = header(GTF_PERMIT_ACCESS, GRANTEE);
    write_entry(&granter, 12, GrantEntryV2 { hdr, frame: granter.branch.l1.0, ..Default::default() });
    assert_eq!(status(12, DEVICE), GNTST_GENERAL_ERROR, "a page table");
    for reference in [4 * 256, 512 * 4, u32::MAX] {
        assert_eq!(status(reference, DEVICE), GNTST_BAD_GNTREF);
    }
    assert_eq!(granter.domain().grant_table.used_grants(), 0);
    assert_eq!(grantee.domain().grant_table.mappings(), 0);
}

#[test]
fn a_part_of_a_page_is_copied_and_no_more() {
    let _machine = machine_of(256);
    let (granter, grantee) = (with_version_two(1), Guest::new(2));
    let frame = grant_part(&granter, 20, 100, 50);
    assert_eq!(read_part(&grantee, GRANTER, 20, 100, 50), GNTST_OKAY);
    assert_eq!(write_part(&grantee, GRANTER, 20, 149, 1), GNTST_OKAY);
    for (offset, length) in [(99, 50), (100, 51), (0, 1), (150, 1), (0, 4096), (4095, 1)] {
        assert_eq!(
            read_part(&grantee, GRANTER, 20, offset, length),
            GNTST_GENERAL_ERROR,
            "{offset}+{length}"
        );
        assert_eq!(write_part(&grantee, GRANTER, 20, offset, length), GNTST_GENERAL_ERROR);
    }
    for (page_off, length) in [(4000, 4000), (u16::MAX, u16::MAX), (0, u16::MAX), (0, 0)] {
        grant_part(&granter, 21, page_off, length);
        let status = read_part(&grantee, GRANTER, 21, 4090, 6);
        let is_granted = page_off <= 4090 && length > 96;
        assert_eq!(status == GNTST_OKAY, is_granted, "{page_off}+{length}");
    }
    assert_eq!((uses(&granter, 20), references(frame)), (0, 1));
}

/// `first` granted to the passer, who passes it on to the grantee.
fn three_guests() -> (Guest, Guest, Guest, MachineFrame) {
    let (granter, grantee) = (Guest::new(GRANTER.0), Guest::new(GRANTEE.0));
    let passer = with_version_two(PASSER.0);
    let frame = grant_new(&granter, 3, PASSER, 0);
    pass_on(&passer, 30, GRANTEE, GRANTER, 3);
    (granter, passer, grantee, frame)
}

#[test]
fn a_grant_that_is_passed_on_is_copied_from_and_to() {
    let _machine = machine_of(256);
    let (granter, passer, grantee, frame) = three_guests();
    direct_map::write_bytes(frame, 16, b"passed on");
    let mine = grantee.inner.frame();
    let source = GnttabCopyPtr::granted(PASSER, GrantReference(30), 16);
    let read = GnttabCopy {
        source,
        dest: GnttabCopyPtr::own(mine.0, 0),
        len: 9,
        flags: GNTCOPY_SOURCE_GREF,
        ..Default::default()
    };
    assert_eq!(copy(&grantee, read), GNTST_OKAY);
    let mut bytes = [0; 9];
    direct_map::read_bytes(mine, 0, &mut bytes);
    assert_eq!(&bytes, b"passed on");
    assert_eq!(write_part(&grantee, PASSER, 30, 0, 100), GNTST_OKAY);
    assert_eq!((uses(&passer, 30), in_use(&granter, 3), references(frame)), (0, 0, 1));
    assert_eq!(granter.domain().grant_table.used_grants(), 0);
    assert_eq!(passer.domain().grant_table.used_grants(), 0);
}

#[test]
fn passing_on_gives_no_more_than_was_given() {
    let _machine = machine_of(256);
    let (granter, passer, grantee, frame) = three_guests();
    assert_eq!(read_part(&Guest::new(9), PASSER, 30, 0, 8), GNTST_GENERAL_ERROR, "not passed on to that one");
    assert_eq!(read_part(&grantee, GRANTER, 3, 0, 8), GNTST_GENERAL_ERROR, "not granted by the first");
    grant(&granter, 3, PASSER, frame, GTF_READONLY);
    assert_eq!(read_part(&grantee, PASSER, 30, 0, 8), GNTST_OKAY);
    assert_eq!(write_part(&grantee, PASSER, 30, 0, 8), GNTST_GENERAL_ERROR);
    grant(&granter, 3, GRANTEE, frame, 0);
    assert_eq!(read_part(&grantee, PASSER, 30, 0, 8), GNTST_GENERAL_ERROR, "the passer has it no more");
    for (from, gref) in
        [(PASSER, 30), (PASSER, 31), (DomainId(77), 3), (DomainId::SELF, 3), (DomainId::XEN, 0)]
    {
        pass_on(&passer, 30, GRANTEE, from, gref);
        let status = read_part(&grantee, PASSER, 30, 0, 8);
        assert!([GNTST_GENERAL_ERROR, GNTST_BAD_DOMAIN].contains(&status), "{from} {gref}: {status}");
    }
    // No chains.
    let middle = with_version_two(4);
    grant(&granter, 3, middle.inner.id(), frame, 0);
    pass_on(&middle, 8, PASSER, GRANTER, 3);
    pass_on(&passer, 30, GRANTEE, middle.inner.id(), 8);
    assert_eq!(read_part(&grantee, PASSER, 30, 0, 8), GNTST_GENERAL_ERROR);
    begin_to_die(granter.domain());
    pass_on(&passer, 30, GRANTEE, GRANTER, 3);
    assert_eq!(read_part(&grantee, PASSER, 30, 0, 8), GNTST_BAD_DOMAIN);
    assert_eq!((uses(&passer, 30), uses(&middle, 8), references(frame)), (0, 0, 1));
}

#[test]
fn reserved_entries_survive_a_change_of_version_even_in_use() {
    let _machine = machine_of(256);
    let (granter, grantee) = two_guests();
    let frame = grant_new(&granter, 1, GRANTEE, 0);
    grant_new(&granter, 9, GRANTEE, 0);
    let mapping = map_well(&grantee, GRANTER, 1, HOST, address(40));
    assert_eq!(set_version(&granter, 2), (Ok(0), 2));
    assert_eq!(uses(&granter, 1), GTF_READING | GTF_WRITING);
    let second = map_well(&grantee, GRANTER, 1, DEVICE, 0);
    assert_eq!(second.dev_bus_addr, frame.physical_address());
    assert_eq!(
        map(&grantee, map_op(GRANTER, 9, DEVICE, 0)).status,
        GNTST_GENERAL_ERROR,
        "the others are empty"
    );
    assert_eq!(unmap(&grantee, mapping.handle, address(40), 0), GNTST_OKAY);
    assert_eq!(set_version(&granter, 1), (Ok(0), 1));
    assert_eq!(in_use(&granter, 1), GTF_READING | GTF_WRITING);
    assert_eq!(unmap(&grantee, second.handle, 0, second.dev_bus_addr), GNTST_OKAY);
    assert_eq!(in_use(&granter, 1), 0);
    map_well(&grantee, GRANTER, 1, DEVICE, 0);
}

#[test]
fn the_version_stays_while_a_grant_is_in_use_or_cannot_be_said_in_the_other() {
    let _machine = machine_of(256);
    let (granter, grantee) = two_guests();
    grant_new(&granter, 8, GRANTEE, 0);
    let mapping = map_well(&grantee, GRANTER, 8, DEVICE, 0);
    assert_eq!(set_version(&granter, 2), (Err(Errno::EBUSY), 1));
    assert_eq!(unmap(&grantee, mapping.handle, 0, mapping.dev_bus_addr), GNTST_OKAY);
    assert_eq!(set_version(&granter, 2), (Ok(0), 2));
    pass_on(&granter, 2, GRANTEE, DomainId(0), 1);
    assert_eq!(set_version(&granter, 1), (Err(Errno::ERANGE), 2));
    grant_part(&granter, 2, 0, 8);
    assert_eq!(set_version(&granter, 1), (Err(Errno::ERANGE), 2));
    grant_page(&granter, 2, GRANTEE, 0);
    assert_eq!(set_version(&granter, 1), (Ok(0), 1));
}

#[test]
fn changing_the_version_for_ever_takes_no_memory() {
    let _machine = machine_of(256);
    let guest = with_version_two(1);
    frame_for_index(guest.domain(), 3).unwrap();
    let status = MachineFrame(status_frames(&guest, 1).unwrap()[0]);
    let mapped = Entry::new(status, crate::page_table::test_guest::RW);
    guest.inner.update(guest.branch.l1, 50, mapped).unwrap();
    let free = frame_allocator::free_frames();
    for _ in 0..20 {
        assert_eq!(set_version(&guest, 1), (Ok(0), 1));
        assert_eq!(set_version(&guest, 2), (Ok(0), 2));
    }
    assert_eq!(frame_allocator::free_frames(), free);
    assert_eq!(frame::owner(status), Some(DomainId(1)), "what is mapped is still the guest's");
}

#[test]
fn entries_of_version_two_swap() {
    let _machine = machine_of(256);
    let (granter, grantee) = (with_version_two(1), Guest::new(2));
    let (first, second) =
        (grant_page(&granter, 8, GRANTEE, 0), grant_page(&granter, 300, GRANTEE, GTF_READONLY));
    let swap = || {
        let mut ops = [GnttabSwapGrantRef {
            ref_a: GrantReference(8),
            ref_b: GrantReference(300),
            ..Default::default()
        }];
        granter.call(grant_table_op, GNTTABOP_SWAP_GRANT_REF, &mut ops).unwrap();
        ops[0].status
    };
    assert_eq!(swap(), GNTST_OKAY);
    let mapping = map_well(&grantee, GRANTER, 300, DEVICE, 0);
    assert_eq!(mapping.dev_bus_addr, first.physical_address());
    let other = map_well(&grantee, GRANTER, 8, DEVICE | READ_ONLY, 0);
    assert_eq!(other.dev_bus_addr, second.physical_address());
    assert_eq!(swap(), GNTST_EAGAIN);
}

#[test]
fn caches_are_flushed_for_pages_of_ones_own() {
    let _machine = machine_of(256);
    let (guest, other) = two_guests();
    let flush = |frame: MachineFrame, offset, length, op| {
        let a = frame.physical_address();
        guest.call(grant_table_op, GNTTABOP_CACHE_FLUSH, &mut [GnttabCacheFlush { a, offset, length, op }])
    };
    let mine = guest.inner.frame();
    assert_eq!(flush(mine, 10, 4086, GNTTAB_CACHE_CLEAN), Ok(0));
    assert_eq!(flush(mine, 0, 4096, GNTTAB_CACHE_CLEAN | GNTTAB_CACHE_INVAL), Ok(0));
    assert_eq!(errno(flush(mine, 10, 4087, GNTTAB_CACHE_CLEAN)), Errno::EINVAL);
    assert_eq!(errno(flush(mine, 0, 8, 1 << 5)), Errno::EINVAL);
    assert_eq!(errno(flush(mine, 0, 8, GNTTAB_CACHE_INVAL)), Errno::EOPNOTSUPP);
    assert_eq!(errno(flush(mine, 0, 8, GNTTAB_CACHE_CLEAN | GNTTAB_CACHE_SOURCE_GREF)), Errno::EOPNOTSUPP);
    assert_eq!(errno(flush(other.inner.frame(), 0, 8, GNTTAB_CACHE_CLEAN)), Errno::EPERM);
    assert_eq!(errno(flush(MachineFrame(1 << 30), 0, 8, GNTTAB_CACHE_CLEAN)), Errno::EPERM);
}

#[test]
fn status_frames_are_told_to_their_domain_only() {
    let _machine = machine_of(256);
    let (guest, other) = (with_version_two(1), Guest::new(2));
    frame_for_index(guest.domain(), 0).unwrap();
    let mut ops = [GnttabGetStatusFrames {
        nr_frames: 1,
        dom: guest.inner.id(),
        frame_list: ARGUMENTS + 4096,
        ..Default::default()
    }];
    other.call(grant_table_op, GNTTABOP_GET_STATUS_FRAMES, &mut ops).unwrap();
    assert_eq!(ops[0].status, GNTST_PERMISSION_DENIED);
}
