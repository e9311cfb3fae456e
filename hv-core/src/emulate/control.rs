//! MOV from and to control and debug registers, as a paravirtual kernel sees them.
//!
//! It sees a CPU in long mode with paging on. Of what it writes CR0.TS, CR2, some of CR4 and the debug registers have an
//! effect; page tables are changed by hypercall. XCR0, which has an instruction of its own, is here too.

use super::general_register;
use crate::{
    arch, guest_control,
    hypercall::{Arguments, Caller},
};
use core::sync::atomic::Ordering;
use hypercall_abi::arch_x86::xen_pfn_to_cr3;

/// Paging, write protection, numeric error, extension type, monitor coprocessor, protection.
const CR0: u64 = 1 << 31 | 1 << 16 | 1 << 5 | 1 << 4 | 1 << 1 | 1 << 0;
const CR0_TASK_SWITCHED: u64 = 1 << 3;
/// Does the move; false if it is not allowed.
pub fn access(caller: &mut Caller<'_>, (is_debug, is_write): (bool, bool), special: u8, general: u8) -> bool {
    if is_write {
        let Some(value) = general_register(&mut caller.context.registers, general).map(|register| *register)
        else {
            return false;
        };
        return if is_debug {
            write_debug(caller, special, value)
        } else {
            write_control(caller, special, value)
        };
    }
    let value = if is_debug { read_debug(caller, special) } else { read_control(caller, special) };
    match (value, general_register(&mut caller.context.registers, general)) {
        (Some(value), Some(register)) => {
            *register = value;
            true
        }
        _ => false,
    }
}

fn read_control(caller: &Caller<'_>, register: u8) -> Option<u64> {
    let context = &*caller.context;
    match register {
        0 => Some(CR0 | if context.task_switched { CR0_TASK_SWITCHED } else { 0 }),
        2 => Some(caller.vcpu.info().map_or(0, |info| info.fault_address().load(Ordering::Relaxed))),
        3 => Some(context.kernel_page_table.map_or(0, |frame| xen_pfn_to_cr3(frame.0))),
        4 => Some(context.own.control4()),
        _ => None,
    }
}

fn write_control(caller: &mut Caller<'_>, register: u8, value: u64) -> bool {
    match register {
        0 if value & !CR0_TASK_SWITCHED == CR0 => {
            let arguments: Arguments = [u64::from(value & CR0_TASK_SWITCHED != 0), 0, 0, 0, 0, 0];
            guest_control::fpu_taskswitch(caller, &arguments).is_ok()
        }
        2 => {
            if let Some(info) = caller.vcpu.info() {
                info.fault_address().store(value, Ordering::Relaxed);
            }
            true
        }
        4 => {
            let is_possible = caller.context.own.set_control4(value, arch::available_control4());
            arch::load_own_registers(caller.context);
            arch::fpu_switch_to(caller.vcpu, caller.context);
            is_possible
        }
        _ => false,
    }
}

/// XSETBV; false for another register than XCR0, or a value that it cannot have.
pub fn write_components(caller: &mut Caller<'_>) -> bool {
    let registers = &caller.context.registers;
    let value = registers.rax & 0xffff_ffff | registers.rdx << 32;
    let is_possible =
        registers.rcx as u32 == 0 && caller.context.own.set_components(value, arch::kept_components());
    arch::load_own_registers(caller.context);
    is_possible
}

fn read_debug(caller: &mut Caller<'_>, register: u8) -> Option<u64> {
    guest_control::get_debugreg(caller, &[u64::from(register), 0, 0, 0, 0, 0]).ok()
}

fn write_debug(caller: &mut Caller<'_>, register: u8, value: u64) -> bool {
    guest_control::set_debugreg(caller, &[u64::from(register), value, 0, 0, 0, 0]).is_ok()
}
