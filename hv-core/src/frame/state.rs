//! The state word of a frame: who owns it, what it is used as, and how many uses there are.
//!
//! One 64-bit word, so that one compare-exchange decides everything about a frame at once:
//!
//! ```text
//!  63       48   47        46      45       44  42   41        24   23              0
//! ┌──────────┬─────────┬────────┬─────────┬──────┬────────────────┬──────────────────┐
//! │  owner   │allocated│ pinned │validated│ type │   type count   │  reference count │
//! └──────────┴─────────┴────────┴─────────┴──────┴────────────────┴──────────────────┘
//! ```
//!
//! - *reference count*: uses that keep the frame from being freed. Every typed use is counted here as well.
//! - *type count*: uses as the present type. The type can change only while this is zero, and that is all there
//!   is to invariant 1: a frame that anybody uses as writable cannot become a table, nor the other way round.
//! - *validated*: every entry of the table has been checked and holds what it names. While a table of level 2 to
//!   4 is *not* validated nobody uses it as a table, and the type count instead says how many entries, from the
//!   start, hold what they name: the progress of a validation or of its undoing.
//! - *pinned*: one of the typed uses is the owner's pin; on a writable frame, the hypervisor's own.
//! - *allocated*: one of the references is the owner's possession of the frame.
//!
//! A free frame has no counts; in their place stands what the allocator knows of it.

use hypercall_abi::DomainId;

/// What a frame is used as. A frame has one type, or none, at any moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FrameType {
    /// Only read, or not used at all.
    None = 0,
    /// Written by somebody: mapped writable, or granted so.
    Writable = 1,
    /// Page table of level 1: maps pages.
    L1 = 2,
    /// Page table of level 2.
    L2 = 3,
    /// Page table of level 3.
    L3 = 4,
    /// Page table of level 4: a root.
    L4 = 5,
    /// Part of a GDT or an LDT.
    Descriptors = 6,
}

impl FrameType {
    /// The type of page tables of `level` (1 to 4).
    pub const fn table(level: u8) -> Self {
        match level {
            1 => Self::L1,
            2 => Self::L2,
            3 => Self::L3,
            _ => Self::L4,
        }
    }
}

const ONE_REFERENCE: u64 = 1;
const REFERENCES: u64 = (1 << 24) - 1;
const TYPE_COUNT_SHIFT: u32 = 24;
const ONE_TYPED: u64 = 1 << TYPE_COUNT_SHIFT;
const TYPE_COUNT: u64 = ((1 << 18) - 1) << TYPE_COUNT_SHIFT;
const TYPE_SHIFT: u32 = 42;
const TYPE: u64 = 7 << TYPE_SHIFT;
const WRITABLE: u64 = (FrameType::Writable as u64) << TYPE_SHIFT;
const VALIDATED: u64 = 1 << 45;
const PINNED: u64 = 1 << 46;
const ALLOCATED: u64 = 1 << 47;
const OWNER_SHIFT: u32 = 48;

/// In a free frame: it is the first of a block, whose order is in the low bits.
const FREE_HEAD: u64 = 1 << 8;
const FREE_ORDER: u64 = FREE_HEAD - 1;
/// In a free frame: it holds nothing but zeroes.
const FREE_CLEAN: u64 = 1 << 9;
/// In the first frame of a free block: all of them do.
const FREE_SWEPT: u64 = 1 << 10;

/// Most references a frame can have: 64 GiB worth of mappings of one page of zeroes.
pub const MAX_REFERENCES: u64 = REFERENCES;
/// Most typed uses a frame can have.
pub const MAX_TYPED: u64 = TYPE_COUNT >> TYPE_COUNT_SHIFT;

/// A snapshot of a frame's state word. Changing it yields a new snapshot, to be put in by compare-exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameState(pub(super) u64);

impl FrameState {
    /// Memory of nobody: devices, firmware, holes.
    pub const IO: Self = Self::owned_by(DomainId::IO);
    /// The hypervisor's own.
    pub const HYPERVISOR: Self = Self(Self::owned_by(DomainId::XEN).0 | ONE_REFERENCE);
    /// Free, inside a block.
    pub const FREE: Self = Self::owned_by(DomainId::INVALID);

