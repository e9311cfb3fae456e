//! Copying: the right bytes, the right refusals, and nothing in use afterwards.

use super::*;
use crate::{
    hypercall::HypercallError,
    test_support::{ARGUMENTS, begin_to_die, machine_of},
};
use hypercall_abi::grant_table::{
    GNTCOPY_DEST_GREF, GNTCOPY_SOURCE_GREF, GNTST_BAD_COPY_ARG, GNTST_BAD_DOMAIN, GNTST_BAD_GNTREF,
    GNTST_BAD_PAGE, GNTST_GENERAL_ERROR, GNTST_PERMISSION_DENIED, GTF_SUB_PAGE, GnttabCopyPtr,
};

const BOTH: u16 = GNTCOPY_SOURCE_GREF | GNTCOPY_DEST_GREF;

fn granted(dom: DomainId, reference: u32, offset: u16) -> GnttabCopyPtr {
    GnttabCopyPtr::granted(dom, GrantReference(reference), offset)
}

fn own(frame: MachineFrame, offset: u16) -> GnttabCopyPtr {
    GnttabCopyPtr::own(frame.0, offset)
}

fn op(source: GnttabCopyPtr, dest: GnttabCopyPtr, len: u16, flags: u16) -> GnttabCopy {
    GnttabCopy { source, dest, len, flags, ..Default::default() }
}

fn fill(frame: MachineFrame) -> Vec<u8> {
    let bytes: Vec<u8> = (0..4096u32).map(|number| (number * 7 + frame.0 as u32) as u8).collect();
    direct_map::write_bytes(frame, 0, &bytes);
    bytes
}

fn bytes_of(frame: MachineFrame) -> Vec<u8> {
    let mut bytes = vec![0; 4096];
    direct_map::read_bytes(frame, 0, &mut bytes);
    bytes
}

#[test]
fn bytes_go_from_a_grant_to_an_own_frame_and_back() {
    let _machine = machine_of(256);
    let (granter, grantee) = two_guests();
    let (theirs, mine) = (grant_new(&granter, 3, GRANTEE, 0), grantee.inner.frame());
    let source = fill(theirs);
    let read = op(granted(GRANTER, 3, 1), own(mine, 100), 1501, GNTCOPY_SOURCE_GREF);
    assert_eq!(copy(&grantee, read), GNTST_OKAY);
    let mut expected = vec![0; 4096];
    expected[100..1601].copy_from_slice(&source[1..1502]);
    assert!(bytes_of(mine) == expected);
    let write = op(own(mine, 0), granted(GRANTER, 3, 0), 4096, GNTCOPY_DEST_GREF);
    assert_eq!(copy(&grantee, write), GNTST_OKAY);
    assert!(bytes_of(theirs) == expected);
    let counters = &grantee.domain().grant_table.counters;
    assert_eq!(counters.copies.load(Ordering::Relaxed), 2);
    assert_eq!(counters.bytes_copied.load(Ordering::Relaxed), 1501 + 4096);
    check_balance(&[&granter, &grantee]);
}

#[test]
fn a_third_domain_copies_between_two_grants() {
    let _machine = machine_of(256);
    let (first, second) = two_guests();
    let copier = Guest::new(0);
    let from = grant_new(&first, 3, DomainId(0), GTF_READONLY);
    let to = grant_new(&second, 600, DomainId(0), 0);
    let source = fill(from);
    let both = op(granted(GRANTER, 3, 0), granted(GRANTEE, 600, 8), 4088, BOTH);
    assert_eq!(copy(&copier, both), GNTST_OKAY);
    assert!(bytes_of(to)[8..] == source[..4088]);
    check_balance(&[&first, &second, &copier]);
}

