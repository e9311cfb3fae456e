//! Tables as a whole, and the hypercall around it all.

use super::*;
use crate::{
    frame_allocator,
    hypercall::HypercallError,
    test_support::{ARGUMENTS, begin_to_die, errno, machine_of},
};
use hypercall_abi::{
    Errno,
    grant_table::{
        GNTST_BAD_DOMAIN, GNTST_BAD_GNTREF, GNTST_BAD_VIRT_ADDR, GNTST_EAGAIN, GNTST_GENERAL_ERROR,
        GNTST_PERMISSION_DENIED, GNTTABOP_DUMP_TABLE, GNTTABOP_GET_VERSION, GNTTABOP_QUERY_SIZE,
        GNTTABOP_SETUP_TABLE, GNTTABOP_SWAP_GRANT_REF, GNTTABOP_TRANSFER, GnttabGetVersion, GnttabQuerySize,
        GnttabSetupTable, GnttabSwapGrantRef,
    },
};

#[test]
fn an_unused_table_has_no_frames() {
    let _machine = machine_of(256);
    let guest = Guest::new(1);
    let before = frame_allocator::free_frames();
    let mut size = [GnttabQuerySize { dom: DomainId::SELF, ..Default::default() }];
    guest.call(grant_table_op, GNTTABOP_QUERY_SIZE, &mut size).unwrap();
    assert_eq!((size[0].status, size[0].nr_frames, size[0].max_nr_frames), (GNTST_OKAY, 1, 4));
    assert_eq!(frame_allocator::free_frames(), before);
    frame_for_index(guest.domain(), 0).unwrap();
    assert_eq!(frame_allocator::free_frames(), before - 1);
}

/// Asks for `count` frames of the domain's table, to be listed in the second argument page.
fn set_up(guest: &Guest, dom: DomainId, count: u32, list: u64) -> i16 {
    let mut ops = [GnttabSetupTable { dom, nr_frames: count, frame_list: list, ..Default::default() }];
    guest.call(grant_table_op, GNTTABOP_SETUP_TABLE, &mut ops).unwrap();
    ops[0].status
}

#[test]
fn a_table_grows_to_its_limit_and_lists_its_frames() {
    let _machine = machine_of(256);
    let guest = Guest::new(1);
    let list = ARGUMENTS + 4096;
    assert_eq!(set_up(&guest, DomainId::SELF, 3, list), GNTST_OKAY);
    let mut pages = [0u64; 1024];
    guest.read_arguments(&mut pages);
    for (index, listed) in pages[512..515].iter().enumerate() {
        let frame = MachineFrame(*listed);
        assert_eq!(frame_for_index(guest.domain(), index as u32), Ok(frame));
        assert_eq!(frame::owner(frame), Some(DomainId(1)), "the guest can map it");
    }
    assert_eq!(pages[515], 0);
    assert_eq!(set_up(&guest, DomainId::SELF, 5, list), GNTST_GENERAL_ERROR);
    assert_eq!(set_up(&guest, DomainId::SELF, u32::MAX, list), GNTST_GENERAL_ERROR);
    assert_eq!(set_up(&guest, DomainId::SELF, 1, 0xffff_8000_0000_0000), GNTST_BAD_VIRT_ADDR);
    assert_eq!(set_up(&guest, DomainId::SELF, 0, 0), GNTST_OKAY);
    assert_eq!(frame_for_index(guest.domain(), 4), Err(Errno::EINVAL));
    assert_eq!(frame_for_index(guest.domain(), u32::MAX), Err(Errno::EINVAL));
}

#[test]
fn a_guest_maps_its_table_and_hears_of_uses_there() {
    let _machine = machine_of(256);
    let (granter, grantee) = two_guests();
    let table = frame_for_index(granter.domain(), 0).unwrap();
    let writable = Entry::new(table, crate::page_table::test_guest::RW);
    granter.inner.update(granter.branch.l1, 50, writable).unwrap();
    let frame = granter.inner.frame();
    let entry = GrantEntryV1 { flags: GTF_PERMIT_ACCESS, domid: GRANTEE, frame: frame.0 as u32 };
    granter.as_caller(|_| crate::guest_access::write(address(50) + 7 * 8, &entry)).unwrap();
    map_well(&grantee, GRANTER, 7, DEVICE, 0);
    let seen: GrantEntryV1 = granter.as_caller(|_| crate::guest_access::read(address(50) + 7 * 8)).unwrap();
    assert_eq!(seen.flags, GTF_PERMIT_ACCESS | GTF_READING | GTF_WRITING);
}

#[test]
fn tables_are_their_domains_and_the_control_domains_affair() {
    let _machine = machine_of(256);
    let (first, second) = two_guests();
    let control = Guest::new(0);
    let list = ARGUMENTS + 4096;
    assert_eq!(set_up(&second, first.inner.id(), 1, list), GNTST_PERMISSION_DENIED);
    assert_eq!(set_up(&control, DomainId(77), 1, list), GNTST_BAD_DOMAIN);
    assert_eq!(set_up(&control, first.inner.id(), 1, list), GNTST_OKAY);
    assert_eq!(set_up(&first, first.inner.id(), 1, list), GNTST_OKAY);
    let mut size = [GnttabQuerySize { dom: GRANTER, ..Default::default() }];
    second.call(grant_table_op, GNTTABOP_QUERY_SIZE, &mut size).unwrap();
    assert_eq!(size[0].status, GNTST_PERMISSION_DENIED);
    let mut version = [GnttabGetVersion { dom: GRANTER, ..Default::default() }];
    assert_eq!(errno(second.call(grant_table_op, GNTTABOP_GET_VERSION, &mut version)), Errno::EPERM);
    begin_to_die(first.domain());
    assert_eq!(set_up(&control, first.inner.id(), 2, list), GNTST_GENERAL_ERROR);
}

