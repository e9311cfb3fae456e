//! Changing one entry of a table that is in use.

use super::{ENTRIES, Entry, Location, TableSession, is_hypervisor_slot, tree::check_table_entry};
use crate::{
    direct_map,
    domain::Domain,
    frame::{self, info},
    hypercall::HypercallError,
};
use core::sync::atomic::{AtomicU64, Ordering};
use hypercall_abi::{Errno, MachineFrame};

const ACCESSED_DIRTY: u64 = Entry::ACCESSED | Entry::DIRTY;

/// How an entry is replaced.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Write {
    /// By exactly the new value.
    Plain,
    /// The accessed and dirty bits the CPU has set stay.
    PreserveAccessedDirty,
}

impl Write {
    #[inline]
    fn put(self, word: &AtomicU64, new: Entry) {
        if self == Self::Plain {
            word.store(new.0, Ordering::Relaxed);
            return;
        }
        let keep = |old: u64| Some(new.0 | old & ACCESSED_DIRTY);
        let replaced = word.fetch_update(Ordering::Relaxed, Ordering::Relaxed, keep);
        debug_assert!(replaced.is_ok());
    }
}

impl TableSession<'_> {
    /// The level of `table`, if it is a table of the session's domain in proper use.
    #[inline]
    pub fn level_in_use(&self, table: MachineFrame) -> Option<u8> {
        let state = info(table)?.state();
        if state.owner() == self.domain.id && state.is_validated() { state.table_level() } else { None }
    }

    /// Replaces an entry of level 1.
    ///
    /// # Errors
    /// `EINVAL` when it is in no table of level 1 in use by the session's domain, is a grant's, or the new value
    /// says what it may not; `EPERM` and `EBUSY` as the frame it names has it.
    #[inline]
    pub fn update_page(&mut self, (table, index): Location, new: Entry, write: Write) -> Result<(), Errno> {
        if self.level_in_use(table) != Some(1) {
            return Err(Errno::EINVAL);
        }
        self.update_l1(&direct_map::words(table)[index % ENTRIES], new, write)
    }

    /// Replaces an entry of any level; `None` when it is in no table in use by the session's domain.
    ///
    /// # Errors
    /// As [`Self::update_page`]; `EINVAL` for the hypervisor's slots; `Restart` when a table to be entered is not
    /// validated within the budget.
    #[inline]
    pub fn update(
        &mut self,
        (table, index): Location,
        new: Entry,
        write: Write,
    ) -> Option<Result<(), HypercallError>> {
        let index = index % ENTRIES;
        Some(match self.level_in_use(table)? {
            1 => self.update_l1(&direct_map::words(table)[index], new, write).map_err(HypercallError::from),
            level => self.update_upper(table, level, index, new, write),
        })
    }

    /// An entry that maps a page. In the order that keeps every step correct: hold the new frame, write, note,
    /// let go of the old one.
    #[inline]
    fn update_l1(&mut self, word: &AtomicU64, new: Entry, write: Write) -> Result<(), Errno> {
        let old = Entry(word.load(Ordering::Relaxed));
        if old.is_grant() {
            return Err(Errno::EINVAL);
        }
        if !new.is_present() {
            write.put(word, new);
        } else if old.is_present() && self.is_flag_change(old, new) {
            return self.change_flags(word, old, new, write);
        } else {
            let adjusted = self.hold(new)?;
            write.put(word, adjusted);
        }
        if old.is_present() {
            self.domain.memory.note_stale_mapping();
            self.release(old);
        }
        Ok(())
    }

    /// True when old and new map the same frame of the domain's own, in the ordinary way.
    #[inline]
    fn is_flag_change(&self, old: Entry, new: Entry) -> bool {
        old.is_same_frame(new)
            && !new.has(Entry::CACHE_ATTRIBUTES | Entry::GRANT)
            && info(new.frame()).is_some_and(|info| info.state().owner() == self.domain.id)
    }

    /// The frame stays, so its reference does too; only writable use comes or goes.
    #[inline]
    fn change_flags(&mut self, word: &AtomicU64, old: Entry, new: Entry, write: Write) -> Result<(), Errno> {
        let adjusted = Entry((new.0 | Entry::USER) & !Entry::GLOBAL);
        match (old.has(Entry::WRITABLE), new.has(Entry::WRITABLE)) {
            (false, true) => {
                frame::upgrade_to_writable(new.frame(), self.domain.id)?;
                write.put(word, adjusted);
            }
            (true, false) => {
                write.put(word, adjusted);
                self.domain.memory.note_stale_mapping();
                frame::downgrade_from_writable(old.frame());
            }
            _ => write.put(word, adjusted),
        }
        Ok(())
    }

    /// An entry that names a table of the level below.
    fn update_upper(
        &mut self,
        table: MachineFrame,
        level: u8,
        index: usize,
        new: Entry,
        write: Write,
    ) -> Result<(), HypercallError> {
        if is_hypervisor_slot(level, index) {
            return Err(Errno::EINVAL.into());
        }
        self.finish_undoing()?;
        let word = &direct_map::words(table)[index];
        let old = Entry(word.load(Ordering::Relaxed));
        if new.is_present() {
            let adjusted = check_table_entry(new)?;
            if old.is_present() && old.is_same_frame(new) {
                write.put(word, adjusted);
                self.domain.memory.note_stale_mapping();
                return Ok(());
            }
            self.get_table(new.frame(), level - 1)?;
            write.put(word, adjusted);
        } else {
            write.put(word, new);
        }
        if old.is_present() {
            self.domain.memory.note_stale_mapping();
            self.put_table(old.frame());
        }
        Ok(())
    }
}

/// Replaces entry `index` of a table of level 1 on behalf of its owner, as if it had written it itself: for
/// writes that trapped because page tables are read-only.
///
/// # Errors
/// As [`TableSession::update_page`].
pub fn write_entry(
    domain: &Domain,
    table: MachineFrame,
    index: usize,
    new: Entry,
    write: Write,
) -> Result<(), Errno> {
    TableSession::open_for_pages(domain).update_page((table, index), new, write)
}
