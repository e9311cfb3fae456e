//! One entry of a grant table as its domain wrote it: memory that the guest may change between any two looks.
//!
//! An entry is looked at as 64-bit words. In version 1 it is a single one, so the hypervisor sets `GTF_reading` and
//! `GTF_writing` by compare-and-exchange on all of it: if it succeeds, the entry did grant what we checked at the moment
//! the flags went up. In version 2 the flags lie in a word of their own, in frames that the guest only needs to read:
//! they go up first, and then the entry's first word must still be what it was before.
//!
//! A guest that changes the word all the time makes its own grant fail.

use super::Refusal;
use crate::{direct_map, layout::PAGE_SIZE};
use core::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use hypercall_abi::{
    DomainId, GrantReference, MachineFrame,
    grant_table::{
        GNTST_GENERAL_ERROR, GTF_INVALID, GTF_PERMIT_ACCESS, GTF_READING, GTF_READONLY, GTF_SUB_PAGE,
        GTF_TRANSITIVE, GTF_TYPE_MASK, GTF_WRITING,
    },
};

/// Attempts to change an entry that its domain changes at the same time. A few are fair: a guest may well be
/// setting `GTF_readonly`.
const ATTEMPTS: u32 = 5;

/// Status words of version 2 in a frame.
pub(super) const STATUS_WORDS: u32 = PAGE_SIZE as u32 / size_of::<u16>() as u32;

/// The form of a table's entries.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Version {
    /// Eight bytes, with the flags of uses among them.
    One = 1,
    /// Sixteen bytes, with the flags of uses elsewhere; can grant parts of pages and pass grants on.
    Two = 2,
}

impl Version {
    /// The version of this number.
    pub const fn from_number(number: u32) -> Option<Self> {
        match number {
            1 => Some(Self::One),
            2 => Some(Self::Two),
            _ => None,
        }
    }
}

/// What somebody wants of a grant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Access {
    Read,
    Write,
}

/// A granted part of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Part {
    /// The frame; any number, if the guest wrote it.
    pub frame: MachineFrame,
    /// First byte.
    pub start: u16,
    /// Bytes, at most a page.
    pub length: u16,
}

impl Part {
    /// All of a frame.
    pub const fn whole(frame: MachineFrame) -> Self {
        Self { frame, start: 0, length: PAGE_SIZE as u16 }
    }

    /// What of a frame's bytes `start` and the `length` bytes from there on exists.
    const fn of(frame: MachineFrame, start: u16, length: u16) -> Self {
        let left = (PAGE_SIZE as u16).saturating_sub(start);
        Self { frame, start, length: if length < left { length } else { left } }
    }

    #[inline]
    pub const fn is_whole(&self) -> bool {
        self.length as u64 == PAGE_SIZE
    }

    /// True when a range is within it.
    #[inline]
    pub const fn contains(&self, offset: u16, length: u16) -> bool {
        offset >= self.start && offset as u32 + length as u32 <= self.start as u32 + self.length as u32
    }
}

/// What an entry grants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Grant {
    /// Memory of its domain's own.
    Own(Part),
    /// What another domain granted to it.
    PassedOn(DomainId, GrantReference),
}

/// A shared entry: its words, the first of which has flags, grantee and 32 bits more.
#[derive(Clone, Copy)]
pub(super) enum SharedEntry {
    /// Of version 1. The 32 bits are the frame.
    One(&'static AtomicU64),
    /// Of version 2.
    Two {
        /// The 32 bits say which part of the page is granted, or whose grant is passed on.
        header: &'static AtomicU64,
        /// The frame, or the grant that is passed on.
        second: &'static AtomicU64,
        /// The flags of its uses.
        status: &'static AtomicU16,
    },
}

impl SharedEntry {
    /// Entry `index` in a frame of a version 1 table.
    #[inline]
    pub fn version_one(frame: MachineFrame, index: u32) -> Self {
        Self::One(&direct_map::words(frame)[index as usize])
    }

    /// Entry `index` in a frame of a version 2 table, and word `word` in a frame of flags.
    pub fn version_two(frame: MachineFrame, index: u32, status: MachineFrame, word: u32) -> Self {
        let words = direct_map::words(frame);
        Self::Two {
            header: &words[2 * index as usize],
            second: &words[2 * index as usize + 1],
            status: direct_map::atomic::<u16>(status, word as usize * size_of::<u16>()),
        }
    }

    #[inline]
    const fn header(self) -> &'static AtomicU64 {
        match self {
            Self::One(header) | Self::Two { header, .. } => header,
        }
    }

    /// Checks that the entry grants `access` to `grantee`, sets the flags that say it is in use, and says what it
    /// grants.
    #[inline(always)]
    pub fn announce(self, grantee: DomainId, access: Access, kinds: GrantKinds) -> Result<Grant, Refusal> {
        let allows = |header| self.grants(header, grantee, access, kinds);
        self.raise_if(flags_of(access), allows).map(|header| self.grant(header))
    }

    /// The same for a grant in use, of which type and grantee were checked when the use began.
    pub fn announce_again(self, access: Access) -> Result<(), Refusal> {
        self.raise_if(flags_of(access), |header| allows_access(header, access)).map(drop)
    }

    /// True if [`Self::announce`] would succeed at this moment.
    pub fn would_grant(self, grantee: DomainId, access: Access, kinds: GrantKinds) -> bool {
        self.grants(self.header().load(Ordering::SeqCst), grantee, access, kinds)
    }

