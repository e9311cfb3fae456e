//! Grant tables from outside: guests that write their own entries, and what others can and cannot do with them.

mod copying;
mod dying;
mod mapping;
mod random;
mod tables;
mod unmapping;
mod version_two;

use super::{frame_for_index, grant_table_op};
use crate::{
    arch::tlb::domain_flushes,
    direct_map,
    frame::{self, FrameType},
    page_table::{
        Entry,
        test_guest::{audit, read},
    },
    test_support::Guest,
};
use core::sync::atomic::Ordering;
use hypercall_abi::{
    DomainId, GrantReference, MachineFrame,
    grant_table::{
        GNTMAP_DEVICE_MAP, GNTMAP_HOST_MAP, GNTMAP_READONLY, GNTST_OKAY, GNTTABOP_COPY,
        GNTTABOP_MAP_GRANT_REF, GNTTABOP_UNMAP_GRANT_REF, GTF_PERMIT_ACCESS, GTF_READING, GTF_READONLY,
        GTF_WRITING, GnttabCopy, GnttabMapGrantRef, GnttabUnmapGrantRef, GrantEntryV1, GrantHandle,
    },
};
use zerocopy::IntoBytes;

const HOST: u32 = GNTMAP_HOST_MAP;
const DEVICE: u32 = GNTMAP_DEVICE_MAP;
const READ_ONLY: u32 = GNTMAP_READONLY;

/// The number of the guest that grants, in most tests, and of the one that uses the grants.
const GRANTER: DomainId = DomainId(1);
const GRANTEE: DomainId = DomainId(2);

fn two_guests() -> (Guest, Guest) {
    (Guest::new(GRANTER.0), Guest::new(GRANTEE.0))
}

/// Frame and offset of a guest's shared entry.
fn place_of(guest: &Guest, reference: u32) -> (MachineFrame, usize) {
    let frame = frame_for_index(guest.domain(), reference / 512).expect("a table that large");
    (frame, reference as usize % 512 * 8)
}

fn write_entry(guest: &Guest, reference: u32, entry: GrantEntryV1) {
    let (frame, offset) = place_of(guest, reference);
    direct_map::write_bytes(frame, offset, entry.as_bytes());
}

fn read_entry(guest: &Guest, reference: u32) -> GrantEntryV1 {
    let mut entry = GrantEntryV1::default();
    let (frame, offset) = place_of(guest, reference);
    direct_map::read_bytes(frame, offset, entry.as_mut_bytes());
    entry
}

/// The guest grants a frame.
fn grant(guest: &Guest, reference: u32, grantee: DomainId, frame: MachineFrame, extra_flags: u16) {
    let flags = GTF_PERMIT_ACCESS | extra_flags;
    write_entry(guest, reference, GrantEntryV1 { flags, domid: grantee, frame: frame.0 as u32 });
}

/// The guest grants a fresh frame, and says which.
fn grant_new(guest: &Guest, reference: u32, grantee: DomainId, extra_flags: u16) -> MachineFrame {
    let frame = guest.inner.frame();
    grant(guest, reference, grantee, frame, extra_flags);
    frame
}

/// The in-use flags of a guest's entry.
fn in_use(guest: &Guest, reference: u32) -> u16 {
    read_entry(guest, reference).flags & (GTF_READING | GTF_WRITING)
}

/// Virtual address of entry `slot` of a [`Guest`]'s lowest table.
const fn address(slot: usize) -> u64 {
    slot as u64 * 4096
}

fn map_op(dom: DomainId, reference: u32, flags: u32, host_addr: u64) -> GnttabMapGrantRef {
    GnttabMapGrantRef { host_addr, flags, r#ref: GrantReference(reference), dom, ..Default::default() }
}

/// Maps and returns the operation as the guest finds it afterwards.
fn map(guest: &Guest, op: GnttabMapGrantRef) -> GnttabMapGrantRef {
    let mut ops = [op];
    guest.call(grant_table_op, GNTTABOP_MAP_GRANT_REF, &mut ops).unwrap();
    ops[0]
}

/// Maps what must be mappable.
fn map_well(guest: &Guest, dom: DomainId, reference: u32, flags: u32, host_addr: u64) -> GnttabMapGrantRef {
    let op = map(guest, map_op(dom, reference, flags, host_addr));
    assert_eq!(op.status, GNTST_OKAY);
    op
}

fn unmap(guest: &Guest, handle: GrantHandle, host_addr: u64, dev_bus_addr: u64) -> i16 {
    let mut ops = [GnttabUnmapGrantRef { host_addr, dev_bus_addr, handle, ..Default::default() }];
    guest.call(grant_table_op, GNTTABOP_UNMAP_GRANT_REF, &mut ops).unwrap();
    ops[0].status
}

fn copy(guest: &Guest, op: GnttabCopy) -> i16 {
    let mut ops = [op];
    guest.call(grant_table_op, GNTTABOP_COPY, &mut ops).unwrap();
    ops[0].status
}

fn type_of(frame: MachineFrame) -> FrameType {
    frame::info(frame).unwrap().state().frame_type()
}

fn references(frame: MachineFrame) -> u64 {
    frame::info(frame).unwrap().state().references()
}

/// Everything is as if no grant had ever been used.
fn check_balance(guests: &[&Guest]) {
    for guest in guests {
        assert_eq!(guest.domain().grant_table.used_grants(), 0);
        assert_eq!(guest.domain().grant_table.mappings(), 0);
        for reference in 0..600 {
            assert_eq!(in_use(guest, reference), 0, "entry {reference} of domain {}", guest.inner.id());
        }
    }
    let roots: Vec<_> = guests.iter().map(|guest| guest.branch.l4).collect();
    audit(&roots);
}
