//! The core of the interface (`xen.h`): hypercall numbers, virtual interrupts, page-table updates and the
//! two structures every guest starts from.
//!
//! [`StartInfo`] is written once, before the guest runs. [`SharedInfo`] lives: the hypervisor and every
//! virtual CPU of the guest change it at the same time, so nobody may hold a Rust reference to it. It is
//! meant for its offsets and for private copies; live fields are reached as atomics.

use crate::{DomainId, MachineFrame, Port};

/// Install trap handlers.
pub const HYPERVISOR_SET_TRAP_TABLE: u64 = 0;
/// Change page-table entries and machine-to-physical entries, by [`MmuUpdate`].
pub const HYPERVISOR_MMU_UPDATE: u64 = 1;
/// Replace the global descriptor table.
pub const HYPERVISOR_SET_GDT: u64 = 2;
/// Set the kernel stack that traps from user mode switch to.
pub const HYPERVISOR_STACK_SWITCH: u64 = 3;
/// Set the event, failsafe and syscall entry points at once.
pub const HYPERVISOR_SET_CALLBACKS: u64 = 4;
/// Set or clear the task-switched flag of the floating-point unit.
pub const HYPERVISOR_FPU_TASKSWITCH: u64 = 5;
/// The scheduler call of old guests.
pub const HYPERVISOR_SCHED_OP_COMPAT: u64 = 6;
/// Control of the machine, for dom0; see [`crate::platform`].
pub const HYPERVISOR_PLATFORM_OP: u64 = 7;
/// Write a debug register.
pub const HYPERVISOR_SET_DEBUGREG: u64 = 8;
/// Read a debug register.
pub const HYPERVISOR_GET_DEBUGREG: u64 = 9;
/// Write one descriptor of a descriptor table.
pub const HYPERVISOR_UPDATE_DESCRIPTOR: u64 = 10;
/// Memory reservations and maps; see [`crate::memory`].
pub const HYPERVISOR_MEMORY_OP: u64 = 12;
/// Several hypercalls in one, by [`MulticallEntry`].
pub const HYPERVISOR_MULTICALL: u64 = 13;
/// Change the page-table entry that maps a virtual address.
pub const HYPERVISOR_UPDATE_VA_MAPPING: u64 = 14;
/// Set the virtual CPU's one-shot timer.
pub const HYPERVISOR_SET_TIMER_OP: u64 = 15;
/// The event channel call of old guests.
pub const HYPERVISOR_EVENT_CHANNEL_OP_COMPAT: u64 = 16;
/// What the hypervisor is; see [`crate::version`].
pub const HYPERVISOR_XEN_VERSION: u64 = 17;
/// Read or write the hypervisor's console.
pub const HYPERVISOR_CONSOLE_IO: u64 = 18;
/// The physical device call of old guests.
pub const HYPERVISOR_PHYSDEV_OP_COMPAT: u64 = 19;
/// Grant tables; see [`crate::grant_table`].
pub const HYPERVISOR_GRANT_TABLE_OP: u64 = 20;
/// Switch optional behaviours (`VMASST_*`).
pub const HYPERVISOR_VM_ASSIST: u64 = 21;
/// [`HYPERVISOR_UPDATE_VA_MAPPING`] to a frame of another domain.
pub const HYPERVISOR_UPDATE_VA_MAPPING_OTHERDOMAIN: u64 = 22;
/// Return from a trap; see [`crate::arch_x86::IretContext`].
pub const HYPERVISOR_IRET: u64 = 23;
/// Virtual CPUs; see [`crate::vcpu`].
pub const HYPERVISOR_VCPU_OP: u64 = 24;
/// Set a segment base (`SEGBASE_*`).
pub const HYPERVISOR_SET_SEGMENT_BASE: u64 = 25;
/// Pin tables, switch address spaces, flush, by [`MmuextOp`].
pub const HYPERVISOR_MMUEXT_OP: u64 = 26;
/// Security modules.
pub const HYPERVISOR_XSM_OP: u64 = 27;
/// Non-maskable interrupts.
pub const HYPERVISOR_NMI_OP: u64 = 28;
/// Yield, block, poll and shut down; see [`crate::sched`].
pub const HYPERVISOR_SCHED_OP: u64 = 29;
/// Entry points one by one; see [`crate::callback`].
pub const HYPERVISOR_CALLBACK_OP: u64 = 30;
/// Profiling.
pub const HYPERVISOR_XENOPROF_OP: u64 = 31;
/// Event channels; see [`crate::event_channel`].
pub const HYPERVISOR_EVENT_CHANNEL_OP: u64 = 32;
/// Physical interrupts and PCI devices; see [`crate::physdev`].
pub const HYPERVISOR_PHYSDEV_OP: u64 = 33;
/// Hardware-virtualised guests.
pub const HYPERVISOR_HVM_OP: u64 = 34;
/// Control of the host; see [`crate::sysctl`].
pub const HYPERVISOR_SYSCTL: u64 = 35;
/// Control of domains; see [`crate::domctl`].
pub const HYPERVISOR_DOMCTL: u64 = 36;
/// Start another kernel after a crash.
pub const HYPERVISOR_KEXEC_OP: u64 = 37;
/// Transcendent memory, long removed.
pub const HYPERVISOR_TMEM_OP: u64 = 38;
/// Messages between domains.
pub const HYPERVISOR_ARGO_OP: u64 = 39;
/// Performance counters.
pub const HYPERVISOR_XENPMU_OP: u64 = 40;
/// Device models.
pub const HYPERVISOR_DM_OP: u64 = 41;
/// The hypervisor's own tree of settings.
pub const HYPERVISOR_HYPFS_OP: u64 = 42;
/// The first of eight architecture-specific calls.
pub const HYPERVISOR_ARCH_0: u64 = 48;
/// The last of eight architecture-specific calls.
pub const HYPERVISOR_ARCH_7: u64 = 55;

