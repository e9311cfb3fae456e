//! Undoing mappings.
//!
//! The order is what matters. First the page-table entries of a whole batch go; then one flush makes sure that no
//! TLB holds any of them; and only then are the frames let go, when nothing can reach them any more. A
//! [`Batch`] is what has been undone and not yet let go.
//!
//! A mapping knows the very page-table entry it was made in, and only that one will do to undo it: a domain with
//! two mappings of a frame, one for reading and one for writing, could otherwise end the writer and keep its entry.

use super::{
    Refusal,
    map::{address_of, locate_virtual, location_of, release_uses},
    maptrack::{CONTAINS_PTE, DEVICE, HOST, Mapping, READ_ONLY},
};
use crate::{
    arch,
    domain::Domain,
    hypercall::Caller,
    page_table::{self, Location},
};
use core::sync::atomic::Ordering;
use hypercall_abi::{
    Errno, MachineFrame,
    grant_table::{
        GNTST_BAD_DEV_ADDR, GNTST_BAD_HANDLE, GNTST_GENERAL_ERROR, GnttabUnmapAndReplace,
        GnttabUnmapGrantRef, GrantHandle,
    },
};

/// Unmap operations that share a flush.
pub(super) const BATCH: usize = 32;

/// One unmap operation of either kind.
pub(super) struct Unmap {
    handle: GrantHandle,
    /// Where the host mapping is; 0 to leave it.
    host_address: u64,
    /// Where devices reach the frame; 0 to leave the device mapping.
    bus_address: u64,
    /// Whose page-table entry to put in place of the host mapping's; 0 for none.
    replacement: u64,
}

impl From<&GnttabUnmapGrantRef> for Unmap {
    fn from(op: &GnttabUnmapGrantRef) -> Self {
        Self { handle: op.handle, host_address: op.host_addr, bus_address: op.dev_bus_addr, replacement: 0 }
    }
}

impl From<&GnttabUnmapAndReplace> for Unmap {
    fn from(op: &GnttabUnmapAndReplace) -> Self {
        Self { handle: op.handle, host_address: op.host_addr, bus_address: 0, replacement: op.new_addr }
    }
}

/// A mapping of which something has been undone.
struct Undone {
    handle: GrantHandle,
    mapping: Mapping,
    /// [`HOST`], [`DEVICE`]: what was undone.
    kinds: u8,
}

/// What has been undone and waits for the flush.
pub(super) struct Batch<'a> {
    domain: &'a Domain,
    undone: [Option<Undone>; BATCH],
    count: usize,
    needs_flush: bool,
}

impl<'a> Batch<'a> {
    pub fn new(domain: &'a Domain) -> Self {
        Self { domain, undone: [const { None }; BATCH], count: 0, needs_flush: false }
    }

    /// Undoes a mapping as far as asked. The frame is let go by [`Self::finish`].
    pub fn unmap(&mut self, caller: &Caller<'_>, op: &Unmap) -> Result<(), Refusal> {
        let maptrack = &self.domain.grant_table.maptrack;
        // One for devices alone needs no flush.
        let removed = maptrack.lock().remove_device(op.handle, op.bus_address);
        if let Some(mapping) = removed {
            release_uses(&mapping.granter, mapping.reference, mapping.flags);
            self.domain.grant_table.counters.unmaps.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        }
        let mapping = maptrack.lock().take(op.handle).ok_or(Refusal(GNTST_BAD_HANDLE))?;
        match undo(caller, &mapping, op) {
            Ok(kinds) => {
                self.keep(op.handle, mapping, kinds);
                Ok(())
            }
            Err(refusal) => {
                maptrack.lock().settle(op.handle, mapping);
                Err(refusal)
            }
        }
    }

    fn keep(&mut self, handle: GrantHandle, mapping: Mapping, kinds: u8) {
        self.needs_flush |= kinds & HOST != 0;
        self.undone[self.count] = Some(Undone { handle, mapping, kinds });
        self.count += 1;
    }

