//! Changing one entry of a table that is in use.

use super::{ENTRIES, Entry, Location, TableSession, is_hypervisor_slot, tree::check_table_entry};
use crate::{
    direct_map,
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
    /// Only if it still has this value. Nobody but the CPU can have changed it.
    IfStill(Entry),
}

impl Write {
    /// Writes, or returns false when the entry has not the value it should have.
    #[inline]
    fn put(self, word: &AtomicU64, new: Entry) -> bool {
        match self {
            Self::Plain => {
                word.store(new.0, Ordering::Relaxed);
                true
            }
            Self::PreserveAccessedDirty => {
                let keep = |old: u64| Some(new.0 | old & ACCESSED_DIRTY);
                word.fetch_update(Ordering::Relaxed, Ordering::Relaxed, keep).is_ok()
            }
            Self::IfStill(old) => {
                word.compare_exchange(old.0, new.0, Ordering::Relaxed, Ordering::Relaxed).is_ok()
            }
        }
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
    /// says what it may not; `EPERM` and `EBUSY` as the frame it names has it; `EAGAIN` when it is not as
    /// [`Write::IfStill`] has it.
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

    /// An entry that maps a page. In the order that keeps every step correct: hold what the new entry names, write,
    /// note, let go of what only the old one named.
    #[inline]
    fn update_l1(&mut self, word: &AtomicU64, new: Entry, write: Write) -> Result<(), Errno> {
        let old = Entry(word.load(Ordering::Relaxed));
        if old.is_grant() {
            return Err(Errno::EINVAL);
        }
        let keeps_frame = new.is_present() && old.is_present() && self.is_flag_change(old, new);
        let held = match (new.is_present(), keeps_frame) {
            (false, _) => new,
            (true, false) => self.hold(new)?,
            (true, true) => self.hold_more(old, new)?,
        };
        if !write.put(word, held) {
            self.let_go(held, old, keeps_frame);
            return Err(Errno::EAGAIN);
        }
        if old.is_present() && !(keeps_frame && held.has(Entry::WRITABLE) >= old.has(Entry::WRITABLE)) {
            self.domain.memory.note_stale_mapping();
            self.let_go(old, held, keeps_frame);
        }
        Ok(())
    }

    /// Lets go of what `entry` holds and `other`, which takes its place, does not.
    #[inline]
    fn let_go(&mut self, entry: Entry, other: Entry, keeps_frame: bool) {
        if !keeps_frame && entry.is_present() {
            self.release(entry);
        } else if keeps_frame && entry.has(Entry::WRITABLE) && !other.has(Entry::WRITABLE) {
            frame::downgrade_from_writable(entry.frame());
        }
    }

    /// True when old and new map the same frame of the domain's own, in the ordinary way.
    #[inline]
    fn is_flag_change(&self, old: Entry, new: Entry) -> bool {
        old.is_same_frame(new)
            && !new.has(Entry::CACHE_ATTRIBUTES | Entry::GRANT)
            && info(new.frame()).is_some_and(|info| info.state().owner() == self.domain.id)
    }

    /// The frame stays, so its reference does too; only writable use may have to be added.
    #[inline]
    fn hold_more(&mut self, old: Entry, new: Entry) -> Result<Entry, Errno> {
        if new.has(Entry::WRITABLE) && !old.has(Entry::WRITABLE) {
            frame::upgrade_to_writable(new.frame(), self.domain.id)?;
        }
        Ok(Entry((new.0 | Entry::USER) & !Entry::GLOBAL))
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
        let keeps_table = new.is_present() && old.is_present() && old.is_same_frame(new);
        let held = if new.is_present() { check_table_entry(new)? } else { new };
        if new.is_present() && !keeps_table {
            self.get_table(new.frame(), level - 1)?;
        }
        if !write.put(word, held) {
            if new.is_present() && !keeps_table {
                self.put_table(new.frame());
            }
            return Err(Errno::EAGAIN.into());
        }
        if old.is_present() {
            self.domain.memory.note_stale_mapping();
            if !keeps_table {
                self.put_table(old.frame());
            }
        }
        Ok(())
    }
}