/// Timer of a virtual CPU. Per virtual CPU.
pub const VIRQ_TIMER: u32 = 0;
/// Request to print debugging information. Per virtual CPU.
pub const VIRQ_DEBUG: u32 = 1;
/// Input on the hypervisor's console. For dom0.
pub const VIRQ_CONSOLE: u32 = 2;
/// A domain shut down, died or otherwise changed. For dom0.
pub const VIRQ_DOM_EXC: u32 = 3;
/// Trace records are waiting. For dom0.
pub const VIRQ_TBUF: u32 = 4;
/// A domain stopped for its debugger. For dom0.
pub const VIRQ_DEBUGGER: u32 = 6;
/// A profiling sample is ready. Per virtual CPU.
pub const VIRQ_XENOPROF: u32 = 7;
/// Output was added to the hypervisor's console ring. For dom0.
pub const VIRQ_CON_RING: u32 = 8;
/// A physical CPU came or went. For dom0.
pub const VIRQ_PCPU_STATE: u32 = 9;
/// A memory event is waiting. For dom0.
pub const VIRQ_MEM_EVENT: u32 = 10;
/// An Argo message arrived.
pub const VIRQ_ARGO: u32 = 11;
/// The hypervisor runs short of memory. For dom0.
pub const VIRQ_ENOMEM: u32 = 12;
/// A performance counter interrupt. Per virtual CPU.
pub const VIRQ_XENPMU: u32 = 13;
/// The first architecture-specific virtual interrupt (machine checks, on x86).
pub const VIRQ_ARCH_0: u32 = 16;
/// The last architecture-specific virtual interrupt.
pub const VIRQ_ARCH_7: u32 = 23;
/// How many virtual interrupts there are.
pub const NR_VIRQS: u32 = 24;

/// In the low two bits of [`MmuUpdate::ptr`]: write a page-table entry.
pub const MMU_NORMAL_PT_UPDATE: u64 = 0;
/// In the low two bits of [`MmuUpdate::ptr`]: write a machine-to-physical entry.
pub const MMU_MACHPHYS_UPDATE: u64 = 1;
/// In the low two bits of [`MmuUpdate::ptr`]: write a page-table entry but keep its accessed and dirty bits.
pub const MMU_PT_UPDATE_PRESERVE_AD: u64 = 2;
/// In the low two bits of [`MmuUpdate::ptr`]: write a page-table entry whose frame is not to be translated.
pub const MMU_PT_UPDATE_NO_TRANSLATE: u64 = 3;

