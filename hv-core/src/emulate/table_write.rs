//! Writes to page tables by ordinary instructions.
//!
//! A guest's page tables are read-only to it, but stock kernels still change single entries of lowest-level tables by
//! plain stores and atomic instructions. Such a store faults; here it is decoded, its result is computed from the entry
//! as it is, and the entry is replaced by compare-and-exchange under the same rules as by hypercall. The address is the
//! one the CPU reported, so nothing but the entry that was written to can change.

use super::general_register;
use crate::{
    direct_map,
    domain::Domain,
    guest_access,
    hypercall::Caller,
    layout::PAGE_SIZE,
    page_table::{self, Entry, TableSession, Write},
};
use core::sync::atomic::Ordering;
use hypercall_abi::{MachineFrame, arch_x86::CpuUserRegs};
use yaxpeax_arch::{Decoder, LengthedInstruction, U8Reader};
use yaxpeax_x86::long_mode::{InstDecoder, Instruction, Opcode, Operand, RegSpec, register_class};

/// Page-fault error code: the page was there, and the access was a write; user mode is how the CPU sees a guest's kernel.
const PROTECTION_AND_WRITE: u32 = 1 << 0 | 1 << 1;
/// Of these, with what else may be set.
const DECIDING: u32 = PROTECTION_AND_WRITE | 1 << 3 | 1 << 4;
/// No x86 instruction is longer.
const LONGEST_INSTRUCTION: usize = 15;
/// Tries before a guest that keeps changing the entry from elsewhere gets the fault after all.
const TRIES: usize = 8;

/// Performs a write that faulted, if it is one to a lowest-level page table of the guest's own; false if it is not, or
/// the entry it would make is refused: then the fault is the guest's.
pub fn emulate(caller: &mut Caller<'_>, address: u64, error_code: u32) -> bool {
    if !caller.context.in_kernel || error_code & DECIDING != PROTECTION_AND_WRITE {
        return false;
    }
    let Some((table, index)) = written_entry(caller, address) else { return false };
    let Some(instruction) = fetch(caller.context.registers.rip) else { return false };
    let word = &direct_map::words(table)[index];
    for _ in 0..TRIES {
        let old = word.load(Ordering::Relaxed);
        let mut registers = caller.context.registers;
        let Some(new) = execute(&instruction, &mut registers, old, (address % 8) as u32) else {
            return false;
        };
        if new == old || replace(caller.domain, (table, index), old, new) {
            registers.rip = registers.rip.wrapping_add(instruction.len().to_const());
            caller.context.registers = registers;
            return true;
        }
        if word.load(Ordering::Relaxed) == old {
            return false;
        }
    }
    false
}

/// Replaces an entry that must still be as it was.
fn replace(domain: &Domain, place: (MachineFrame, usize), old: u64, new: u64) -> bool {
    TableSession::open_for_pages(domain).update_page(place, Entry(new), Write::IfStill(Entry(old))).is_ok()
}

/// The lowest-level table of the guest's and the entry in it that `address` is mapped to, read-only.
fn written_entry(caller: &Caller<'_>, address: u64) -> Option<(MachineFrame, usize)> {
    let root = caller.context.kernel_page_table?;
    let (table, index) = page_table::locate_entry(root, address).ok()?;
    let mapping = Entry(direct_map::words(table)[index].load(Ordering::Relaxed));
    if !mapping.is_present() || mapping.has(Entry::WRITABLE) {
        return None;
    }
    let place = mapping.frame().physical_address() + address % PAGE_SIZE / 8 * 8;
    page_table::entry_location_of(place, caller.domain).ok()
}

fn fetch(rip: u64) -> Option<Instruction> {
    let mut code = [0; LONGEST_INSTRUCTION];
    let readable = |length: &usize| guest_access::read_bytes(rip, &mut code[..*length]).is_ok();
    let length = (1..=LONGEST_INSTRUCTION).rev().find(readable)?;
    decode(&code[..length])
}

