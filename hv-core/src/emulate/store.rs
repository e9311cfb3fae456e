//! An instruction with which kernels write page-table entries, in the form in which it is carried out.
//!
//! A decoded instruction says far more than is needed, and decoding takes longer than everything else about such a write.
//! So what is needed is taken out of it once, a [`Store`], which depends on nothing but the instruction's bytes;
//! [`RecentStores`] keeps the last few of them by those bytes. The same bytes always mean the same, so whoever changes
//! code in between, or has two addresses for it, gets no wrong answer.

use super::{general_register, general_value};
use hypercall_abi::arch_x86::CpuUserRegs;
use yaxpeax_arch::{Decoder, LengthedInstruction, U8Reader};
use yaxpeax_x86::long_mode::{InstDecoder, Instruction, Opcode, Operand, RegSpec, register_class};

/// No x86 instruction is longer.
pub const LONGEST_INSTRUCTION: usize = 15;

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

/// What is done to the part of the entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    Move,
    Exchange,
    And,
    Or,
    Xor,
    ResetBit,
    SetBit,
    CompareAndExchange,
}

impl Operation {
    /// `None` for what kernels do not write to page tables with.
    fn of(opcode: Opcode) -> Option<Self> {
        Some(match opcode {
            Opcode::MOV => Self::Move,
            Opcode::XCHG => Self::Exchange,
            Opcode::AND => Self::And,
            Opcode::OR => Self::Or,
            Opcode::XOR => Self::Xor,
            Opcode::BTR => Self::ResetBit,
            Opcode::BTS => Self::SetBit,
            Opcode::CMPXCHG => Self::CompareAndExchange,
            _ => return None,
        })
    }
}

/// The second operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    /// A general register, and where in it a narrow one begins.
    Register { number: u8, shift: u8 },
    /// Sign-extended as the instruction has it.
    Constant(u64),
}

impl Source {
    fn of(operand: Operand) -> Option<Self> {
        Some(Self::Constant(match operand {
            Operand::Register { reg } => {
                let (number, shift) = place_of(reg)?;
                return Some(Self::Register { number, shift });
            }
            Operand::ImmediateI8 { imm } => imm as u64,
            Operand::ImmediateU8 { imm } => u64::from(imm),
            Operand::ImmediateI16 { imm } => imm as u64,
            Operand::ImmediateU16 { imm } => u64::from(imm),
            Operand::ImmediateI32 { imm } => imm as u64,
            Operand::ImmediateU32 { imm } => u64::from(imm),
            Operand::ImmediateI64 { imm } => imm as u64,
            Operand::ImmediateU64 { imm } => imm,
            _ => return None,
        }))
    }

    #[inline]
    fn value(self, registers: &CpuUserRegs) -> Option<u64> {
        match self {
            Self::Register { number, shift } => Some(general_value(registers, number)? >> shift),
            Self::Constant(value) => Some(value),
        }
    }
}

/// A write to an entry, or to a part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Store {
    operation: Operation,
    /// Size of the memory operand.
    bytes: u8,
    /// Length of the instruction.
    length: u8,
    source: Source,
}

/// What a [`Store`] comes to: the entry, and what it changes of the registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Effect {
    /// The whole entry afterwards.
    pub entry: u64,
    /// Which flags it sets, and to what.
    flags: (u64, u64),
    /// A register that it changes, and the whole of its new value.
    register: Option<(u8, u64)>,
}

impl Store {
    /// Decodes an instruction; `None` when it is not one that kernels write page tables with.
    pub fn decode(code: &[u8]) -> Option<Self> {
        let instruction = InstDecoder::default().decode(&mut U8Reader::new(code)).ok()?;
        Self::of(&instruction)
    }

    fn of(instruction: &Instruction) -> Option<Self> {
        if !instruction.operand(0).is_memory() || instruction.prefixes.rep_any() {
            return None;
        }
        let bytes = instruction.mem_size()?.bytes_size()?;
        let operation = Operation::of(instruction.opcode())?;
        let source = Source::of(instruction.operand(1))?;
        if operation == Operation::Exchange && matches!(source, Source::Constant(_)) {
            return None;
        }
        let length = u8::try_from(instruction.len().to_const()).ok()?;
        Some(Self { operation, bytes, length, source })
    }

    /// Length of the instruction in bytes.
    #[inline]
    pub fn length(self) -> u64 {
        u64::from(self.length)
    }

    /// What it makes of the entry `old`, at byte `offset` of which its memory operand begins. `None` when it leaves the
    /// entry.
    #[inline]
    pub fn effect(self, registers: &CpuUserRegs, old: u64, offset: u32) -> Option<Effect> {
        let part = Part::of(self.bytes, offset)?;
        let before = part.get(old);
        let source = self.source.value(registers)?;
        let with = |after, flags| Effect { entry: part.put(old, after), flags, register: None };
        let logic = |result| with(result, (flag::ALL, part.flags_of(result)));
        Some(match self.operation {
            Operation::Move => with(source, (0, 0)),
            Operation::Exchange => {
                let Source::Register { number, shift } = self.source else { return None };
                let register = merged(general_value(registers, number)?, before, part, shift.into());
                Effect { register: Some((number, register)), ..with(source, (0, 0)) }
            }
            Operation::And => logic(before & source),
            Operation::Or => logic(before | source),
            Operation::Xor => logic(before ^ source),
            Operation::ResetBit | Operation::SetBit => {
                // With a register the bit may lie outside the operand, in another entry.
                let bit = u32::try_from(source).ok().filter(|bit| *bit < part.bits())?;
                let is_reset = self.operation == Operation::ResetBit;
                let after = if is_reset { before & !(1 << bit) } else { before | 1 << bit };
                with(after, (flag::CARRY, before >> bit & 1))
            }
            Operation::CompareAndExchange => {
                let flags = (flag::ALL, part.flags_of_comparison(registers.rax, before));
                if registers.rax & part.mask == before {
                    with(source, flags)
                } else {
                    let accumulator = merged(registers.rax, before, part, 0);
                    Effect { register: Some((ACCUMULATOR, accumulator)), ..with(before, flags) }
                }
            }
        })
    }
}

