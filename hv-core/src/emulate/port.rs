//! IN and OUT: done for a domain that has the right to the port.

use super::decode::PortAccess;
use crate::{
    guest_access,
    hypercall::Caller,
    pci_config,
    vcpu::{Context, PortBitmap},
};
use hypercall_abi::arch_x86::CpuUserRegs;

/// Does the access. Without the right to the port, a kernel that has asked for I/O privilege (as those do that probe
/// for devices) finds nobody there; any other is refused. User mode may try what its kernel lets it.
pub fn access(caller: &mut Caller<'_>, access: PortAccess) -> bool {
    let port = access.immediate.map_or(caller.context.registers.rdx as u16, u16::from);
    let is_real = caller.domain.io_rights.allows_ports(port, access.width);
    let is_allowed = if caller.context.in_kernel {
        is_real || caller.context.io_privilege_level > 0
    } else {
        user_may(caller.context, port, access.width)
    };
    if !is_allowed {
        return false;
    }
    let registers = &mut caller.context.registers;
    if access.is_input {
        let value = if is_real { pci_config::read_port(port, access.width) } else { NOBODY };
        merge_input(registers, value, access.width);
    } else if is_real {
        pci_config::write_port(port, access.width, registers.rax as u32);
    }
    true
}

/// The privilege level at which user mode may use all ports.
const ALL_PORTS: u8 = 3;

/// True when the guest's kernel lets its user mode use `width` ports from `port` on.
fn user_may(context: &mut Context, port: u16, width: u8) -> bool {
    if context.io_privilege_level == ALL_PORTS {
        return true;
    }
    let PortBitmap { address, ports } = context.port_bitmap;
    let (first, last) = (u32::from(port), u32::from(port) + u32::from(width) - 1);
    if last >= ports {
        return false;
    }
    let mut bytes = [0; 2];
    let count = (last / 8 - first / 8 + 1) as usize;
    let start = address.wrapping_add(u64::from(first / 8));
    let read =
        guest_access::in_kernel_space(context, || guest_access::read_bytes(start, &mut bytes[..count]));
    let wanted = ((1 << width) - 1) << (first % 8);
    read.is_ok() && u16::from_le_bytes(bytes) & wanted == 0
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
    use crate::test_support::{ARGUMENTS, Guest, machine_of};

    #[test]
    fn user_mode_may_use_what_the_bitmap_does_not_forbid() {
        let _machine = machine_of(256);
        let guest = Guest::new(1);
        // Of sixteen ports all are forbidden but 6 to 9.
        guest.write_arguments(&[0b0011_1111u8, 0b1111_1100]);
        guest.as_caller(|caller| {
            let context = &mut *caller.context;
            assert!(!user_may(context, 7, 1), "without a bitmap");
            context.port_bitmap = PortBitmap { address: ARGUMENTS, ports: 16 };
            for (port, width, expected) in
                [(5, 1, false), (5, 2, false), (6, 1, true), (6, 4, true), (7, 4, false), (9, 1, true)]
            {
                assert_eq!(user_may(context, port, width), expected, "{width} ports from {port} on");
            }
            context.port_bitmap.ports = 8;
            assert!(user_may(context, 7, 1) && !user_may(context, 7, 2) && !user_may(context, 9, 1));
            context.port_bitmap.address = 0xffff_8300_0000_0000;
            assert!(!user_may(context, 7, 1), "a bitmap that is not the guest's");
            context.io_privilege_level = 3;
            assert!(user_may(context, 7, 1) && user_may(context, 0xffff, 1));
        });
    }

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