fn decode(code: &[u8]) -> Option<Instruction> {
    InstDecoder::default().decode(&mut U8Reader::new(code)).ok()
}

/// Arithmetic flags.
mod flag {
    pub const CARRY: u64 = 1 << 0;
    pub const PARITY: u64 = 1 << 2;
    pub const ADJUST: u64 = 1 << 4;
    pub const ZERO: u64 = 1 << 6;
    pub const SIGN: u64 = 1 << 7;
    pub const OVERFLOW: u64 = 1 << 11;
    pub const ALL: u64 = CARRY | PARITY | ADJUST | ZERO | SIGN | OVERFLOW;
}

/// A part of 1, 2, 4 or 8 bytes of an entry: the memory operand.
#[derive(Clone, Copy)]
struct Part {
    shift: u32,
    mask: u64,
}

impl Part {
    /// The part at byte `offset` of the entry; `None` when it leaves the entry.
    fn of(bytes: u8, offset: u32) -> Option<Self> {
        let bytes = u32::from(bytes);
        let fits = matches!(bytes, 1 | 2 | 4 | 8) && offset + bytes <= 8;
        fits.then(|| Self { shift: 8 * offset, mask: u64::MAX >> (64 - 8 * bytes) })
    }

    fn get(self, entry: u64) -> u64 {
        entry >> self.shift & self.mask
    }

    fn put(self, entry: u64, value: u64) -> u64 {
        entry & !(self.mask << self.shift) | (value & self.mask) << self.shift
    }

    fn bits(self) -> u32 {
        self.mask.count_ones()
    }

    /// Zero, sign and parity of a result; carry and overflow clear.
    fn flags_of(self, value: u64) -> u64 {
        let mut flags = 0;
        if value & self.mask == 0 {
            flags |= flag::ZERO;
        }
        if value >> (self.bits() - 1) & 1 != 0 {
            flags |= flag::SIGN;
        }
        if (value as u8).count_ones().is_multiple_of(2) {
            flags |= flag::PARITY;
        }
        flags
    }

    /// Flags of comparing `left` with `right`.
    fn flags_of_comparison(self, left: u64, right: u64) -> u64 {
        let (left, right) = (left & self.mask, right & self.mask);
        let difference = left.wrapping_sub(right) & self.mask;
        let mut flags = self.flags_of(difference);
        if left < right {
            flags |= flag::CARRY;
        }
        if left & 0xf < right & 0xf {
            flags |= flag::ADJUST;
        }
        if ((left ^ right) & (left ^ difference)) >> (self.bits() - 1) & 1 != 0 {
            flags |= flag::OVERFLOW;
        }
        flags
    }
}

/// Computes what `instruction` makes of the entry `old`, at byte `offset` of which its memory operand begins, and
/// changes the registers as it does. `None` for an instruction that kernels do not write to page tables with.
fn execute(instruction: &Instruction, registers: &mut CpuUserRegs, old: u64, offset: u32) -> Option<u64> {
    if !instruction.operand(0).is_memory() || instruction.prefixes.rep_any() {
        return None;
    }
    let part = Part::of(instruction.mem_size()?.bytes_size()?, offset)?;
    let before = part.get(old);
    let source = source(instruction.operand(1), registers)?;
    let after = match instruction.opcode() {
        Opcode::MOV => source,
        Opcode::XCHG => {
            let Operand::Register { reg } = instruction.operand(1) else { return None };
            set_register(registers, reg, before, part)?;
            source
        }
        Opcode::AND => logic(registers, part, before & source),
        Opcode::OR => logic(registers, part, before | source),
        Opcode::XOR => logic(registers, part, before ^ source),
        opcode @ (Opcode::BTR | Opcode::BTS) => {
            // With a register the bit may lie outside the operand, in another entry.
            let bit = u32::try_from(source).ok().filter(|bit| *bit < part.bits())?;
            set_flags(registers, flag::CARRY, before >> bit & 1);
            if opcode == Opcode::BTR { before & !(1 << bit) } else { before | 1 << bit }
        }
        Opcode::CMPXCHG => {
            set_flags(registers, flag::ALL, part.flags_of_comparison(registers.rax, before));
            if registers.rax & part.mask == before {
                source
            } else {
                registers.rax = merged(registers.rax, before, part, 0);
                before
            }
        }
        _ => return None,
    };
    Some(part.put(old, after))
}