    #[inline(always)]
    fn grants(self, header: u64, grantee: DomainId, access: Access, kinds: GrantKinds) -> bool {
        let excluded = if kinds == GrantKinds::WholePage { GTF_SUB_PAGE } else { 0 };
        let flags = header as u16 & (GTF_TYPE_MASK | excluded);
        let passes_on = kinds == GrantKinds::Any && matches!(self, Self::Two { .. });
        let is_grant = flags == GTF_PERMIT_ACCESS || (passes_on && flags == GTF_TRANSITIVE);
        is_grant && (header >> 16) as u16 == grantee.0 && allows_access(header, access)
    }

    /// Puts flags up while the first word allows it, and returns that word.
    #[inline(always)]
    fn raise_if(self, flags: u16, allows: impl Fn(u64) -> bool) -> Result<u64, Refusal> {
        let mut seen = self.header().load(Ordering::SeqCst);
        for _ in 0..ATTEMPTS {
            if !allows(seen) {
                break;
            }
            match self.raise(seen, flags) {
                Ok(()) => return Ok(seen),
                Err(now) => seen = now,
            }
        }
        Err(Refusal(GNTST_GENERAL_ERROR))
    }

    /// Puts flags up if the first word still says `seen`, or says what it says instead.
    #[inline(always)]
    fn raise(self, seen: u64, flags: u16) -> Result<(), u64> {
        match self {
            Self::One(entry) => {
                let new = seen | u64::from(flags);
                entry.compare_exchange(seen, new, Ordering::SeqCst, Ordering::SeqCst).map(drop)
            }
            Self::Two { header, status, .. } => {
                let before = status.fetch_or(flags, Ordering::SeqCst);
                let now = header.load(Ordering::SeqCst);
                if now == seen {
                    return Ok(());
                }
                status.fetch_and(!(flags & !before), Ordering::SeqCst);
                Err(now)
            }
        }
    }

    /// Takes flags down that [`Self::announce`] put up.
    #[inline(always)]
    pub fn withdraw(self, flags: u16) {
        match self {
            Self::One(entry) => drop(entry.fetch_and(!u64::from(flags), Ordering::SeqCst)),
            Self::Two { status, .. } => drop(status.fetch_and(!flags, Ordering::SeqCst)),
        }
    }

    /// What an entry with this first word grants.
    #[inline(always)]
    fn grant(self, header: u64) -> Grant {
        let Self::Two { second, .. } = self else {
            return Grant::Own(Part::whole(MachineFrame(header >> 32)));
        };
        let (flags, second) = (header as u16, second.load(Ordering::Acquire));
        if flags & GTF_TYPE_MASK == GTF_TRANSITIVE {
            return Grant::PassedOn(DomainId((header >> 32) as u16), GrantReference(second as u32));
        }
        let frame = MachineFrame(second);
        if flags & GTF_SUB_PAGE == 0 {
            return Grant::Own(Part::whole(frame));
        }
        Grant::Own(Part::of(frame, (header >> 32) as u16, (header >> 48) as u16))
    }

    /// Whose grant the entry passes on at this moment, if that is what it does.
    pub fn passed_on(self) -> Option<Grant> {
        let grant = self.grant(self.header().load(Ordering::SeqCst));
        matches!(grant, Grant::PassedOn(..)).then_some(grant)
    }

    /// The 64-bit words of the entry.
    fn words(self) -> impl Iterator<Item = &'static AtomicU64> {
        let (first, second) = match self {
            Self::One(header) => (header, None),
            Self::Two { header, second, .. } => (header, Some(second)),
        };
        core::iter::once(first).chain(second)
    }

    /// Exchanges two entries of one table that are not in use.
    pub fn swap(self, other: Self) {
        for (ours, theirs) in self.words().zip(other.words()) {
            let first = ours.load(Ordering::Acquire);
            let second = theirs.swap(first, Ordering::SeqCst);
            ours.store(second, Ordering::SeqCst);
        }
    }

    /// The entry in a form that both versions have: for the reserved ones, when the version changes. `None` if
    /// version 1 cannot say it.
    pub fn plain(self) -> Option<PlainEntry> {
        let header = self.header().load(Ordering::SeqCst);
        let used = match self {
            Self::One(_) => 0,
            Self::Two { status, .. } => status.load(Ordering::SeqCst),
        };
        let flags = header as u16 | used;
        let grantee = DomainId((header >> 16) as u16);
        let frame = match self.grant(header) {
            _ if flags & GTF_TYPE_MASK == GTF_INVALID => 0,
            Grant::Own(part) if flags & GTF_SUB_PAGE == 0 => u32::try_from(part.frame.0).ok()?,
            _ => return None,
        };
        Some(PlainEntry { flags, grantee, frame })
    }

    /// Writes an entry from [`Self::plain`].
    pub fn set_plain(self, entry: &PlainEntry) {
        let uses = GTF_READING | GTF_WRITING;
        let header = |flags: u16| u64::from(flags) | u64::from(entry.grantee.0) << 16;
        match self {
            Self::One(word) => {
                word.store(header(entry.flags) | u64::from(entry.frame) << 32, Ordering::SeqCst);
            }
            Self::Two { header: word, second, status } => {
                status.store(entry.flags & uses, Ordering::SeqCst);
                second.store(u64::from(entry.frame), Ordering::SeqCst);
                word.store(header(entry.flags & !uses), Ordering::SeqCst);
            }
        }
    }
}

/// A grant of a whole page with a low number, as either version can say it.
#[derive(Clone, Copy, Default)]
pub(super) struct PlainEntry {
    flags: u16,
    grantee: DomainId,
    frame: u32,
}

/// Which entries will do.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum GrantKinds {
    /// Those of whole pages.
    WholePage,
    /// Those of the domain's own pages and parts of pages.
    Own,
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

/// True when nothing in an entry's first word is against this access.
#[inline]
fn allows_access(header: u64, access: Access) -> bool {
    access == Access::Read || header as u16 & GTF_READONLY == 0
}
