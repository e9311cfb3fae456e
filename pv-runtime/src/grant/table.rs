#![expect(unsafe_code, reason = "asks the hypervisor for the frames of the table")]
//! This domain's own table, version 1: which page which domain may get at.
//!
//! An entry is two words: flags with the domain, and the frame. While the other domain uses the page, the
//! hypervisor sets `GTF_reading` or `GTF_writing` in the flags, so an entry is taken back by exchanging its
//! first word for zero on the condition that neither is set. The table starts empty and grows by a frame of
//! 512 entries at a time.

use alloc::vec;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::mem;
use core::sync::atomic::{AtomicU32, Ordering};
use core::time::Duration;

use hypercall_abi::grant_table::*;
use hypercall_abi::{DomainId, Errno, GrantReference, MachineFrame};

use super::GrantAccess;
use crate::executor::sleep;
use crate::hypercall::grant_table_op;
use crate::kernel_local;
use crate::memory::{Mapping, Protection, map_own_frames};

/// How long to wait before looking again whether a grant is still in use.
const RETRY_INTERVAL: Duration = Duration::from_millis(1);

/// The entries, and the references that are free. `F` is what a frame of the table is reached through.
struct Table<F> {
    frames: Vec<F>,
    free: Vec<u32>,
}

impl<F: AsRef<[AtomicU32]>> Table<F> {
    const fn new() -> Self {
        Self { frames: Vec::new(), free: Vec::new() }
    }

    /// Adds a frame of entries. The first few entries of the table are never given out: they are for tools.
    fn add_frame(&mut self, frame: F) {
        let first = self.frames.len() as u32 * GRANT_ENTRIES_V1_PER_PAGE;
        let usable = first.max(GNTTAB_NR_RESERVED_ENTRIES)..first + GRANT_ENTRIES_V1_PER_PAGE;
        self.free.extend(usable.rev());
        self.frames.push(frame);
    }

    /// The two words of an entry.
    fn entry(&self, reference: u32) -> (&AtomicU32, &AtomicU32) {
        let words = self.frames[(reference / GRANT_ENTRIES_V1_PER_PAGE) as usize].as_ref();
        let index = (reference % GRANT_ENTRIES_V1_PER_PAGE) as usize * 2;
        (&words[index], &words[index + 1])
    }

    /// Fills a free entry; `None` if there is none.
    fn grant(&mut self, domain: DomainId, frame: u32, access: GrantAccess) -> Option<u32> {
        let reference = self.free.pop()?;
        let read_only = if access == GrantAccess::ReadOnly { GTF_READONLY } else { 0 };
        let flags = u32::from(GTF_PERMIT_ACCESS | read_only);
        let (first, second) = self.entry(reference);
        second.store(frame, Ordering::Relaxed);
        // The entry is valid from here on, so this comes last.
        first.store(flags | u32::from(domain.0) << 16, Ordering::Release);
        Some(reference)
    }

    fn is_in_use(&self, reference: u32) -> bool {
        self.entry(reference).0.load(Ordering::Acquire) & IN_USE != 0
    }

    /// Takes an entry back unless it is in use. Returns whether it was.
    fn end(&mut self, reference: u32) -> bool {
        let word = self.entry(reference).0;
        let ended = word.fetch_update(Ordering::AcqRel, Ordering::Acquire, |value| {
            if value & IN_USE == 0 { Some(0) } else { None }
        });
        if ended.is_ok() {
            self.free.push(reference);
        }
        ended.is_ok()
    }
}

/// In the first word of an entry: the page is being used.
const IN_USE: u32 = (GTF_READING | GTF_WRITING) as u32;

kernel_local! {
    static TABLE: RefCell<Table<Mapping>> = RefCell::new(Table::new());
}

/// Asks the hypervisor for a table of `count` frames; returns the last one.
fn table_frame(count: usize) -> Result<MachineFrame, Errno> {
    let mut frames = vec![0_u64; count];
    let mut operation = GnttabSetupTable {
        dom: DomainId::SELF,
        nr_frames: count as u32,
        frame_list: frames.as_mut_ptr() as u64,
        ..Default::default()
    };
    // SAFETY: the hypervisor writes `count` frame numbers into the list.
    unsafe { grant_table_op(core::slice::from_mut(&mut operation))? };
    match (operation.status, frames.last()) {
        (GNTST_OKAY, Some(frame)) => Ok(MachineFrame(*frame)),
        _ => Err(Errno::ENOSPC),
    }
}

