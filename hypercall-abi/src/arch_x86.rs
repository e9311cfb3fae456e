//! The x86-64 half of the interface (`arch-x86/xen.h`, `arch-x86/xen-x86_64.h`, `arch-x86/cpuid.h`).
//!
//! A guest kernel and its user programs both run in ring 3. The selectors, the fixed address ranges and the
//! register frames here are what replaces the machinery a kernel would own in ring 0.

/// 32-bit code segment of the hypervisor's descriptor table.
pub const FLAT_RING3_CS32: u16 = 0xe023;
/// 64-bit code segment of the hypervisor's descriptor table.
pub const FLAT_RING3_CS64: u16 = 0xe033;
/// Data segment for 32-bit code.
pub const FLAT_RING3_DS32: u16 = 0xe02b;
/// Data segment for 64-bit code: the null selector.
pub const FLAT_RING3_DS64: u16 = 0;
/// Stack segment for 32-bit code.
pub const FLAT_RING3_SS32: u16 = 0xe02b;
/// Stack segment for 64-bit code.
pub const FLAT_RING3_SS64: u16 = 0xe02b;
/// Code segment of a 64-bit kernel.
pub const FLAT_KERNEL_CS: u16 = FLAT_RING3_CS64;
/// Data segment of a 64-bit kernel.
pub const FLAT_KERNEL_DS: u16 = FLAT_RING3_DS64;
/// Stack segment of a 64-bit kernel.
pub const FLAT_KERNEL_SS: u16 = FLAT_RING3_SS64;
/// Code segment of 64-bit user programs.
pub const FLAT_USER_CS: u16 = FLAT_RING3_CS64;
/// Data segment of 64-bit user programs.
pub const FLAT_USER_DS: u16 = FLAT_RING3_DS64;
/// Stack segment of 64-bit user programs.
pub const FLAT_USER_SS: u16 = FLAT_RING3_SS64;

/// The first page of the descriptor table that a guest may not use.
pub const FIRST_RESERVED_GDT_PAGE: usize = 14;
/// The first byte of the descriptor table that a guest may not use.
pub const FIRST_RESERVED_GDT_BYTE: usize = FIRST_RESERVED_GDT_PAGE * 4096;
/// The first descriptor that a guest may not use.
pub const FIRST_RESERVED_GDT_ENTRY: usize = FIRST_RESERVED_GDT_BYTE / 8;

/// Where the hypervisor's part of every address space begins.
pub const HYPERVISOR_VIRT_START: u64 = 0xffff_8000_0000_0000;
/// One past the hypervisor's part of every address space.
pub const HYPERVISOR_VIRT_END: u64 = 0xffff_8800_0000_0000;
/// Where guests read the machine-to-physical table.
pub const MACH2PHYS_VIRT_START: u64 = 0xffff_8000_0000_0000;
/// One past the machine-to-physical table's range.
pub const MACH2PHYS_VIRT_END: u64 = 0xffff_8040_0000_0000;
/// Entries that fit in the machine-to-physical table's range.
pub const MACH2PHYS_NR_ENTRIES: u64 = (MACH2PHYS_VIRT_END - MACH2PHYS_VIRT_START) / 8;

/// `set_segment_base`: the base of `fs`.
pub const SEGBASE_FS: u32 = 0;
/// `set_segment_base`: the base of `gs` in user mode.
pub const SEGBASE_GS_USER: u32 = 1;
/// `set_segment_base`: the base of `gs` in kernel mode.
pub const SEGBASE_GS_KERNEL: u32 = 2;
/// `set_segment_base`: the user-mode `gs` selector.
pub const SEGBASE_GS_USER_SEL: u32 = 3;

/// In [`TrapInfo::flags`]: the lowest privilege (highest ring) that may raise the trap by an instruction.
pub const TI_DPL_MASK: u8 = 3;
/// In [`TrapInfo::flags`]: events are masked on entry.
pub const TI_MASK_EVENTS: u8 = 4;

/// In [`VcpuGuestContext::flags`]: the floating-point state is valid.
pub const VGCF_I387_VALID: u64 = 1 << 0;
/// In [`VcpuGuestContext::flags`]: the virtual CPU starts in kernel mode.
pub const VGCF_IN_KERNEL: u64 = 1 << 2;
/// In [`VcpuGuestContext::flags`]: the failsafe callback masks events.
pub const VGCF_FAILSAFE_DISABLES_EVENTS: u64 = 1 << 3;
/// In [`VcpuGuestContext::flags`]: the syscall callback masks events.
pub const VGCF_SYSCALL_DISABLES_EVENTS: u64 = 1 << 4;
/// In [`VcpuGuestContext::flags`]: the virtual CPU is online.
pub const VGCF_ONLINE: u64 = 1 << 5;
/// In [`IretContext::flags`]: return as `sysret` would: `rcx` and `r11` are not to be restored.
pub const VGCF_IN_SYSCALL: u64 = 1 << 8;

