//! Entries that map granted frames.
//!
//! Such an entry holds nothing itself: the grant table holds the frame for as long as it tracks the mapping. So
//! the entry is marked, and an ordinary update refuses to replace a marked one; only the grant table takes it out again.
//! Nothing here flushes: the grant table does before it lets go of the frame.

use super::{ENTRIES, Entry, Location, TableSession};
use crate::{direct_map, domain::Domain};
use core::sync::atomic::{AtomicU64, Ordering};
use hypercall_abi::{Errno, MachineFrame};

/// Puts in an entry for a granted `frame`, which the caller holds. What the entry mapped before in the ordinary
/// way is released.
///
/// # Errors
/// `EINVAL` when the location is in no table of level 1 in use by `domain`, or holds another grant's entry.
pub fn set_grant_entry(
    domain: &Domain,
    location: Location,
    frame: MachineFrame,
    flags: u64,
) -> Result<(), Errno> {
    let mut session = TableSession::open_for_pages(domain);
    let word = session.l1_word(location)?;
    let old = Entry(word.load(Ordering::Relaxed));
    if old.is_grant() {
        return Err(Errno::EINVAL);
    }
    let flags = (flags | Entry::PRESENT | Entry::USER | Entry::GRANT) & !Entry::GLOBAL;
    word.store(Entry::new(frame, flags).0, Ordering::Relaxed);
    if old.is_present() {
        session.domain.memory.note_stale_mapping();
        session.release(old);
    }
    Ok(())
}

/// Takes the entry for a granted `frame` out.
///
/// # Errors
/// `EINVAL` when the location is in no table of level 1 in use by `domain`, or its entry is not a grant's for
/// `frame`.
pub fn clear_grant_entry(domain: &Domain, location: Location, frame: MachineFrame) -> Result<(), Errno> {
    let session = TableSession::open_for_pages(domain);
    session.grant_word(location, frame)?.store(0, Ordering::Relaxed);
    session.domain.memory.note_stale_mapping();
    Ok(())
}

/// Takes the entry for a granted `frame` out and moves the ordinary entry at `from`, with all it holds, to its
/// place.
///
/// # Errors
/// As [`clear_grant_entry`], and `EINVAL` when `from` is not as well in a table of level 1 in use by `domain`, or
/// its entry is a grant's.
pub fn replace_grant_entry(
    domain: &Domain,
    location: Location,
    frame: MachineFrame,
    from: Location,
) -> Result<(), Errno> {
    let session = TableSession::open_for_pages(domain);
    let word = session.grant_word(location, frame)?;
    let source = session.l1_word(from)?;
    if Entry(source.load(Ordering::Relaxed)).is_grant() {
        return Err(Errno::EINVAL);
    }
    word.store(source.swap(0, Ordering::Relaxed), Ordering::Relaxed);
    session.domain.memory.note_stale_mapping();
    Ok(())
}

impl TableSession<'_> {
    /// The entry at a location in a validated table of level 1 of the session's domain.
    fn l1_word(&self, (table, index): Location) -> Result<&'static AtomicU64, Errno> {
        match self.level_in_use(table) {
            Some(1) => Ok(&direct_map::words(table)[index % ENTRIES]),
            _ => Err(Errno::EINVAL),
        }
    }

    /// The entry at a location, which must be a grant's for `frame`.
    fn grant_word(&self, location: Location, frame: MachineFrame) -> Result<&'static AtomicU64, Errno> {
        let word = self.l1_word(location)?;
        let entry = Entry(word.load(Ordering::Relaxed));
        if entry.is_grant() && entry.frame() == frame { Ok(word) } else { Err(Errno::EINVAL) }
    }
}
