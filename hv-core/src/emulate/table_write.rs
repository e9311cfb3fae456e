//! Writes to page tables by ordinary instructions.
//!
//! A guest's page tables are read-only to it, but stock kernels still change single entries of lowest-level tables by
//! plain stores and atomic instructions. Such a store faults; here it is decoded, its result is computed from the entry
//! as it is, and the entry is replaced by compare-and-exchange under the same rules as by hypercall. The address is the
//! one the CPU reported, so nothing but the entry that was written to can change.

use super::store::{LONGEST_INSTRUCTION, Store};
use crate::{
    direct_map,
    domain::Domain,
    guest_access,
    hypercall::Caller,
    layout::PAGE_SIZE,
    page_table::{self, Entry, TableSession, Write},
    vcpu::Context,
};
use core::sync::atomic::Ordering;
use hypercall_abi::MachineFrame;

/// Page-fault error code: the page was there, and the access was a write; user mode is how the CPU sees a guest's kernel.
const PROTECTION_AND_WRITE: u32 = 1 << 0 | 1 << 1;
/// Of these, with what else may be set.
const DECIDING: u32 = PROTECTION_AND_WRITE | 1 << 3 | 1 << 4;
/// Tries before a guest that keeps changing the entry from elsewhere gets the fault after all.
const TRIES: usize = 8;

/// Performs a write that faulted, if it is one to a lowest-level page table of the guest's own; false if it is not, or
/// the entry it would make is refused: then the fault is the guest's.
pub fn emulate(caller: &mut Caller<'_>, address: u64, error_code: u32) -> bool {
    if !caller.context.in_kernel || error_code & DECIDING != PROTECTION_AND_WRITE {
        return false;
    }
    let Some((table, index)) = written_entry(caller, address) else { return false };
    let Some(store) = fetch(caller.context) else { return false };
    let word = &direct_map::words(table)[index];
    for _ in 0..TRIES {
        let old = word.load(Ordering::Relaxed);
        let registers = &mut caller.context.registers;
        let Some(effect) = store.effect(registers, old, (address % 8) as u32) else { return false };
        if effect.entry == old || replace(caller.domain, (table, index), old, effect.entry) {
            effect.apply(registers);
            registers.rip = registers.rip.wrapping_add(store.length());
            return true;
        }
        if word.load(Ordering::Relaxed) == old {
            return false;
        }
    }
    false
}

/// Replaces an entry that must still be as it was.
fn replace(domain: &Domain, place: (MachineFrame, usize), old: u64, new: u64) -> bool {
    TableSession::open_for_pages(domain).update_page(place, Entry(new), Write::IfStill(Entry(old))).is_ok()
}

/// The lowest-level table of the guest's and the entry in it that `address` is mapped to, read-only.
fn written_entry(caller: &Caller<'_>, address: u64) -> Option<(MachineFrame, usize)> {
    let root = caller.context.kernel_page_table?;
    let (table, index) = page_table::locate_entry(root, address).ok()?;
    let mapping = Entry(direct_map::words(table)[index].load(Ordering::Relaxed));
    if !mapping.is_present() || mapping.has(Entry::WRITABLE) {
        return None;
    }
    let place = mapping.frame().physical_address() + address % PAGE_SIZE / 8 * 8;
    page_table::entry_location_of(place, caller.domain).ok()
}

/// The store at the instruction pointer, which may end at the end of a mapping.
fn fetch(context: &mut Context) -> Option<Store> {
    let rip = context.registers.rip;
    let mut code = [0; LONGEST_INSTRUCTION];
    if guest_access::read_bytes(rip, &mut code).is_ok() {
        return context.recent_stores.find(rip, code);
    }
    let readable = |length: &usize| guest_access::read_bytes(rip, &mut code[..*length]).is_ok();
    let length = (1..LONGEST_INSTRUCTION).rev().find(readable)?;
    Store::decode(&code[..length])
}