    const fn owned_by(owner: DomainId) -> Self {
        Self((owner.0 as u64) << OWNER_SHIFT)
    }

    /// A free frame as the first of a block of `2^order` frames, all of which are clean if it is swept.
    pub const fn as_free_head(self, order: u32, is_swept: bool) -> Self {
        let swept = if is_swept { FREE_SWEPT } else { 0 };
        Self(self.as_free_inside().0 | FREE_HEAD | swept | order as u64)
    }

    /// A free frame inside a block.
    pub const fn as_free_inside(self) -> Self {
        Self(Self::FREE.0 | self.0 & FREE_CLEAN)
    }

    /// A free frame that was zeroed.
    pub const fn as_clean(self) -> Self {
        Self(self.0 | FREE_CLEAN)
    }

    /// The order of the free block that starts here.
    pub const fn free_order(self) -> Option<u32> {
        let is_head = self.0 & !(FREE_ORDER | FREE_CLEAN | FREE_SWEPT) == Self::FREE.0 | FREE_HEAD;
        if is_head { Some((self.0 & FREE_ORDER) as u32) } else { None }
    }

    /// Free, and nothing but zeroes.
    pub const fn is_clean(self) -> bool {
        self.owner().0 == DomainId::INVALID.0 && self.0 & FREE_CLEAN != 0
    }

    /// The first of a free block that is clean as a whole.
    pub const fn is_swept(self) -> bool {
        self.free_order().is_some() && self.0 & FREE_SWEPT != 0
    }

    /// Given to `owner`, who possesses it and does nothing with it yet.
    pub const fn allocated_to(owner: DomainId) -> Self {
        Self(Self::owned_by(owner).0 | ALLOCATED | ONE_REFERENCE)
    }

    /// Given to `owner`, and used by the hypervisor as writable memory: `shared_info` and the like.
    pub const fn shared_with(owner: DomainId) -> Self {
        Self(Self::owned_by(owner).0 | PINNED | WRITABLE | ONE_TYPED | ONE_REFERENCE)
    }

    /// Who owns it; reserved numbers stand for the states above.
    #[inline]
    pub const fn owner(self) -> DomainId {
        DomainId((self.0 >> OWNER_SHIFT) as u16)
    }

    /// Its type.
    #[inline]
    pub const fn frame_type(self) -> FrameType {
        match (self.0 & TYPE) >> TYPE_SHIFT {
            0 => FrameType::None,
            1 => FrameType::Writable,
            2 => FrameType::L1,
            3 => FrameType::L2,
            4 => FrameType::L3,
            5 => FrameType::L4,
            _ => FrameType::Descriptors,
        }
    }

    /// Its level, if it is a page table.
    #[inline]
    pub const fn table_level(self) -> Option<u8> {
        let bits = ((self.0 & TYPE) >> TYPE_SHIFT) as u8;
        if bits >= FrameType::L1 as u8 && bits <= FrameType::L4 as u8 { Some(bits - 1) } else { None }
    }

    /// Uses that keep it from being freed.
    #[inline]
    pub const fn references(self) -> u64 {
        self.0 & REFERENCES
    }

    /// Uses as its type; zero for a table that is not validated.
    #[inline]
    pub const fn typed(self) -> u64 {
        if self.is_half_done() { 0 } else { self.count_field() }
    }

    /// Entries that hold what they name, in a table that is not validated.
    pub const fn progress(self) -> usize {
        if self.is_half_done() { self.count_field() as usize } else { 0 }
    }

    #[inline]
    const fn count_field(self) -> u64 {
        (self.0 & TYPE_COUNT) >> TYPE_COUNT_SHIFT
    }

    /// A table or descriptor frame whose entries have all been checked.
    #[inline]
    pub const fn is_validated(self) -> bool {
        self.0 & VALIDATED != 0
    }

    /// A table in the middle of validation or of its undoing.
    #[inline]
    pub const fn is_half_done(self) -> bool {
        !self.is_validated() && self.0 & TYPE > WRITABLE
    }

    /// The owner (or for a writable frame, the hypervisor) holds on to the type.
    pub const fn is_pinned(self) -> bool {
        self.0 & PINNED != 0
    }

    /// One of the references is the owner's possession.
    pub const fn is_allocated(self) -> bool {
        self.0 & ALLOCATED != 0
    }