#[test]
fn pieces_of_a_batch_all_arrive() {
    let _machine = machine_of(256);
    let (granter, grantee) = two_guests();
    let mine = grantee.inner.frame();
    let frames: Vec<_> = (0..40).map(|number| grant_new(&granter, number, GRANTEE, 0)).collect();
    let sources: Vec<_> = frames.iter().map(|frame| fill(*frame)).collect();
    // Two pieces from each page, to consecutive places of one: more than one execution's worth.
    let mut ops: Vec<_> = (0..80)
        .map(|number| {
            let from = granted(GRANTER, number / 2, (number % 2 * 1000) as u16);
            op(from, own(mine, number as u16 * 50), 50, GNTCOPY_SOURCE_GREF)
        })
        .collect();
    grantee.call(grant_table_op, GNTTABOP_COPY, &mut ops).unwrap();
    assert!(ops.iter().all(|op| op.status == GNTST_OKAY));
    let result = bytes_of(mine);
    for number in 0..80 {
        let start = number % 2 * 1000;
        assert!(result[number * 50..][..50] == sources[number / 2][start..start + 50], "piece {number}");
    }
    check_balance(&[&granter, &grantee]);
}

/// A batch is worked on in runs; where one ends and the next begins shows in nothing.
#[test]
fn a_batch_may_change_its_domains_from_one_copy_to_the_next() {
    let _machine = machine_of(256);
    let (first, second) = two_guests();
    let copier = Guest::new(0);
    let here = grant_new(&first, 3, DomainId(0), 0);
    grant_new(&second, 4, DomainId(0), 0);
    let mine = copier.inner.frame();
    let mapped = grant_new(&first, 5, DomainId(0), 0);
    map_well(&copier, GRANTER, 5, DEVICE, 0);
    let expected = fill(here);
    let (here, there, mapped_too) = (granted(GRANTER, 3, 0), granted(GRANTEE, 4, 0), granted(GRANTER, 5, 0));
    let mut ops = [
        op(here, there, 4096, BOTH),
        op(there, own(mine, 0), 4096, GNTCOPY_SOURCE_GREF),
        op(own(mine, 0), mapped_too, 4096, GNTCOPY_DEST_GREF),
        op(mapped_too, here, 4096, BOTH),
        op(here, here, 4096, BOTH),
        op(granted(GRANTER, 9, 0), there, 4096, BOTH),
        op(here, there, 0, BOTH),
        op(there, here, 4096, BOTH),
    ];
    copier.call(grant_table_op, GNTTABOP_COPY, &mut ops).unwrap();
    let statuses = ops.map(|op| op.status);
    let mut as_expected = [GNTST_OKAY; 8];
    as_expected[5] = GNTST_GENERAL_ERROR;
    assert_eq!(statuses, as_expected);
    assert!(bytes_of(mine) == expected && bytes_of(mapped) == expected);
    assert_eq!(copier.domain().grant_table.counters.copies.load(Ordering::Relaxed), 6);
    assert_eq!((in_use(&first, 3), in_use(&second, 4)), (0, 0));
    assert_eq!(in_use(&first, 5), GTF_READING | GTF_WRITING, "the mapping stays");
}

/// One table is on both sides then, and what one copy wrote to the next reads.
#[test]
fn copies_from_grant_to_grant_of_one_domain_follow_each_other() {
    let _machine = machine_of(256);
    let granter = Guest::new(GRANTER.0);
    let copier = Guest::new(0);
    let frames = [1, 2, 3].map(|reference| grant_new(&granter, reference, DomainId(0), 0));
    let expected = fill(frames[0]);
    let step = |from, to| op(granted(GRANTER, from, 0), granted(GRANTER, to, 0), 4096, BOTH);
    let mut ops = [step(1, 2), step(2, 3), step(3, 3), step(3, 1)];
    copier.call(grant_table_op, GNTTABOP_COPY, &mut ops).unwrap();
    assert_eq!(ops.map(|op| op.status), [GNTST_OKAY; 4]);
    assert!(frames.iter().all(|frame| bytes_of(*frame) == expected));
    check_balance(&[&granter, &copier]);
}

