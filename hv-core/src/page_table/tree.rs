//! How a frame becomes a table, together with the tables below it, and how that is undone.
//!
//! ```text
//!            begin                 all entries hold          last use goes          no entry holds
//!  untyped ─────────► half done ─────────────────► validated ────────────► half done ─────────────► untyped
//!                     progress 0 → 512             used 1, 2, …            progress 512 → 0
//! ```

use super::{ENTRIES, Entry, TableSession, hypervisor_slots, is_hypervisor_slot, scan};
use crate::{
    direct_map,
    frame::{self, FrameState, FrameType, info},
    hypercall::HypercallError,
};
use core::sync::atomic::{AtomicU64, Ordering};
use hypercall_abi::{Errno, MachineFrame};

/// What checking a whole table of level 1 counts for in a budget: its entries are quick.
const L1_COST: u32 = 256;

impl TableSession<'_> {
    /// Takes a use of a frame as a root.
    ///
    /// # Errors
    /// `EINVAL` when it is no memory of the domain or an entry somewhere in the tree may not be, `EBUSY` when a
    /// frame is in use as something else, `Restart` when the budget is spent: ask again to go on.
    pub fn get_root(&mut self, root: MachineFrame) -> Result<(), HypercallError> {
        self.finish_undoing()?;
        self.get_table(root, 4)
    }

    /// Takes a use of a frame as page table of `level`, validating it and all below if nobody uses it so yet.
    /// Nothing may be left to be undone. Errors as [`Self::get_root`].
    pub(super) fn get_table(&mut self, table: MachineFrame, level: u8) -> Result<(), HypercallError> {
        let info = info(table).ok_or(Errno::EINVAL)?;
        let (owner, wanted) = (self.domain.id, FrameType::table(level));
        let more = |state: FrameState| if state.owner() == owner { state.with_use_as(wanted) } else { None };
        let Err(state) = info.change(more) else { return Ok(()) };
        if state.owner() != owner {
            return Err(Errno::EINVAL.into());
        }
        if !(state.frame_type() == wanted && state.is_half_done()) {
            let begin =
                |state: FrameState| if state.owner() == owner { state.begun_as(wanted) } else { None };
            info.change(begin).map_err(|_| Errno::EBUSY)?;
            // It may have been mapped writable a moment ago.
            self.flush_stale();
        }
        if level == 1 { Ok(self.validate_l1(table)?) } else { self.validate(table, level) }
    }

    /// Gives a use of a table back. If it was the last one the table is undone, if need be in later sessions.
    pub fn put_table(&mut self, table: MachineFrame) {
        let Some(info) = info(table) else { return };
        let Err(state) = info.change(FrameState::without_use) else { return };
        match state.table_level() {
            Some(1) => {
                // The CPU may still reach the table from above by what its TLBs remember.
                self.flush_stale();
                self.set_state(table, |state| state.reopened(0));
                self.release_entries(table, ENTRIES);
                frame::drop_reference(table, |state| Some(state.without_type()));
            }
            Some(_) if state.is_validated() => {
                self.flush_stale();
                self.set_state(table, |state| state.reopened(ENTRIES));
                self.tables.push(table);
            }
            _ => log::error!("frame {table}: a use as table given back that was never taken: {state:?}"),
        }
    }

    /// Validates a table of level 1 in one go.
    fn validate_l1(&mut self, table: MachineFrame) -> Result<(), Errno> {
        // Overdrawing the budget stops the next step, not this one.
        let _ = self.spend(L1_COST);
        let (lines, _) = scan::occupied(direct_map::words(table));
        for (first, line) in lines {
            for (offset, word) in line.iter().enumerate() {
                if let Err(error) = self.hold_page(word) {
                    self.release_entries(table, first + offset);
                    frame::drop_reference(table, |state| Some(state.without_type()));
                    return Err(error);
                }
            }
        }
        self.set_state(table, FrameState::finished);
        Ok(())
    }

    /// Takes hold of what an entry of level 1 names, if it names anything.
    #[inline(always)]
    fn hold_page(&mut self, word: &AtomicU64) -> Result<(), Errno> {
        let entry = Entry(word.load(Ordering::Relaxed));
        if !entry.is_present() {
            return Ok(());
        }
        let adjusted = self.hold(entry)?;
        if adjusted != entry {
            word.store(adjusted.0, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Gives back what the first `count` entries of a table of level 1 hold.
    fn release_entries(&mut self, table: MachineFrame, count: usize) {
        let _ = self.spend(L1_COST);
        let (lines, rest) = scan::occupied(&direct_map::words(table)[..count]);
        for (_, line) in lines {
            for word in line {
                self.release_page(word);
            }
        }
        for word in rest {
            self.release_page(word);
        }
    }

    /// Gives back what an entry of level 1 holds, if it holds anything.
    #[inline(always)]
    fn release_page(&mut self, word: &AtomicU64) {
        let entry = Entry(word.load(Ordering::Relaxed));
        if entry.is_present() {
            self.release(entry);
        }
    }

    /// Carries the validation of a half-done table of level 2 to 4 on to its end. The recursion is as deep as
    /// there are levels.
    fn validate(&mut self, table: MachineFrame, level: u8) -> Result<(), HypercallError> {
        let words = direct_map::words(table);
        let progress = info(table).map_or(0, |info| info.state().progress());
        let mut next = progress;
        while let Some(index) = scan::next_present(words, next) {
            let cost = cost_of_reaching(index - next);
            let outcome = self.spend(cost).and_then(|()| self.validate_entry(&words[index], level, index));
            if let Err(error) = outcome {
                self.set_state(table, |state| state.with_progress(index));
                if error != HypercallError::Restart {
                    self.tables.push(table);
                }
                return Err(error);
            }
            next = index + 1;
        }
        if level == 4 {
            hypervisor_slots().for_each(|(index, entry)| words[index].store(entry, Ordering::Relaxed));
        }
        self.set_state(table, FrameState::finished);
        Ok(())
    }

    fn validate_entry(&mut self, word: &AtomicU64, level: u8, index: usize) -> Result<(), HypercallError> {
        let entry = Entry(word.load(Ordering::Relaxed));
        if is_hypervisor_slot(level, index) {
            return Ok(());
        }
        let adjusted = check_table_entry(entry)?;
        self.get_table(entry.frame(), level - 1)?;
        word.store(adjusted.0, Ordering::Relaxed);
        Ok(())
    }

    /// Undoes what waits to be undone.
    ///
    /// # Errors
    /// `Restart` when the budget is spent before it is all done.
    #[inline]
    pub fn finish_undoing(&mut self) -> Result<(), HypercallError> {
        if self.tables.last().is_none() { Ok(()) } else { self.undo_all() }
    }

    #[cold]
    fn undo_all(&mut self) -> Result<(), HypercallError> {
        while let Some(table) = self.tables.last() {
            self.undo(table)?;
        }
        Ok(())
    }

    /// Undoes the last of the waiting tables, or stops when a table below is to be undone before it.
    fn undo(&mut self, table: MachineFrame) -> Result<(), HypercallError> {
        let Some(state) = info(table).map(|info| info.state()) else { return Ok(()) };
        let level = state.table_level().unwrap_or(4);
        let words = direct_map::words(table);
        let mut end = state.progress();
        while let Some(index) = scan::last_present(words, end) {
            let spent = self.spend(cost_of_reaching(end - index));
            if spent.is_err() {
                self.set_state(table, |state| state.with_progress(index + 1));
                return spent;
            }
            end = index;
            if is_hypervisor_slot(level, index) {
                continue;
            }
            let entry = Entry(words[index].load(Ordering::Relaxed));
            self.put_table(entry.frame());
            if self.tables.last() != Some(table) {
                self.set_state(table, |state| state.with_progress(index));
                return Ok(());
            }
        }
        self.tables.pop();
        if level == 4 {
            hypervisor_slots().for_each(|(index, _)| words[index].store(0, Ordering::Relaxed));
        }
        frame::drop_reference(table, |state| Some(state.without_type()));
        Ok(())
    }

    /// Pins a table: the domain itself is a user of it until it unpins.
    ///
    /// # Errors
    /// As [`Self::get_root`]; `EINVAL` when it is pinned already.
    pub fn pin(&mut self, table: MachineFrame, level: u8) -> Result<(), HypercallError> {
        self.finish_undoing()?;
        self.get_table(table, level)?;
        let pin = |state: FrameState| if state.is_pinned() { None } else { Some(state.with_pin(true)) };
        let pinned = info(table).is_some_and(|info| info.change(pin).is_ok());
        if !pinned {
            self.put_table(table);
            return Err(Errno::EINVAL.into());
        }
        Ok(())
    }

    /// Unpins a table, or drops one whose pinning was never finished. What is to be undone then may be left over.
    ///
    /// # Errors
    /// `EINVAL` when it is not pinned; `Restart` when earlier work could not be finished first.
    pub fn unpin(&mut self, table: MachineFrame) -> Result<(), HypercallError> {
        self.finish_undoing()?;
        if self.abandon(table) { Ok(()) } else { Err(Errno::EINVAL.into()) }
    }

    /// Drops what the domain itself holds of a frame as a table: the pin, or an unfinished validation. False when
    /// there is no such thing. Nothing may be left to be undone.
    pub fn abandon(&mut self, table: MachineFrame) -> bool {
        let Some(state) = info(table).map(|info| info.state()) else { return false };
        if state.owner() != self.domain.id || state.table_level().is_none() {
            return false;
        }
        if state.is_pinned() {
            self.set_state(table, |state| state.with_pin(false));
            self.put_table(table);
        } else if state.is_half_done() {
            self.tables.push(table);
        }
        state.is_pinned() || state.is_half_done()
    }
}

/// What it counts for in a budget to find an entry this far away, and to look at it.
fn cost_of_reaching(distance: usize) -> u32 {
    1 + (distance / scan::LINE) as u32
}

/// What an entry of level 2 to 4 is to be written as.
///
/// # Errors
/// `EINVAL` when it says what a guest may not say: large pages above all.
pub(super) fn check_table_entry(entry: Entry) -> Result<Entry, Errno> {
    if entry.has(Entry::REFUSED_FOR_TABLES) {
        return Err(Errno::EINVAL);
    }
    Ok(Entry(entry.0 | Entry::USER))
}