/// The number of rax.
const ACCUMULATOR: u8 = 0;

impl Effect {
    /// Changes the registers as the instruction does, but for the instruction pointer.
    #[inline]
    pub fn apply(self, registers: &mut CpuUserRegs) {
        let (which, values) = self.flags;
        registers.rflags = registers.rflags & !which | values & which;
        if let Some((number, value)) = self.register
            && let Some(register) = general_register(registers, number)
        {
            *register = value;
        }
    }
}

/// Number of the whole register, and where in it a narrow one begins: AH, CH, DH and BH begin at bit 8 of the first four.
fn place_of(register: RegSpec) -> Option<(u8, u8)> {
    let number = register.num();
    match register.class() {
        register_class::Q | register_class::D | register_class::W | register_class::RB => Some((number, 0)),
        register_class::B if number >= 4 => Some((number - 4, 8)),
        register_class::B => Some((number, 0)),
        _ => None,
    }
}

/// A register with a new value in its narrow part, as the CPU writes it: 32 bits clear the upper half, fewer leave the
/// rest.
fn merged(register: u64, value: u64, part: Part, shift: u32) -> u64 {
    let mask = if part.bits() == 32 { u64::MAX } else { part.mask << shift };
    register & !mask | (value & part.mask) << shift
}

/// How many stores are kept. Linux writes to page tables in a handful of places.
const RECENT: usize = 4;

/// The stores that a vCPU did last.
pub struct RecentStores([(u128, Option<Store>); RECENT]);

impl RecentStores {
    /// None yet.
    pub const fn new() -> Self {
        Self([(0, None); RECENT])
    }

    /// The store whose bytes these are, and what follows them; decoded if it is not known. Its address says where it would
    /// be kept, and nothing else.
    #[inline]
    pub fn find(&mut self, address: u64, code: [u8; LONGEST_INSTRUCTION]) -> Option<Store> {
        let mut padded = [0; size_of::<u128>()];
        padded[..LONGEST_INSTRUCTION].copy_from_slice(&code);
        let key = u128::from_ne_bytes(padded);
        let place = &mut self.0[(address ^ address >> 4) as usize % RECENT];
        if place.0 != key || place.1.is_none() {
            *place = (key, Store::decode(&code));
        }
        place.1
    }
}

impl Default for RecentStores {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::FromZeros;

    const OLD: u64 = 0x8000_0001_2345_6067;
    const FUZZ_ROUNDS: usize = 200_000;

    fn run(code: &[u8], registers: &mut CpuUserRegs, offset: u32) -> Option<u64> {
        let effect = Store::decode(code)?.effect(registers, OLD, offset)?;
        effect.apply(registers);
        Some(effect.entry)
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
    #[test]
    fn the_same_bytes_mean_the_same_and_others_do_not() {
        let code = |start: &[u8]| {
            let mut code = [0x90; LONGEST_INSTRUCTION];
            code[..start.len()].copy_from_slice(start);
            code
        };
        let (mov, xchg) = (code(&[0x48, 0x89, 0x37]), code(&[0x48, 0x87, 0x37]));
        let mut recent = RecentStores::new();
        for _ in 0..2 {
            assert_eq!(recent.find(0x1000, mov), Store::decode(&mov));
            assert_eq!(recent.find(0x1000, xchg), Store::decode(&xchg), "other code at the same address");
            assert_eq!(recent.find(0x1000, xchg), Store::decode(&xchg));
            assert_eq!(recent.find(0x1000, code(&[0x48, 0xff, 0x07])), None, "inc is no store");
            assert_eq!(recent.find(0x1000, [0; LONGEST_INSTRUCTION]), None, "nor are zeroes");
        }
    }

    #[test]
    fn an_instruction_that_differs_in_its_last_byte_is_another() {
        // mov qword [rdi + 0x11223344], 0 and 1: eleven bytes, of which the constant comes last.
        let mut code = [0x90; LONGEST_INSTRUCTION];
        code[..11].copy_from_slice(&[0x48, 0xc7, 0x87, 0x44, 0x33, 0x22, 0x11, 0, 0, 0, 0]);
        let mut recent = RecentStores::new();
        let first = recent.find(0, code).unwrap().effect(&registers(), OLD, 0).unwrap();
        code[10] = 1;
        let second = recent.find(0, code).unwrap().effect(&registers(), OLD, 0).unwrap();
        assert_eq!((first.entry, second.entry), (0, 0x100_0000));
    }
}