fn logic(registers: &mut CpuUserRegs, part: Part, result: u64) -> u64 {
    set_flags(registers, flag::ALL, part.flags_of(result));
    result
}

fn set_flags(registers: &mut CpuUserRegs, which: u64, values: u64) {
    registers.rflags = registers.rflags & !which | values & which;
}

/// The second operand: a register or a constant, sign-extended as the instruction has it.
fn source(operand: Operand, registers: &mut CpuUserRegs) -> Option<u64> {
    match operand {
        Operand::Register { reg } => {
            let (number, shift) = place_of(reg)?;
            Some(*general_register(registers, number)? >> shift)
        }
        Operand::ImmediateI8 { imm } => Some(imm as u64),
        Operand::ImmediateU8 { imm } => Some(u64::from(imm)),
        Operand::ImmediateI16 { imm } => Some(imm as u64),
        Operand::ImmediateU16 { imm } => Some(u64::from(imm)),
        Operand::ImmediateI32 { imm } => Some(imm as u64),
        Operand::ImmediateU32 { imm } => Some(u64::from(imm)),
        Operand::ImmediateI64 { imm } => Some(imm as u64),
        Operand::ImmediateU64 { imm } => Some(imm),
        _ => None,
    }
}

/// Number of the whole register, and where in it a narrow one begins: AH, CH, DH and BH begin at bit 8 of the first four.
fn place_of(register: RegSpec) -> Option<(u8, u32)> {
    let number = register.num();
    match register.class() {
        register_class::Q | register_class::D | register_class::W | register_class::RB => Some((number, 0)),
        register_class::B if number >= 4 => Some((number - 4, 8)),
        register_class::B => Some((number, 0)),
        _ => None,
    }
}

fn set_register(registers: &mut CpuUserRegs, register: RegSpec, value: u64, part: Part) -> Option<()> {
    let (number, shift) = place_of(register)?;
    let place = general_register(registers, number)?;
    *place = merged(*place, value, part, shift);
    Some(())
}

