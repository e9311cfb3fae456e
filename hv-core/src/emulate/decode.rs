//! Which privileged instruction it is, from its bytes.

/// The longest instruction decoded here: operand-size prefix, REX, two opcode bytes, operand byte.
pub const LONGEST: usize = 5;

/// A privileged instruction, decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Instruction {
    /// IN or OUT.
    Port(PortAccess),
    /// RDMSR.
    ReadMsr,
    /// WRMSR.
    WriteMsr,
    /// XSETBV.
    SetExtendedControl,
    /// RDTSC, or RDTSCP, which reads TSC_AUX too.
    ReadTimeStamp {
        /// It is RDTSCP.
        with_auxiliary: bool,
    },
    /// CLI or STI.
    InterruptFlag,
    /// CLTS.
    ClearTaskSwitched,
    /// WBINVD, or INVD, which is made the same: a guest's caches are not its own.
    FlushCaches,
    /// MOV from or to a control or debug register.
    Move {
        /// A debug register, not a control register.
        is_debug: bool,
        /// Into the special register.
        is_write: bool,
        /// Number of the special register.
        special: u8,
        /// Number of the general register, in encoding order.
        general: u8,
    },
}

/// A port access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortAccess {
    /// IN, not OUT.
    pub is_input: bool,
    /// Bytes: 1, 2 or 4.
    pub width: u8,
    /// Port in the instruction; `None` means DX.
    pub immediate: Option<u8>,
}

const OPERAND_SIZE_PREFIX: u8 = 0x66;
const TWO_BYTE_OPCODE: u8 = 0x0f;
/// REX prefixes are 0x40 to 0x4f; this bit extends the special register's number, the next the general one's.
const REX_R: u8 = 1 << 2;
const REX_B: u8 = 1 << 0;

/// The instruction at the start of `code`, and its length.
pub fn decode(code: &[u8]) -> Option<(Instruction, usize)> {
    let is_short = code.first() == Some(&OPERAND_SIZE_PREFIX);
    let rest = &code[usize::from(is_short)..];
    let rex = rest.first().copied().filter(|byte| byte & 0xf0 == 0x40);
    let rest = &rest[usize::from(rex.is_some())..];
    let prefixes = code.len() - rest.len();
    let (instruction, length) = match rest {
        [0xfa | 0xfb, ..] => (Instruction::InterruptFlag, 1),
        [TWO_BYTE_OPCODE, 0x06, ..] => (Instruction::ClearTaskSwitched, 2),
        [TWO_BYTE_OPCODE, 0x08 | 0x09, ..] => (Instruction::FlushCaches, 2),
        [TWO_BYTE_OPCODE, 0x01, 0xd1, ..] => (Instruction::SetExtendedControl, 3),
        [TWO_BYTE_OPCODE, 0x01, 0xf9, ..] => (Instruction::ReadTimeStamp { with_auxiliary: true }, 3),
        [TWO_BYTE_OPCODE, 0x31, ..] => (Instruction::ReadTimeStamp { with_auxiliary: false }, 2),
        [TWO_BYTE_OPCODE, 0x30, ..] => (Instruction::WriteMsr, 2),
        [TWO_BYTE_OPCODE, 0x32, ..] => (Instruction::ReadMsr, 2),
        [TWO_BYTE_OPCODE, opcode @ 0x20..=0x23, operands, ..] => {
            (special_move(*opcode, *operands, rex.unwrap_or(0)), 3)
        }
        _ => {
            let (access, length) = port_access(rest, is_short)?;
            (Instruction::Port(access), length)
        }
    };
    Some((instruction, prefixes + length))
}

/// The two high bits of the operand byte are ignored: both operands are registers whatever they say.
fn special_move(opcode: u8, operands: u8, rex: u8) -> Instruction {
    let extended = |bit: u8| if rex & bit != 0 { 8 } else { 0 };
    Instruction::Move {
        is_debug: opcode & 1 != 0,
        is_write: opcode & 2 != 0,
        special: (operands >> 3 & 7) | extended(REX_R),
        general: (operands & 7) | extended(REX_B),
    }
}

