//! Where things are in the kernel's address space, and what a page-table entry says.
//!
//! ```text
//! 0xffff800000000000   the hypervisor's own, 8 TiB
//! 0xffff880000000000   window: pseudo-physical address p of this domain at WINDOW + p, except the image
//! 0xffff884000000000   mappings: device memory, foreign frames, granted pages; pages given out one by one
//! 0xffffffff80200000   image: code, constants, data, stack
//! ```
//!
//! Window and mappings share one fourth-level slot, so one third-level table serves both.

use hypercall_abi::{MachineFrame, PAGE_SHIFT, PAGE_SIZE, PseudoPhysicalFrame};

/// Where the domain builder maps pseudo-physical address 0; the image is linked 2 MiB above.
pub(super) const VIRT_BASE: u64 = 0xffff_ffff_8000_0000;
/// Where the domain's memory is mapped.
pub(super) const WINDOW: u64 = 0xffff_8800_0000_0000;
/// Most pages of memory that the window has room for: 256 GiB.
pub(super) const WINDOW_PAGES: usize = 1 << 26;
/// Where other frames are mapped.
pub(super) const MAPPINGS: u64 = WINDOW + ((WINDOW_PAGES as u64) << PAGE_SHIFT);
/// How many pages can be mapped there at once: 1 GiB, what one second-level table covers.
pub(super) const MAPPINGS_PAGES: usize = ENTRIES * ENTRIES;

/// One past the last of those addresses.
pub(super) const MAPPINGS_END: u64 = MAPPINGS + ((MAPPINGS_PAGES as u64) << PAGE_SHIFT);

/// Entries in a page table.
pub(super) const ENTRIES: usize = 512;

/// Entry bit: there is a translation.
pub(super) const PRESENT: u64 = 1 << 0;
/// Entry bit: writes are allowed.
pub(super) const WRITABLE: u64 = 1 << 1;
/// Entry bit: ring 3, where this kernel runs, may use it.
pub(super) const USER: u64 = 1 << 2;
/// Entry bit: with [`CACHE_DISABLE`], uncached.
pub(super) const WRITE_THROUGH: u64 = 1 << 3;
/// Entry bit: not cached.
pub(super) const CACHE_DISABLE: u64 = 1 << 4;
/// Entry bit: was used. Set beforehand, so that the processor need not.
pub(super) const ACCESSED: u64 = 1 << 5;
/// Entry bit: was written. Set beforehand likewise.
pub(super) const DIRTY: u64 = 1 << 6;
/// Entry bit: no instruction may be fetched.
pub(super) const NO_EXECUTE: u64 = 1 << 63;
/// The frame in an entry.
const FRAME_MASK: u64 = 0x000f_ffff_ffff_f000;

/// Protection of a table's entry in the table above it.
pub(super) const TABLE: u64 = PRESENT | WRITABLE | USER | ACCESSED;
/// Protection of code.
pub(super) const CODE: u64 = PRESENT | USER | ACCESSED;
/// Protection of what is only read.
pub(super) const READ_ONLY: u64 = CODE | NO_EXECUTE;
/// Protection of data.
pub(super) const DATA: u64 = READ_ONLY | WRITABLE | DIRTY;

/// An entry that maps `frame` with a protection.
pub(super) const fn entry(frame: MachineFrame, protection: u64) -> u64 {
    frame.physical_address() & FRAME_MASK | protection
}

/// The frame of a present entry.
pub(super) const fn entry_frame(entry: u64) -> Option<MachineFrame> {
    if entry & PRESENT == 0 {
        return None;
    }
    Some(MachineFrame::containing(entry & FRAME_MASK))
}

/// The index into a table of `level` (1 to 4) for a virtual address.
pub(super) const fn table_index(virtual_address: u64, level: u32) -> usize {
    (virtual_address >> (PAGE_SHIFT + 9 * (level - 1))) as usize % ENTRIES
}

/// The table that maps an address of the window, counted from the first.
pub(super) const fn window_table_index(virtual_address: u64) -> usize {
    (virtual_address - WINDOW) as usize / (ENTRIES * PAGE_SIZE)
}

/// The machine address of an entry in a table.
pub(super) const fn entry_address(table: MachineFrame, index: usize) -> u64 {
    table.physical_address() + 8 * index as u64
}

/// Where the window shows a frame of this domain.
pub(super) const fn window_address(frame: PseudoPhysicalFrame) -> u64 {
    WINDOW + (frame.0 << PAGE_SHIFT)
}