/// Pin a level-1 page table.
pub const MMUEXT_PIN_L1_TABLE: u32 = 0;
/// Pin a level-2 page table.
pub const MMUEXT_PIN_L2_TABLE: u32 = 1;
/// Pin a level-3 page table.
pub const MMUEXT_PIN_L3_TABLE: u32 = 2;
/// Pin a level-4 page table.
pub const MMUEXT_PIN_L4_TABLE: u32 = 3;
/// Undo a pin.
pub const MMUEXT_UNPIN_TABLE: u32 = 4;
/// Switch the kernel's address space.
pub const MMUEXT_NEW_BASEPTR: u32 = 5;
/// Flush this virtual CPU's TLB.
pub const MMUEXT_TLB_FLUSH_LOCAL: u32 = 6;
/// Flush one address from this virtual CPU's TLB.
pub const MMUEXT_INVLPG_LOCAL: u32 = 7;
/// Flush the TLBs of the virtual CPUs in a mask.
pub const MMUEXT_TLB_FLUSH_MULTI: u32 = 8;
/// Flush one address from the TLBs of the virtual CPUs in a mask.
pub const MMUEXT_INVLPG_MULTI: u32 = 9;
/// Flush the TLBs of all the domain's virtual CPUs.
pub const MMUEXT_TLB_FLUSH_ALL: u32 = 10;
/// Flush one address from the TLBs of all the domain's virtual CPUs.
pub const MMUEXT_INVLPG_ALL: u32 = 11;
/// Write back and flush this CPU's caches.
pub const MMUEXT_FLUSH_CACHE: u32 = 12;
/// Set the local descriptor table.
pub const MMUEXT_SET_LDT: u32 = 13;
/// Switch the user-mode address space.
pub const MMUEXT_NEW_USER_BASEPTR: u32 = 15;
/// Zero a frame.
pub const MMUEXT_CLEAR_PAGE: u32 = 16;
/// Copy a frame.
pub const MMUEXT_COPY_PAGE: u32 = 17;
/// Write back and flush all CPUs' caches.
pub const MMUEXT_FLUSH_CACHE_GLOBAL: u32 = 18;
/// Mark a superpage (ignored).
pub const MMUEXT_MARK_SUPER: u32 = 19;
/// Unmark a superpage (ignored).
pub const MMUEXT_UNMARK_SUPER: u32 = 20;

/// `update_va_mapping` flushes nothing.
pub const UVMF_NONE: u64 = 0;
/// `update_va_mapping` flushes whole TLBs.
pub const UVMF_TLB_FLUSH: u64 = 1;
/// `update_va_mapping` flushes the address it changed.
pub const UVMF_INVLPG: u64 = 2;
/// The bits that say what is flushed.
pub const UVMF_FLUSHTYPE_MASK: u64 = 3;
/// Flush on the virtual CPUs in the mask the flags point to.
pub const UVMF_MULTI: u64 = 0;
/// Flush on this virtual CPU only (when the mask pointer is null).
pub const UVMF_LOCAL: u64 = 0;
/// Flush on all the domain's virtual CPUs.
pub const UVMF_ALL: u64 = 1 << 2;

/// `console_io`: write text.
pub const CONSOLEIO_WRITE: u32 = 0;
/// `console_io`: read what was typed.
pub const CONSOLEIO_READ: u32 = 1;

/// `vm_assist`: switch a behaviour on.
pub const VMASST_CMD_ENABLE: u32 = 0;
/// `vm_assist`: switch a behaviour off.
pub const VMASST_CMD_DISABLE: u32 = 1;
/// Emulate 4 GiB segments (32-bit guests).
pub const VMASST_TYPE_4GB_SEGMENTS: u32 = 0;
/// Trap to the guest when a 4 GiB segment is emulated.
pub const VMASST_TYPE_4GB_SEGMENTS_NOTIFY: u32 = 1;
/// Emulate writes to page tables.
pub const VMASST_TYPE_WRITABLE_PAGETABLES: u32 = 2;
/// Page directories of 32-bit guests may lie above 4 GiB.
pub const VMASST_TYPE_PAE_EXTENDED_CR3: u32 = 3;
/// The I/O privilege level lives in the virtual flags register.
pub const VMASST_TYPE_ARCHITECTURAL_IOPL: u32 = 4;
/// Mark run-state areas while they are being written.
pub const VMASST_TYPE_RUNSTATE_UPDATE_FLAG: u32 = 5;
/// Keep the machine-to-physical table out of user-mode address spaces.
pub const VMASST_TYPE_M2P_STRICT: u32 = 32;

