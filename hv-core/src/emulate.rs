//! Instructions that a guest's kernel executes although ring 3 may not.
//!
//! Port access, model-specific registers, and control, debug and time stamp registers: the CPU refuses them with #GP, and the
//! hypervisor does what they would do to the vCPU, where it is allowed. CPUID is not privileged at all, so a guest that
//! wants the hypervisor's view marks it with Xen's forced-emulation prefix. Writes to page tables fault, because those are
//! read-only, and are done here too. Anything else is the guest's own fault.
//!
//! The instruction is read once from guest memory into a private copy. Another vCPU may rewrite the original at any
//! time; what is decoded is what is executed.

mod control;
mod decode;
mod msr;
mod port;
mod store;
mod table_write;

pub use store::RecentStores;
pub use table_write::emulate as table_write;

use crate::{
    arch::clock,
    cpuid, guest_access, guest_control,
    hypercall::{Arguments, Caller},
};
use decode::Instruction;
use hypercall_abi::arch_x86::{CpuUserRegs, XEN_EMULATE_PREFIX};

/// CPUID after the forced-emulation prefix.
const FORCED_CPUID: [u8; 7] = {
    let prefix = XEN_EMULATE_PREFIX;
    [prefix[0], prefix[1], prefix[2], prefix[3], prefix[4], 0x0f, 0xa2]
};

/// Emulates an instruction behind the forced-emulation prefix; false if it is none.
pub fn forced(caller: &mut Caller<'_>) -> bool {
    let mut code = [0; FORCED_CPUID.len()];
    let context = &mut *caller.context;
    if guest_access::read_bytes(context.registers.rip, &mut code).is_err() || code != FORCED_CPUID {
        return false;
    }
    let leaf = cpuid::guest_view(context, context.registers.rax as u32, context.registers.rcx as u32);
    let registers = &mut context.registers;
    [registers.rax, registers.rbx, registers.rcx, registers.rdx] = leaf.map(u64::from);
    registers.rip = registers.rip.wrapping_add(code.len() as u64);
    true
}

/// A code selector of the local table: its segment may begin anywhere, so the instruction is not where `rip` says.
const IN_LOCAL_TABLE: u16 = 1 << 2;

/// Emulates a privileged instruction of a guest's kernel, or a port access of its user mode; false if it is none of
/// these, or not allowed.
pub fn privileged(caller: &mut Caller<'_>) -> bool {
    if caller.context.registers.cs & IN_LOCAL_TABLE != 0 {
        return false;
    }
    let rip = caller.context.registers.rip;
    let Some((instruction, length)) = fetch(rip) else { return false };
    let done = match instruction {
        Instruction::Port(access) => port::access(caller, access),
        _ if !caller.context.in_kernel => false,
        // Events are masked in shared memory, not by the flag: with I/O privilege it changes nothing, without it faults.
        Instruction::InterruptFlag => caller.context.io_privilege_level > 0,
        Instruction::ReadMsr => msr::read(caller),
        Instruction::WriteMsr => msr::write(caller),
        Instruction::SetExtendedControl => control::write_components(caller),
        Instruction::ReadTimeStamp { with_auxiliary } => read_time_stamp(caller, with_auxiliary),
        Instruction::ClearTaskSwitched => clear_task_switched(caller),
        Instruction::FlushCaches => true,
        Instruction::Move { is_debug, is_write, special, general } => {
            control::access(caller, (is_debug, is_write), special, general)
        }
    };
    if done {
        caller.context.registers.rip = rip.wrapping_add(length as u64);
    }
    done
}

/// Reads and decodes the instruction at `rip`, which may end at the end of a mapping.
fn fetch(rip: u64) -> Option<(Instruction, usize)> {
    let mut code = [0; decode::LONGEST];
    let readable = |length: &usize| guest_access::read_bytes(rip, &mut code[..*length]).is_ok();
    let length = (1..=decode::LONGEST).rev().find(readable)?;
    decode::decode(&code[..length])
}

/// A kernel that keeps the time stamp from its user mode can read it all the same.
fn read_time_stamp(caller: &mut Caller<'_>, with_auxiliary: bool) -> bool {
    let ticks = clock::ticks();
    let auxiliary = u64::from(caller.context.own.auxiliary());
    let registers = &mut caller.context.registers;
    (registers.rax, registers.rdx) = (ticks & 0xffff_ffff, ticks >> 32);
    if with_auxiliary {
        registers.rcx = auxiliary;
    }
    true
}

fn clear_task_switched(caller: &mut Caller<'_>) -> bool {
    let arguments: Arguments = [0; 6];
    guest_control::fpu_taskswitch(caller, &arguments).is_ok()
}

/// The general register of a number, in encoding order, behind `&` or `&mut`.
macro_rules! general {
    ([$($reference:tt)+], $registers:expr, $number:expr) => {
        Some(match $number {
            0 => $($reference)+ $registers.rax,
            1 => $($reference)+ $registers.rcx,
            2 => $($reference)+ $registers.rdx,
            3 => $($reference)+ $registers.rbx,
            4 => $($reference)+ $registers.rsp,
            5 => $($reference)+ $registers.rbp,
            6 => $($reference)+ $registers.rsi,
            7 => $($reference)+ $registers.rdi,
            8 => $($reference)+ $registers.r8,
            9 => $($reference)+ $registers.r9,
            10 => $($reference)+ $registers.r10,
            11 => $($reference)+ $registers.r11,
            12 => $($reference)+ $registers.r12,
            13 => $($reference)+ $registers.r13,
            14 => $($reference)+ $registers.r14,
            15 => $($reference)+ $registers.r15,
            _ => return None,
        })
    };
}

/// The general register of this number, to be changed.
fn general_register(registers: &mut CpuUserRegs, number: u8) -> Option<&mut u64> {
    general!([&mut], registers, number)
}

/// What is in the general register of this number.
fn general_value(registers: &CpuUserRegs, number: u8) -> Option<u64> {
    general!([&], registers, number).copied()
}
