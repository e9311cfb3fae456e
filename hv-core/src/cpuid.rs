//! What CPUID tells a guest that asks the hypervisor.
//!
//! A paravirtual kernel executes CPUID behind Xen's forced-emulation prefix. It sees those features of the machine's CPU
//! that a paravirtual guest can use, and Xen's own leaves from 0x4000_0000 on. The lists below say what it can use, so a
//! feature that nobody has thought of is hidden.

use crate::{
    arch::{self, clock},
    extended_state::{component, size_of_area},
    own_registers::control4,
    vcpu::Context,
};
use hypercall_abi::arch_x86::{
    XEN_CPUID_FEAT1_MMU_PT_UPDATE_PRESERVE_AD, XEN_CPUID_FIRST_LEAF, XEN_CPUID_MACHINE_ADDRESS_WIDTH_MASK,
    XEN_CPUID_MAX_NUM_LEAVES, XEN_CPUID_SIGNATURE_EBX, XEN_CPUID_SIGNATURE_ECX, XEN_CPUID_SIGNATURE_EDX,
};

/// A leaf's four registers: eax, ebx, ecx, edx.
pub type Leaf = [u32; 4];

/// The bits with these numbers.
const fn bits<const N: usize>(numbers: [u32; N]) -> u32 {
    let (mut mask, mut index) = (0, 0);
    while index < N {
        mask |= 1 << numbers[index];
        index += 1;
    }
    mask
}

/// Leaf 1, edx: FPU, DE, TSC, MSR, PAE, CX8, APIC, SEP, CMOV, PAT, CLFLUSH, MMX, FXSR, SSE, SSE2, SS, HTT.
const LEAF1_EDX: u32 = bits([0, 2, 4, 5, 6, 8, 9, 11, 15, 16, 19, 23, 24, 25, 26, 27, 28]);
/// Leaf 1, edx: SYSENTER. AMD's processors have it, but not in 64-bit mode.
const SYSENTER: u32 = 1 << 11;
/// Leaf 0, ebx: the first letters of AMD's name, and of Hygon's, whose processors are of the same family.
const AMD: [u32; 2] = [u32::from_le_bytes(*b"Auth"), u32::from_le_bytes(*b"Hygo")];
/// Leaf 1, ecx: SSE3, PCLMULQDQ, SSSE3, CX16, SSE4.1, SSE4.2, MOVBE, POPCNT, AES, RDRAND.
const LEAF1_ECX: u32 = bits([0, 1, 9, 13, 19, 20, 22, 23, 25, 30]);
/// Leaf 1, ecx: XSAVE, which the guest may turn on, and that it is on.
const XSAVE: u32 = 1 << 26;
const XSAVE_IS_ON: u32 = 1 << 27;
/// Leaf 1, ecx, with AVX: FMA, AVX, F16C.
const LEAF1_ECX_AVX: u32 = bits([12, 28, 29]);
/// Leaf 1, ecx: this is no bare machine.
const HYPERVISOR: u32 = 1 << 31;
/// Leaf 7, ebx: FSGSBASE, BMI1, FDP only on exceptions, BMI2, ERMS, no FPU selectors, RDSEED, ADX, CLFLUSHOPT, CLWB, SHA.
const LEAF7_EBX: u32 = bits([0, 3, 6, 8, 9, 13, 18, 19, 23, 24, 29]);
/// Leaf 7, ebx: AVX2; then what comes with AVX-512: F, DQ, IFMA, PF, ER, CD, BW, VL.
const LEAF7_EBX_AVX: u32 = 1 << 5;
const LEAF7_EBX_AVX512: u32 = bits([16, 17, 21, 26, 27, 28, 30, 31]);
/// Leaf 7, ecx: PREFETCHWT1, GFNI, RDPID, CLDEMOTE.
const LEAF7_ECX: u32 = bits([0, 8, 22, 25]);
/// Leaf 7, ecx: VAES and VPCLMULQDQ; VBMI, VBMI2, VNNI, BITALG, VPOPCNTDQ.
const LEAF7_ECX_AVX: u32 = bits([9, 10]);
const LEAF7_ECX_AVX512: u32 = bits([1, 6, 11, 12, 14]);
/// Leaf 7, edx: fast short REP MOVS, VERW clears buffers, SERIALIZE; 4VNNIW, 4FMAPS.
const LEAF7_EDX: u32 = bits([4, 10, 14]);
const LEAF7_EDX_AVX512: u32 = bits([2, 3]);
/// Leaf 7.1, eax: three kinds of fast REP; AVX-VNNI; BFLOAT16.
const LEAF7_1_EAX: u32 = bits([10, 11, 12]);
const LEAF7_1_EAX_AVX: u32 = 1 << 4;
const LEAF7_1_EAX_AVX512: u32 = 1 << 5;
/// Leaf 0xd.1, eax: XSAVEOPT, XSAVEC, XGETBV of what is in use. XSAVES is for ring 0.
const LEAFD_1_EAX: u32 = bits([0, 1, 2]);
/// Leaf 0x8000_0001, edx: what AMD repeats of leaf 1, SYSCALL, NX, MMXEXT, FFXSR, RDTSCP, LM, both 3DNow.
const EXTENDED1_EDX: u32 = LEAF1_EDX & 0x0183_fbff | bits([11, 20, 22, 25, 27, 29, 30, 31]);
/// Leaf 0x8000_0001, ecx: LAHF, ABM, SSE4A, misaligned SSE, PREFETCH, TBM; XOP and FMA4.
const EXTENDED1_ECX: u32 = bits([0, 5, 6, 7, 8, 21]);
const EXTENDED1_ECX_AVX: u32 = bits([11, 16]);
/// Leaf 0x8000_0007, edx: the TSC never changes its rate.
const EXTENDED7_EDX: u32 = 1 << 8;
/// Leaf 0x8000_0008, ebx: CLZERO, FXRSTOR of error pointers, no store bypass.
const EXTENDED8_EBX: u32 = bits([0, 2, 26]);
/// Leaf 0x8000_0021, eax: LFENCE waits, null selectors clear bases.
const EXTENDED21_EAX: u32 = bits([2, 6]);