fn port_access(code: &[u8], is_short: bool) -> Option<(PortAccess, usize)> {
    let (&opcode, rest) = code.split_first()?;
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
    Some((PortAccess { is_input, width, immediate }, 1 + usize::from(has_immediate)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(is_input: bool, width: u8, immediate: Option<u8>) -> Instruction {
        Instruction::Port(PortAccess { is_input, width, immediate })
    }

    #[test]
    fn every_form_of_in_and_out() {
        assert_eq!(decode(&[0xec, 0x90, 0x90]), Some((port(true, 1, None), 1)));
        assert_eq!(decode(&[0x66, 0xed, 0x90]), Some((port(true, 2, None), 2)));
        assert_eq!(decode(&[0xef, 0x90, 0x90]), Some((port(false, 4, None), 1)));
        assert_eq!(decode(&[0xe6, 0x80, 0x90]), Some((port(false, 1, Some(0x80)), 2)));
        assert_eq!(decode(&[0x66, 0xe7, 0x80]), Some((port(false, 2, Some(0x80)), 3)));
    }

    #[test]
    fn model_specific_registers_and_flags() {
        assert_eq!(decode(&[0x0f, 0x30]), Some((Instruction::WriteMsr, 2)));
        assert_eq!(decode(&[0x0f, 0x32]), Some((Instruction::ReadMsr, 2)));
        assert_eq!(decode(&[0xfa, 0x65]), Some((Instruction::InterruptFlag, 1)));
        assert_eq!(decode(&[0x0f, 0x06]), Some((Instruction::ClearTaskSwitched, 2)));
        assert_eq!(decode(&[0x0f, 0x09]), Some((Instruction::FlushCaches, 2)));
        assert_eq!(decode(&[0x0f, 0x01, 0xd1]), Some((Instruction::SetExtendedControl, 3)));
        assert_eq!(decode(&[0x0f, 0x31]), Some((Instruction::ReadTimeStamp { with_auxiliary: false }, 2)));
        let with_auxiliary = Instruction::ReadTimeStamp { with_auxiliary: true };
        assert_eq!(decode(&[0x0f, 0x01, 0xf9]), Some((with_auxiliary, 3)));
    }

    #[test]
    fn moves_of_special_registers() {
        let cr4_to_rax = Instruction::Move { is_debug: false, is_write: false, special: 4, general: 0 };
        assert_eq!(decode(&[0x0f, 0x20, 0xe0]), Some((cr4_to_rax, 3)));
        let r9_to_cr8 = Instruction::Move { is_debug: false, is_write: true, special: 8, general: 9 };
        assert_eq!(decode(&[0x45, 0x0f, 0x22, 0xc1]), Some((r9_to_cr8, 4)));
        let rcx_to_dr7 = Instruction::Move { is_debug: true, is_write: true, special: 7, general: 1 };
        assert_eq!(decode(&[0x0f, 0x23, 0xf9]), Some((rcx_to_dr7, 3)));
    }

    #[test]
    fn other_and_truncated_instructions_are_none_of_these() {
        assert_eq!(decode(&[0xf4]), None, "hlt");
        assert_eq!(decode(&[0xe4]), None, "in al, imm8 without the immediate");
        assert_eq!(decode(&[0x0f, 0x22]), None, "mov cr without the operand");
        assert_eq!(decode(&[0x0f, 0x01, 0xd0]), None, "xgetbv");
        assert_eq!(decode(&[0x0f, 0x01]), None, "xsetbv without its last byte");
        assert_eq!(decode(&[0x66]), None);
        assert_eq!(decode(&[0x66, 0x48]), None);
        assert_eq!(decode(&[]), None);
    }
}
