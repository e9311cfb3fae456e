//! Optional features (`features.h`), as bit numbers in the answer of
//! [`crate::version::XENVER_GET_FEATURES`] and in a kernel's ELF notes.

/// The guest may write its page tables directly.
pub const XENFEAT_WRITABLE_PAGE_TABLES: u32 = 0;
/// The guest may write its descriptor tables directly.
pub const XENFEAT_WRITABLE_DESCRIPTOR_TABLES: u32 = 1;
/// The hypervisor translates pseudo-physical frames.
pub const XENFEAT_AUTO_TRANSLATED_PHYSMAP: u32 = 2;
/// The guest's kernel runs in ring 0.
pub const XENFEAT_SUPERVISOR_MODE_KERNEL: u32 = 3;
/// Page directories of 32-bit guests may lie above 4 GiB.
pub const XENFEAT_PAE_PGDIR_ABOVE_4GB: u32 = 4;
/// [`crate::xen::MMU_PT_UPDATE_PRESERVE_AD`] works.
pub const XENFEAT_MMU_PT_UPDATE_PRESERVE_AD: u32 = 5;
/// The `MMUEXT_CLEAR_PAGE` and `MMUEXT_COPY_PAGE` operations work.
pub const XENFEAT_HIGHMEM_ASSIST: u32 = 6;
/// Grant mappings may set the available bits of page-table entries.
pub const XENFEAT_GNTTAB_MAP_AVAIL_BITS: u32 = 7;
/// Hardware-virtualised guests may have events delivered by vector.
pub const XENFEAT_HVM_CALLBACK_VECTOR: u32 = 8;
/// Hardware-virtualised guests may use the paravirtual clock.
pub const XENFEAT_HVM_SAFE_PVCLOCK: u32 = 9;
/// Hardware-virtualised guests may bind physical interrupts.
pub const XENFEAT_HVM_PIRQS: u32 = 10;
/// The domain is, or the kernel can be, dom0.
pub const XENFEAT_DOM0: u32 = 11;
/// Memory operations accept virtual NUMA nodes.
pub const XENFEAT_MEMORY_OP_VNODE_SUPPORTED: u32 = 13;
/// Arm calling convention supported.
pub const XENFEAT_ARM_SMCCC_SUPPORTED: u32 = 14;
/// The kernel accepts its firmware table pointer anywhere.
pub const XENFEAT_LINUX_RSDP_UNRESTRICTED: u32 = 15;
/// The domain's memory is not mapped one to one.
pub const XENFEAT_NOT_DIRECT_MAPPED: u32 = 16;
/// The domain's memory is mapped one to one.
pub const XENFEAT_DIRECT_MAPPED: u32 = 17;
/// How many groups of 32 features there are.
pub const XENFEAT_NR_SUBMAPS: u32 = 1;
