//! Mapping: what goes into page tables and what is refused.

use super::*;
use crate::frame_allocator::free_frames;
use crate::test_support::{begin_to_die, machine_of};
use hypercall_abi::grant_table::{
    GNTMAP_CONTAINS_PTE, GNTST_BAD_DOMAIN, GNTST_BAD_GNTREF, GNTST_BAD_PAGE, GNTST_GENERAL_ERROR,
    GNTST_NO_SPACE, GTF_ACCEPT_TRANSFER, GTF_SUB_PAGE, GTF_TRANSITIVE,
};

#[test]
fn a_device_mapping_pins_the_frame_and_touches_no_table() {
    let _machine = machine_of(256);
    let (granter, grantee) = two_guests();
    let frame = grant_new(&granter, 9, GRANTEE, 0);
    let flushes = domain_flushes();
    let op = map_well(&grantee, GRANTER, 9, DEVICE, 0);
    assert_eq!(op.dev_bus_addr, frame.physical_address());
    assert_eq!(in_use(&granter, 9), GTF_READING | GTF_WRITING);
    assert_eq!((type_of(frame), references(frame)), (FrameType::Writable, 2));
    assert_eq!(unmap(&grantee, op.handle, 0, op.dev_bus_addr), GNTST_OKAY);
    assert_eq!((type_of(frame), references(frame)), (FrameType::None, 1));
    assert_eq!(domain_flushes(), flushes, "no TLB can know of it");
    check_balance(&[&granter, &grantee]);
}

#[test]
fn the_frames_that_mappings_take_are_counted_and_kept() {
    let _machine = machine_of(256);
    let (granter, grantee) = two_guests();
    let frame = grant_new(&granter, 9, GRANTEE, 0);
    let table = &grantee.domain().grant_table;
    assert_eq!(table.maptrack_frames(), 0);
    let map_again = || map_well(&grantee, GRANTER, 9, DEVICE, 0).handle;
    let mut handles = vec![map_again()];
    assert_eq!(table.maptrack_frames(), 2, "entries and what lists them");
    let free = free_frames();
    handles.extend((0..200).map(|_| map_again()));
    assert_eq!((table.maptrack_frames(), free_frames()), (3, free - 1));
    for handle in handles {
        assert_eq!(unmap(&grantee, handle, 0, frame.physical_address()), GNTST_OKAY);
    }
    assert_eq!((table.maptrack_frames(), free_frames()), (3, free - 1));
    check_balance(&[&granter, &grantee]);
}

#[test]
fn a_host_mapping_is_an_entry_with_the_rights_of_the_grant() {
    let _machine = machine_of(256);
    let (granter, grantee) = two_guests();
    let frame = grant_new(&granter, 0, GRANTEE, 0);
    let reader = map_well(&grantee, GRANTER, 0, HOST | READ_ONLY, address(20));
    assert_eq!(in_use(&granter, 0), GTF_READING);
    let entry = read(grantee.branch.l1, 20);
    assert_eq!(entry.frame(), frame);
    assert!(entry.is_grant() && entry.has(Entry::USER) && !entry.has(Entry::WRITABLE));
    let writer = map_well(&grantee, GRANTER, 0, HOST, address(21));
    assert_eq!(in_use(&granter, 0), GTF_READING | GTF_WRITING);
    assert!(read(grantee.branch.l1, 21).has(Entry::WRITABLE));
    assert_ne!(reader.handle, writer.handle);

    assert_eq!(unmap(&grantee, writer.handle, address(21), 0), GNTST_OKAY);
    assert_eq!(in_use(&granter, 0), GTF_READING, "a reader is left");
    assert_eq!((type_of(frame), references(frame)), (FrameType::None, 2));
    assert_eq!(unmap(&grantee, reader.handle, address(20), 0), GNTST_OKAY);
    assert_eq!((read(grantee.branch.l1, 20), read(grantee.branch.l1, 21)), (Entry(0), Entry(0)));
    check_balance(&[&granter, &grantee]);
}

