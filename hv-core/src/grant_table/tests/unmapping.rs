//! Undoing: only with the right handle, and only the mapping it stands for.

use super::*;
use crate::test_support::machine_of;
use hypercall_abi::grant_table::{
    GNTMAP_CONTAINS_PTE, GNTST_BAD_DEV_ADDR, GNTST_BAD_HANDLE, GNTST_GENERAL_ERROR,
    GNTTABOP_UNMAP_AND_REPLACE, GnttabUnmapAndReplace,
};

#[test]
fn a_handle_is_good_for_its_domain_and_its_time() {
    let _machine = machine_of(256);
    let (granter, grantee) = two_guests();
    let frame = grant_new(&granter, 3, GRANTEE, 0);
    for never_given in [0, 1, 12345, u32::MAX] {
        assert_eq!(unmap(&grantee, GrantHandle(never_given), 0, 4096), GNTST_BAD_HANDLE);
    }
    let op = map_well(&grantee, GRANTER, 3, DEVICE, 0);
    assert_eq!(unmap(&granter, op.handle, 0, op.dev_bus_addr), GNTST_BAD_HANDLE, "another domain's");
    assert_eq!(unmap(&grantee, op.handle, 0, op.dev_bus_addr), GNTST_OKAY);
    assert_eq!(unmap(&grantee, op.handle, 0, op.dev_bus_addr), GNTST_BAD_HANDLE, "undone twice");
    let again = map_well(&grantee, GRANTER, 3, DEVICE, 0);
    assert_ne!(again.handle, op.handle, "the same place in the maptrack, another generation");
    assert_eq!(unmap(&grantee, op.handle, 0, op.dev_bus_addr), GNTST_BAD_HANDLE, "stale");
    assert_eq!(references(frame), 2);
    assert_eq!(unmap(&grantee, again.handle, 0, again.dev_bus_addr), GNTST_OKAY);
    check_balance(&[&granter, &grantee]);
}

#[test]
fn the_same_handle_twice_in_one_batch_is_undone_once() {
    let _machine = machine_of(256);
    let (granter, grantee) = two_guests();
    grant_new(&granter, 3, GRANTEE, 0);
    let op = map_well(&grantee, GRANTER, 3, HOST, address(20));
    let one = GnttabUnmapGrantRef { host_addr: address(20), handle: op.handle, ..Default::default() };
    let mut ops = [one, one];
    grantee.call(grant_table_op, GNTTABOP_UNMAP_GRANT_REF, &mut ops).unwrap();
    assert_eq!((ops[0].status, ops[1].status), (GNTST_OKAY, GNTST_BAD_HANDLE));
    check_balance(&[&granter, &grantee]);
}

#[test]
fn what_is_not_named_stays() {
    let _machine = machine_of(256);
    let (granter, grantee) = two_guests();
    grant_new(&granter, 3, GRANTEE, 0);
    let op = map_well(&grantee, GRANTER, 3, DEVICE, 0);
    assert_eq!(unmap(&grantee, op.handle, 0, 0), GNTST_OKAY);
    assert_eq!(unmap(&grantee, op.handle, address(20), 0), GNTST_OKAY, "it is no host mapping");
    assert_eq!(in_use(&granter, 3), GTF_READING | GTF_WRITING);
    assert_eq!(unmap(&grantee, op.handle, 0, op.dev_bus_addr + 4096), GNTST_BAD_DEV_ADDR);
    assert_eq!(unmap(&grantee, op.handle, 0, op.dev_bus_addr), GNTST_OKAY);
    check_balance(&[&granter, &grantee]);
}

#[test]
fn what_is_left_for_devices_is_known_by_the_frame() {
    let _machine = machine_of(256);
    let (granter, grantee) = two_guests();
    grant_new(&granter, 3, GRANTEE, 0);
    // The host mapping's entry is the first of its table, so that its machine address could be that of a page.
    let entry = grantee.branch.l1.physical_address();
    let op = map_well(&grantee, GRANTER, 3, HOST | DEVICE | GNTMAP_CONTAINS_PTE, entry);
    assert_eq!(unmap(&grantee, op.handle, entry, 0), GNTST_OKAY);
    for wrong in [entry, entry + 4096, u64::MAX] {
        assert_eq!(unmap(&grantee, op.handle, 0, wrong), GNTST_BAD_DEV_ADDR);
    }
    assert_eq!(unmap(&grantee, op.handle, 0, op.dev_bus_addr), GNTST_OKAY);
    check_balance(&[&granter, &grantee]);
}

