//! One entry of a grant table as its domain wrote it: memory that the guest may change between any two looks.
//!
//! Type, flags and grantee share one 32-bit word, so they are seen and changed together. The hypervisor sets
//! `GTF_reading` and `GTF_writing` by compare-and-exchange on that word: if it succeeds, the entry did grant what
//! we checked at the moment the flags went up. A guest that changes the word all the time makes its own grant fail.

use super::Refusal;
use crate::direct_map;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use hypercall_abi::{
    DomainId, MachineFrame,
    grant_table::{
        GNTST_GENERAL_ERROR, GTF_PERMIT_ACCESS, GTF_READING, GTF_READONLY, GTF_SUB_PAGE, GTF_TYPE_MASK,
        GTF_WRITING, GrantEntryV1,
    },
};

/// Attempts to change an entry that its domain changes at the same time. A few are fair: a guest may well be
/// setting `GTF_readonly`.
const ATTEMPTS: u32 = 5;

/// What somebody wants of a grant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Access {
    Read,
    Write,
}

/// The place of a shared entry.
#[derive(Clone, Copy)]
pub(super) struct SharedEntry {
    frame: MachineFrame,
    offset: usize,
}

impl SharedEntry {
    /// Entry `index` in a frame of the table.
    pub fn new(frame: MachineFrame, index: usize) -> Self {
        Self { frame, offset: index * size_of::<GrantEntryV1>() }
    }

    fn header(self) -> &'static AtomicU32 {
        direct_map::atomic::<u32>(self.frame, self.offset)
    }

    /// Checks that the entry grants `access` to `grantee`, and sets the flags that say it is in use. When the
    /// grant is in use already its type and grantee were checked then, and only a new right to write is.
    pub fn announce(
        self,
        grantee: DomainId,
        access: Access,
        in_use: bool,
        kinds: GrantKinds,
    ) -> Result<(), Refusal> {
        let header = self.header();
        let mut seen = header.load(Ordering::Acquire);
        for _ in 0..ATTEMPTS {
            if !(in_use || grants(seen, grantee, kinds)) {
                return Err(Refusal(GNTST_GENERAL_ERROR));
            }
            if access == Access::Write && seen as u16 & GTF_READONLY != 0 {
                return Err(Refusal(GNTST_GENERAL_ERROR));
            }
            let new = seen | u32::from(flags_of(access));
            match header.compare_exchange(seen, new, Ordering::SeqCst, Ordering::Acquire) {
                Ok(_) => return Ok(()),
                Err(now) => seen = now,
            }
        }
        Err(Refusal(GNTST_GENERAL_ERROR))
    }

    /// Takes flags down that [`Self::announce`] put up.
    pub fn withdraw(self, flags: u16) {
        self.header().fetch_and(!u32::from(flags), Ordering::SeqCst);
    }

    /// The frame the entry names at this moment.
    pub fn granted_frame(self) -> u32 {
        direct_map::atomic::<u32>(self.frame, self.offset + core::mem::offset_of!(GrantEntryV1, frame))
            .load(Ordering::Acquire)
    }

    fn whole(self) -> &'static AtomicU64 {
        direct_map::atomic::<u64>(self.frame, self.offset)
    }

    /// Exchanges two entries that are not in use.
    pub fn swap(self, other: Self) {
        let first = self.whole().load(Ordering::Acquire);
        let second = other.whole().swap(first, Ordering::SeqCst);
        self.whole().store(second, Ordering::SeqCst);
    }
}

/// Which entries will do.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum GrantKinds {
    /// Those of whole pages.
    WholePage,
    /// Any that permit access.
    Any,
}

/// The flags that say a grant is in use this way; a writer reads too.
const fn flags_of(access: Access) -> u16 {
    match access {
        Access::Read => GTF_READING,
        Access::Write => GTF_READING | GTF_WRITING,
    }
}

/// True when a header permits `grantee` access.
fn grants(header: u32, grantee: DomainId, kinds: GrantKinds) -> bool {
    let excluded = if kinds == GrantKinds::WholePage { GTF_SUB_PAGE } else { 0 };
    let flags = header as u16 & (GTF_TYPE_MASK | excluded);
    flags == GTF_PERMIT_ACCESS && (header >> 16) as u16 == grantee.0
}