#[test]
fn entries_swap_unless_they_are_in_use() {
    let _machine = machine_of(256);
    let (granter, grantee) = two_guests();
    let first = grant_new(&granter, 3, GRANTEE, 0);
    let second = grant_new(&granter, 511, GRANTEE, GTF_READONLY);
    let swap = |ref_a, ref_b| {
        let (ref_a, ref_b) = (GrantReference(ref_a), GrantReference(ref_b));
        let mut ops = [GnttabSwapGrantRef { ref_a, ref_b, ..Default::default() }];
        granter.call(grant_table_op, GNTTABOP_SWAP_GRANT_REF, &mut ops).unwrap();
        ops[0].status
    };
    assert_eq!(swap(3, 511), GNTST_OKAY);
    assert_eq!(u64::from(read_entry(&granter, 511).frame), first.0);
    assert_eq!(read_entry(&granter, 3).flags, GTF_PERMIT_ACCESS | GTF_READONLY);
    assert_eq!(u64::from(read_entry(&granter, 3).frame), second.0);
    assert_eq!(
        (swap(3, 512), swap(512, 3), swap(3, u32::MAX)),
        (GNTST_BAD_GNTREF, GNTST_BAD_GNTREF, GNTST_BAD_GNTREF)
    );
    let op = map_well(&grantee, GRANTER, 511, DEVICE, 0);
    assert_eq!((swap(3, 511), swap(511, 3)), (GNTST_EAGAIN, GNTST_EAGAIN));
    assert_eq!((swap(511, 511), swap(3, 4)), (GNTST_OKAY, GNTST_OKAY));
    assert_eq!(unmap(&grantee, op.handle, 0, op.dev_bus_addr), GNTST_OKAY);
    check_balance(&[&granter, &grantee]);
}

#[test]
fn the_hypercall_refuses_what_it_should() {
    let _machine = machine_of(256);
    let guest = Guest::new(1);
    let run =
        |command: u32, pointer, count| guest.execute(grant_table_op, [u64::from(command), pointer, count]).0;
    let absent = [GNTTABOP_TRANSFER, GNTTABOP_DUMP_TABLE, 13, u32::MAX];
    for command in absent {
        assert_eq!(errno(run(command, ARGUMENTS, 1)), Errno::ENOSYS, "operation {command}");
    }
    for command in [GNTTABOP_MAP_GRANT_REF, GNTTABOP_UNMAP_GRANT_REF, GNTTABOP_COPY] {
        assert_eq!(run(command, 0, 0), Ok(0), "nothing to do is done");
        assert_eq!(errno(run(command, ARGUMENTS, 1 << 31)), Errno::EINVAL);
        for bad_address in [0, 0xffff_8000_0000_0000, ARGUMENTS + 2 * 4096 - 8, u64::MAX - 8] {
            assert_eq!(errno(run(command, bad_address, 1)), Errno::EFAULT, "{command} at {bad_address:#x}");
        }
    }
    for command in [GNTTABOP_SETUP_TABLE, GNTTABOP_QUERY_SIZE] {
        assert_eq!(errno(run(command, ARGUMENTS, 0)), Errno::EINVAL);
        assert_eq!(errno(run(command, ARGUMENTS, 2)), Errno::EINVAL);
    }
}

#[test]
fn a_long_array_restarts_where_it_stopped() {
    let _machine = machine_of(256);
    let (granter, grantee) = two_guests();
    grant_new(&granter, 3, GRANTEE, 0);
    grantee.write_arguments(&[map_op(GRANTER, 3, DEVICE, 0); 150]);
    let map = u64::from(GNTTABOP_MAP_GRANT_REF);
    let (result, pointer, left) = grantee.execute(grant_table_op, [map, ARGUMENTS, 150]);
    assert_eq!((result, pointer, left), (Err(HypercallError::Restart), ARGUMENTS + 64 * 32, 86));
    assert_eq!(grantee.domain().grant_table.mappings(), 64);
    let (result, pointer, left) = grantee.execute(grant_table_op, [map, pointer, left]);
    assert_eq!((result, left), (Err(HypercallError::Restart), 22));
    assert_eq!(grantee.execute(grant_table_op, [map, pointer, left]).0, Ok(0));
    assert_eq!(grantee.domain().grant_table.mappings(), 150);
}

#[test]
fn an_array_that_ends_in_nothing_has_done_what_it_could() {
    let _machine = machine_of(256);
    let (granter, grantee) = two_guests();
    grant_new(&granter, 3, GRANTEE, 0);
    let mapped = map_well(&grantee, GRANTER, 3, HOST, address(20));
    // The last whole structure before the end of the argument pages, and one beyond.
    let end = ARGUMENTS + 2 * 4096 - 24;
    let op = GnttabUnmapGrantRef { host_addr: address(20), handle: mapped.handle, ..Default::default() };
    grantee.as_caller(|_| crate::guest_access::write(end, &op)).unwrap();
    let unmap = u64::from(GNTTABOP_UNMAP_GRANT_REF);
    let (result, pointer, left) = grantee.execute(grant_table_op, [unmap, end, 2]);
    assert_eq!((result, pointer, left), (Err(HypercallError::Restart), end + 24, 1));
    assert_eq!(errno(grantee.execute(grant_table_op, [unmap, pointer, left]).0), Errno::EFAULT);
    check_balance(&[&granter, &grantee]);
}
