//! Mapping grants: into the caller's address space, for its devices, or both.
//!
//! A mapping for devices alone touches no page table and no TLB: it holds the frame and says where it is. That is
//! the cheap way to let a device at a guest's page.

use super::{
    Refusal,
    active::Granted,
    maptrack::{CONTAINS_PTE, DEVICE, HOST, Mapping, READ_ONLY},
    peer::Peer,
    shared::Access,
};
use crate::{
    domain::{Domain, DomainRef},
    hypercall::Caller,
    layout::PAGE_SIZE,
    page_table::{self, Entry, Location},
};
use core::sync::atomic::Ordering;
use hypercall_abi::{
    Errno, GrantReference, MachineFrame,
    grant_table::{
        GNTMAP_CONTAINS_PTE, GNTMAP_DEVICE_MAP, GNTMAP_GUEST_AVAIL_MASK, GNTMAP_HOST_MAP, GNTMAP_READONLY,
        GNTST_BAD_GNTREF, GNTST_GENERAL_ERROR, GNTST_NO_SPACE, GnttabMapGrantRef, GrantHandle,
    },
};

/// Flags of a map operation from this bit on go into the bits of the page-table entry that guests may use
/// (`GNTMAP_guest_avail0`).
const FIRST_AVAILABLE_FLAG: u32 = GNTMAP_GUEST_AVAIL_MASK.trailing_zeros();
/// The first of those bits in a page-table entry.
const FIRST_AVAILABLE_BIT: u32 = 9;
/// All of them.
const AVAILABLE_BITS: u64 = 0b111 << FIRST_AVAILABLE_BIT;

/// Maps one grant. On success `op` has the handle and the bus address.
pub(super) fn map(caller: &Caller<'_>, peer: &mut Peer, op: &mut GnttabMapGrantRef) -> Result<(), Refusal> {
    let flags = mapping_flags(op.flags)?;
    let granter = peer.find(op.dom)?;
    let request = Request { granter, reference: op.r#ref, flags };
    let (handle, frame) = match flags & HOST {
        0 => request.map_device(caller.domain)?,
        _ => request.map_host(caller, op)?,
    };
    caller.domain.grant_table.counters.maps.fetch_add(1, Ordering::Relaxed);
    op.handle = handle;
    op.dev_bus_addr = frame.physical_address();
    Ok(())
}

/// The ABI's flags as the maptrack keeps them. A mapping for nobody is refused.
fn mapping_flags(flags: u32) -> Result<u8, Refusal> {
    let chosen = |bit: u32, ours: u8| if flags & bit != 0 { ours } else { 0 };
    let users = chosen(GNTMAP_HOST_MAP, HOST) | chosen(GNTMAP_DEVICE_MAP, DEVICE);
    if users == 0 {
        return Err(Refusal(GNTST_BAD_GNTREF));
    }
    Ok(users | chosen(GNTMAP_READONLY, READ_ONLY) | chosen(GNTMAP_CONTAINS_PTE, CONTAINS_PTE))
}

/// What a mapping does with the page.
pub(super) const fn access_of(flags: u8) -> Access {
    if flags & READ_ONLY != 0 { Access::Read } else { Access::Write }
}

struct Request<'a> {
    granter: &'a DomainRef,
    reference: GrantReference,
    flags: u8,
}

