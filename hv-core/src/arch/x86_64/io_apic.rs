#![expect(unsafe_code, reason = "registers of the I/O APIC")]
//! I/O APICs: where interrupt lines become messages to a CPU.

use super::paging;
use crate::lock::Mutex;
use core::{
    ptr,
    sync::atomic::{AtomicPtr, AtomicU32, Ordering},
};

const SELECT: usize = 0x00;
const WINDOW: usize = 0x10;
const VERSION: u32 = 1;
const FIRST_ENTRY: u32 = 0x10;

const ACTIVE_LOW: u32 = 1 << 13;
const LEVEL: u32 = 1 << 15;
const MASKED: u32 = 1 << 16;

/// The registers of the first I/O APIC; a lock, because they are reached in two steps.
static REGISTERS: Mutex<AtomicPtr<u8>> = Mutex::new(AtomicPtr::new(ptr::null_mut()));
static LINES: AtomicU32 = AtomicU32::new(0);

fn access<T>(register: u32, act: impl FnOnce(*mut u32) -> T) -> Option<T> {
    let registers = REGISTERS.lock();
    let base = registers.load(Ordering::Relaxed);
    if base.is_null() {
        return None;
    }
    // SAFETY: the page was mapped as device registers in `set_up`; the lock keeps the two steps together.
    unsafe {
        base.add(SELECT).cast::<u32>().write_volatile(register);
        Some(act(base.add(WINDOW).cast()))
    }
}

fn read(register: u32) -> u32 {
    // SAFETY: `access` passes the mapped window register.
    access(register, |window| unsafe { window.read_volatile() }).unwrap_or(0)
}

fn write(register: u32, value: u32) {
    // SAFETY: as in `read`.
    access(register, |window| unsafe { window.write_volatile(value) });
}

/// Takes over the I/O APIC whose lines begin at 0, all lines masked.
pub fn set_up(address: u64) {
    let Some(registers) = paging::map_device(address) else {
        log::warn!("the I/O APIC at {address:#x} lies where device registers are not expected; no lines");
        return;
    };
    REGISTERS.lock().store(registers, Ordering::Relaxed);
    LINES.store((read(VERSION) >> 16 & 0xff) + 1, Ordering::Relaxed);
    (0..LINES.load(Ordering::Relaxed)).for_each(mask);
}

/// True for a line that exists.
pub fn has_line(line: u32) -> bool {
    line < LINES.load(Ordering::Relaxed)
}

/// Delivers `line` as `vector` to the boot CPU from now on.
pub fn enable(line: u32, vector: u8, is_level: bool, is_active_low: bool) {
    let mut entry = u32::from(vector);
    if is_level {
        entry |= LEVEL;
    }
    if is_active_low {
        entry |= ACTIVE_LOW;
    }
    let destination = super::cpu::boot_cpu().apic_id.load(Ordering::Relaxed) << 24;
    write(FIRST_ENTRY + 2 * line + 1, destination);
    write(FIRST_ENTRY + 2 * line, entry);
}

/// Holds a line back.
pub fn mask(line: u32) {
    let entry = FIRST_ENTRY + 2 * line;
    write(entry, read(entry) | MASKED);
}

/// Lets a line through again.
pub fn unmask(line: u32) {
    let entry = FIRST_ENTRY + 2 * line;
    write(entry, read(entry) & !MASKED);
}
