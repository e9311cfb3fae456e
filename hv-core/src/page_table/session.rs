//! The right to change a domain's page tables, for as long as one hypercall works on them.

use super::Entry;
use crate::lock::MutexGuard;
use crate::{
    arch,
    domain::Domain,
    frame::{self, FrameState, info},
    hypercall::HypercallError,
};
use hypercall_abi::{DomainId, Errno, MachineFrame};

/// Tables that can wait to be undone at once: a failed validation leaves one a level (2 to 4), and undoing the
/// topmost of them finds at most one below each of its levels.
const MAX_UNDOING: usize = 8;

/// Mappings of foreign frames that wait for one common flush.
const MAX_UNMAPPED: usize = 32;

/// What the lock around a domain's page tables guards.
pub struct Tables {
    /// Tables nobody uses any more whose entries still hold what they name. The last one is undone first.
    undoing: [MachineFrame; MAX_UNDOING],
    count: usize,
    /// Entries that mapped foreign frames, which they still hold. Empty between sessions.
    unmapped: [Entry; MAX_UNMAPPED],
    unmapped_count: usize,
}

impl Tables {
    /// No tables to undo.
    pub const fn new() -> Self {
        Self {
            undoing: [MachineFrame(0); MAX_UNDOING],
            count: 0,
            unmapped: [Entry(0); MAX_UNMAPPED],
            unmapped_count: 0,
        }
    }

    pub(super) fn last(&self) -> Option<MachineFrame> {
        self.undoing[..self.count].last().copied()
    }

    pub(super) fn push(&mut self, table: MachineFrame) {
        self.undoing[self.count] = table;
        self.count += 1;
    }

    pub(super) fn pop(&mut self) {
        self.count -= 1;
    }
}

impl Default for Tables {
    fn default() -> Self {
        Self::new()
    }
}

