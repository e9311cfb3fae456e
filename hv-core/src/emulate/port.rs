//! IN and OUT: done for a domain that has the right to the port.

use super::decode::PortAccess;
use crate::{hypercall::Caller, pci_config};
use hypercall_abi::arch_x86::CpuUserRegs;

/// Does the access. Without the right to the port, a kernel that has asked for I/O privilege (as those do that probe
/// for devices) finds nobody there; any other is refused.
pub fn access(caller: &mut Caller<'_>, access: PortAccess) -> bool {
    let registers = &mut caller.context.registers;
    let port = access.immediate.map_or(registers.rdx as u16, u16::from);
    let is_real = caller.domain.io_rights.allows_ports(port, access.width);
    if !is_real && caller.context.io_privilege_level == 0 {
        return false;
    }
    if access.is_input {
        let value = if is_real { pci_config::read_port(port, access.width) } else { NOBODY };
        merge_input(registers, value, access.width);
    } else if is_real {
        pci_config::write_port(port, access.width, registers.rax as u32);
    }
    true
}

/// What a port reads as when no device answers.
const NOBODY: u32 = u32::MAX;

/// AL, AX or EAX takes the value; writing EAX clears the upper half, as the CPU does.
fn merge_input(registers: &mut CpuUserRegs, value: u32, width: u8) {
    registers.rax = match width {
        1 => registers.rax & !0xff | u64::from(value as u8),
        2 => registers.rax & !0xffff | u64::from(value as u16),
        _ => u64::from(value),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn input_replaces_only_the_bytes_it_names() {
        let mut registers: CpuUserRegs = zerocopy::FromZeros::new_zeroed();
        registers.rax = 0x1122_3344_5566_7788;
        merge_input(&mut registers, 0xaabb_ccdd, 1);
        assert_eq!(registers.rax, 0x1122_3344_5566_77dd);
        merge_input(&mut registers, 0xaabb_ccdd, 2);
        assert_eq!(registers.rax, 0x1122_3344_5566_ccdd);
        merge_input(&mut registers, 0xaabb_ccdd, 4);
        assert_eq!(registers.rax, 0xaabb_ccdd);
    }
}