    /// A frame the hypervisor shares with its owner.
    pub const fn is_shared(self) -> bool {
        self.0 & (PINNED | TYPE) == PINNED | WRITABLE
    }

    /// One more reference; `None` when there is no first one, or the count is full.
    #[inline]
    pub const fn with_reference(self) -> Option<Self> {
        let references = self.0 & REFERENCES;
        if references == 0 || references == REFERENCES { None } else { Some(Self(self.0 + ONE_REFERENCE)) }
    }

    /// One reference less; `None` when there is none or only typed uses are left.
    #[inline]
    pub const fn without_reference(self) -> Option<Self> {
        let references = self.references();
        // What the field counts is the typed uses, if it is not something else; mostly it need not be asked which.
        if references <= self.count_field() && references <= self.typed() {
            return None;
        }
        Some(Self(self.0 - ONE_REFERENCE))
    }

    /// One more use as writable, without a further reference.
    #[inline]
    pub const fn with_writable(self) -> Option<Self> {
        if self.0 & TYPE > WRITABLE || self.0 & TYPE_COUNT == TYPE_COUNT {
            return None;
        }
        Some(Self((self.0 | WRITABLE) + ONE_TYPED))
    }

    /// One use as writable less; the type goes with the last one.
    #[inline]
    pub const fn without_writable(self) -> Option<Self> {
        if self.0 & TYPE != WRITABLE || self.0 & TYPE_COUNT == 0 {
            return None;
        }
        let state = self.0 - ONE_TYPED;
        Some(Self(if state & TYPE_COUNT == 0 { state & !TYPE } else { state }))
    }

    /// One more use as writable, with its reference.
    #[inline]
    pub const fn with_writable_use(self) -> Option<Self> {
        match self.with_reference() {
            Some(state) => state.with_writable(),
            None => None,
        }
    }

    /// One use as writable less, with its reference; the type goes with the last one.
    #[inline]
    pub const fn without_writable_use(self) -> Option<Self> {
        match self.without_writable() {
            // A use as writable has a reference.
            Some(state) if state.references() > 0 => Some(Self(state.0 - ONE_REFERENCE)),
            _ => None,
        }
    }

    /// One more use, with its reference, of what already is a validated `frame_type`.
    #[inline]
    pub const fn with_use_as(self, frame_type: FrameType) -> Option<Self> {
        let is_that = self.0 & TYPE == (frame_type as u64) << TYPE_SHIFT && self.is_validated();
        if !is_that || self.0 & TYPE_COUNT == TYPE_COUNT {
            return None;
        }
        match self.with_reference() {
            Some(state) => Some(Self(state.0 + ONE_TYPED)),
            None => None,
        }
    }

    /// One use less of a validated table that others still use; `None` for the last use.
    #[inline]
    pub const fn without_use(self) -> Option<Self> {
        if !self.is_validated() || self.count_field() < 2 {
            return None;
        }
        Some(Self(self.0 - ONE_TYPED - ONE_REFERENCE))
    }

    /// From no type to `frame_type`, nothing of it checked yet. The reference is that of the unfinished work,
    /// and becomes the first user's. Only a frame that its owner possesses can become a table: one that lingers
    /// is on its way out, and nobody would look for a pin there.
    pub const fn begun_as(self, frame_type: FrameType) -> Option<Self> {
        if self.0 & TYPE != 0 || !self.is_allocated() {
            return None;
        }
        match self.with_reference() {
            Some(state) => Some(Self(state.0 | (frame_type as u64) << TYPE_SHIFT)),
            None => None,
        }
    }

    /// The same half-done table with `entries` entries that hold what they name.
    pub const fn with_progress(self, entries: usize) -> Self {
        Self(self.0 & !TYPE_COUNT | (entries as u64) << TYPE_COUNT_SHIFT)
    }

    /// Half done to validated, with one user.
    pub const fn finished(self) -> Self {
        Self(self.with_progress(1).0 | VALIDATED)
    }

    /// Validated with its last user gone to half done, `entries` of its entries still holding what they name.
    /// The user's reference becomes that of the unfinished work.
    pub const fn reopened(self, entries: usize) -> Self {
        Self(self.with_progress(entries).0 & !(VALIDATED | PINNED))
    }

