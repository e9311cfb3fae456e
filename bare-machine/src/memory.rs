#![expect(unsafe_code, reason = "writes page tables")]
//! Page-table entries. They are the kernel's own, and written as it says.

use core::arch::asm;
use core::slice;

use hypercall_abi::Errno;
use hypercall_abi::xen::{MMU_NORMAL_PT_UPDATE, MmuUpdate, MmuextOp};
use hypercall_abi::xen::{MMUEXT_TLB_FLUSH_LOCAL, UVMF_FLUSHTYPE_MASK};

/// In an entry: it maps something.
pub const PRESENT: u64 = 1 << 0;
/// In an entry: what it maps can be written.
pub const WRITABLE: u64 = 1 << 1;
/// In an entry: the physical address.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// The low bits of an update's address say what kind it is.
const KIND: u64 = 0b11;

/// Writes the entry at a physical address.
pub fn write_entry(address: u64, entry: u64) {
    // SAFETY: physical memory is mapped one to one. That the entry breaks nothing is the kernel's promise, whose page
    // tables these are: `pv_runtime` gives it where it makes the call.
    unsafe { (address as *mut u64).write_volatile(entry) };
}

fn read_entry(address: u64) -> u64 {
    // SAFETY: physical memory is mapped one to one.
    unsafe { (address as *const u64).read_volatile() }
}

/// `mmu_update`.
///
/// # Errors
///
/// `ENOSYS` for updates of another kind than entries.
pub fn update(list: u64, count: u64, done: u64) -> Result<u64, Errno> {
    // SAFETY: the caller of the hypercall vouches for the list.
    let updates = unsafe { slice::from_raw_parts(list as *const MmuUpdate, count as usize) };
    for update in updates {
        if update.ptr & KIND != MMU_NORMAL_PT_UPDATE {
            return Err(Errno::ENOSYS);
        }
        write_entry(update.ptr & !KIND, update.val);
    }
    if done != 0 {
        // SAFETY: the caller of the hypercall vouches for the address.
        unsafe { (done as *mut u32).write(count as u32) };
    }
    flush();
    Ok(0)
}

/// `update_va_mapping`.
///
/// # Errors
///
/// `EINVAL` if there is no bottom-level table for the address.
pub fn update_mapping(virtual_address: u64, entry: u64, flags: u64) -> Result<u64, Errno> {
    let place = [4_u32, 3, 2].into_iter().try_fold(root(), |table, level| {
        let entry = read_entry(place_in(table, virtual_address, level));
        if entry & PRESENT == 0 { Err(Errno::EINVAL) } else { Ok(entry & ADDRESS) }
    })?;
    write_entry(place_in(place, virtual_address, 1), entry);
    if flags & UVMF_FLUSHTYPE_MASK != 0 {
        flush();
    }
    Ok(0)
}

/// Where the entry for an address is in a table of this level.
fn place_in(table: u64, virtual_address: u64, level: u32) -> u64 {
    table + (virtual_address >> (12 + 9 * (level - 1)) & 511) * 8
}

/// `mmuext_op`: only flushes are anything on a machine whose tables nobody checks.
///
/// # Errors
///
/// `ENOSYS` for anything else.
pub fn extended(list: u64, count: u64) -> Result<u64, Errno> {
    // SAFETY: the caller of the hypercall vouches for the list.
    let operations = unsafe { slice::from_raw_parts(list as *const MmuextOp, count as usize) };
    if operations.iter().any(|operation| operation.cmd != MMUEXT_TLB_FLUSH_LOCAL) {
        return Err(Errno::ENOSYS);
    }
    flush();
    Ok(0)
}

fn root() -> u64 {
    let root: u64;
    // SAFETY: reading the register changes nothing.
    unsafe { asm!("mov {}, cr3", out(reg) root, options(nomem, nostack, preserves_flags)) };
    root & ADDRESS
}

fn flush() {
    // SAFETY: the same root again; only what the TLB remembers goes.
    unsafe { asm!("mov cr3, {}", in(reg) root(), options(nostack, preserves_flags)) };
}