/// See [`DomainId::FIRST_RESERVED`].
pub const DOMID_FIRST_RESERVED: u16 = 0x7ff0;
/// See [`DomainId::SELF`].
pub const DOMID_SELF: u16 = 0x7ff0;
/// See [`DomainId::IO`].
pub const DOMID_IO: u16 = 0x7ff1;
/// See [`DomainId::XEN`].
pub const DOMID_XEN: u16 = 0x7ff2;
/// See [`DomainId::COW`].
pub const DOMID_COW: u16 = 0x7ff3;
/// See [`DomainId::INVALID`].
pub const DOMID_INVALID: u16 = 0x7ff4;
/// See [`DomainId::IDLE`].
pub const DOMID_IDLE: u16 = 0x7fff;
/// The bits a domain number may use.
pub const DOMID_MASK: u16 = 0x7fff;

/// How many virtual CPUs have their [`VcpuInfo`] in [`SharedInfo`]; further ones must register a place.
pub const XEN_LEGACY_MAX_VCPUS: usize = 32;

/// In [`VcpuTimeInfo::flags`]: the clock is the same on all virtual CPUs.
pub const XEN_PVCLOCK_TSC_STABLE_BIT: u8 = 1 << 0;
/// In [`VcpuTimeInfo::flags`]: the guest was stopped for a while.
pub const XEN_PVCLOCK_GUEST_STOPPED: u8 = 1 << 1;

/// Bytes of the command line in [`StartInfo`], the final zero included.
pub const MAX_GUEST_CMDLINE: usize = 1024;

/// In [`StartInfo::flags`]: the domain may control the machine.
pub const SIF_PRIVILEGED: u32 = 1 << 0;
/// In [`StartInfo::flags`]: the domain is dom0.
pub const SIF_INITDOMAIN: u32 = 1 << 1;
/// In [`StartInfo::flags`]: the module is a list of modules, [`XenMultibootModList`].
pub const SIF_MULTIBOOT_MOD: u32 = 1 << 2;
/// In [`StartInfo::flags`]: `mod_start` is a pseudo-physical frame and not an address.
pub const SIF_MOD_START_PFN: u32 = 1 << 3;
/// In [`StartInfo::flags`]: the tools accept a physical-to-machine map given by virtual address.
pub const SIF_VIRT_P2M_4TOOLS: u32 = 1 << 4;
/// In [`StartInfo::flags`]: options of power management.
pub const SIF_PM_MASK: u32 = 0xff << 8;

