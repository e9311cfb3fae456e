//! Where things lie in the virtual address space.
//!
//! A guest owns every address except L4 slots 256 to 271, which Xen's ABI reserves for the hypervisor. Those
//! sixteen slots are the same in every L4 table of the machine, so a hypercall never changes address space.
//!
//! ```text
//! slot 256  0xffff_8000_0000_0000  machine-to-pseudo-physical table, read-only for guests
//! slot 257  0xffff_8080_0000_0000  the same table, writable by the hypervisor
//! slot 261  0xffff_8280_0000_0000  frame table (16 bytes a frame)
//!           0xffff_82d0_4000_0000  one window per CPU: the guest's descriptor tables
//!           0xffff_82d0_8000_0000  the hypervisor's image
//! slot 262  0xffff_8300_0000_0000  direct map of all memory, to slot 271
//! ```

/// First L4 slot that belongs to the hypervisor (Xen's `ROOT_PAGETABLE_FIRST_XEN_SLOT`).
pub const FIRST_HYPERVISOR_SLOT: usize = 256;
/// Last L4 slot that belongs to the hypervisor (Xen's `ROOT_PAGETABLE_LAST_XEN_SLOT`).
pub const LAST_HYPERVISOR_SLOT: usize = 271;

/// Machine-to-pseudo-physical table as guests see it: `u64` entries, read-only (`MACH2PHYS_VIRT_START`).
pub const MACHINE_TO_PHYSICAL_BASE: u64 = 0xffff_8000_0000_0000;
/// The same table where the hypervisor writes it.
pub const MACHINE_TO_PHYSICAL_WRITABLE_BASE: u64 = 0xffff_8080_0000_0000;
/// Array of [`crate::frame::FrameInfo`], one per machine frame.
pub const FRAME_TABLE_BASE: u64 = 0xffff_8280_0000_0000;
/// One window of [`DESCRIPTOR_WINDOW_SIZE`] bytes per CPU: 16 pages of GDT, then 16 pages of LDT.
pub const DESCRIPTOR_WINDOW_BASE: u64 = 0xffff_82d0_4000_0000;
/// Bytes per CPU in the descriptor window.
pub const DESCRIPTOR_WINDOW_SIZE: u64 = 32 * PAGE_SIZE;
/// The hypervisor's image; physical address 0 would be mapped here.
pub const IMAGE_BASE: u64 = 0xffff_82d0_8000_0000;
/// Direct map: machine address `a` is at `DIRECT_MAP_BASE + a`.
pub const DIRECT_MAP_BASE: u64 = 0xffff_8300_0000_0000;
/// Bytes that the direct map can have: to the end of the hypervisor's slots.
pub const DIRECT_MAP_SIZE: u64 = 0xffff_8800_0000_0000 - DIRECT_MAP_BASE;

/// Bytes in a frame.
pub const PAGE_SIZE: u64 = 4096;
/// log2 of [`PAGE_SIZE`].
pub const PAGE_SHIFT: u32 = 12;

/// True when `address` belongs to the hypervisor in every address space.
pub const fn is_hypervisor_address(address: u64) -> bool {
    address >= MACHINE_TO_PHYSICAL_BASE && address < 0xffff_8800_0000_0000
}

/// True when the CPU accepts `address` (48-bit canonical form).
pub const fn is_canonical(address: u64) -> bool {
    ((address as i64) << 16 >> 16) as u64 == address
}