#[test]
fn an_entry_can_be_named_by_its_machine_address() {
    let _machine = machine_of(256);
    let (granter, grantee) = two_guests();
    let frame = grant_new(&granter, 3, GRANTEE, 0);
    let entry_address = grantee.branch.l1.physical_address() + 30 * 8;
    let flags = HOST | GNTMAP_CONTAINS_PTE | 0b101 << 16;
    let op = map_well(&grantee, GRANTER, 3, flags, entry_address);
    let entry = read(grantee.branch.l1, 30);
    assert_eq!((entry.frame(), entry.0 >> 9 & 7), (frame, 0b101), "the guest's own bits are in the entry");
    assert_eq!(unmap(&grantee, op.handle, entry_address, 0), GNTST_OKAY);
    for wrong in
        [entry_address + 4, granter.branch.l1.physical_address(), grantee.branch.l2.physical_address()]
    {
        assert_eq!(map(&grantee, map_op(GRANTER, 3, flags, wrong)).status, GNTST_GENERAL_ERROR);
    }
    check_balance(&[&granter, &grantee]);
}

#[test]
fn the_kinds_of_one_mapping_end_one_by_one() {
    let _machine = machine_of(256);
    let (granter, grantee) = two_guests();
    let frame = grant_new(&granter, 3, GRANTEE, 0);
    let op = map_well(&grantee, GRANTER, 3, HOST | DEVICE, address(20));
    assert_eq!(references(frame), 2, "both kinds write, so they share one reference");
    assert_eq!(unmap(&grantee, op.handle, address(20), 0), GNTST_OKAY);
    assert_eq!(in_use(&granter, 3), GTF_READING | GTF_WRITING);
    assert_eq!(unmap(&grantee, op.handle, address(20), op.dev_bus_addr), GNTST_OKAY);
    assert_eq!(in_use(&granter, 3), 0);
    check_balance(&[&granter, &grantee]);
}

#[test]
fn a_mapping_replaces_an_ordinary_one_but_never_a_grant() {
    let _machine = machine_of(256);
    let (granter, grantee) = two_guests();
    let frame = grant_new(&granter, 3, GRANTEE, 0);
    let own = grantee.inner.frame();
    grantee.inner.update(grantee.branch.l1, 20, Entry::new(own, crate::page_table::test_guest::RW)).unwrap();
    assert_eq!(references(own), 2);
    let op = map_well(&grantee, GRANTER, 3, HOST, address(20));
    assert_eq!((references(own), read(grantee.branch.l1, 20).frame()), (1, frame));
    let over = map(&grantee, map_op(GRANTER, 3, HOST, address(20)));
    assert_eq!(over.status, GNTST_GENERAL_ERROR);
    assert_eq!(unmap(&grantee, op.handle, address(20), 0), GNTST_OKAY);
    check_balance(&[&granter, &grantee]);
}

#[test]
fn a_mapping_for_nobody_or_of_nobody_is_refused() {
    let _machine = machine_of(256);
    let (granter, grantee) = two_guests();
    grant_new(&granter, 3, GRANTEE, 0);
    assert_eq!(map(&grantee, map_op(GRANTER, 3, READ_ONLY, 0)).status, GNTST_BAD_GNTREF);
    for nobody in [DomainId(77), DomainId::SELF, DomainId::IO, DomainId::INVALID] {
        assert_eq!(map(&grantee, map_op(nobody, 3, DEVICE, 0)).status, GNTST_BAD_DOMAIN, "{nobody}");
    }
    begin_to_die(granter.domain());
    assert_eq!(map(&grantee, map_op(GRANTER, 3, DEVICE, 0)).status, GNTST_BAD_DOMAIN);
}

#[test]
fn what_is_not_granted_cannot_be_mapped() {
    let _machine = machine_of(256);
    let (granter, grantee) = two_guests();
    let frame = grant_new(&granter, 3, GRANTEE, 0);
    for beyond in [512, 4 * 512, u32::MAX] {
        assert_eq!(map(&grantee, map_op(GRANTER, beyond, DEVICE, 0)).status, GNTST_BAD_GNTREF, "{beyond}");
    }
    assert_eq!(map(&grantee, map_op(GRANTER, 4, DEVICE, 0)).status, GNTST_GENERAL_ERROR, "an empty entry");
    let bad_flags = [
        0,
        GTF_ACCEPT_TRANSFER,
        GTF_TRANSITIVE,
        GTF_PERMIT_ACCESS | GTF_SUB_PAGE,
        GTF_PERMIT_ACCESS | GTF_READONLY,
    ];
    for flags in bad_flags {
        write_entry(&granter, 3, GrantEntryV1 { flags, domid: GRANTEE, frame: frame.0 as u32 });
        assert_eq!(
            map(&grantee, map_op(GRANTER, 3, DEVICE, 0)).status,
            GNTST_GENERAL_ERROR,
            "flags {flags:#x}"
        );
        assert_eq!(in_use(&granter, 3), 0);
    }
    grant(&granter, 3, DomainId(3), frame, 0);
    assert_eq!(map(&grantee, map_op(GRANTER, 3, DEVICE, 0)).status, GNTST_GENERAL_ERROR, "another's grant");
    grant(&granter, 3, GRANTEE, frame, GTF_READONLY);
    let reader = map_well(&grantee, GRANTER, 3, DEVICE | READ_ONLY, 0);
    assert_eq!(map(&grantee, map_op(GRANTER, 3, DEVICE, 0)).status, GNTST_GENERAL_ERROR, "writing beside");
    assert_eq!(unmap(&grantee, reader.handle, 0, reader.dev_bus_addr), GNTST_OKAY);
    check_balance(&[&granter, &grantee]);
}

