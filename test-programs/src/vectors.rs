#![expect(unsafe_code, reason = "uses registers that the compiler leaves alone")]
//! Vector and x87 registers: several processes hold patterns of their own in all of them, and none sees another's.
//!
//! The compiler uses none of these registers for this target, so they keep their values while other code runs.

use core::arch::asm;
use core::arch::x86_64::__cpuid;

use crate::clock::now;
use crate::process::{Change, child};
use crate::say;
use crate::system::{Arguments, yield_now};

/// Registers of one process: sixteen vectors, eight x87 values, both control words.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C, align(32))]
struct Registers {
    vectors: [[u64; 4]; 16],
    x87: [i64; 8],
    x87_control: u16,
    sse_control: u32,
}

/// x87: everything masked, extended precision; a process adds its rounding. SSE likewise.
const X87_CONTROL: u16 = 0x37f;
const SSE_CONTROL: u32 = 0x1f80;

impl Registers {
    /// The pattern of a process; `width` words of each vector are used.
    fn of(process: u64, width: usize) -> Self {
        let word = |register: usize, word: usize| {
            if word < width {
                (process << 32 | (register as u64) << 8 | word as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)
            } else {
                0
            }
        };
        let rounding = (process % 4) as u16;
        Self {
            vectors: core::array::from_fn(|register| core::array::from_fn(|index| word(register, index))),
            x87: core::array::from_fn(|register| (word(register, 0) >> 2) as i64),
            x87_control: X87_CONTROL | rounding << 10,
            sse_control: SSE_CONTROL | u32::from(rounding) << 13,
        }
    }
}

/// Vectors are 256 bits wide, as far as kernel and processor are concerned.
fn has_avx() -> bool {
    const XSAVE_IS_ON_AND_AVX: u32 = 1 << 27 | 1 << 28;
    // The leaf exists on every processor of 64 bits.
    let features = __cpuid(1).ecx;
    if features & XSAVE_IS_ON_AND_AVX != XSAVE_IS_ON_AND_AVX {
        return false;
    }
    let enabled: u32;
    // SAFETY: the processor says that it has the instruction and that it is on.
    unsafe { asm!("xgetbv", in("ecx") 0, out("eax") enabled, out("edx") _) };
    enabled & 6 == 6
}

macro_rules! for_each_vector {
    ($pointer:expr, $($text:literal),+) => {
        // SAFETY: the structure has room for sixteen vectors, which are nobody's but this program's.
        unsafe { asm!($($text),+, pointer = in(reg) $pointer, options(nostack)) }
    };
}

fn load(registers: &Registers, wide: bool) {
    let pointer: *const Registers = registers;
    if wide {
        for_each_vector!(
            pointer,
            ".irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15",
            "vmovdqu ymm\\n, [{pointer} + 32 * \\n]",
            ".endr"
        );
    } else {
        for_each_vector!(
            pointer,
            ".irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15",
            "movdqu xmm\\n, [{pointer} + 32 * \\n]",
            ".endr"
        );
    }
    // SAFETY: the registers are nobody's but this program's; the last value pushed is the first to be taken.
    unsafe {
        asm!(
            "fninit",
            ".irp n, 7, 6, 5, 4, 3, 2, 1, 0",
            "fild qword ptr [{values} + 8 * \\n]",
            ".endr",
            "fldcw [{x87}]",
            "ldmxcsr [{sse}]",
            values = in(reg) &raw const registers.x87,
            x87 = in(reg) &raw const registers.x87_control,
            sse = in(reg) &raw const registers.sse_control,
            options(nostack)
        );
    }
}

/// What is in the registers now; the x87 values are taken out of them.
fn store(wide: bool) -> Registers {
    let mut registers = Registers { vectors: [[0; 4]; 16], x87: [0; 8], x87_control: 0, sse_control: 0 };
    let pointer: *mut Registers = &mut registers;
    if wide {
        for_each_vector!(
            pointer,
            ".irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15",
            "vmovdqu [{pointer} + 32 * \\n], ymm\\n",
            ".endr"
        );
    } else {
        for_each_vector!(
            pointer,
            ".irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15",
            "movdqu [{pointer} + 32 * \\n], xmm\\n",
            ".endr"
        );
    }
    // SAFETY: as in `load`.
    unsafe {
        asm!(
            "fnstcw [{x87}]",
            "stmxcsr [{sse}]",
            ".irp n, 0, 1, 2, 3, 4, 5, 6, 7",
            "fistp qword ptr [{values} + 8 * \\n]",
            ".endr",
            values = in(reg) &raw mut registers.x87,
            x87 = in(reg) &raw mut registers.x87_control,
            sse = in(reg) &raw mut registers.sse_control,
            options(nostack)
        );
    }
    registers
}

/// Computes for a while, so that the process is interrupted.
fn spin(rounds: u64) {
    for round in 0..rounds {
        core::hint::black_box(round);
    }
}

fn hold(process: u64, milliseconds: u64, wide: bool) -> i32 {
    let pattern = Registers::of(process, if wide { 4 } else { 2 });
    let end = now() + milliseconds * 1_000_000;
    for round in 0_u64.. {
        load(&pattern, wide);
        spin(2000);
        if !round.is_multiple_of(3) {
            yield_now();
        }
        let found = store(wide);
        assert!(found == pattern, "process {process}, round {round}: {found:x?} instead of {pattern:x?}");
        if now() > end {
            break;
        }
    }
    0
}

/// `vectors SEED PROCESSES MILLISECONDS`
pub fn kept_apart(arguments: &Arguments) {
    let [seed, processes, milliseconds] = [2, 3, 4].map(|index| arguments.number(index).unwrap_or(4));
    let wide = has_avx();
    say!("vectors of {} bits", if wide { 256 } else { 128 });
    let children: alloc::vec::Vec<_> =
        (0..processes).map(|process| child(|| hold(seed * 100 + process, milliseconds, wide))).collect();
    for child in children {
        assert_eq!(child.wait(), Change::Exited(0), "a process found another's registers");
    }
}
