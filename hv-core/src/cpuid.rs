//! What CPUID tells a guest that asks the hypervisor.
//!
//! A paravirtual kernel executes CPUID behind Xen's forced-emulation prefix. It sees the machine's CPU less what
//! the hypervisor keeps for itself or does not switch between vCPUs, and Xen's own leaves from 0x4000_0000 on.

use crate::arch;
use hypercall_abi::arch_x86::{
    XEN_CPUID_FEAT1_MMU_PT_UPDATE_PRESERVE_AD, XEN_CPUID_FIRST_LEAF, XEN_CPUID_SIGNATURE_EBX,
    XEN_CPUID_SIGNATURE_ECX, XEN_CPUID_SIGNATURE_EDX,
};

/// A leaf's four registers: eax, ebx, ecx, edx.
pub type Leaf = [u32; 4];

/// Leaf 1, ecx: MONITOR, DTES64, DS-CPL, VMX, SMX, EIST, TM2, PDCM, PCID, x2APIC, TSC-deadline, XSAVE, OSXSAVE,
/// AVX, F16C and FMA are hidden (no extended state is switched yet); the last bit says "hypervisor present".
const LEAF1_ECX_HIDDEN: u32 = 1 << 2
    | 1 << 3
    | 1 << 4
    | 1 << 5
    | 1 << 6
    | 1 << 7
    | 1 << 8
    | 1 << 12
    | 1 << 15
    | 1 << 17
    | 1 << 21
    | 1 << 24
    | 1 << 26
    | 1 << 27
    | 1 << 28
    | 1 << 29;
const LEAF1_ECX_HYPERVISOR: u32 = 1 << 31;
/// Leaf 1, edx: VME, DE, PSE, MCE, MTRR, PGE, MCA, PSE-36, DS, ACPI, TM.
const LEAF1_EDX_HIDDEN: u32 =
    1 << 1 | 1 << 2 | 1 << 3 | 1 << 7 | 1 << 12 | 1 << 13 | 1 << 14 | 1 << 17 | 1 << 21 | 1 << 22 | 1 << 29;
/// Leaf 7, ebx, kept: BMI1, BMI2, ERMS, ADX, RDSEED, CLFLUSHOPT, CLWB, SHA; everything else needs support.
const LEAF7_EBX_KEPT: u32 = 1 << 3 | 1 << 8 | 1 << 9 | 1 << 18 | 1 << 19 | 1 << 23 | 1 << 24 | 1 << 29;
/// Leaf 0x8000_0001, ecx, kept: LAHF, ABM, SSE4A, MISALIGNSSE, 3DNOWPREFETCH.
const EXTENDED1_ECX_KEPT: u32 = 1 << 0 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 8;
/// Leaf 0x8000_0001, edx: PSE, PGE, MTRR, PSE-36, MCE, 1 GiB pages and RDTSCP are hidden.
const EXTENDED1_EDX_HIDDEN: u32 = 1 << 3 | 1 << 7 | 1 << 12 | 1 << 13 | 1 << 14 | 1 << 17 | 1 << 26 | 1 << 27;

/// The last of Xen's leaves that is filled in.
const LAST_XEN_LEAF: u32 = XEN_CPUID_FIRST_LEAF + 2;

/// What a guest sees at `leaf` and `subleaf`.
pub fn guest_view(leaf: u32, subleaf: u32) -> Leaf {
    match leaf {
        XEN_CPUID_FIRST_LEAF..=LAST_XEN_LEAF => xen_leaf(leaf - XEN_CPUID_FIRST_LEAF),
        0x4000_0003..=0x4fff_ffff => [0; 4],
        _ => visible(leaf, subleaf, arch::cpuid(leaf, subleaf)),
    }
}

fn xen_leaf(index: u32) -> Leaf {
    match index {
        0 => [LAST_XEN_LEAF, XEN_CPUID_SIGNATURE_EBX, XEN_CPUID_SIGNATURE_ECX, XEN_CPUID_SIGNATURE_EDX],
        1 => [crate::version::ABI_VERSION, 0, 0, 0],
        _ => [1, 0, XEN_CPUID_FEAT1_MMU_PT_UPDATE_PRESERVE_AD, 0],
    }
}

/// The machine's leaf less what a guest must not rely on.
fn visible(leaf: u32, subleaf: u32, [eax, ebx, ecx, edx]: Leaf) -> Leaf {
    match leaf {
        1 => {
            [eax, ebx & 0x0000_ffff, ecx & !LEAF1_ECX_HIDDEN | LEAF1_ECX_HYPERVISOR, edx & !LEAF1_EDX_HIDDEN]
        }
        5 | 0xa | 0xb | 0xd | 0xf | 0x10 | 0x14 | 0x1f => [0; 4],
        7 if subleaf == 0 => [0, ebx & LEAF7_EBX_KEPT, 0, 0],
        7 => [0; 4],
        0x8000_0001 => [eax, ebx, ecx & EXTENDED1_ECX_KEPT, edx & !EXTENDED1_EDX_HIDDEN],
        0x8000_000a | 0x8000_001b.. => [0; 4],
        _ => [eax, ebx, ecx, edx],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signature_is_xens() {
        let [_, ebx, ecx, edx] = xen_leaf(0);
        let name: std::vec::Vec<u8> = [ebx, ecx, edx].iter().flat_map(|word| word.to_le_bytes()).collect();
        assert_eq!(name, b"XenVMMXenVMM");
    }

    #[test]
    fn hides_what_is_not_switched_between_vcpus() {
        let [_, _, ecx, edx] = visible(1, 0, [!0; 4]);
        assert_eq!(ecx & (1 << 26 | 1 << 27 | 1 << 28), 0, "XSAVE, OSXSAVE, AVX");
        assert_ne!(ecx & LEAF1_ECX_HYPERVISOR, 0);
        assert_eq!(edx & (1 << 13 | 1 << 3), 0, "global and large pages");
        assert_eq!(visible(7, 0, [!0; 4])[1] & (1 << 0 | 1 << 7 | 1 << 20), 0, "FSGSBASE, SMEP, SMAP");
    }
}