#[test]
fn a_domain_grants_only_what_is_its_own_and_writable_only_what_is_no_table() {
    let _machine = machine_of(256);
    let (granter, grantee) = two_guests();
    let others = grantee.inner.frame();
    for frame in [others, MachineFrame(0), MachineFrame(u64::from(u32::MAX))] {
        grant(&granter, 3, GRANTEE, frame, 0);
        assert_eq!(map(&grantee, map_op(GRANTER, 3, DEVICE, 0)).status, GNTST_BAD_PAGE, "{frame}");
        assert_eq!(
            map(&grantee, map_op(GRANTER, 3, DEVICE | READ_ONLY, 0)).status,
            GNTST_BAD_PAGE,
            "{frame}"
        );
        assert_eq!(in_use(&granter, 3), 0);
    }
    grant(&granter, 3, GRANTEE, granter.branch.l1, 0);
    assert_eq!(map(&grantee, map_op(GRANTER, 3, HOST, address(20))).status, GNTST_GENERAL_ERROR);
    assert_eq!((in_use(&granter, 3), read(grantee.branch.l1, 20)), (0, Entry(0)));
    let reader = map_well(&grantee, GRANTER, 3, HOST | READ_ONLY, address(20));
    assert_eq!(unmap(&grantee, reader.handle, address(20), 0), GNTST_OKAY);
    check_balance(&[&granter, &grantee]);
}

#[test]
fn a_frame_mapped_for_writing_cannot_become_a_page_table() {
    let _machine = machine_of(256);
    let (granter, grantee) = two_guests();
    let frame = grant_new(&granter, 3, GRANTEE, 0);
    let op = map_well(&grantee, GRANTER, 3, DEVICE, 0);
    assert!(granter.inner.pin(frame, 1).is_err());
    assert_eq!(unmap(&grantee, op.handle, 0, op.dev_bus_addr), GNTST_OKAY);
    granter.inner.pin(frame, 1).unwrap();
    check_balance(&[&granter, &grantee]);
}

#[test]
fn a_bad_place_leaves_nothing_in_use() {
    let _machine = machine_of(256);
    let (granter, grantee) = two_guests();
    grant_new(&granter, 3, GRANTEE, 0);
    for place in [address(512 * 5), 0xffff_8300_0000_0000, 0x8000_0000_0000, u64::MAX] {
        let op = map(&grantee, map_op(GRANTER, 3, HOST | DEVICE, place));
        assert_eq!(op.status, GNTST_GENERAL_ERROR, "{place:#x}");
    }
    check_balance(&[&granter, &grantee]);
}

#[test]
fn what_the_granter_does_to_its_entry_changes_no_mapping() {
    let _machine = machine_of(256);
    let (granter, grantee) = two_guests();
    let frame = grant_new(&granter, 3, GRANTEE, 0);
    let first = map_well(&grantee, GRANTER, 3, DEVICE | READ_ONLY, 0);
    // The entry now names another frame and another domain, and grants nothing at all.
    let elsewhere = granter.inner.frame();
    write_entry(&granter, 3, GrantEntryV1 { flags: 0, domid: DomainId(9), frame: elsewhere.0 as u32 });
    let second = map_well(&grantee, GRANTER, 3, DEVICE | READ_ONLY, 0);
    let third = map_well(&grantee, GRANTER, 3, DEVICE, 0);
    assert_eq!(second.dev_bus_addr, frame.physical_address());
    assert_eq!(third.dev_bus_addr, frame.physical_address());
    for op in [first, second, third] {
        assert_eq!(unmap(&grantee, op.handle, 0, op.dev_bus_addr), GNTST_OKAY);
    }
    assert_eq!(map(&grantee, map_op(GRANTER, 3, DEVICE | READ_ONLY, 0)).status, GNTST_GENERAL_ERROR);
    check_balance(&[&granter, &grantee]);
}

