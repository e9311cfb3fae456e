//! RDMSR and WRMSR: the few registers that a paravirtual kernel has a use for.
//!
//! Segment bases and TSC_AUX are the vCPU's own. The time stamp counter can be read, as without this instruction. EFER and the page attribute table can be read, because kernels look at them to know
//! what they may use. Every other register does not exist as far as a guest can tell: #GP, which kernels expect.

use crate::{
    arch::{self, clock},
    cpuid,
    hypercall::Caller,
    layout::is_canonical,
};

const EFER: u32 = 0xc000_0080;
const TIME_STAMP: u32 = 0x10;
/// Which update of its microcode the CPU has: to a guest, none. Intel's are asked for it by a write of zero first.
const MICROCODE_REVISION: u32 = 0x8b;
const PAGE_ATTRIBUTES: u32 = 0x277;
const FS_BASE: u32 = 0xc000_0100;
const GS_BASE: u32 = 0xc000_0101;
const SHADOW_GS_BASE: u32 = 0xc000_0102;
const TIME_STAMP_AUXILIARY: u32 = 0xc000_0103;

/// SYSCALL, long mode enabled and active, no-execute.
const EFER_VALUE: u64 = 1 << 0 | 1 << 8 | 1 << 10 | 1 << 11;
/// The page attribute table after reset, which is the one in force.
const PAGE_ATTRIBUTES_VALUE: u64 = 0x0007_0406_0007_0406;

/// RDMSR; false for a register that is not there.
pub fn read(caller: &mut Caller<'_>) -> bool {
    arch::store_segment_bases(caller.context);
    let context = &mut *caller.context;
    let value = match context.registers.rcx as u32 {
        FS_BASE => context.fs_base,
        GS_BASE => context.gs_base_kernel,
        SHADOW_GS_BASE => context.gs_base_user,
        TIME_STAMP_AUXILIARY => u64::from(context.own.auxiliary()),
        TIME_STAMP => clock::ticks(),
        MICROCODE_REVISION => 0,
        EFER => EFER_VALUE,
        PAGE_ATTRIBUTES => PAGE_ATTRIBUTES_VALUE,
        _ => return false,
    };
    context.registers.rax = value & 0xffff_ffff;
    context.registers.rdx = value >> 32;
    true
}

/// WRMSR; false for a register that is not there, or a value that it cannot have.
pub fn write(caller: &mut Caller<'_>) -> bool {
    arch::store_segment_bases(caller.context);
    let context = &mut *caller.context;
    let value = context.registers.rax & 0xffff_ffff | context.registers.rdx << 32;
    let base = match context.registers.rcx as u32 {
        FS_BASE => &mut context.fs_base,
        GS_BASE => &mut context.gs_base_kernel,
        SHADOW_GS_BASE => &mut context.gs_base_user,
        TIME_STAMP_AUXILIARY => return write_auxiliary(caller, value),
        MICROCODE_REVISION => return value == 0,
        EFER => return value == EFER_VALUE,
        PAGE_ATTRIBUTES => return value == PAGE_ATTRIBUTES_VALUE,
        _ => return false,
    };
    if !is_canonical(value) {
        return false;
    }
    *base = value;
    arch::load_segment_bases(context);
    true
}

fn write_auxiliary(caller: &mut Caller<'_>, value: u64) -> bool {
    let Ok(value) = u32::try_from(value) else { return false };
    if !cpuid::has_time_stamp_auxiliary(arch::cpuid) {
        return false;
    }
    caller.context.own.set_auxiliary(value);
    arch::load_own_registers(caller.context);
    true
}