layout! {
    /// One change to a page table or to the machine-to-physical table (`mmu_update`).
    pub struct MmuUpdate [16] {
        /// Machine address of the entry; the low two bits hold the `MMU_*` command.
        0 => ptr: u64,
        /// The entry's new value.
        8 => val: u64,
    }

    /// One extended memory-management operation (`mmuext_op`).
    pub struct MmuextOp [24] {
        /// `MMUEXT_*`.
        0 => cmd: u32,
        /// Padding.
        4 => _pad: u32,
        /// A machine frame or a linear address, as the command says.
        8 => arg1: u64,
        /// A source frame, the address of a virtual CPU mask, or a number of entries in the low half.
        16 => arg2: u64,
    }

    /// One call of a multicall (`multicall_entry`).
    pub struct MulticallEntry [64] {
        /// Hypercall number.
        0 => op: u64,
        /// Out: what the call returned.
        8 => result: i64,
        /// Its arguments; unused ones are ignored.
        16 => args: [u64; 6],
    }

    /// How to turn a time stamp counter reading into nanoseconds since boot (`vcpu_time_info`).
    ///
    /// `ns = system_time + ((tsc - tsc_timestamp) << tsc_shift) * tsc_to_system_mul / 2^32`, where a
    /// negative shift goes right. An odd `version`, or one that changed meanwhile, means: read again.
    pub struct VcpuTimeInfo [32] {
        /// Odd while the hypervisor is writing.
        0 => version: u32,
        /// Padding.
        4 => pad0: u32,
        /// The counter at the last update.
        8 => tsc_timestamp: u64,
        /// Nanoseconds since boot at the last update.
        16 => system_time: u64,
        /// Nanoseconds per shifted tick, as a fraction of 2^32.
        24 => tsc_to_system_mul: u32,
        /// Binary shift applied to ticks before the multiplication.
        28 => tsc_shift: i8,
        /// `XEN_PVCLOCK_*`.
        29 => flags: u8,
        /// Padding.
        30 => pad1: [u8; 2],
    }

    /// The x86 part of [`VcpuInfo`] (`arch_vcpu_info`).
    pub struct ArchVcpuInfo [16] {
        /// The address of the last page fault.
        0 => cr2: u64,
        /// Padding.
        8 => pad: u64,
    }

    /// What a virtual CPU and the hypervisor share (`vcpu_info`).
    pub struct VcpuInfo [64] {
        /// Not zero: an upcall is due.
        0 => evtchn_upcall_pending: u8,
        /// Not zero: no upcalls, please. The virtual interrupt flag.
        1 => evtchn_upcall_mask: u8,
        /// Padding.
        2 => _pad: [u8; 6],
        /// One bit for each word of [`SharedInfo::evtchn_pending`] worth looking at.
        8 => evtchn_pending_sel: u64,
        /// The x86 part.
        16 => arch: ArchVcpuInfo,
        /// The clock.
        32 => time: VcpuTimeInfo,
    }

    /// The x86 part of [`SharedInfo`] (`arch_shared_info`): how tools find a guest's physical-to-machine map.
    pub struct ArchSharedInfo [48] {
        /// One more than the last pseudo-physical frame.
        0 => max_pfn: u64,
        /// The frame that lists the frames that list the map's frames.
        8 => pfn_to_mfn_frame_list_list: u64,
        /// Why the last non-maskable interrupt happened.
        16 => nmi_reason: u64,
        /// The page directory that maps `p2m_vaddr`, or zero if that way is not offered.
        24 => p2m_cr3: u64,
        /// Virtual address of the map.
        32 => p2m_vaddr: u64,
        /// Odd while the guest rearranges the map.
        40 => p2m_generation: u64,
    }

    /// What a domain and the hypervisor share (`shared_info`): the first bytes of a page.
    pub struct SharedInfo [3136] {
        /// The first virtual CPUs' parts.
        0 => vcpu_info: [VcpuInfo; XEN_LEGACY_MAX_VCPUS],
        /// One bit a port: an event happened.
        2048 => evtchn_pending: [u64; 64],
        /// One bit a port: do not tell me.
        2560 => evtchn_mask: [u64; 64],
        /// Odd while the wall clock is being written.
        3072 => wc_version: u32,
        /// Wall-clock time at boot, in seconds since 1970, low half.
        3076 => wc_sec: u32,
        /// Wall-clock time at boot, nanoseconds.
        3080 => wc_nsec: u32,
        /// Wall-clock time at boot, in seconds since 1970, high half.
        3084 => wc_sec_hi: u32,
        /// The x86 part.
        3088 => arch: ArchSharedInfo,
    }

    /// Where the console is, in the form for an ordinary guest; dom0 reads it with
    /// [`StartInfoConsole::dom0`] instead.
    pub struct StartInfoConsole [16] {
        /// The frame of the console ring.
        0 => mfn: MachineFrame,
        /// The console's event channel.
        8 => evtchn: Port,
        /// Padding.
        12 => _pad: u32,
    }

    /// What a guest is told when it starts (`start_info`). Its address arrives in `rsi`.
    pub struct StartInfo [1168] {
        /// `xen-<version>-<platform>`, ended by a zero.
        0 => magic: [u8; 32],
        /// Pages the domain has.
        32 => nr_pages: u64,
        /// Physical address of [`SharedInfo`].
        40 => shared_info: u64,
        /// `SIF_*`.
        48 => flags: u32,
        /// Padding.
        52 => _pad0: u32,
        /// The frame of the store ring; zero for dom0.
        56 => store_mfn: MachineFrame,
        /// The store's event channel; zero for dom0.
        64 => store_evtchn: Port,
        /// Padding.
        68 => _pad1: u32,
        /// Where the console is.
        72 => console: StartInfoConsole,
        /// Virtual address of the level-4 page table.
        88 => pt_base: u64,
        /// Frames that the first page tables take.
        96 => nr_pt_frames: u64,
        /// Virtual address of the physical-to-machine map: one machine frame number a page.
        104 => mfn_list: u64,
        /// Virtual address of the module, or its first frame if [`SIF_MOD_START_PFN`] is set; 0 if none.
        112 => mod_start: u64,
        /// Bytes in the module.
        120 => mod_len: u64,
        /// Command line, ended by a zero.
        128 => cmd_line: [u8; MAX_GUEST_CMDLINE],
        /// First pseudo-physical frame of the map, if it lies outside the initial mapping.
        1152 => first_p2m_pfn: u64,
        /// Frames that map takes.
        1160 => nr_p2m_frames: u64,
    }

    /// One entry of a list of modules (`xen_multiboot_mod_list`); addresses count from the list's first byte.
    pub struct XenMultibootModList [16] {
        /// First byte; 0 ends the list.
        0 => mod_start: u32,
        /// Last byte (not one past it).
        4 => mod_end: u32,
        /// Its command line, ended by a zero.
        8 => cmdline: u32,
        /// Zero.
        12 => pad: u32,
    }
}

