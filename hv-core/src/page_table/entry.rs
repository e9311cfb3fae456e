//! One entry of a page table, as the CPU reads it.

use hypercall_abi::MachineFrame;

/// A page-table entry.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Entry(pub u64);

const FRAME: u64 = 0x000f_ffff_ffff_f000;

impl Entry {
    /// Maps something; an entry without it means nothing to anybody but the guest.
    pub const PRESENT: u64 = 1 << 0;
    /// May be written through.
    pub const WRITABLE: u64 = 1 << 1;
    /// Usable in ring 3, where guests live: set in every present entry of theirs.
    pub const USER: u64 = 1 << 2;
    /// Cache attribute.
    pub const WRITE_THROUGH: u64 = 1 << 3;
    /// Cache attribute.
    pub const CACHE_DISABLE: u64 = 1 << 4;
    /// Set by the CPU when it uses the entry.
    pub const ACCESSED: u64 = 1 << 5;
    /// Set by the CPU when it writes through the entry.
    pub const DIRTY: u64 = 1 << 6;
    /// In a table of level 2 or 3: maps a large page. In level 1 the same bit is a cache attribute.
    pub const LARGE: u64 = 1 << 7;
    /// Survives a change of address space; never left set.
    pub const GLOBAL: u64 = 1 << 8;
    /// Made by a grant mapping (a bit that software may use): its references are the grant table's.
    pub const GRANT: u64 = 1 << 62;
    /// Not executable.
    pub const NO_EXECUTE: u64 = 1 << 63;

    /// How memory is cached, in level 1.
    pub const CACHE_ATTRIBUTES: u64 = Self::WRITE_THROUGH | Self::CACHE_DISABLE | Self::LARGE;
    /// What a guest may not say about a table: large pages, cache attributes, or that it is global.
    pub const REFUSED_FOR_TABLES: u64 = Self::CACHE_ATTRIBUTES | Self::GLOBAL | Self::GRANT;

    /// An entry for `frame`.
    pub const fn new(frame: MachineFrame, flags: u64) -> Self {
        Self(frame.physical_address() & FRAME | flags & !FRAME)
    }

    /// The frame it names, if it is present.
    #[inline]
    pub const fn frame(self) -> MachineFrame {
        MachineFrame((self.0 & FRAME) >> 12)
    }

    /// True when it maps something.
    #[inline]
    pub const fn is_present(self) -> bool {
        self.0 & Self::PRESENT != 0
    }

    /// True when any of `bits` is set.
    #[inline]
    pub const fn has(self, bits: u64) -> bool {
        self.0 & bits != 0
    }

    /// True for a present entry made by a grant mapping.
    #[inline]
    pub const fn is_grant(self) -> bool {
        self.0 & (Self::GRANT | Self::PRESENT) == Self::GRANT | Self::PRESENT
    }

    /// True when both name the same frame.
    #[inline]
    pub const fn is_same_frame(self, other: Self) -> bool {
        (self.0 ^ other.0) & FRAME == 0
    }
}

impl core::fmt::Debug for Entry {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Entry({:#x})", self.0)
    }
}