/// A register with a new value in its narrow part, as the CPU writes it: 32 bits clear the upper half, fewer leave the
/// rest.
fn merged(register: u64, value: u64, part: Part, shift: u32) -> u64 {
    let mask = if part.bits() == 32 { u64::MAX } else { part.mask << shift };
    register & !mask | (value & part.mask) << shift
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::FromZeros;

    const OLD: u64 = 0x8000_0001_2345_6067;
    const FUZZ_ROUNDS: usize = 200_000;

    fn run(code: &[u8], registers: &mut CpuUserRegs, offset: u32) -> Option<u64> {
        execute(&decode(code)?, registers, OLD, offset)
    }

    fn registers() -> CpuUserRegs {
        let mut registers = CpuUserRegs::new_zeroed();
        registers.rax = 0x1111_2222_3333_4444;
        registers.rsi = 0x5555;
        registers
    }

    #[test]
    fn stores_a_register_or_a_constant() {
        assert_eq!(run(&[0x48, 0x89, 0x37], &mut registers(), 0), Some(0x5555), "mov [rdi], rsi");
        assert_eq!(run(&[0x48, 0xc7, 0x07, 0, 0, 0, 0], &mut registers(), 0), Some(0), "mov qword [rdi], 0");
        assert_eq!(run(&[0x48, 0xc7, 0x07, 0xff, 0xff, 0xff, 0xff], &mut registers(), 0), Some(u64::MAX));
        assert_eq!(
            run(&[0x89, 0x37], &mut registers(), 4),
            Some(0x5555_2345_6067),
            "mov [rdi], esi: the upper half"
        );
    }

    #[test]
    fn write_protects_by_a_locked_byte() {
        let mut registers = registers();
        assert_eq!(
            run(&[0xf0, 0x80, 0x27, 0xfd], &mut registers, 0),
            Some(OLD & !2),
            "lock and byte [rdi], ~2"
        );
        assert_eq!(registers.rflags & flag::ZERO, 0);
        assert_eq!(run(&[0xf0, 0x80, 0x27, 0x00], &mut registers, 0), Some(OLD & !0xff));
        assert_ne!(registers.rflags & flag::ZERO, 0);
    }

    #[test]
    fn exchanges() {
        let mut registers = registers();
        assert_eq!(run(&[0x48, 0x87, 0x37], &mut registers, 0), Some(0x5555), "xchg [rdi], rsi");
        assert_eq!(registers.rsi, OLD);
    }

    #[test]
    fn tests_and_clears_a_bit() {
        let mut registers = registers();
        assert_eq!(
            run(&[0xf0, 0x48, 0x0f, 0xba, 0x37, 0x05], &mut registers, 0),
            Some(OLD & !0x20),
            "lock btr [rdi], 5"
        );
        assert_eq!(registers.rflags & flag::CARRY, 1);
        registers.rsi = 64;
        assert_eq!(
            run(&[0x48, 0x0f, 0xb3, 0x37], &mut registers, 0),
            None,
            "btr [rdi], rsi: a bit of the next entry"
        );
    }

    #[test]
    fn compares_and_exchanges() {
        let code = [0xf0, 0x48, 0x0f, 0xb1, 0x37];
        let mut registers = registers();
        assert_eq!(run(&code, &mut registers, 0), Some(OLD), "rax is something else");
        assert_eq!((registers.rax, registers.rflags & flag::ZERO), (OLD, 0));
        assert_eq!(run(&code, &mut registers, 0), Some(0x5555));
        assert_eq!(registers.rflags & (flag::ZERO | flag::CARRY | flag::SIGN), flag::ZERO);
    }

    #[test]
    fn leaves_alone_what_leaves_the_entry_or_is_something_else() {
        assert_eq!(run(&[0x48, 0x89, 0x37], &mut registers(), 4), None, "eight bytes at the fourth");
        assert_eq!(run(&[0xf3, 0x48, 0xab], &mut registers(), 0), None, "rep stosq");
        assert_eq!(run(&[0x0f, 0x11, 0x07], &mut registers(), 0), None, "movups [rdi], xmm0");
        assert_eq!(run(&[0x48, 0xff, 0x07], &mut registers(), 0), None, "inc qword [rdi]");
    }

    /// A guest chooses these bytes, and has them decoded by writing to a page table.
    #[test]
    fn survives_any_bytes() {
        let mut state = 1u64;
        let mut random = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        for _ in 0..FUZZ_ROUNDS {
            let bytes = [random(), random()].map(u64::to_le_bytes).concat();
            let length = 1 + random() as usize % LONGEST_INSTRUCTION;
            let mut registers = registers();
            (registers.rax, registers.rsi, registers.rdi) = (random(), random() % 128, random());
            let _ = run(&bytes[..length], &mut registers, random() as u32 % 8);
        }
    }

    #[test]
    fn knows_narrow_registers() {
        assert_eq!(place_of(RegSpec::ah()), Some((0, 8)));
        assert_eq!(place_of(RegSpec::bl()), Some((3, 0)));
        assert_eq!(place_of(RegSpec::spl()), Some((4, 0)));
        assert_eq!(place_of(RegSpec::r15()), Some((15, 0)));
        assert_eq!(place_of(RegSpec::r9w()), Some((9, 0)));
        assert_eq!(place_of(RegSpec::xmm(0)), None);
    }
}