    /// Half done to no type and one reference less.
    pub const fn without_type(self) -> Self {
        Self((self.0 & !(TYPE | TYPE_COUNT | VALIDATED | PINNED)) - ONE_REFERENCE)
    }

    /// The same with or without the pin.
    pub const fn with_pin(self, pinned: bool) -> Self {
        Self(if pinned { self.0 | PINNED } else { self.0 & !PINNED })
    }

    /// No longer possessed; the reference that goes with possession stays, for the caller to give back.
    pub const fn without_possession(self) -> Option<Self> {
        if self.is_allocated() { Some(Self(self.0 & !ALLOCATED)) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWNED: FrameState = FrameState::allocated_to(DomainId(7));

    #[test]
    fn writable_and_table_exclude_each_other() {
        let writable = OWNED.with_reference().and_then(FrameState::with_writable).unwrap();
        assert_eq!(writable.begun_as(FrameType::L1), None);
        let table = OWNED.begun_as(FrameType::L1).unwrap();
        assert_eq!(table.with_writable(), None);
        assert_eq!(table.finished().with_writable(), None);
        assert!(table.finished().with_use_as(FrameType::L1).is_some());
        assert_eq!(table.finished().with_use_as(FrameType::L2), None);
    }

    #[test]
    fn a_frame_that_lingers_becomes_no_table() {
        let lingering = OWNED.with_reference().and_then(FrameState::without_possession).unwrap();
        assert_eq!(lingering.begun_as(FrameType::L1), None);
        assert!(lingering.with_writable().is_some());
    }

    #[test]
    fn the_type_goes_with_its_last_use() {
        let once = OWNED.with_writable().unwrap();
        let twice = once.with_writable().unwrap();
        assert_eq!(twice.without_writable().unwrap(), once);
        assert_eq!(once.without_writable().unwrap(), OWNED);
    }

    #[test]
    fn counts_refuse_to_overflow() {
        let full = FrameState(OWNED.0 | REFERENCES);
        assert_eq!(full.with_reference(), None);
        assert!(full.without_reference().is_some());
        let full = FrameState(OWNED.0 | WRITABLE | TYPE_COUNT | 1 << 20);
        assert_eq!(full.with_writable(), None);
    }

    #[test]
    fn a_frame_without_references_gives_none() {
        let freed = FrameState::owned_by(DomainId(7));
        assert_eq!(freed.with_reference(), None);
        assert_eq!(freed.without_reference(), None);
    }

    #[test]
    fn a_half_done_table_has_progress_and_no_users() {
        let begun = OWNED.begun_as(FrameType::L3).unwrap().with_progress(17);
        assert_eq!((begun.typed(), begun.progress(), begun.references()), (0, 17, 2));
        let done = begun.finished();
        assert_eq!((done.typed(), done.progress(), done.references()), (1, 0, 2));
        assert_eq!(done.without_use(), None, "the last use is undone, not dropped");
        assert_eq!(done.reopened(0).without_type(), OWNED);
    }

    #[test]
    fn tables_say_their_level() {
        for level in 1..=4 {
            let table = OWNED.begun_as(FrameType::table(level)).unwrap();
            assert_eq!((table.table_level(), table.frame_type()), (Some(level), FrameType::table(level)));
        }
        assert_eq!(OWNED.table_level(), None);
        assert_eq!(OWNED.with_writable().unwrap().table_level(), None);
        assert_eq!(OWNED.begun_as(FrameType::Descriptors).unwrap().table_level(), None);
    }

    #[test]
    fn free_blocks_say_their_order() {
        let clean = FrameState::FREE.as_clean();
        for (state, is_swept) in [(FrameState::FREE, false), (clean, false), (clean, true)] {
            let head = state.as_free_head(9, is_swept);
            assert_eq!((head.free_order(), head.is_swept()), (Some(9), is_swept));
            assert_eq!((head.is_clean(), head.as_free_inside()), (state.is_clean(), state));
        }
        assert_eq!((FrameState::FREE.free_order(), clean.free_order()), (None, None));
        assert_eq!(OWNED.free_order(), None);
        let used = FrameState(OWNED.0 | FREE_CLEAN | FREE_SWEPT);
        assert!(!used.is_clean() && !used.is_swept(), "these bits are other frames' counts");
    }
}