#[test]
fn a_grant_in_use_serves_its_grantee_only() {
    let _machine = machine_of(256);
    let (granter, grantee) = two_guests();
    let third = Guest::new(3);
    let frame = grant_new(&granter, 3, GRANTEE, 0);
    let op = map_well(&grantee, GRANTER, 3, DEVICE, 0);
    grant(&granter, 3, DomainId(3), frame, 0);
    assert_eq!(map(&third, map_op(GRANTER, 3, DEVICE, 0)).status, GNTST_GENERAL_ERROR);
    assert_eq!(unmap(&grantee, op.handle, 0, op.dev_bus_addr), GNTST_OKAY);
    let op = map_well(&third, GRANTER, 3, DEVICE, 0);
    assert_eq!(unmap(&third, op.handle, 0, op.dev_bus_addr), GNTST_OKAY);
    check_balance(&[&granter, &grantee, &third]);
}

#[test]
fn a_domain_can_map_its_own_grant() {
    let _machine = machine_of(256);
    let guest = Guest::new(1);
    let frame = grant_new(&guest, 3, DomainId(1), 0);
    let op = map_well(&guest, DomainId(1), 3, HOST, address(20));
    assert_eq!(read(guest.branch.l1, 20).frame(), frame);
    assert_eq!(unmap(&guest, op.handle, address(20), 0), GNTST_OKAY);
    check_balance(&[&guest]);
}

#[test]
fn a_grant_is_mapped_255_times_and_no_more() {
    let _machine = machine_of(256);
    let (granter, grantee) = two_guests();
    let frame = grant_new(&granter, 3, GRANTEE, 0);
    let mut ops = vec![map_op(GRANTER, 3, DEVICE, 0); 200];
    grantee.call(grant_table_op, GNTTABOP_MAP_GRANT_REF, &mut ops).unwrap();
    let mut more = vec![map_op(GRANTER, 3, DEVICE, 0); 54];
    grantee.call(grant_table_op, GNTTABOP_MAP_GRANT_REF, &mut more).unwrap();
    ops.extend(more);
    assert!(ops.iter().all(|op| op.status == GNTST_OKAY));
    assert_eq!(references(frame), 2, "however often it is mapped");
    let both = map(&grantee, map_op(GRANTER, 3, DEVICE | HOST, address(20)));
    assert_eq!((both.status, read(grantee.branch.l1, 20)), (GNTST_GENERAL_ERROR, Entry(0)));
    ops.push(map_well(&grantee, GRANTER, 3, DEVICE, 0));
    assert_eq!(map(&grantee, map_op(GRANTER, 3, DEVICE, 0)).status, GNTST_GENERAL_ERROR);
    ops.push(map_well(&grantee, GRANTER, 3, DEVICE | READ_ONLY, 0));
    for op in ops {
        assert_eq!(unmap(&grantee, op.handle, 0, op.dev_bus_addr), GNTST_OKAY);
    }
    check_balance(&[&granter, &grantee]);
}

#[test]
fn a_domain_has_no_more_mappings_than_it_may() {
    let _machine = machine_of(512);
    let (granter, grantee) = two_guests();
    for reference in 0..4 {
        grant_new(&granter, reference, GRANTEE, 0);
    }
    let mut mapped = Vec::new();
    let refusal = loop {
        let op = map(&grantee, map_op(GRANTER, mapped.len() as u32 / 255, DEVICE, 0));
        if op.status != GNTST_OKAY {
            break op.status;
        }
        mapped.push(op);
    };
    assert_eq!((refusal, mapped.len()), (GNTST_NO_SPACE, 4 * (4096 / 24)));
    let freed = mapped.remove(100);
    assert_eq!(unmap(&grantee, freed.handle, 0, freed.dev_bus_addr), GNTST_OKAY);
    mapped.push(map_well(&grantee, GRANTER, 0, DEVICE, 0));
    for op in mapped {
        assert_eq!(unmap(&grantee, op.handle, 0, op.dev_bus_addr), GNTST_OKAY);
    }
    check_balance(&[&granter, &grantee]);
}