#[test]
fn a_piece_of_copies_ends_with_their_number_or_their_bytes() {
    let _machine = machine_of(256);
    let guest = Guest::new(1);
    let (from, to) = (guest.inner.frame(), guest.inner.frame());
    for (length, first_piece) in [(64, 128), (4096, 32), (2048, 64)] {
        let untouched = GnttabCopy { status: 1, ..op(own(from, 0), own(to, 0), length, 0) };
        guest.write_arguments(&[untouched; 150]);
        let copy = u64::from(GNTTABOP_COPY);
        let (result, pointer, left) = guest.execute(grant_table_op, [copy, ARGUMENTS, 150]);
        assert_eq!(result, Err(HypercallError::Restart));
        assert_eq!((pointer, left), (ARGUMENTS + first_piece * 40, 150 - first_piece), "{length} bytes each");
        let mut ops = [GnttabCopy::default(); 150];
        guest.read_arguments(&mut ops);
        let (done, rest) = ops.split_at(first_piece as usize);
        assert!(done.iter().all(|op| *op == GnttabCopy { status: GNTST_OKAY, ..untouched }));
        assert!(rest.iter().all(|op| *op == untouched));
    }
}

#[test]
fn one_bad_item_spoils_no_other() {
    let _machine = machine_of(256);
    let (granter, grantee) = two_guests();
    let (theirs, mine) = (grant_new(&granter, 3, GRANTEE, 0), grantee.inner.frame());
    fill(theirs);
    let good = op(granted(GRANTER, 3, 0), own(mine, 0), 64, GNTCOPY_SOURCE_GREF);
    let mut ops = [good; 5];
    ops[1].source = granted(GRANTER, 4, 0);
    ops[2].source.domid = DomainId(99);
    ops[3].dest.offset = 4095;
    grantee.call(grant_table_op, GNTTABOP_COPY, &mut ops).unwrap();
    let statuses = ops.map(|op| op.status);
    assert_eq!(statuses, [GNTST_OKAY, GNTST_GENERAL_ERROR, GNTST_BAD_DOMAIN, GNTST_BAD_COPY_ARG, GNTST_OKAY]);
    check_balance(&[&granter, &grantee]);
}

#[test]
fn a_copy_stays_in_its_pages() {
    let _machine = machine_of(256);
    let (granter, grantee) = two_guests();
    grant_new(&granter, 3, GRANTEE, 0);
    let mine = grantee.inner.frame();
    let untouched = bytes_of(mine);
    let too_far =
        [(0, 0, 4097), (1, 0, 4096), (0, 1, 4096), (u16::MAX, 0, 1), (0, u16::MAX, u16::MAX), (4096, 0, 1)];
    for (from, to, len) in too_far {
        let attempt = op(granted(GRANTER, 3, from), own(mine, to), len, GNTCOPY_SOURCE_GREF);
        assert_eq!(copy(&grantee, attempt), GNTST_BAD_COPY_ARG, "{from} {to} {len}");
    }
    let nothing = op(granted(GRANTER, 3, u16::MAX), own(mine, u16::MAX), 0, GNTCOPY_SOURCE_GREF);
    assert_eq!(copy(&grantee, nothing), GNTST_OKAY);
    assert!(bytes_of(mine) == untouched);
    check_balance(&[&granter, &grantee]);
}

#[test]
fn only_own_frames_are_named_by_number() {
    let _machine = machine_of(256);
    let (granter, grantee) = two_guests();
    let (theirs, mine) = (granter.inner.frame(), grantee.inner.frame());
    let by_number = |domid, frame: MachineFrame| GnttabCopyPtr { domid, ..own(frame, 0) };
    for domid in [GRANTER, GRANTEE] {
        let attempt = op(by_number(domid, mine), own(mine, 0), 8, 0);
        assert_eq!(copy(&grantee, attempt), GNTST_PERMISSION_DENIED, "not even one's own number");
    }
    for frame in [theirs, MachineFrame(0), MachineFrame(1 << 40), MachineFrame(u64::MAX)] {
        assert_eq!(copy(&grantee, op(own(frame, 0), own(mine, 0), 8, 0)), GNTST_BAD_PAGE);
        assert_eq!(copy(&grantee, op(own(mine, 0), own(frame, 0), 8, 0)), GNTST_BAD_PAGE);
    }
    let table = grantee.branch.l1;
    assert_eq!(
        copy(&grantee, op(own(mine, 0), own(table, 8), 8, 0)),
        GNTST_GENERAL_ERROR,
        "no table is written"
    );
    assert_eq!(copy(&grantee, op(own(table, 0), own(mine, 0), 8, 0)), GNTST_OKAY, "but it may be read");
    assert_eq!(copy(&grantee, op(own(mine, 0), own(mine, 8), 8, 0)), GNTST_OKAY);
    check_balance(&[&granter, &grantee]);
}

