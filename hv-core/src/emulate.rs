//! Instructions that a guest's kernel executes although ring 3 may not.
//!
//! Port access is the only privileged instruction handled here so far: the CPU refuses it, the hypervisor looks
//! the right up and does it. CPUID is not privileged at all, so a guest that wants the hypervisor's view marks it
//! with Xen's forced-emulation prefix. Anything else is the guest's own #GP or #UD.
//!
//! The instruction is read once from guest memory into a private copy. Another vCPU may rewrite the original at any
//! time; what is decoded is what is executed.

use crate::{cpuid, guest_access, hypercall::Caller, pci_config};
use hypercall_abi::arch_x86::{CpuUserRegs, XEN_EMULATE_PREFIX};

/// CPUID after the forced-emulation prefix.
const FORCED_CPUID: [u8; 7] = {
    let prefix = XEN_EMULATE_PREFIX;
    [prefix[0], prefix[1], prefix[2], prefix[3], prefix[4], 0x0f, 0xa2]
};

/// Emulates an instruction behind the forced-emulation prefix; false if it is none.
pub fn forced(caller: &mut Caller<'_>) -> bool {
    let registers = &mut caller.context.registers;
    let mut code = [0; FORCED_CPUID.len()];
    if guest_access::read_bytes(registers.rip, &mut code).is_err() || code != FORCED_CPUID {
        return false;
    }
    let leaf = cpuid::guest_view(registers.rax as u32, registers.rcx as u32);
    [registers.rax, registers.rbx, registers.rcx, registers.rdx] = leaf.map(u64::from);
    registers.rip = registers.rip.wrapping_add(code.len() as u64);
    true
}

/// A port access, decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct PortAccess {
    is_input: bool,
    /// Bytes: 1, 2 or 4.
    width: u8,
    /// Port in the instruction; `None` means DX.
    immediate: Option<u8>,
    /// Bytes of the instruction.
    length: u8,
}

const OPERAND_SIZE_PREFIX: u8 = 0x66;

fn decode(code: &[u8]) -> Option<PortAccess> {
    let (&first, rest) = code.split_first()?;
    let (is_short, opcode, rest) = match first {
        OPERAND_SIZE_PREFIX => (true, *rest.first()?, rest.get(1..)?),
        opcode => (false, opcode, rest),
    };
    let (is_input, is_byte, has_immediate) = match opcode {
        0xe4 => (true, true, true),
        0xe5 => (true, false, true),
        0xe6 => (false, true, true),
        0xe7 => (false, false, true),
        0xec => (true, true, false),
        0xed => (true, false, false),
        0xee => (false, true, false),
        0xef => (false, false, false),
        _ => return None,
    };
    let width = if is_byte {
        1
    } else if is_short {
        2
    } else {
        4
    };
    let immediate = if has_immediate { Some(*rest.first()?) } else { None };
    let length = 1 + u8::from(is_short) + u8::from(has_immediate);
    Some(PortAccess { is_input, width, immediate, length })
}

/// Emulates a port access of a guest's kernel; false if it is not one, or not allowed.
pub fn privileged(caller: &mut Caller<'_>) -> bool {
    if !caller.context.in_kernel {
        return false;
    }
    let registers = &mut caller.context.registers;
    let mut code = [0; 3];
    // The instruction may end at the end of a mapping.
    let read = (1..=code.len())
        .rev()
        .find(|&length| guest_access::read_bytes(registers.rip, &mut code[..length]).is_ok());
    let Some(access) = read.and_then(|length| decode(&code[..length])) else { return false };
    let port = access.immediate.map_or(registers.rdx as u16, u16::from);
    if !caller.domain.io_rights.allows_ports(port, access.width) {
        return false;
    }
    if access.is_input {
        let value = pci_config::read_port(port, access.width);
        merge_input(registers, value, access.width);
    } else {
        pci_config::write_port(port, access.width, registers.rax as u32);
    }
    registers.rip = registers.rip.wrapping_add(u64::from(access.length));
    true
}

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
    fn decodes_every_form_of_in_and_out() {
        let access =
            |is_input, width, immediate, length| Some(PortAccess { is_input, width, immediate, length });
        assert_eq!(decode(&[0xec, 0x90, 0x90]), access(true, 1, None, 1));
        assert_eq!(decode(&[0x66, 0xed, 0x90]), access(true, 2, None, 2));
        assert_eq!(decode(&[0xef, 0x90, 0x90]), access(false, 4, None, 1));
        assert_eq!(decode(&[0xe6, 0x80, 0x90]), access(false, 1, Some(0x80), 2));
        assert_eq!(decode(&[0x66, 0xe7, 0x80]), access(false, 2, Some(0x80), 3));
    }

    #[test]
    fn refuses_other_and_truncated_instructions() {
        assert_eq!(decode(&[0xfa]), None, "cli");
        assert_eq!(decode(&[0xe4]), None, "in al, imm8 without the immediate");
        assert_eq!(decode(&[0x66]), None);
        assert_eq!(decode(&[]), None);
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