/// Lets `domain` at a frame of this domain's memory, until the returned value ends.
///
/// The frame is that of a [`Page`](crate::memory::Page) or of a page of a run: memory that is reached in no
/// other way than as shared.
///
/// # Errors
///
/// `ENOSPC` if the hypervisor allows no larger table, `ERANGE` if the frame's number is too large for it.
pub fn grant_access(domain: DomainId, frame: MachineFrame, access: GrantAccess) -> Result<Grant, Errno> {
    let frame = u32::try_from(frame.0).map_err(|_| Errno::ERANGE)?;
    TABLE.with(|table| {
        let mut table = table.borrow_mut();
        if table.free.is_empty() {
            let added = table_frame(table.frames.len() + 1)?;
            // SAFETY: the frame belongs to the table, and only the mapping reaches it.
            table.add_frame(unsafe { map_own_frames(&[added], Protection::ReadWrite)? });
        }
        let reference = table.grant(domain, frame, access).ok_or(Errno::ENOSPC)?;
        Ok(Grant { reference })
    })
}

/// How many grants there are at present.
pub fn grants_in_use() -> usize {
    TABLE.with(|table| {
        let table = table.borrow();
        let reserved = if table.frames.is_empty() { 0 } else { GNTTAB_NR_RESERVED_ENTRIES as usize };
        table.frames.len() * GRANT_ENTRIES_V1_PER_PAGE as usize - reserved - table.free.len()
    })
}

/// A page that another domain may get at.
///
/// Dropping it ends the grant. If the other domain uses the page at that moment, the entry stays as it is for
/// good and an error is logged: the owner of the page must then not use it for anything else. Whoever cannot
/// trust the other domain to let go first calls [`end`](Self::end) and keeps both until it succeeds.
#[derive(Debug)]
#[must_use = "dropping a grant ends it"]
pub struct Grant {
    reference: u32,
}

impl Grant {
    /// What the other domain names the grant by.
    #[inline]
    pub fn reference(&self) -> GrantReference {
        GrantReference(self.reference)
    }

    /// Whether the other domain has the page mapped.
    pub fn is_in_use(&self) -> bool {
        TABLE.with(|table| table.borrow().is_in_use(self.reference))
    }

    /// Ends the grant.
    ///
    /// # Errors
    ///
    /// The grant itself, if the other domain still uses the page.
    pub fn end(self) -> Result<(), Self> {
        if TABLE.with(|table| table.borrow_mut().end(self.reference)) {
            mem::forget(self);
            return Ok(());
        }
        Err(self)
    }

    /// Waits until the other domain no longer uses the page, and ends the grant.
    pub async fn end_when_unused(self) {
        let mut grant = self;
        while let Err(in_use) = grant.end() {
            grant = in_use;
            sleep(RETRY_INTERVAL).await;
        }
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        if !TABLE.with(|table| table.borrow_mut().end(self.reference)) {
            log::error!("grant {} is dropped while in use; its entry is lost", self.reference);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::boxed::Box;

    type FakeFrame = Box<[AtomicU32]>;

    fn table() -> Table<FakeFrame> {
        let mut table = Table::new();
        table.add_frame((0..1024).map(|_| AtomicU32::new(0)).collect());
        table
    }

    #[test]
    fn an_entry_lies_where_the_hypervisor_looks_for_it() {
        let mut table = table();
        let first = table.grant(DomainId(7), 0x1234, GrantAccess::ReadOnly);
        let second = table.grant(DomainId(8), 0x5678, GrantAccess::ReadWrite);
        assert_eq!((first, second), (Some(8), Some(9)));
        let words: Vec<_> = table.frames[0][16..20].iter().map(|word| word.load(Ordering::Relaxed)).collect();
        assert_eq!(words, [0x0007_0005, 0x1234, 0x0008_0001, 0x5678]);
    }

    #[test]
    fn a_grant_in_use_cannot_be_ended() {
        let mut table = table();
        let reference = table.grant(DomainId(1), 5, GrantAccess::ReadWrite).expect("the table is empty");
        table.entry(reference).0.fetch_or(u32::from(GTF_WRITING), Ordering::Relaxed);
        assert!(table.is_in_use(reference));
        assert!(!table.end(reference));
        table.entry(reference).0.fetch_and(!u32::from(GTF_WRITING), Ordering::Relaxed);
        assert!(table.end(reference));
        assert_eq!(table.entry(reference).0.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn references_are_used_up_and_come_back() {
        let mut table = table();
        let mut last = None;
        for _ in GNTTAB_NR_RESERVED_ENTRIES..GRANT_ENTRIES_V1_PER_PAGE {
            last = table.grant(DomainId(1), 1, GrantAccess::ReadWrite);
            assert!(last.is_some());
        }
        assert_eq!(table.grant(DomainId(1), 1, GrantAccess::ReadWrite), None);
        let reference = last.expect("the loop ran");
        assert!(table.end(reference));
        assert_eq!(table.grant(DomainId(1), 1, GrantAccess::ReadWrite), Some(reference));
        table.add_frame((0..1024).map(|_| AtomicU32::new(0)).collect());
        assert_eq!(table.grant(DomainId(1), 1, GrantAccess::ReadWrite), Some(GRANT_ENTRIES_V1_PER_PAGE));
    }
}
