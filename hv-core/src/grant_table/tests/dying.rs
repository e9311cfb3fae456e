//! What becomes of mappings when one of the two domains dies.

use super::*;
use crate::{
    frame_allocator,
    grant_table::release_all,
    machine::machine,
    test_support::{begin_to_die, machine_of},
};
use hypercall_abi::grant_table::GNTST_BAD_HANDLE;

/// Takes all of a domain's memory apart as far as that goes: channels are not used here.
fn take_apart(guest: &Guest) -> frame::Progress {
    let domain = guest.domain();
    begin_to_die(domain);
    while !release_all(domain, 16) {}
    guest.as_caller(|caller| crate::mmu::release_vcpu(caller.domain, caller.context)).unwrap();
    if !domain.shared_info_released.swap(true, Ordering::SeqCst) {
        frame::unshare(domain, domain.shared_info);
    }
    loop {
        match frame::release_some(domain, 4096) {
            frame::Progress::More => {}
            progress => break progress,
        }
    }
}

#[test]
fn a_dying_domain_lets_go_of_all_it_had_mapped() {
    let _machine = machine_of(512);
    let (granter, grantee) = two_guests();
    let frames: Vec<_> = (0..50).map(|number| grant_new(&granter, number, GRANTEE, 0)).collect();
    for number in 0..50 {
        let flags = if number % 3 == 0 { DEVICE } else { HOST | DEVICE };
        map_well(&grantee, GRANTER, number, flags, address(100 + number as usize));
    }
    begin_to_die(grantee.domain());
    let flushes = domain_flushes();
    assert!(!release_all(grantee.domain(), 20));
    assert_eq!(grantee.domain().grant_table.mappings(), 30);
    assert!(!release_all(grantee.domain(), 20));
    assert!(release_all(grantee.domain(), 20));
    assert_eq!(domain_flushes(), flushes + 3);
    assert_eq!((grantee.domain().grant_table.mappings(), granter.domain().grant_table.used_grants()), (0, 0));
    assert!(frames.iter().all(|frame| references(*frame) == 1 && type_of(*frame) == FrameType::None));
    assert!((0..50).all(|number| in_use(&granter, number) == 0));
    assert_eq!(take_apart(&grantee), frame::Progress::Done);
}

#[test]
fn a_frame_outlives_its_granter_until_it_is_unmapped() {
    let _machine = machine_of(512);
    let (granter, grantee) = two_guests();
    let frame = grant_new(&granter, 3, GRANTEE, 0);
    direct_map::write_bytes(frame, 0, b"still here");
    let first = map_well(&grantee, GRANTER, 3, HOST, address(20));
    let second = map_well(&grantee, GRANTER, 3, DEVICE | READ_ONLY, 0);
    assert_eq!(take_apart(&granter), frame::Progress::Waiting);
    let mut seen = [0; 10];
    grantee.as_caller(|_| crate::guest_access::read_bytes(address(20), &mut seen)).unwrap();
    assert_eq!(&seen, b"still here");
    assert_eq!(unmap(&grantee, first.handle, address(20), 0), GNTST_OKAY);
    assert_eq!(take_apart(&granter), frame::Progress::Waiting);
    let free = frame_allocator::free_frames();
    assert_eq!(unmap(&grantee, second.handle, 0, second.dev_bus_addr), GNTST_OKAY);
    assert_eq!(frame_allocator::free_frames(), free + 1);
    assert_eq!(take_apart(&granter), frame::Progress::Done);
}

#[test]
fn a_mapping_belongs_to_its_granter_and_not_to_the_next_of_that_number() {
    let _machine = machine_of(512);
    let (granter, grantee) = two_guests();
    grant_new(&granter, 3, GRANTEE, 0);
    let old = map_well(&grantee, GRANTER, 3, DEVICE, 0);
    assert_eq!(take_apart(&granter), frame::Progress::Waiting);
    machine().domains.remove(GRANTER);
    let successor = Guest::new(GRANTER.0);
    let frame = grant_new(&successor, 3, GRANTEE, 0);
    let new = map_well(&grantee, GRANTER, 3, DEVICE, 0);
    assert_eq!(new.dev_bus_addr, frame.physical_address());
    assert_eq!(successor.domain().grant_table.used_grants(), 1);
    assert_eq!(granter.domain().grant_table.used_grants(), 1);
    assert_eq!(unmap(&grantee, new.handle, 0, new.dev_bus_addr), GNTST_OKAY);
    assert_eq!(unmap(&grantee, new.handle, 0, old.dev_bus_addr), GNTST_BAD_HANDLE);
    assert_eq!(granter.domain().grant_table.used_grants(), 1, "the old mapping is as it was");
    assert_eq!(in_use(&successor, 3), 0);
}

#[test]
fn two_domains_that_mapped_each_other_both_go() {
    let _machine = machine_of(512);
    // Takes the frames that all domains share.
    let _bystander = Guest::new(9);
    let free = frame_allocator::free_frames();
    {
        let (first, second) = two_guests();
        grant_new(&first, 3, GRANTEE, 0);
        grant_new(&second, 4, GRANTER, 0);
        grant_new(&first, 5, GRANTER, 0);
        map_well(&second, GRANTER, 3, HOST, address(20));
        map_well(&first, GRANTEE, 4, HOST | READ_ONLY, address(20));
        map_well(&first, GRANTER, 5, DEVICE, 0);
        assert_eq!(take_apart(&first), frame::Progress::Waiting);
        assert_eq!(take_apart(&second), frame::Progress::Done);
        assert_eq!(take_apart(&first), frame::Progress::Done);
        machine().domains.remove(GRANTER);
        machine().domains.remove(GRANTEE);
    }
    assert_eq!(frame_allocator::free_frames(), free);
}