/// The last leaves of each range that are filled in.
const LAST_LEAF: u32 = 0xd;
const LAST_EXTENDED_LEAF: u32 = 0x8000_0021;
const LAST_XEN_LEAF: u32 = XEN_CPUID_FIRST_LEAF + XEN_CPUID_MAX_NUM_LEAVES;

/// Xen's fourth leaf: the TSC is as good as a clock; guests read it themselves.
const RELIABLE_TIME_STAMP: u32 = 1 << 1;
const NEVER_EMULATED: u32 = 2;

/// What a guest sees at `leaf` and `subleaf`.
pub fn guest_view(context: &Context, leaf: u32, subleaf: u32) -> Leaf {
    match leaf {
        XEN_CPUID_FIRST_LEAF..=LAST_XEN_LEAF => xen_leaf(leaf - XEN_CPUID_FIRST_LEAF, subleaf),
        0x4000_0006..=0x4fff_ffff => [0; 4],
        _ => {
            let seen =
                visible(leaf, subleaf, arch::cpuid(leaf, subleaf), arch::kept_components(), arch::cpuid);
            if leaf == 1 { with_xsave_state(context, seen) } else { seen }
        }
    }
}

/// Whether XSAVE is on is seen by user mode as its kernel has set it. A kernel is told that it is on wherever it can turn
/// it on: Linux takes that for the sign that the hypervisor lets it.
fn with_xsave_state(context: &Context, [eax, ebx, ecx, edx]: Leaf) -> Leaf {
    let is_on = context.own.control4() & control4::XSAVE != 0 || context.in_kernel;
    let state = if is_on && ecx & XSAVE != 0 { XSAVE_IS_ON } else { 0 };
    [eax, ebx, ecx | state, edx]
}

fn xen_leaf(index: u32, subleaf: u32) -> Leaf {
    match (index, subleaf) {
        (0, _) => [LAST_XEN_LEAF, XEN_CPUID_SIGNATURE_EBX, XEN_CPUID_SIGNATURE_ECX, XEN_CPUID_SIGNATURE_EDX],
        (1, _) => [crate::version::ABI_VERSION, 0, 0, 0],
        (2, _) => [1, 0, XEN_CPUID_FEAT1_MMU_PT_UPDATE_PRESERVE_AD, 0],
        (3, 0) => [RELIABLE_TIME_STAMP, NEVER_EMULATED, kilohertz(), 0],
        (3, 1) => {
            let scale = clock::scale();
            let offset = scale.tsc_at_zero.wrapping_neg();
            [offset as u32, (offset >> 32) as u32, scale.multiplier, scale.shift as u32]
        }
        (3, 2) => [kilohertz(), 0, 0, 0],
        (5, 0) => [0, arch::machine_address_bits() & XEN_CPUID_MACHINE_ADDRESS_WIDTH_MASK, 0, 0],
        _ => [0; 4],
    }
}