/// Whose frames a new entry of level 1 may map.
#[derive(Clone, Copy)]
pub enum Mappable<'a> {
    /// Memory of the tables' owner, and I/O space that the given domain has rights to.
    Own(&'a Domain),
    /// Memory of a domain under construction.
    Foreign(&'a Domain),
    /// Only I/O space that the given domain has rights to.
    Io(&'a Domain),
}

/// The lock around a domain's page tables, a budget, and what is to be mapped.
///
/// Whoever takes tables into use first finishes what is left to be undone ([`TableSession::finish_undoing`]). So a
/// table that is found half done is one whose validation stopped half-way, and the validation may go on.
pub struct TableSession<'a> {
    pub(super) domain: &'a Domain,
    pub(super) tables: MutexGuard<'a, Tables>,
    budget: u32,
    mappable: Mappable<'a>,
}

impl<'a> TableSession<'a> {
    /// Locks the tables of `domain` for about `budget` entries' worth of work (at least one for each level, or
    /// nothing ever ends), and finishes what was left undone.
    ///
    /// # Errors
    /// `Restart` when the budget does not suffice for that.
    pub fn open(domain: &'a Domain, budget: u32) -> Result<Self, HypercallError> {
        let mut session = Self::open_for_pages(domain);
        session.budget = budget;
        session.finish_undoing()?;
        Ok(session)
    }

    /// Locks the tables of `domain` to change entries of level 1 and nothing above, for which it does not matter
    /// what waits to be undone: that is in use by nobody.
    pub fn open_for_pages(domain: &'a Domain) -> Self {
        Self { domain, tables: domain.memory.lock_tables(), budget: 0, mappable: Mappable::Own(domain) }
    }

    /// Says what new entries may map.
    pub fn set_mappable(&mut self, mappable: Mappable<'a>) {
        self.mappable = mappable;
    }

    /// The domain whose tables these are.
    pub fn domain(&self) -> &'a Domain {
        self.domain
    }

    /// Takes `amount` from the budget; the last piece of work may overdraw it.
    ///
    /// # Errors
    /// `Restart` when it is spent.
    #[inline]
    pub fn spend(&mut self, amount: u32) -> Result<(), HypercallError> {
        if self.budget == 0 {
            return Err(HypercallError::Restart);
        }
        self.budget = self.budget.saturating_sub(amount);
        Ok(())
    }

    /// Checks an entry for level 1 and takes hold of the frame it is to map. Returns the entry as it may be written.
    #[inline]
    pub(super) fn hold(&mut self, entry: Entry) -> Result<Entry, Errno> {
        let adjusted = Entry((entry.0 | Entry::USER) & !Entry::GLOBAL);
        if let Mappable::Own(_) = self.mappable
            && !entry.has(Entry::CACHE_ATTRIBUTES | Entry::GRANT)
        {
            let held = hold_frame(entry, self.domain.id);
            if held.is_ok() {
                return Ok(adjusted);
            }
        }
        self.hold_unusual(entry)?;
        Ok(adjusted)
    }

    /// The rarer cases: I/O space, foreign frames, and whatever is wrong.
    #[cold]
    fn hold_unusual(&mut self, entry: Entry) -> Result<(), Errno> {
        if entry.has(Entry::GRANT) {
            return Err(Errno::EINVAL);
        }
        if let Mappable::Own(rights) | Mappable::Io(rights) = self.mappable
            && frame::is_io(entry.frame())
        {
            return if rights.io_rights.allows_memory(entry.frame()) { Ok(()) } else { Err(Errno::EPERM) };
        }
        if entry.has(Entry::CACHE_ATTRIBUTES) {
            return Err(Errno::EINVAL);
        }
        match self.mappable {
            Mappable::Own(_) => hold_frame(entry, self.domain.id),
            Mappable::Foreign(owner) => hold_foreign(entry, owner),
            Mappable::Io(_) => Err(Errno::EPERM),
        }
    }

    /// Gives back what a present entry of level 1 held. The entry is no longer in a table that a CPU uses.
    #[inline]
    pub(super) fn release(&mut self, entry: Entry) {
        if entry.has(Entry::GRANT) {
            return;
        }
        let Some(info) = info(entry.frame()) else { return };
        let owner = info.state().owner();
        if owner == self.domain.id {
            release_frame(entry);
        } else if owner != DomainId::IO {
            self.release_foreign(entry);
        }
    }

    /// A frame of another domain: TLBs must forget it before the reference goes, since after that the owner's
    /// own flushes are all that happens to it. One flush serves a batch.
    #[cold]
    fn release_foreign(&mut self, entry: Entry) {
        if self.tables.unmapped_count == MAX_UNMAPPED {
            self.flush_unmapped();
        }
        let last = self.tables.unmapped_count;
        self.tables.unmapped[last] = entry;
        self.tables.unmapped_count += 1;
    }

    #[cold]
    fn flush_unmapped(&mut self) {
        arch::tlb::flush_domain(self.domain);
        let count = core::mem::take(&mut self.tables.unmapped_count);
        // Mostly all are one domain's.
        let unmapped = &self.tables.unmapped[..count];
        for entries in unmapped.chunk_by(|one, next| frame::owner(one.frame()) == frame::owner(next.frame()))
        {
            if let Some(owner) = frame::owner(entries[0].frame()) {
                frame::remove_foreign_mappings(owner, entries.len() as u32);
            }
            entries.iter().for_each(|entry| release_frame(*entry));
        }
    }

    /// Flushes the domain's TLBs if mappings have gone that they may still know.
    pub(crate) fn flush_stale(&mut self) {
        self.domain.memory.flush_stale_mappings(self.domain);
    }

    /// Changes the state of a table of this domain in a way that cannot fail while the tables are locked.
    pub(crate) fn set_state(&self, table: MachineFrame, change: impl Fn(FrameState) -> FrameState) {
        let Some(info) = info(table) else { return };
        let changed = info.change(|state| Some(change(state)));
        debug_assert!(changed.is_ok());
    }
}

impl Drop for TableSession<'_> {
    #[inline]
    fn drop(&mut self) {
        if self.tables.unmapped_count != 0 {
            self.flush_unmapped();
        }
    }
}

#[inline]
fn hold_frame(entry: Entry, owner: DomainId) -> Result<(), Errno> {
    if entry.has(Entry::WRITABLE) {
        frame::get_writable(entry.frame(), owner)
    } else {
        frame::get(entry.frame(), owner)
    }
}

fn hold_foreign(entry: Entry, owner: &Domain) -> Result<(), Errno> {
    owner.memory.add_foreign_mapping()?;
    hold_frame(entry, owner.id).inspect_err(|_| owner.memory.remove_foreign_mappings(1))
}

#[inline]
fn release_frame(entry: Entry) {
    if entry.has(Entry::WRITABLE) {
        frame::put_writable(entry.frame());
    } else {
        frame::put(entry.frame());
    }
}
