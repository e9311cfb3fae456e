//! Page-table entries, as the processor reads them.

use hypercall_abi::MachineFrame;

/// There is a translation.
pub const PRESENT: u64 = 1 << 0;
/// Writes are allowed.
pub const WRITABLE: u64 = 1 << 1;
/// Ring 3 may use it.
pub const USER: u64 = 1 << 2;
/// Cache attribute.
pub const WRITE_THROUGH: u64 = 1 << 3;
/// Cache attribute.
pub const CACHE_DISABLE: u64 = 1 << 4;
/// Was used.
pub const ACCESSED: u64 = 1 << 5;
/// Was written through.
pub const DIRTY: u64 = 1 << 6;
/// In a table of level 2 or 3: a large page.
pub const LARGE: u64 = 1 << 7;
/// Survives a change of the address space.
pub const GLOBAL: u64 = 1 << 8;
/// No instruction may be fetched.
pub const NO_EXECUTE: u64 = 1 << 63;
/// The frame's part.
pub const FRAME: u64 = 0x000f_ffff_ffff_f000;

/// To be read.
pub const READ: u64 = PRESENT | USER | ACCESSED | NO_EXECUTE;
/// To be read and written.
pub const WRITE: u64 = READ | WRITABLE | DIRTY;
/// Names a table of the level below.
pub const TABLE: u64 = PRESENT | WRITABLE | USER | ACCESSED;

/// An entry for a frame.
pub const fn entry(frame: MachineFrame, flags: u64) -> u64 {
    frame.physical_address() & FRAME | flags
}

/// The frame that an entry names.
pub const fn frame_of(entry: u64) -> MachineFrame {
    MachineFrame::containing(entry & FRAME)
}

/// The place of an address's entry in the table of `level` (1 to 4) on the way.
pub const fn index_of(address: u64, level: u32) -> usize {
    (address >> (12 + 9 * (level - 1))) as usize % 512
}

/// The machine address of an entry.
pub const fn place_of(table: MachineFrame, index: usize) -> u64 {
    table.physical_address() + 8 * index as u64
}
