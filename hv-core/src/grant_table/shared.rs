//! One entry of a grant table as its domain wrote it: memory that the guest may change between any two looks.
//!
//! Type, flags and grantee share one 32-bit word, so they are seen and changed together. In version 1 the hypervisor
//! sets `GTF_reading` and `GTF_writing` by compare-and-exchange on that word: if it succeeds, the entry did grant what
//! we checked at the moment the flags went up. In version 2 the flags lie in a word of their own, in frames that the
//! guest only needs to read: they go up first, and then the entry must still say what it said before.
//!
//! A guest that changes the word all the time makes its own grant fail.

use super::Refusal;
use crate::{direct_map, layout::PAGE_SIZE};
use core::{
    mem::offset_of,
    sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering},
};
use hypercall_abi::{
    DomainId, GrantReference, MachineFrame,
    grant_table::{
        GNTST_GENERAL_ERROR, GRANT_ENTRIES_V1_PER_PAGE, GRANT_ENTRIES_V2_PER_PAGE, GTF_INVALID,
        GTF_PERMIT_ACCESS, GTF_READING, GTF_READONLY, GTF_SUB_PAGE, GTF_TRANSITIVE, GTF_TYPE_MASK,
        GTF_WRITING, GrantEntryV1, GrantEntryV2, GrantEntryV2SubPage, GrantEntryV2Transitive,
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

    /// Entries in a frame.
    pub(super) const fn entries_in_frame(self) -> u32 {
        match self {
            Self::One => GRANT_ENTRIES_V1_PER_PAGE,
            Self::Two => GRANT_ENTRIES_V2_PER_PAGE,
        }
    }

    const fn entry_size(self) -> u32 {
        PAGE_SIZE as u32 / self.entries_in_frame()
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

    pub const fn is_whole(&self) -> bool {
        self.start == 0 && self.length as u64 == PAGE_SIZE
    }

    /// True when a range is within it.
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

/// The place of a shared entry.
#[derive(Clone, Copy)]
pub(super) struct SharedEntry {
    frame: MachineFrame,
    offset: usize,
    /// Where the flags of its uses are, if not in itself: in version 2.
    status: Option<(MachineFrame, usize)>,
}

impl SharedEntry {
    /// Entry `index` in a frame of a version 1 table.
    pub fn version_one(frame: MachineFrame, index: u32) -> Self {
        Self { frame, offset: (index * Version::One.entry_size()) as usize, status: None }
    }

    /// Entry `index` in a frame of a version 2 table, and word `word` in a frame of flags.
    pub fn version_two(frame: MachineFrame, index: u32, status: MachineFrame, word: u32) -> Self {
        let status = Some((status, word as usize * size_of::<u16>()));
        Self { frame, offset: (index * Version::Two.entry_size()) as usize, status }
    }

    fn header(self) -> &'static AtomicU32 {
        direct_map::atomic::<u32>(self.frame, self.offset)
    }

    fn field<T: direct_map::SharedInteger>(self, offset: usize) -> &'static T::Atomic {
        direct_map::atomic::<T>(self.frame, self.offset + offset)
    }

    fn status(self) -> Option<&'static AtomicU16> {
        self.status.map(|(frame, offset)| direct_map::atomic::<u16>(frame, offset))
    }

    /// Checks that the entry grants `access` to `grantee`, and sets the flags that say it is in use. When the
    /// grant is in use already its type and grantee were checked then, and only a new right to write is. Returns what
    /// type and flags it had.
    pub fn announce(
        self,
        grantee: DomainId,
        access: Access,
        in_use: bool,
        kinds: GrantKinds,
    ) -> Result<u16, Refusal> {
        let mut seen = self.header().load(Ordering::SeqCst);
        for _ in 0..ATTEMPTS {
            let passes_on = self.status.is_some() && kinds == GrantKinds::Any;
            if !(in_use || grants(seen, grantee, kinds, passes_on)) {
                return Err(Refusal(GNTST_GENERAL_ERROR));
            }
            if access == Access::Write && seen as u16 & GTF_READONLY != 0 {
                return Err(Refusal(GNTST_GENERAL_ERROR));
            }
            match self.raise(seen, flags_of(access)) {
                Ok(()) => return Ok(seen as u16),
                Err(now) => seen = now,
            }
        }
        Err(Refusal(GNTST_GENERAL_ERROR))
    }

    /// Puts flags up if the entry still says `seen`, or says what it says instead.
    fn raise(self, seen: u32, flags: u16) -> Result<(), u32> {
        let Some(status) = self.status() else {
            let new = seen | u32::from(flags);
            return self.header().compare_exchange(seen, new, Ordering::SeqCst, Ordering::SeqCst).map(drop);
        };
        let before = status.fetch_or(flags, Ordering::SeqCst);
        let now = self.header().load(Ordering::SeqCst);
        if now == seen {
            return Ok(());
        }
        status.fetch_and(!(flags & !before), Ordering::SeqCst);
        Err(now)
    }

    /// Takes flags down that [`Self::announce`] put up.
    pub fn withdraw(self, flags: u16) {
        match self.status() {
            Some(status) => drop(status.fetch_and(!flags, Ordering::SeqCst)),
            None => drop(self.header().fetch_and(!u32::from(flags), Ordering::SeqCst)),
        }
    }

    /// What an entry of this type and these flags grants at this moment.
    pub fn grant(self, flags: u16) -> Grant {
        if self.status.is_none() {
            let number = self.field::<u32>(offset_of!(GrantEntryV1, frame)).load(Ordering::Acquire);
            return Grant::Own(Part::whole(MachineFrame(u64::from(number))));
        }
        if flags & GTF_TYPE_MASK == GTF_TRANSITIVE {
            return self.passed_on();
        }
        let frame = MachineFrame(self.field::<u64>(offset_of!(GrantEntryV2, frame)).load(Ordering::Acquire));
        if flags & GTF_SUB_PAGE == 0 {
            return Grant::Own(Part::whole(frame));
        }
        let start = self.field::<u16>(offset_of!(GrantEntryV2SubPage, page_off)).load(Ordering::Acquire);
        let length = self.field::<u16>(offset_of!(GrantEntryV2SubPage, length)).load(Ordering::Acquire);
        Grant::Own(Part { frame, start, length: length.min(PAGE_SIZE as u16) })
    }

    /// Whose grant the entry passes on at this moment.
    pub fn passed_on(self) -> Grant {
        let granter = self.field::<u16>(offset_of!(GrantEntryV2Transitive, trans_domid));
        let reference = self.field::<u32>(offset_of!(GrantEntryV2Transitive, gref));
        Grant::PassedOn(
            DomainId(granter.load(Ordering::Acquire)),
            GrantReference(reference.load(Ordering::Acquire)),
        )
    }

    /// The 64-bit words of the entry.
    fn words(self) -> impl Iterator<Item = &'static AtomicU64> {
        let version = if self.status.is_some() { Version::Two } else { Version::One };
        (0..version.entry_size() as usize / 8).map(move |word| self.field::<u64>(word * 8))
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
        let used = self.status().map_or(0, |status| status.load(Ordering::SeqCst));
        let flags = header as u16 | used;
        let grantee = DomainId((header >> 16) as u16);
        let frame = match self.grant(flags) {
            _ if flags & GTF_TYPE_MASK == GTF_INVALID => 0,
            Grant::Own(part) if flags & GTF_SUB_PAGE == 0 => u32::try_from(part.frame.0).ok()?,
            _ => return None,
        };
        Some(PlainEntry { flags, grantee, frame })
    }

    /// Writes an entry from [`Self::plain`].
    pub fn set_plain(self, entry: &PlainEntry) {
        let uses = GTF_READING | GTF_WRITING;
        let own_flags = match self.status() {
            Some(status) => {
                status.store(entry.flags & uses, Ordering::SeqCst);
                self.field::<u64>(offset_of!(GrantEntryV2, frame))
                    .store(u64::from(entry.frame), Ordering::SeqCst);
                entry.flags & !uses
            }
            None => {
                self.field::<u32>(offset_of!(GrantEntryV1, frame)).store(entry.frame, Ordering::SeqCst);
                entry.flags
            }
        };
        self.header().store(u32::from(own_flags) | u32::from(entry.grantee.0) << 16, Ordering::SeqCst);
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

/// True when a header permits `grantee` access.
fn grants(header: u32, grantee: DomainId, kinds: GrantKinds, passes_on: bool) -> bool {
    let excluded = if kinds == GrantKinds::WholePage { GTF_SUB_PAGE } else { 0 };
    let flags = header as u16 & (GTF_TYPE_MASK | excluded);
    let is_grant = flags == GTF_PERMIT_ACCESS || (passes_on && flags == GTF_TRANSITIVE);
    is_grant && (header >> 16) as u16 == grantee.0
}