fn kilohertz() -> u32 {
    (clock::frequency() / 1000) as u32
}

/// True if the CPU has TSC_AUX, which two instructions read.
pub fn has_time_stamp_auxiliary(cpuid: impl Fn(u32, u32) -> Leaf) -> bool {
    const RDTSCP: u32 = 1 << 27;
    const RDPID: u32 = 1 << 22;
    cpuid(0x8000_0001, 0)[3] & RDTSCP != 0 || cpuid(0, 0)[0] >= 7 && cpuid(7, 0)[2] & RDPID != 0
}

/// The machine's leaf less what a guest cannot use, where the components `kept` of extended state are.
fn visible(
    leaf: u32,
    subleaf: u32,
    [eax, ebx, ecx, edx]: Leaf,
    kept: u64,
    cpuid: impl Fn(u32, u32) -> Leaf,
) -> Leaf {
    let has_avx = kept & component::AVX != 0;
    let has_avx_512 = kept & component::AVX_512 != 0;
    let allow = |always: u32, avx: u32, avx_512: u32| {
        always | if has_avx { avx } else { 0 } | if has_avx_512 { avx_512 } else { 0 }
    };
    match (leaf, subleaf) {
        (0, _) => [eax.min(LAST_LEAF), ebx, ecx, edx],
        (1, _) => {
            let xsave = if kept != 0 { XSAVE } else { 0 };
            let shown = ecx & (allow(LEAF1_ECX, LEAF1_ECX_AVX, 0) | xsave);
            let unusable = if AMD.contains(&cpuid(0, 0)[1]) { SYSENTER } else { 0 };
            [eax, ebx & 0x0000_ffff, shown | HYPERVISOR, edx & LEAF1_EDX & !unusable]
        }
        (2 | 4, _) => [eax, ebx, ecx, edx],
        (7, 0) => [
            eax.min(1),
            ebx & allow(LEAF7_EBX, LEAF7_EBX_AVX, LEAF7_EBX_AVX512),
            ecx & allow(LEAF7_ECX, LEAF7_ECX_AVX, LEAF7_ECX_AVX512),
            edx & allow(LEAF7_EDX, 0, LEAF7_EDX_AVX512),
        ],
        (7, 1) => [eax & allow(LEAF7_1_EAX, LEAF7_1_EAX_AVX, LEAF7_1_EAX_AVX512), 0, 0, 0],
        (0xd, _) => extended_state(subleaf, [eax, ebx, ecx, edx], kept, cpuid),
        (0x8000_0000, _) => [eax.min(LAST_EXTENDED_LEAF), ebx, ecx, edx],
        (0x8000_0001, _) => [eax, ebx, ecx & allow(EXTENDED1_ECX, EXTENDED1_ECX_AVX, 0), edx & EXTENDED1_EDX],
        (0x8000_0002..=0x8000_0006, _) => [eax, ebx, ecx, edx],
        (0x8000_0007, _) => [0, 0, 0, edx & EXTENDED7_EDX],
        (0x8000_0008, _) => [eax, ebx & EXTENDED8_EBX, 0, 0],
        (0x8000_0021, _) => [eax & EXTENDED21_EAX, 0, 0, 0],
        _ => [0; 4],
    }
}