#[test]
fn what_is_not_granted_is_not_copied() {
    let _machine = machine_of(256);
    let (granter, grantee) = two_guests();
    let (theirs, mine) = (grant_new(&granter, 3, GRANTEE, GTF_READONLY), grantee.inner.frame());
    let from = |dom, reference| op(granted(dom, reference, 0), own(mine, 0), 8, GNTCOPY_SOURCE_GREF);
    let to = |dom, reference| op(own(mine, 0), granted(dom, reference, 0), 8, GNTCOPY_DEST_GREF);
    assert_eq!(copy(&grantee, to(GRANTER, 3)), GNTST_GENERAL_ERROR, "for reading only");
    assert_eq!(copy(&grantee, from(GRANTER, 3)), GNTST_OKAY);
    assert_eq!(copy(&grantee, from(GRANTER, 4)), GNTST_GENERAL_ERROR);
    assert_eq!(copy(&grantee, from(GRANTER, 100_000)), GNTST_BAD_GNTREF);
    assert_eq!(copy(&grantee, from(DomainId(99), 3)), GNTST_BAD_DOMAIN);
    assert_eq!(copy(&grantee, from(DomainId::SELF, 3)), GNTST_BAD_GNTREF, "its own table is empty");
    grant(&granter, 3, DomainId(7), theirs, 0);
    assert_eq!(copy(&grantee, from(GRANTER, 3)), GNTST_GENERAL_ERROR, "another's grant");
    grant(&granter, 3, GRANTEE, mine, 0);
    assert_eq!(copy(&grantee, from(GRANTER, 3)), GNTST_BAD_PAGE, "not the granter's frame");
    grant(&granter, 3, GRANTEE, granter.branch.l1, 0);
    assert_eq!(copy(&grantee, to(GRANTER, 3)), GNTST_GENERAL_ERROR, "a page table");
    grant(&granter, 3, GRANTEE, theirs, GTF_SUB_PAGE);
    assert_eq!(copy(&grantee, from(GRANTER, 3)), GNTST_OKAY, "which only mappings mind");
    check_balance(&[&granter, &grantee]);
    begin_to_die(granter.domain());
    assert_eq!(copy(&grantee, from(GRANTER, 3)), GNTST_BAD_DOMAIN);
}

#[test]
fn a_domain_copies_through_its_own_grants() {
    let _machine = machine_of(256);
    let guest = Guest::new(1);
    let (from, to) = (grant_new(&guest, 3, DomainId(1), 0), grant_new(&guest, 4, DomainId(1), 0));
    let source = fill(from);
    let both = op(granted(DomainId::SELF, 3, 0), granted(DomainId(1), 4, 0), 4096, BOTH);
    assert_eq!(copy(&guest, both), GNTST_OKAY);
    assert!(bytes_of(to) == source);
    let same = op(granted(DomainId::SELF, 4, 0), granted(DomainId::SELF, 4, 0), 4096, BOTH);
    assert_eq!(copy(&guest, same), GNTST_OKAY, "one grant at both ends");
    assert!(bytes_of(to) == source);
    check_balance(&[&guest]);
}

#[test]
fn copies_and_mappings_of_one_grant_do_not_disturb_each_other() {
    let _machine = machine_of(256);
    let (granter, grantee) = two_guests();
    let mine = grantee.inner.frame();
    grant_new(&granter, 3, GRANTEE, 0);
    let mapped = map_well(&grantee, GRANTER, 3, DEVICE | READ_ONLY, 0);
    let write = op(own(mine, 0), granted(GRANTER, 3, 0), 512, GNTCOPY_DEST_GREF);
    assert_eq!(copy(&grantee, write), GNTST_OKAY);
    assert_eq!(in_use(&granter, 3), GTF_READING, "the mapping is still there");
    assert_eq!(unmap(&grantee, mapped.handle, 0, mapped.dev_bus_addr), GNTST_OKAY);
    check_balance(&[&granter, &grantee]);
}
