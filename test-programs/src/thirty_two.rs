#![expect(unsafe_code, reason = "contains a program of 32 bits")]
//! A 32-bit program: its system calls by every entry there is, and its thread-local segment.
//!
//! The program is a few lines of assembly that this one writes to a file with a header in front, and executes. Its
//! status says by which instruction the kernel's own entry (the one libraries use) goes.

use core::arch::global_asm;

use crate::process::{Change, child};
use crate::say;
use crate::system::{Arguments, call, number};

global_asm!(
    ".pushsection .rodata.thirty_two, \"a\"",
    "thirty_two_start:",
    ".code32",
    "mov ebp, esp",
    "mov esi, esp",
    "lodsd", // words
    "lea esi, [esi + 4 * eax + 4]",
    "2: lodsd", // environment
    "test eax, eax",
    "jnz 2b",
    "3: lodsd", // auxiliary vector
    "mov ecx, eax",
    "lodsd",
    "test ecx, ecx",
    "jz 9f",
    "cmp ecx, 32", // where the kernel's entry is
    "jne 3b",
    "mov edi, eax",
    "mov eax, 20", // getpid
    "int 0x80",
    "test eax, eax",
    "jle 9f",
    "mov esi, eax",
    "push 0x51", // usable, 32 bits, limit in pages
    "push 0xfffff",
    "push ebp",     // begins with the first word on the stack
    "push -1",      // any entry
    "mov eax, 243", // set_thread_area
    "mov ebx, esp",
    "int 0x80",
    "test eax, eax",
    "jnz 9f",
    "pop eax",
    "lea eax, [8 * eax + 3]",
    "mov gs, eax",
    "push eax",
    "push 500", // rounds
    "4: mov eax, 20",
    "call edi",
    "cmp eax, esi",
    "jne 9f",
    "mov eax, 158", // sched_yield
    "call edi",
    "test eax, eax",
    "jnz 9f",
    "mov eax, 158",
    "int 0x80",
    "mov eax, gs",
    "cmp ax, [esp + 4]",
    "jne 9f",
    "mov eax, gs:[0]",
    "cmp eax, [ebp]",
    "jne 9f",
    "mov eax, 20",
    "int 0x80",
    "cmp eax, esi",
    "jne 9f",
    "dec dword ptr [esp]",
    "jnz 4b",
    "mov ecx, 16", // what is behind the kernel's entry
    "5: mov ax, [edi]",
    "mov ebx, 2",
    "cmp ax, 0x050f",
    "je 8f",
    "mov ebx, 3",
    "cmp ax, 0x340f",
    "je 8f",
    "mov ebx, 1",
    "cmp ax, 0x80cd",
    "je 8f",
    "inc edi",
    "loop 5b",
    "9: mov ebx, 100",
    "8: mov eax, 1",
    "int 0x80",
    ".code64",
    "thirty_two_end:",
    ".popsection",
);

unsafe extern "C" {
    static thirty_two_start: u8;
    static thirty_two_end: u8;
}

const FILE: &core::ffi::CStr = c"/thirty-two";
const LOADED_AT: u32 = 0x0804_8000;
const HEADERS: usize = 52 + 32;

fn instructions() -> &'static [u8] {
    // SAFETY: the two symbols enclose the assembly above.
    unsafe {
        let start = &raw const thirty_two_start;
        core::slice::from_raw_parts(start, (&raw const thirty_two_end).offset_from(start) as usize)
    }
}

/// The program as an ELF file with one segment, which is the whole file.
fn file() -> alloc::vec::Vec<u8> {
    let size = (HEADERS + instructions().len()) as u32;
    let mut file = alloc::vec![0x7f, b'E', b'L', b'F', 1, 1, 1];
    file.resize(16, 0);
    let halves = |file: &mut alloc::vec::Vec<u8>, halves: &[u16]| {
        halves.iter().for_each(|half| file.extend(half.to_le_bytes()));
    };
    let words = |file: &mut alloc::vec::Vec<u8>, words: &[u32]| {
        words.iter().for_each(|word| file.extend(word.to_le_bytes()));
    };
    halves(&mut file, &[2, 3]); // executable, i386
    words(&mut file, &[1, LOADED_AT + HEADERS as u32, 52, 0, 0]);
    halves(&mut file, &[52, 32, 1, 0, 0, 0]);
    words(&mut file, &[1, 0, LOADED_AT, LOADED_AT, size, size, 7, 4096]);
    file.extend(instructions());
    file
}

fn write(content: &[u8]) {
    const CREATE_TO_WRITE: u64 = 0o1101;
    let file = call(number::OPEN, &[FILE.as_ptr() as u64, CREATE_TO_WRITE, 0o755]).expect("a file");
    let written = call(number::WRITE, &[file, content.as_ptr() as u64, content.len() as u64]);
    assert_eq!(written, Ok(content.len() as u64));
    call(number::CLOSE, &[file]).expect("it was open");
}

/// `thirty-two`
pub fn calls(_: &Arguments) {
    write(&file());
    let run = || {
        let arguments = [FILE.as_ptr() as u64, 0];
        let failed = call(number::EXECVE, &[arguments[0], arguments.as_ptr() as u64, 0]);
        panic!("it cannot be executed: {failed:?}");
    };
    let children = [child(run), child(run)];
    for child in children {
        let name = match child.wait() {
            Change::Exited(1) => "INT 0x80",
            Change::Exited(2) => "SYSCALL",
            Change::Exited(3) => "SYSENTER",
            other => panic!("it failed: {other:?}"),
        };
        say!("32 bits by {name}");
    }
}