impl Request<'_> {
    fn map_device(&self, caller: &Domain) -> Result<(GrantHandle, MachineFrame), Refusal> {
        let frame = self.acquire(&mut self.granter.grant_table.granted.lock(), caller)?;
        let inserted = caller.grant_table.maptrack.lock().insert(self.mapping(frame.physical_address()));
        match inserted {
            Ok(handle) => Ok((handle, frame)),
            Err(_) => {
                release_uses(self.granter, self.reference, self.flags);
                Err(Refusal(GNTST_NO_SPACE))
            }
        }
    }

    fn map_host(
        &self,
        caller: &Caller<'_>,
        op: &GnttabMapGrantRef,
    ) -> Result<(GrantHandle, MachineFrame), Refusal> {
        let maptrack = &caller.domain.grant_table.maptrack;
        let handle = maptrack.lock().reserve().ok_or(Refusal(GNTST_NO_SPACE))?;
        match self.install(caller, op) {
            Ok((frame, mapping)) => {
                maptrack.lock().settle(handle, mapping);
                Ok((handle, frame))
            }
            Err(refusal) => {
                maptrack.lock().give_up(handle);
                Err(refusal)
            }
        }
    }

    fn install(
        &self,
        caller: &Caller<'_>,
        op: &GnttabMapGrantRef,
    ) -> Result<(MachineFrame, Mapping), Refusal> {
        let frame = self.acquire_all(caller.domain)?;
        match install(caller, op, frame) {
            Ok(entry_address) => Ok((frame, self.mapping(entry_address))),
            Err(_) => {
                release_uses(self.granter, self.reference, self.flags);
                Err(Refusal(GNTST_GENERAL_ERROR))
            }
        }
    }

    fn mapping(&self, address: u64) -> Mapping {
        Mapping { granter: self.granter.clone(), address, reference: self.reference, flags: self.flags }
    }

    fn acquire(&self, granted: &mut Granted, grantee: &Domain) -> Result<MachineFrame, Refusal> {
        granted.acquire_page(self.granter.id, self.reference, grantee.id, access_of(self.flags))
    }

    /// One use of the grant for the processor, and one for devices if wanted.
    fn acquire_all(&self, grantee: &Domain) -> Result<MachineFrame, Refusal> {
        let mut granted = self.granter.grant_table.granted.lock();
        let frame = self.acquire(&mut granted, grantee)?;
        if self.flags & DEVICE != 0
            && let Err(refusal) = self.acquire(&mut granted, grantee)
        {
            granted.release(self.reference, access_of(self.flags));
            return Err(refusal);
        }
        Ok(frame)
    }
}

/// Ends the uses that the mapping kinds in `flags` stand for.
pub(super) fn release_uses(granter: &Domain, reference: GrantReference, flags: u8) {
    let mut granted = granter.grant_table.granted.lock();
    for kind in [HOST, DEVICE] {
        if flags & kind != 0 {
            granted.release(reference, access_of(flags));
        }
    }
}

/// Enters the frame into the caller's page table and returns the machine address of the entry.
fn install(caller: &Caller<'_>, op: &GnttabMapGrantRef, frame: MachineFrame) -> Result<u64, Errno> {
    let location = if op.flags & GNTMAP_CONTAINS_PTE != 0 {
        page_table::entry_location_of(op.host_addr, caller.domain)?
    } else {
        locate_virtual(caller, op.host_addr)?
    };
    page_table::set_grant_entry(caller.domain, location, frame, entry_flags(op.flags))?;
    Ok(address_of(location))
}

/// The page-table entry of a virtual address in the caller's current address space.
pub(super) fn locate_virtual(caller: &Caller<'_>, address: u64) -> Result<Location, Errno> {
    let root = caller.context.kernel_page_table.ok_or(Errno::EINVAL)?;
    page_table::locate_entry(root, address)
}

/// Machine address of a page-table entry.
pub(super) const fn address_of(location: Location) -> u64 {
    location.0.physical_address() + location.1 as u64 * 8
}

/// The entry at a machine address that came from [`address_of`].
pub(super) const fn location_of(address: u64) -> Location {
    (MachineFrame::containing(address), (address % PAGE_SIZE / 8) as usize)
}

/// The flags of the page-table entry. Guests run in ring 3, so every mapping of theirs is for "user" mode and
/// `GNTMAP_application_map` asks for nothing more.
fn entry_flags(flags: u32) -> u64 {
    let available = (u64::from(flags >> FIRST_AVAILABLE_FLAG) << FIRST_AVAILABLE_BIT) & AVAILABLE_BITS;
    let writable = if flags & GNTMAP_READONLY == 0 { Entry::WRITABLE } else { 0 };
    Entry::PRESENT | Entry::USER | Entry::ACCESSED | Entry::DIRTY | writable | available
}