    /// Flushes if need be, then lets go of the frames and gives up the handles that stand for nothing any more.
    pub fn finish(&mut self) {
        if core::mem::take(&mut self.needs_flush) {
            arch::tlb::flush_domain(self.domain);
        }
        for undone in self.undone[..self.count].iter_mut().filter_map(Option::take) {
            let_go(self.domain, undone);
        }
        self.count = 0;
    }
}

fn let_go(domain: &Domain, undone: Undone) {
    let Undone { handle, mut mapping, kinds } = undone;
    release_uses(&mapping.granter, mapping.reference, kinds | mapping.flags & READ_ONLY);
    mapping.flags &= !kinds;
    let table = &domain.grant_table;
    if mapping.flags & (HOST | DEVICE) != 0 {
        if mapping.flags & HOST == 0
            && let Some(frame) = frame_of(&mapping)
        {
            mapping.address = frame.physical_address();
        }
        table.maptrack.lock().settle(handle, mapping);
        return;
    }
    table.maptrack.lock().give_up(handle);
    table.counters.unmaps.fetch_add(1, Ordering::Relaxed);
}

/// Takes the page-table entry away, if the host mapping is to go, and says which kinds are undone.
fn undo(caller: &Caller<'_>, mapping: &Mapping, op: &Unmap) -> Result<u8, Refusal> {
    let frame = frame_of(mapping).ok_or(Refusal(GNTST_BAD_HANDLE))?;
    let mut kinds = 0;
    if op.bus_address != 0 && mapping.flags & DEVICE != 0 {
        if op.bus_address != frame.physical_address() {
            return Err(Refusal(GNTST_BAD_DEV_ADDR));
        }
        kinds |= DEVICE;
    }
    if op.host_address != 0 && mapping.flags & HOST != 0 {
        clear_entry(caller, mapping, op, frame)?;
        kinds |= HOST;
    }
    Ok(kinds)
}

fn frame_of(mapping: &Mapping) -> Option<MachineFrame> {
    mapping.granter.grant_table.granted.lock().frame_in_use(mapping.reference)
}

/// Takes the mapping's own entry out of the page table, or puts another one of the caller's in its place. Whatever
/// is wrong with either, there is one status for it.
fn clear_entry(
    caller: &Caller<'_>,
    mapping: &Mapping,
    op: &Unmap,
    frame: MachineFrame,
) -> Result<(), Refusal> {
    let location = checked_location(caller, mapping, op.host_address);
    let cleared = location.and_then(|location| match op.replacement {
        0 => page_table::clear_grant_entry(caller.domain, location, frame),
        from => {
            page_table::replace_grant_entry(caller.domain, location, frame, locate_virtual(caller, from)?)
        }
    });
    cleared.map_err(|_| Refusal(GNTST_GENERAL_ERROR))
}

/// Where the mapping's entry is, if that is where the guest says it is.
fn checked_location(caller: &Caller<'_>, mapping: &Mapping, host_address: u64) -> Result<Location, Errno> {
    let named = if mapping.flags & CONTAINS_PTE != 0 {
        host_address
    } else {
        address_of(locate_virtual(caller, host_address)?)
    };
    if named != mapping.address {
        return Err(Errno::EINVAL);
    }
    Ok(location_of(named))
}

/// Gives back what a dying domain has mapped, at most `budget` mappings, and then the frames of its own table. Says
/// whether all is done. What others have mapped of it they keep until they undo it.
///
/// Its page tables may still have the entries, but no vCPU of it runs any more, and no TLB has them after the flush.
pub fn release_all(domain: &Domain, budget: u32) -> bool {
    debug_assert!(domain.is_dying(), "a living domain keeps its mappings");
    let table = &domain.grant_table;
    let mut left = budget;
    let mut is_flushed = false;
    loop {
        let next = table.maptrack.lock().take_next(&mut left);
        let Some((handle, mapping)) = next else { break };
        if mapping.flags & HOST != 0 && !core::mem::replace(&mut is_flushed, true) {
            arch::tlb::flush_domain(domain);
        }
        let kinds = mapping.flags & (HOST | DEVICE);
        let_go(domain, Undone { handle, mapping, kinds });
    }
    if left == 0 {
        return false;
    }
    table.granted.lock().abandon(domain);
    true
}