impl MmuextOp {
    /// [`MmuextOp::arg1`] as a machine frame.
    pub const fn mfn(&self) -> MachineFrame {
        MachineFrame(self.arg1)
    }

    /// [`MmuextOp::arg2`] as a count. Callers may leave anything in the high half.
    pub const fn nr_ents(&self) -> u32 {
        self.arg2 as u32
    }

    /// [`MmuextOp::arg2`] as the frame to copy from.
    pub const fn src_mfn(&self) -> MachineFrame {
        MachineFrame(self.arg2)
    }
}

impl StartInfoConsole {
    /// The form dom0 gets: a screen description of `info_size` bytes at `info_off` in the start info page.
    pub const fn for_dom0(info_off: u32, info_size: u32) -> Self {
        Self { mfn: MachineFrame((info_size as u64) << 32 | info_off as u64), evtchn: Port(0), _pad: 0 }
    }

    /// What dom0 finds here: the offset and the size, in bytes, of a screen description. No screen is size 0.
    pub const fn dom0(&self) -> (u32, u32) {
        (self.mfn.0 as u32, (self.mfn.0 >> 32) as u32)
    }
}

/// The `foreigndom` argument of `mmu_update`: who owns the frames mapped, and who owns the page tables.
///
/// The high half holds the table owner plus one; zero means the caller.
pub const fn foreign_domain(frames: DomainId, tables: Option<DomainId>) -> u32 {
    match tables {
        Some(owner) => (owner.0 as u32 + 1) << 16 | frames.0 as u32,
        None => frames.0 as u32,
    }
}

#[cfg(test)]
mod tests {
    use zerocopy::{FromBytes, IntoBytes};

    use super::*;

    #[test]
    fn start_info_round_trips_through_bytes() {
        let info = StartInfo { nr_pages: 4096, store_evtchn: Port(3), ..Default::default() };
        assert_eq!(StartInfo::read_from_bytes(info.as_bytes()), Ok(info));
        assert_eq!(info.as_bytes()[32..40], 4096_u64.to_le_bytes());
        assert_eq!(info.as_bytes()[64], 3);
    }

    #[test]
    fn both_forms_of_the_console_share_their_bytes() {
        let console = StartInfoConsole::for_dom0(1168, 36);
        assert_eq!(console.dom0(), (1168, 36));
        assert_eq!(console.as_bytes()[..8], [0x90, 4, 0, 0, 36, 0, 0, 0]);
    }

    #[test]
    fn a_count_ignores_the_high_half() {
        let op = MmuextOp { cmd: MMUEXT_SET_LDT, arg2: 0xdead_0000_0000_0010, ..Default::default() };
        assert_eq!(op.nr_ents(), 16);
    }

    #[test]
    fn the_table_owner_is_kept_plus_one() {
        assert_eq!(foreign_domain(DomainId::SELF, None), 0x7ff0);
        assert_eq!(foreign_domain(DomainId(5), Some(DomainId(0))), 0x1_0005);
    }
}
