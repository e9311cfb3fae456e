//! Page tables of guests: what an entry may say, and how a frame becomes a table and stops being one.
//!
//! Guests run on their own page tables, with machine frame numbers in them (direct paging). They read their
//! tables but never write them: every change comes here first. The idea to hold: **a validated table holds what
//! its entries name.** An entry of level 1 holds a reference to the frame it maps, as writable if it maps it
//! writable; an entry of a higher level holds a typed use of the table below. The invariants follow:
//!
//! - a frame that is a table cannot be mapped writable, nor the other way round, because the two are different
//!   types of one frame, and a type stays while it is held ([`crate::frame`]);
//! - a frame that is mapped is not freed, because the mapping is a reference;
//! - a tree that is in use is correct at every level, because a root is validated only when all below it is.
//!
//! Entries change under the lock of the table's owner, which a [`TableSession`] holds. The CPU is the only other
//! writer: it sets accessed and dirty bits.
//!
//! Validating or undoing a table of level 2 to 4 can take long, so it stops when its budget is spent. A
//! validation leaves its progress in the frame's state and goes on when the hypercall is executed again. An undoing is
//! kept in [`Tables`], and whoever next takes a table of that domain into use carries on with it before anything else.
//!
//! Old translations in TLBs: an entry that stops mapping something, or stops mapping it writable, is *noted* with
//! the domain (`DomainMemory::note_stale_mapping`). Before a frame gets a new life (untyped to
//! table, table to untyped, freed) its domain's TLBs are flushed if there is such a note.
//!
//! Not supported, and refused: large pages, and tables that are their own parents ("linear" tables).

mod entry;
mod grant_entry;
mod scan;
mod session;
mod tree;
mod update;
mod walk;

#[cfg(test)]
mod random_tests;
#[cfg(test)]
pub(crate) mod test_guest;
#[cfg(test)]
mod tests;

pub use entry::Entry;
pub use grant_entry::{clear_grant_entry, replace_grant_entry, set_grant_entry};
pub use session::{Mappable, TableSession, Tables};
pub use update::Write;
pub use walk::{entry_location_of, locate_entry, translate};

use crate::layout::{FIRST_HYPERVISOR_SLOT, LAST_HYPERVISOR_SLOT};
use core::sync::atomic::{AtomicU64, Ordering};

/// Where an entry is: its table, and its index there.
pub type Location = (hypercall_abi::MachineFrame, usize);

/// Entries in a table.
pub const ENTRIES: usize = 512;

/// Number of slots in an L4 table that are the hypervisor's.
const HYPERVISOR_SLOTS: usize = LAST_HYPERVISOR_SLOT - FIRST_HYPERVISOR_SLOT + 1;

/// The hypervisor's part of every L4 table.
pub struct HypervisorSlots([AtomicU64; HYPERVISOR_SLOTS]);

impl HypervisorSlots {
    /// Empty slots, until the boot code has made the hypervisor's own tables.
    pub const fn new() -> Self {
        Self([const { AtomicU64::new(0) }; HYPERVISOR_SLOTS])
    }
}

impl Default for HypervisorSlots {
    fn default() -> Self {
        Self::new()
    }
}

/// Sets the entries that every L4 table gets in the hypervisor's slots; once, at boot.
pub fn set_hypervisor_slots(entries: &[u64; HYPERVISOR_SLOTS]) {
    for (slot, entry) in crate::machine::machine().hypervisor_slots.0.iter().zip(entries) {
        slot.store(*entry, Ordering::Relaxed);
    }
}

/// The hypervisor's slots, with the index of each.
fn hypervisor_slots() -> impl Iterator<Item = (usize, u64)> {
    let slots = crate::machine::machine().hypervisor_slots.0.iter();
    (FIRST_HYPERVISOR_SLOT..).zip(slots.map(|slot| slot.load(Ordering::Relaxed)))
}

/// True when entry `index` of a table of `level` belongs to the hypervisor.
const fn is_hypervisor_slot(level: u8, index: usize) -> bool {
    level == 4 && index >= FIRST_HYPERVISOR_SLOT && index <= LAST_HYPERVISOR_SLOT
}