/// Bytes that precede an instruction the hypervisor is asked to emulate: `ud2` and the letters `xen`.
pub const XEN_EMULATE_PREFIX: [u8; 5] = [0x0f, 0x0b, 0x78, 0x65, 0x6e];

/// The first of the hypervisor's CPUID leaves; others may sit 0x100 apart above it.
pub const XEN_CPUID_FIRST_LEAF: u32 = 0x4000_0000;
/// Signature of the first leaf in `ebx`.
pub const XEN_CPUID_SIGNATURE_EBX: u32 = 0x566e_6558;
/// Signature of the first leaf in `ecx`.
pub const XEN_CPUID_SIGNATURE_ECX: u32 = 0x6558_4d4d;
/// Signature of the first leaf in `edx`.
pub const XEN_CPUID_SIGNATURE_EDX: u32 = 0x4d4d_566e;
/// Third leaf, `ecx`: [`crate::xen::MMU_PT_UPDATE_PRESERVE_AD`] works.
pub const XEN_CPUID_FEAT1_MMU_PT_UPDATE_PRESERVE_AD: u32 = 1 << 0;
/// Fifth leaf, `eax`: APIC accesses are virtualised.
pub const XEN_HVM_CPUID_APIC_ACCESS_VIRT: u32 = 1 << 0;
/// Fifth leaf, `eax`: x2APIC accesses are virtualised.
pub const XEN_HVM_CPUID_X2APIC_VIRT: u32 = 1 << 1;
/// Fifth leaf, `eax`: mapped foreign frames are in the IOMMU too.
pub const XEN_HVM_CPUID_IOMMU_MAPPINGS: u32 = 1 << 2;
/// Fifth leaf, `eax`: `ebx` holds the virtual CPU's number.
pub const XEN_HVM_CPUID_VCPU_ID_PRESENT: u32 = 1 << 3;
/// Fifth leaf, `eax`: `ecx` holds the domain's number.
pub const XEN_HVM_CPUID_DOMID_PRESENT: u32 = 1 << 4;
/// Fifth leaf, `eax`: interrupt destinations have 15 bits.
pub const XEN_HVM_CPUID_EXT_DEST_ID: u32 = 1 << 5;
/// Fifth leaf, `eax`: event vectors can be set per virtual CPU.
pub const XEN_HVM_CPUID_UPCALL_VECTOR: u32 = 1 << 6;
/// Sixth leaf, `ebx`: how many bits machine addresses have.
pub const XEN_CPUID_MACHINE_ADDRESS_WIDTH_MASK: u32 = 0xff;
/// How far the leaves go: the sixth is the last.
pub const XEN_CPUID_MAX_NUM_LEAVES: u32 = 5;
/// In [`XenCpuidLeaf::subleaf`]: the leaf has no sub-leaves.
pub const XEN_CPUID_NO_SUBLEAF: u32 = 0xffff_ffff;

/// A domain accepts writes to model-specific registers it does not have.
pub const XEN_X86_MSR_RELAXED: u32 = 1 << 0;