/// The frame that the domain builder mapped at an address of the image or of what follows it.
pub(super) const fn bootstrap_frame(virtual_address: u64) -> PseudoPhysicalFrame {
    PseudoPhysicalFrame((virtual_address - VIRT_BASE) >> PAGE_SHIFT)
}

/// Where the domain builder mapped a frame.
pub(super) const fn bootstrap_address(frame: PseudoPhysicalFrame) -> u64 {
    VIRT_BASE + (frame.0 << PAGE_SHIFT)
}

/// Which of this domain's frames a virtual address of the image or the window belongs to, if it were mapped.
pub(super) const fn frame_at(virtual_address: u64) -> Option<PseudoPhysicalFrame> {
    if virtual_address >= VIRT_BASE {
        return Some(bootstrap_frame(virtual_address));
    }
    if virtual_address >= WINDOW && virtual_address < MAPPINGS {
        return Some(PseudoPhysicalFrame((virtual_address - WINDOW) >> PAGE_SHIFT));
    }
    None
}

/// How the page tables of the window are laid out: one after the other from some frame on.
///
/// ```text
/// first ─► third level │ second level of the mappings │ second level of the window … │ first level … │ end
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct WindowTables {
    /// The third-level table.
    pub(super) first: PseudoPhysicalFrame,
    /// How many second-level tables the window needs.
    pub(super) second_levels: usize,
    /// How many first-level tables the window needs.
    pub(super) first_levels: usize,
}

impl WindowTables {
    /// The tables for `pages` of memory, from frame `first` on.
    pub(super) const fn new(first: PseudoPhysicalFrame, pages: usize) -> Self {
        let first_levels = pages.div_ceil(ENTRIES);
        Self { first, second_levels: first_levels.div_ceil(ENTRIES), first_levels }
    }

    const fn at(&self, offset: usize) -> PseudoPhysicalFrame {
        PseudoPhysicalFrame(self.first.0 + offset as u64)
    }

    /// The frame of the mappings' second-level table.
    pub(super) const fn mappings_second_level(&self) -> PseudoPhysicalFrame {
        self.at(1)
    }

    /// The frame of the window's second-level table `index`.
    pub(super) const fn second_level(&self, index: usize) -> PseudoPhysicalFrame {
        self.at(2 + index)
    }

    /// The frame of the window's first-level table `index`.
    pub(super) const fn first_level(&self, index: usize) -> PseudoPhysicalFrame {
        self.at(2 + self.second_levels + index)
    }

    /// The frame after the last table.
    pub(super) const fn end(&self) -> PseudoPhysicalFrame {
        self.at(2 + self.second_levels + self.first_levels)
    }
}

const _: () = {
    assert!(table_index(WINDOW, 4) == table_index(MAPPINGS, 4));
    assert!(WINDOW_PAGES * PAGE_SIZE + MAPPINGS_PAGES * PAGE_SIZE <= 1 << 39);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indexes_are_those_of_the_architecture() {
        assert_eq!([1, 2, 3, 4].map(|level| table_index(0xffff_ffff_8020_0000, level)), [0, 1, 510, 511]);
        assert_eq!([1, 2, 3, 4].map(|level| table_index(WINDOW, level)), [0, 0, 0, 272]);
        assert_eq!([1, 2, 3, 4].map(|level| table_index(MAPPINGS + 0x3000, level)), [3, 0, 256, 272]);
    }

    #[test]
    fn an_entry_gives_its_frame_back() {
        let data = entry(MachineFrame(0x12345), DATA);
        assert_eq!(data, 0x8000_0000_1234_5067);
        assert_eq!(entry_frame(data), Some(MachineFrame(0x12345)));
        assert_eq!(entry_frame(data & !PRESENT), None);
    }

    #[test]
    fn an_address_of_window_or_image_has_a_frame() {
        let frame = PseudoPhysicalFrame(0x777);
        assert_eq!(frame_at(window_address(frame) + 0xfff), Some(frame));
        assert_eq!(frame_at(bootstrap_address(frame)), Some(frame));
        assert_eq!(frame_at(MAPPINGS), None);
        assert_eq!(frame_at(0x1000), None);
    }

    #[test]
    fn window_tables_follow_each_other_without_gap() {
        let tables = WindowTables::new(PseudoPhysicalFrame(1000), 600 * 512 - 7);
        assert_eq!((tables.first_levels, tables.second_levels), (600, 2));
        assert_eq!(tables.mappings_second_level().0, 1001);
        assert_eq!(tables.second_level(1).0, 1003);
        assert_eq!(tables.first_level(0).0, 1004);
        assert_eq!(tables.end().0, 1604);
    }
}
