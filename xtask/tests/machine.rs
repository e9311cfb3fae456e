//! The code that drives QEMU, against a real QEMU and the smallest kernel that can talk and listen.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use xtask::machine::{Ending, Exit, Machine};
use xtask::scratch::Scratch;

const SOON: Duration = Duration::from_secs(30);
const LOAD_ADDRESS: u32 = 0x10_0000;
const CODE_OFFSET: u32 = 0x100;

/// A kernel that prints `text`, waits for a key, and writes that key's code to the debug-exit port.
fn kernel(text: &str) -> Vec<u8> {
    let mut code = vec![0xbe, 0, 0, 0, 0]; // mov esi, text
    code.extend([0xba, 0xf8, 0x03, 0, 0]); // mov edx, 0x3f8: the serial line's data
    code.extend([0xac, 0x84, 0xc0, 0x74, 0x03, 0xee, 0xeb, 0xf8]); // next: lodsb; test al, al; jz; out dx, al; jmp next
    code.extend([0xba, 0xfd, 0x03, 0, 0]); // mov edx, 0x3fd: the serial line's status
    code.extend([0xec, 0xa8, 0x01, 0x74, 0xfb]); // wait: in al, dx; test al, 1; jz wait
    code.extend([0xba, 0xf8, 0x03, 0, 0, 0xec]); // mov edx, 0x3f8; in al, dx
    code.extend([0xba, 0xf4, 0, 0, 0, 0xee]); // mov edx, 0xf4; out dx, al
    code.extend([0xeb, 0xfe]); // stay here
    let text_address = LOAD_ADDRESS + CODE_OFFSET + code.len() as u32;
    code[1..5].copy_from_slice(&text_address.to_le_bytes());
    code.extend(text.as_bytes());
    code.push(0);
    elf(&code)
}

/// A 64-bit ELF file with one loaded segment, and the note that tells the 32-bit entry point for PVH.
fn elf(code: &[u8]) -> Vec<u8> {
    let note_offset: u64 = 64 + 2 * 56;
    let entry = LOAD_ADDRESS + CODE_OFFSET;
    let length = u64::from(CODE_OFFSET) + code.len() as u64;
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    file.extend([2, 0, 62, 0, 1, 0, 0, 0]); // executable, x86-64, version
    for word in [u64::from(entry), 64, 0] {
        file.extend(word.to_le_bytes()); // entry point, program headers, no sections
    }
    for half in [0u16, 0, 64, 56, 2, 64, 0, 0] {
        file.extend(half.to_le_bytes()); // flags, and the sizes and numbers of headers
    }
    file.extend(segment(1, 0, length));
    file.extend(segment(4, note_offset, 24));
    for word in [4u32, 8, 18] {
        file.extend(word.to_le_bytes()); // the note's name is 4 long, its content 8, its kind "PHYS32_ENTRY"
    }
    file.extend(b"Xen\0");
    file.extend(u64::from(entry).to_le_bytes());
    file.resize(CODE_OFFSET as usize, 0);
    file.extend(code);
    file
}

fn segment(kind: u32, offset: u64, length: u64) -> Vec<u8> {
    let address = u64::from(LOAD_ADDRESS) + offset;
    let mut header = [kind.to_le_bytes(), 7u32.to_le_bytes()].concat();
    for word in [offset, address, address, length, length, 4] {
        header.extend(word.to_le_bytes());
    }
    header
}

fn machine(scratch: &Scratch, text: &str) -> Machine {
    let path: PathBuf = scratch.join("kernel");
    fs::write(&path, kernel(text)).unwrap();
    Machine::with_kernel(path).memory_mib(64).time_limit(SOON)
}

fn scratch() -> Scratch {
    Scratch::create(&std::env::temp_dir(), "weir-machine").unwrap()
}

#[test]
fn a_machine_talks_listens_and_ends_with_a_value() {
    let scratch = scratch();
    let mut running = machine(&scratch, "hello\r\nready> ").spawn().unwrap();
    assert_eq!(running.next_line().unwrap(), "hello");
    assert_eq!(running.wait_for("> ", SOON).unwrap(), "ready> ");
    running.send(&[0x10]).unwrap();
    assert_eq!(running.wait().unwrap(), Exit::Debug(0x10));
}

#[test]
fn instructions_can_be_counted() {
    let scratch = scratch();
    let mut running = machine(&scratch, "> ").counts_instructions(true).spawn().unwrap();
    running.wait_for("> ", SOON).unwrap();
    running.send(&[0x11]).unwrap();
    assert_eq!(running.wait().unwrap(), Exit::Debug(0x11));
}

#[test]
fn the_hypervisors_last_words_end_the_wait() {
    let scratch = scratch();
    let mut running = machine(&scratch, "WEIR PANIC: frame 7 has two owners\r\n").spawn().unwrap();
    let error = running.wait_for("prompt", SOON).unwrap_err();
    assert_eq!(error.ending, Ending::Panicked("WEIR PANIC: frame 7 has two owners".to_owned()));
}

#[test]
fn a_machine_that_hangs_is_ended_by_its_time_limit() {
    let scratch = scratch();
    let mut running = machine(&scratch, "> ").time_limit(Duration::from_secs(2)).spawn().unwrap();
    let error = running.wait().unwrap_err();
    assert_eq!(error.ending, Ending::TimedOut);
    assert!(error.to_string().contains("> "), "{error}");
}

#[test]
fn a_wrong_argument_is_told_in_qemus_words() {
    let scratch = scratch();
    let mut running = machine(&scratch, "").argument("-device").argument("no-such-device").spawn().unwrap();
    let error = running.wait_for("anything", SOON).unwrap_err();
    assert_eq!(error.ending, Ending::Exited(Exit::Failure(1)));
    assert!(error.context.contains("no-such-device"), "{}", error.context);
}

#[test]
fn disks_and_networks_are_accepted() {
    let scratch = scratch();
    let disk = scratch.join("disk, with a comma.img");
    xtask::disk::create(&disk, 1).unwrap();
    let machine = machine(&scratch, "> ").disk(&disk).temporary_disk(disk.with_extension("2"));
    xtask::disk::create(&disk.with_extension("2"), 1).unwrap();
    let mut running = machine.network("user").network("user,restrict=on").processors(2).spawn().unwrap();
    running.wait_for("> ", SOON).unwrap();
}