layout! {
    /// One trap handler (`trap_info`); a list of them ends with address 0.
    pub struct TrapInfo [16] {
        /// The exception's number.
        0 => vector: u8,
        /// [`TI_DPL_MASK`] and [`TI_MASK_EVENTS`].
        1 => flags: u8,
        /// Code selector of the handler.
        2 => cs: u16,
        /// Padding.
        4 => _pad: u32,
        /// Address of the handler.
        8 => address: u64,
    }

    /// What `iret` finds on the kernel stack, from the stack pointer upwards (`iret_context`).
    pub struct IretContext [72] {
        /// `rax` to restore.
        0 => rax: u64,
        /// `r11` to restore, unless [`VGCF_IN_SYSCALL`].
        8 => r11: u64,
        /// `rcx` to restore, unless [`VGCF_IN_SYSCALL`].
        16 => rcx: u64,
        /// [`VGCF_IN_SYSCALL`] or 0.
        24 => flags: u64,
        /// Where to go on.
        32 => rip: u64,
        /// Code selector.
        40 => cs: u64,
        /// Flags register; its interrupt flag becomes the event mask.
        48 => rflags: u64,
        /// Stack pointer.
        56 => rsp: u64,
        /// Stack selector.
        64 => ss: u64,
    }

    /// The registers of a guest (`cpu_user_regs`).
    pub struct CpuUserRegs [200] {
        /// `r15`.
        0 => r15: u64,
        /// `r14`.
        8 => r14: u64,
        /// `r13`.
        16 => r13: u64,
        /// `r12`.
        24 => r12: u64,
        /// `rbp`.
        32 => rbp: u64,
        /// `rbx`.
        40 => rbx: u64,
        /// `r11`.
        48 => r11: u64,
        /// `r10`.
        56 => r10: u64,
        /// `r9`.
        64 => r9: u64,
        /// `r8`.
        72 => r8: u64,
        /// `rax`.
        80 => rax: u64,
        /// `rcx`.
        88 => rcx: u64,
        /// `rdx`.
        96 => rdx: u64,
        /// `rsi`.
        104 => rsi: u64,
        /// `rdi`.
        112 => rdi: u64,
        /// Of the trap; private to the hypervisor.
        120 => error_code: u32,
        /// Of the trap; private to the hypervisor.
        124 => entry_vector: u32,
        /// `rip`.
        128 => rip: u64,
        /// `cs`.
        136 => cs: u16,
        /// Padding.
        138 => _pad0: u16,
        /// The event mask at the time of the trap.
        140 => saved_upcall_mask: u8,
        /// Padding.
        141 => _pad1: [u8; 3],
        /// Flags register; its interrupt flag is the inverse of the event mask.
        144 => rflags: u64,
        /// `rsp`.
        152 => rsp: u64,
        /// `ss`.
        160 => ss: u16,
        /// Padding.
        162 => _pad2: [u16; 3],
        /// `es`.
        168 => es: u16,
        /// Padding.
        170 => _pad3: [u16; 3],
        /// `ds`.
        176 => ds: u16,
        /// Padding.
        178 => _pad4: [u16; 3],
        /// `fs`, the selector; its base is in [`VcpuGuestContext`].
        184 => fs: u16,
        /// Padding.
        186 => _pad5: [u16; 3],
        /// `gs`, the selector; its bases are in [`VcpuGuestContext`].
        192 => gs: u16,
        /// Padding.
        194 => _pad6: [u16; 3],
    }

    /// Everything a virtual CPU starts with, or stopped with (`vcpu_guest_context`).
    pub struct VcpuGuestContext [5168] {
        /// Floating-point state in the form of `fxsave`.
        0 => fpu_ctxt: [u8; 512],
        /// `VGCF_*`.
        512 => flags: u64,
        /// Registers.
        520 => user_regs: CpuUserRegs,
        /// Trap handlers, one a vector.
        720 => trap_ctxt: [TrapInfo; 256],
        /// Linear address of the local descriptor table.
        4816 => ldt_base: u64,
        /// Descriptors in the local descriptor table.
        4824 => ldt_ents: u64,
        /// Machine frames of the global descriptor table.
        4832 => gdt_frames: [u64; 16],
        /// Descriptors in the global descriptor table.
        4960 => gdt_ents: u64,
        /// Stack selector on entry to the kernel.
        4968 => kernel_ss: u64,
        /// Stack pointer on entry to the kernel.
        4976 => kernel_sp: u64,
        /// Control registers: `cr3` at 3 and the user-mode page table, likewise, at 1.
        4984 => ctrlreg: [u64; 8],
        /// Debug registers.
        5048 => debugreg: [u64; 8],
        /// Entry point for events.
        5112 => event_callback_eip: u64,
        /// Entry point for failed returns to the guest.
        5120 => failsafe_callback_eip: u64,
        /// Entry point for `syscall`.
        5128 => syscall_callback_eip: u64,
        /// `VMASST_TYPE_*`, one bit each.
        5136 => vm_assist: u64,
        /// Base of `fs`.
        5144 => fs_base: u64,
        /// Base of `gs` in kernel mode.
        5152 => gs_base_kernel: u64,
        /// Base of `gs` in user mode.
        5160 => gs_base_user: u64,
    }

    /// The x86 part of creating a domain (`xen_arch_domainconfig`).
    pub struct ArchDomainconfig [8] {
        /// Devices to emulate; 0 for paravirtual domains.
        0 => emulation_flags: u32,
        /// [`XEN_X86_MSR_RELAXED`].
        4 => misc_flags: u32,
    }

    /// One CPUID answer (`xen_cpuid_leaf`).
    pub struct XenCpuidLeaf [24] {
        /// The leaf asked for, in `eax`.
        0 => leaf: u32,
        /// The sub-leaf asked for, in `ecx`; [`XEN_CPUID_NO_SUBLEAF`] if there are none.
        4 => subleaf: u32,
        /// Answer in `eax`.
        8 => a: u32,
        /// Answer in `ebx`.
        12 => b: u32,
        /// Answer in `ecx`.
        16 => c: u32,
        /// Answer in `edx`.
        20 => d: u32,
    }

    /// One model-specific register and its value (`xen_msr_entry`).
    pub struct XenMsrEntry [16] {
        /// The register.
        0 => idx: u32,
        /// Zero.
        4 => flags: u32,
        /// Its value.
        8 => val: u64,
    }
}

/// The `cr3` value that names a page directory, as [`VcpuGuestContext::ctrlreg`] holds it.
pub const fn xen_pfn_to_cr3(frame: u64) -> u64 {
    frame << 12
}

/// The page directory that a `cr3` value names.
pub const fn xen_cr3_to_pfn(cr3: u64) -> u64 {
    cr3 >> 12
}
