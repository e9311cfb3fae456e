#![expect(unsafe_code, reason = "loads segments, and calls code of 32 bits in them")]
//! Local descriptor tables: segments of a process's own, for data and for code.

use core::arch::{asm, global_asm};
use core::sync::atomic::{AtomicU64, Ordering};

use crate::process::{Change, child};
use crate::system::{Arguments, call, number, yield_now};

/// What `modify_ldt` takes.
#[repr(C)]
struct Segment {
    entry: u32,
    base: u32,
    limit: u32,
    flags: u32,
}

const READ: u64 = 0;
const WRITE: u64 = 0x11;
/// Flags of a segment: its default size is 32 bits; it holds code; its limit counts pages; it can be used.
const BITS_32: u32 = 1 << 0;
const CODE: u32 = 2 << 1;
const IN_PAGES: u32 = 1 << 4;
const USABLE: u32 = 1 << 6;

/// Entries in each page of the table that are tried, and the last there can be.
const ENTRIES: [u32; 6] = [0, 1, 511, 512, 4000, 8191];

static WORDS: [AtomicU64; ENTRIES.len()] = [const { AtomicU64::new(0) }; ENTRIES.len()];

fn set(segment: &Segment) {
    let arguments = [WRITE, &raw const *segment as u64, size_of::<Segment>() as u64];
    // The kernel's answer is a number of 32 bits, whose sign is lost on the way.
    assert_eq!(call(number::MODIFY_LDT, &arguments), Ok(0), "a segment can be set");
}

const fn selector(entry: u32) -> u16 {
    (entry << 3 | 7) as u16
}

fn first_word(selector: u16) -> u64 {
    let word: u64;
    // SAFETY: the selector's segment begins with one of `WORDS`.
    unsafe {
        asm!("mov gs, {selector:x}", "mov {word}, gs:[0]", selector = in(reg) selector, word = out(reg) word)
    };
    word
}

fn words_are_where_segments_say(process: u64) -> i32 {
    for (index, (entry, word)) in ENTRIES.into_iter().zip(&WORDS).enumerate() {
        word.store(process << 8 | index as u64, Ordering::Relaxed);
        let base = u32::try_from(&raw const *word as u64).expect("the program lies low");
        set(&Segment { entry, base, limit: 7, flags: BITS_32 | USABLE });
    }
    for round in 0..60 {
        let index = round % ENTRIES.len();
        assert_eq!(first_word(selector(ENTRIES[index])), process << 8 | index as u64);
        yield_now();
        let again: u64;
        // SAFETY: GS is as it was before the other processes ran.
        unsafe { asm!("mov {}, gs:[0]", out(reg) again) };
        assert_eq!(again, process << 8 | index as u64, "after a switch");
    }
    let mut table = [0u64; 2];
    let read = call(number::MODIFY_LDT, &[READ, table.as_mut_ptr() as u64, 16]).expect("it can be read");
    assert_eq!(read, 16);
    assert!(
        table.iter().all(|descriptor| descriptor >> 44 & 0xf == 0xf),
        "present, for user mode: {table:x?}"
    );
    0
}

/// `ldt`
pub fn segments(_: &Arguments) {
    let children = [1, 2].map(|process| child(move || words_are_where_segments_say(process)));
    for child in children {
        assert_eq!(child.wait(), Change::Exited(0));
    }
}

global_asm!(
    // Calls the far pointer at rdi on a stack that 32-bit code can use; returns eax.
    "call_far:",
    "push rbx",
    "mov rbx, rsp",
    "lea rsp, [rip + low_stack_end]",
    "xor eax, eax",
    "call fword ptr [rdi]",
    "mov rsp, rbx",
    "pop rbx",
    "ret",
    ".code32",
    "code_32:",
    "mov eax, 0x12345678",
    "push eax",
    "pop ecx",
    "xor eax, eax",
    "mov eax, ecx",
    "retf",
    ".code64",
    ".pushsection .bss.low_stack, \"aw\", @nobits",
    ".balign 16",
    ".skip 4096",
    "low_stack_end:",
    ".popsection",
);

unsafe extern "C" {
    fn call_far(pointer: *const FarPointer) -> u32;
    static code_32: u8;
}

#[repr(C, packed)]
struct FarPointer {
    offset: u32,
    selector: u16,
}

fn call_segment(entry: u32, code: *const u8) -> u32 {
    let base = u32::try_from(code as u64).expect("the program lies low");
    set(&Segment { entry, base, limit: 0xf_ffff, flags: BITS_32 | CODE | IN_PAGES | USABLE });
    // SAFETY: the segment begins with code that returns, far, to where it was called from.
    unsafe { call_far(&FarPointer { offset: 0, selector: selector(entry) }) }
}

/// `ldt-code`
pub fn code(_: &Arguments) {
    for round in 0..20 {
        assert_eq!(call_segment(3, &raw const code_32), 0x1234_5678, "round {round}");
        assert_eq!(call_segment(600, &raw const code_32), 0x1234_5678, "round {round}");
        yield_now();
    }
}
