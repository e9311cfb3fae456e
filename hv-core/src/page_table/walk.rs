//! Finding the entry that maps an address, as the CPU would.
//!
//! Without the lock of the tables the answer may be old the moment it is given. So a walk survives anything it
//! may read, and whoever changes the entry checks its table again under the lock.

use super::{ENTRIES, Entry};
use crate::{
    direct_map,
    domain::Domain,
    frame::{self, FrameType, info},
    layout::{is_canonical, is_hypervisor_address},
};
use core::sync::atomic::Ordering;
use hypercall_abi::{Errno, MachineFrame};

/// Index into the table of `level` on the way to `address`.
const fn index_at(address: u64, level: u8) -> usize {
    (address >> (12 + 9 * (level as u32 - 1))) as usize % ENTRIES
}

/// The table of level 1, and the index in it, whose entry maps `address` in the tree under `root`.
///
/// # Errors
/// `EINVAL` when there is no such table, or the address is not the guest's.
#[inline]
pub fn locate_entry(root: MachineFrame, address: u64) -> Result<(MachineFrame, usize), Errno> {
    if is_hypervisor_address(address) || !is_canonical(address) {
        return Err(Errno::EINVAL);
    }
    let mut table = root;
    for level in [4, 3, 2] {
        if !frame::is_ram(table) {
            return Err(Errno::EINVAL);
        }
        let entry = Entry(direct_map::words(table)[index_at(address, level)].load(Ordering::Relaxed));
        if entry.0 & (Entry::PRESENT | Entry::LARGE) != Entry::PRESENT {
            return Err(Errno::EINVAL);
        }
        table = entry.frame();
    }
    if frame::is_ram(table) { Ok((table, index_at(address, 1))) } else { Err(Errno::EINVAL) }
}

/// The frame and flags that `address` maps to in the tree under `root`.
///
/// # Errors
/// `EINVAL` when it maps to nothing.
pub fn translate(root: MachineFrame, address: u64) -> Result<Entry, Errno> {
    let (table, index) = locate_entry(root, address)?;
    let entry = Entry(direct_map::words(table)[index].load(Ordering::Relaxed));
    if entry.is_present() { Ok(entry) } else { Err(Errno::EINVAL) }
}

/// The table and index of the entry at a machine address, if that is in a table of level 1 in use by `domain`.
///
/// # Errors
/// `EINVAL` when it is not, or the address is not aligned.
pub fn entry_location_of(address: u64, domain: &Domain) -> Result<(MachineFrame, usize), Errno> {
    let table = MachineFrame::containing(address);
    let state = info(table).ok_or(Errno::EINVAL)?.state();
    let is_table = state.owner() == domain.id && state.frame_type() == FrameType::L1 && state.is_validated();
    if !is_table || !address.is_multiple_of(8) {
        return Err(Errno::EINVAL);
    }
    Ok((table, (address % 4096 / 8) as usize))
}
