//! What a kernel that is started in 32-bit mode without paging is told (`arch-x86/hvm/start_info.h`): the
//! PVH boot protocol.
//!
//! The hypervisor itself is such a kernel when a virtual machine monitor loads it. The address arrives in
//! `ebx`. Everything is a physical address, and comes from outside: check before use.

/// [`HvmStartInfo::magic`] of a valid structure.
pub const XEN_HVM_START_MAGIC_VALUE: u32 = 0x336e_c578;

/// In [`HvmMemmapTableEntry::type`]: memory.
pub const XEN_HVM_MEMMAP_TYPE_RAM: u32 = 1;
/// In [`HvmMemmapTableEntry::type`]: hands off.
pub const XEN_HVM_MEMMAP_TYPE_RESERVED: u32 = 2;
/// In [`HvmMemmapTableEntry::type`]: firmware tables.
pub const XEN_HVM_MEMMAP_TYPE_ACPI: u32 = 3;
/// In [`HvmMemmapTableEntry::type`]: firmware memory to be preserved over sleep.
pub const XEN_HVM_MEMMAP_TYPE_NVS: u32 = 4;
/// In [`HvmMemmapTableEntry::type`]: broken memory.
pub const XEN_HVM_MEMMAP_TYPE_UNUSABLE: u32 = 5;
/// In [`HvmMemmapTableEntry::type`]: memory that is switched off.
pub const XEN_HVM_MEMMAP_TYPE_DISABLED: u32 = 6;
/// In [`HvmMemmapTableEntry::type`]: persistent memory.
pub const XEN_HVM_MEMMAP_TYPE_PMEM: u32 = 7;

layout! {
    /// The start of everything (`hvm_start_info`).
    pub struct HvmStartInfo [56] {
        /// [`XEN_HVM_START_MAGIC_VALUE`].
        0 => magic: u32,
        /// 0, or 1 when the memory map fields are present.
        4 => version: u32,
        /// `SIF_*`.
        8 => flags: u32,
        /// How many modules.
        12 => nr_modules: u32,
        /// The modules, [`HvmModlistEntry`] each.
        16 => modlist_paddr: u64,
        /// Command line, ended by a zero; 0 if none.
        24 => cmdline_paddr: u64,
        /// The root of the firmware tables; 0 if none.
        32 => rsdp_paddr: u64,
        /// The memory map, [`HvmMemmapTableEntry`] each. Only with version 1.
        40 => memmap_paddr: u64,
        /// Entries in the memory map. Only with version 1.
        48 => memmap_entries: u32,
        /// Zero.
        52 => reserved: u32,
    }

    /// One module (`hvm_modlist_entry`).
    pub struct HvmModlistEntry [32] {
        /// Where.
        0 => paddr: u64,
        /// Bytes.
        8 => size: u64,
        /// Its command line, ended by a zero; 0 if none.
        16 => cmdline_paddr: u64,
        /// Zero.
        24 => reserved: u64,
    }

    /// One range of the memory map (`hvm_memmap_table_entry`).
    pub struct HvmMemmapTableEntry [24] {
        /// First byte.
        0 => addr: u64,
        /// Bytes.
        8 => size: u64,
        /// `XEN_HVM_MEMMAP_TYPE_*`.
        16 => r#type: u32,
        /// Zero.
        20 => reserved: u32,
    }
}
