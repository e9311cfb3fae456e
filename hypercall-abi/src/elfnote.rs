//! The notes by which a kernel image says how it wants to be loaded (`elfnote.h`).
//!
//! A note has the owner name `Xen` and one of these types. Numbers are 4 or 8 bytes, texts end with a zero.

/// The owner name of the notes, without its final zero.
pub const XEN_ELFNOTE_NAME: &str = "Xen";

/// All of this as one text (obsolete).
pub const XEN_ELFNOTE_INFO: u32 = 0;
/// Virtual address to start at.
pub const XEN_ELFNOTE_ENTRY: u32 = 1;
/// Virtual address of the page to fill with hypercall stubs.
pub const XEN_ELFNOTE_HYPERCALL_PAGE: u32 = 2;
/// Virtual address that pseudo-physical address 0 is mapped to.
pub const XEN_ELFNOTE_VIRT_BASE: u32 = 3;
/// What to subtract from the image's physical addresses.
pub const XEN_ELFNOTE_PADDR_OFFSET: u32 = 4;
/// The interface the kernel was written for, `xen-3.0`.
pub const XEN_ELFNOTE_XEN_VERSION: u32 = 5;
/// The kernel's name.
pub const XEN_ELFNOTE_GUEST_OS: u32 = 6;
/// The kernel's version.
pub const XEN_ELFNOTE_GUEST_VERSION: u32 = 7;
/// The kind of loader, `generic`.
pub const XEN_ELFNOTE_LOADER: u32 = 8;
/// Whether a 32-bit kernel uses large page-table entries.
pub const XEN_ELFNOTE_PAE_MODE: u32 = 9;
/// Features by name, separated by `|`; a leading `!` marks a required one.
pub const XEN_ELFNOTE_FEATURES: u32 = 10;
/// The symbol table is to be loaded too.
pub const XEN_ELFNOTE_BSD_SYMTAB: u32 = 11;
/// The lowest virtual address the hypervisor may use.
pub const XEN_ELFNOTE_HV_START_LOW: u32 = 12;
/// Pairs of mask and value that mark a page-table entry as present.
pub const XEN_ELFNOTE_L1_MFN_VALID: u32 = 13;
/// Whether the kernel can go on after a cancelled suspend.
pub const XEN_ELFNOTE_SUSPEND_CANCEL: u32 = 14;
/// Virtual address to map the physical-to-machine map at.
pub const XEN_ELFNOTE_INIT_P2M: u32 = 15;
/// The kernel accepts its module by frame number, unmapped.
pub const XEN_ELFNOTE_MOD_START_PFN: u32 = 16;
/// Features the kernel can use, as bits.
pub const XEN_ELFNOTE_SUPPORTED_FEATURES: u32 = 17;
/// Physical address to start at in 32-bit mode (PVH).
pub const XEN_ELFNOTE_PHYS32_ENTRY: u32 = 18;
/// The last of the types above.
pub const XEN_ELFNOTE_MAX: u32 = XEN_ELFNOTE_PHYS32_ENTRY;
