//! RDMSR and WRMSR: the few registers that a paravirtual kernel has a use for.
//!
//! Segment bases are the vCPU's own. EFER and the page attribute table can be read, because kernels look at them to know
//! what they may use. Every other register does not exist as far as a guest can tell: #GP, which kernels expect.

use crate::{arch, hypercall::Caller, layout::is_canonical};

const EFER: u32 = 0xc000_0080;
const PAGE_ATTRIBUTES: u32 = 0x277;
const FS_BASE: u32 = 0xc000_0100;
const GS_BASE: u32 = 0xc000_0101;
const SHADOW_GS_BASE: u32 = 0xc000_0102;

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