/// Leaf 0xd. Its size of an area as it is now is the CPU's own answer: XCR0 is the guest's while it asks.
fn extended_state(
    subleaf: u32,
    [eax, ebx, ecx, _]: Leaf,
    kept: u64,
    cpuid: impl Fn(u32, u32) -> Leaf,
) -> Leaf {
    match subleaf {
        _ if kept == 0 => [0; 4],
        0 => {
            let size = size_of_area(kept, |number| cpuid(0xd, number));
            [kept as u32, ebx, size, (kept >> 32) as u32]
        }
        1 => [eax & LEAFD_1_EAX, ebx, 0, 0],
        2..64 if kept >> subleaf & 1 != 0 => [eax, ebx, ecx & 2, 0],
        _ => [0; 4],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::extended_state::kept;

    /// A leaf of a CPU that has everything.
    fn seen(leaf: u32, subleaf: u32, kept: u64) -> Leaf {
        visible(leaf, subleaf, [!0; 4], kept, |_, number| [64, 64 * number, 0, 0])
    }

    const ALL: u64 = kept(!0);
    const SSE_ONLY: u64 = component::X87 | component::SSE;

    #[test]
    fn signature_is_xens() {
        let [_, ebx, ecx, edx] = xen_leaf(0, 0);
        let name: std::vec::Vec<u8> = [ebx, ecx, edx].iter().flat_map(|word| word.to_le_bytes()).collect();
        assert_eq!(name, b"XenVMMXenVMM");
    }

    #[test]
    fn hides_what_is_for_ring_0_and_what_is_not_kept() {
        let [_, _, ecx, edx] = seen(1, 0, ALL);
        assert_eq!(
            ecx & bits([3, 5, 17, 21, 24, 27]),
            0,
            "MONITOR, VMX, PCID, x2APIC, TSC-deadline, OSXSAVE"
        );
        assert_ne!(ecx & HYPERVISOR, 0);
        assert_eq!(edx & bits([3, 7, 12, 13, 14, 17]), 0, "large and global pages, machine checks, MTRRs");
        let [_, ebx, ecx, edx] = seen(7, 0, ALL);
        assert_eq!(ebx & bits([4, 7, 10, 11, 14, 20]), 0, "HLE, SMEP, INVPCID, RTM, MPX, SMAP");
        assert_eq!(ecx & bits([2, 3, 4, 7, 16]), 0, "UMIP, PKU, OSPKE, shadow stacks, LA57");
        assert_eq!(edx & bits([20, 22, 24, 25, 26, 27, 29, 31]), 0, "CET, AMX, speculation control");
        assert_eq!(seen(0xd, 1, ALL)[0] & 1 << 3, 0, "XSAVES");
        for leaf in [3, 5, 6, 0xa, 0xb, 0xe, 0x14, 0x8000_000a, 0x8000_001f, 0x8000_0022] {
            assert_eq!(seen(leaf, 0, ALL), [0; 4], "{leaf:#x}");
        }
    }

    #[test]
    fn shows_sysenter_where_it_works_in_64_bit_mode() {
        let seen = |maker: &[u8; 4]| {
            visible(1, 0, [!0; 4], 0, |_, _| [0, u32::from_le_bytes(*maker), 0, 0])[3] & SYSENTER
        };
        assert_eq!((seen(b"Genu"), seen(b"Auth"), seen(b"Hygo")), (SYSENTER, 0, 0));
    }

    #[test]
    fn shows_avx_only_where_its_registers_are_kept() {
        assert_eq!(seen(1, 0, ALL)[2] & LEAF1_ECX_AVX, LEAF1_ECX_AVX);
        assert_eq!(seen(1, 0, SSE_ONLY)[2] & (LEAF1_ECX_AVX | XSAVE), XSAVE);
        assert_eq!(seen(1, 0, 0)[2] & (LEAF1_ECX_AVX | XSAVE), 0);
        assert_eq!(seen(7, 0, SSE_ONLY)[1] & (LEAF7_EBX_AVX | LEAF7_EBX_AVX512), 0);
        assert_eq!(seen(7, 0, SSE_ONLY | component::AVX)[1] & LEAF7_EBX_AVX512, 0);
        assert_eq!(seen(7, 0, ALL)[1] & LEAF7_EBX_AVX512, LEAF7_EBX_AVX512);
    }

    #[test]
    fn the_leaf_of_extended_state_names_what_is_kept() {
        assert_eq!(seen(0xd, 0, SSE_ONLY | component::AVX)[..3], [7, !0, 576]);
        assert_eq!(seen(0xd, 0, ALL)[..3], [0xe7, !0, 576]);
        assert_eq!(seen(0xd, 2, SSE_ONLY), [0; 4]);
        assert_eq!(seen(0xd, 2, ALL), [!0, !0, 2, 0]);
        assert_eq!(seen(0xd, 9, ALL), [0; 4], "protection keys");
        assert_eq!(seen(0xd, 0, 0), [0; 4]);
    }
}