#[test]
fn a_mapping_is_undone_only_where_it_was_made() {
    let _machine = machine_of(256);
    let (granter, grantee) = two_guests();
    let frame = grant_new(&granter, 3, GRANTEE, 0);
    let writer = map_well(&grantee, GRANTER, 3, HOST, address(20));
    let reader = map_well(&grantee, GRANTER, 3, HOST | READ_ONLY, address(21));
    // Ending the writer at the reader's place would leave a writable entry to a frame nobody holds as writable.
    for wrong in [address(21), address(22), address(512 * 3), 0xffff_8000_0000_0000] {
        assert_eq!(unmap(&grantee, writer.handle, wrong, 0), GNTST_GENERAL_ERROR, "{wrong:#x}");
    }
    assert_eq!((type_of(frame), in_use(&granter, 3)), (FrameType::Writable, GTF_READING | GTF_WRITING));
    assert_eq!(unmap(&grantee, writer.handle, address(20), 0), GNTST_OKAY);
    assert_eq!(unmap(&grantee, reader.handle, address(21), 0), GNTST_OKAY);
    check_balance(&[&granter, &grantee]);
}

#[test]
fn a_batch_is_flushed_once() {
    let _machine = machine_of(256);
    let (granter, grantee) = two_guests();
    let ops: Vec<_> = (0..32)
        .map(|number| {
            grant_new(&granter, number, GRANTEE, 0);
            map_well(&grantee, GRANTER, number, HOST, address(100 + number as usize))
        })
        .collect();
    let mut unmaps: Vec<_> = ops
        .iter()
        .map(|op| GnttabUnmapGrantRef { host_addr: op.host_addr, handle: op.handle, ..Default::default() })
        .collect();
    let flushes = domain_flushes();
    grantee.call(grant_table_op, GNTTABOP_UNMAP_GRANT_REF, &mut unmaps).unwrap();
    assert!(unmaps.iter().all(|op| op.status == GNTST_OKAY));
    assert_eq!(domain_flushes(), flushes + 1);
    let counters = &grantee.domain().grant_table.counters;
    assert_eq!((counters.maps.load(Ordering::Relaxed), counters.unmaps.load(Ordering::Relaxed)), (32, 32));
    check_balance(&[&granter, &grantee]);
}

fn replace(guest: &Guest, handle: GrantHandle, host_addr: u64, new_addr: u64) -> i16 {
    let mut ops = [GnttabUnmapAndReplace { host_addr, new_addr, handle, ..Default::default() }];
    guest.call(grant_table_op, GNTTABOP_UNMAP_AND_REPLACE, &mut ops).unwrap();
    ops[0].status
}

#[test]
fn an_ordinary_mapping_takes_the_place_of_a_grant() {
    let _machine = machine_of(256);
    let (granter, grantee) = two_guests();
    grant_new(&granter, 3, GRANTEE, 0);
    let own = grantee.inner.frame();
    let ordinary = Entry::new(own, crate::page_table::test_guest::RW);
    grantee.inner.update(grantee.branch.l1, 40, ordinary).unwrap();
    let first = map_well(&grantee, GRANTER, 3, HOST, address(20));
    let second = map_well(&grantee, GRANTER, 3, HOST, address(21));
    assert_eq!(replace(&grantee, first.handle, address(20), address(21)), GNTST_GENERAL_ERROR, "a grant's");
    assert_eq!(replace(&grantee, first.handle, address(20), address(512)), GNTST_GENERAL_ERROR, "no table");
    assert_eq!(read(grantee.branch.l1, 40), ordinary);
    assert_eq!(replace(&grantee, first.handle, address(20), address(40)), GNTST_OKAY);
    assert_eq!((read(grantee.branch.l1, 20), read(grantee.branch.l1, 40)), (ordinary, Entry(0)));
    assert_eq!(replace(&grantee, second.handle, address(21), 0), GNTST_OKAY);
    assert_eq!(read(grantee.branch.l1, 21), Entry(0));
    check_balance(&[&granter, &grantee]);
}

#[test]
fn a_mapping_whose_table_is_gone_stays_held_until_its_domain_dies() {
    let _machine = machine_of(256);
    let (granter, grantee) = two_guests();
    let frame = grant_new(&granter, 3, GRANTEE, 0);
    let table = grantee.inner.frame();
    let place = |index| Entry::new(index, crate::page_table::test_guest::RW);
    grantee.inner.update(grantee.branch.l2, 1, place(table)).unwrap();
    let op = map_well(&grantee, GRANTER, 3, HOST, address(512 + 7));
    grantee.inner.update(grantee.branch.l2, 1, Entry(0)).unwrap();
    assert_eq!(unmap(&grantee, op.handle, address(512 + 7), 0), GNTST_GENERAL_ERROR);
    assert_eq!((type_of(frame), references(frame)), (FrameType::Writable, 2));
    crate::test_support::destroy(&[grantee.domain().clone()]);
    assert_eq!((type_of(frame), references(frame)), (FrameType::None, 1));
    assert_eq!(in_use(&granter, 3), 0);
}
