#![expect(unsafe_code, reason = "registers of the local APIC")]
//! The local APIC of each CPU: its timer and the end of interrupts.
//!
//! The memory-mapped form is used even where the CPU has the newer one: it is everywhere, and QEMU's instruction
//! counter does not work with the other.

use super::paging;
use core::{
    ptr,
    sync::atomic::{AtomicPtr, Ordering},
};

/// Vector of the timer.
pub const TIMER_VECTOR: u8 = 0xf0;
/// Vector of the serial port, which is the hypervisor's own.
pub const SERIAL_VECTOR: u8 = 0xf1;
/// Vector of interrupts that went away before they could be delivered.
pub const SPURIOUS_VECTOR: u8 = 0xff;
/// Vector of the battery-backed clock's interrupt.
pub const DATE_VECTOR: u8 = 0xf8;

/// Machine address of the registers after reset.
pub const ADDRESS: u64 = 0xfee0_0000;

const ID: usize = 0x20;
const TASK_PRIORITY: usize = 0x80;
const END_OF_INTERRUPT: usize = 0xb0;
const SPURIOUS: usize = 0xf0;
const TIMER: usize = 0x320;
const LINT0: usize = 0x350;
const ERROR: usize = 0x370;
const TIMER_INITIAL: usize = 0x380;
const TIMER_CURRENT: usize = 0x390;
const TIMER_DIVIDE: usize = 0x3e0;

const ENABLE: u32 = 1 << 8;
const MASKED: u32 = 1 << 16;
const DIVIDE_BY_1: u32 = 0b1011;

static REGISTERS: AtomicPtr<u8> = AtomicPtr::new(ptr::null_mut());

fn write(register: usize, value: u32) {
    // SAFETY: the page was mapped as device registers in `set_up`, before anything else is called.
    unsafe { REGISTERS.load(Ordering::Relaxed).add(register).cast::<u32>().write_volatile(value) };
}

fn read(register: usize) -> u32 {
    // SAFETY: as in `write`.
    unsafe { REGISTERS.load(Ordering::Relaxed).add(register).cast::<u32>().read_volatile() }
}

/// Enables this CPU's local APIC; returns its identifier.
///
/// # Panics
/// If its page cannot be mapped, which the page tables were prepared for.
pub fn set_up() -> u32 {
    let Some(registers) = paging::map_device(ADDRESS) else {
        panic!("the local APIC's page cannot be mapped")
    };
    REGISTERS.store(registers, Ordering::Relaxed);
    write(TASK_PRIORITY, 0);
    write(TIMER, MASKED | u32::from(TIMER_VECTOR));
    write(TIMER_DIVIDE, DIVIDE_BY_1);
    write(LINT0, MASKED);
    write(ERROR, MASKED);
    write(SPURIOUS, ENABLE | u32::from(SPURIOUS_VECTOR));
    read(ID) >> 24
}

/// The interrupt being served has been taken.
#[inline]
pub fn end_of_interrupt() {
    write(END_OF_INTERRUPT, 0);
}

/// Starts the timer for `ticks`, once; zero stops it.
pub fn start_timer(ticks: u32) {
    write(TIMER, u32::from(TIMER_VECTOR));
    write(TIMER_INITIAL, ticks);
}

/// Lets the timer count down from its highest value without an interrupt, to measure its rate.
pub fn start_measuring() {
    write(TIMER, MASKED | u32::from(TIMER_VECTOR));
    write(TIMER_INITIAL, u32::MAX);
}

/// Ticks since [`start_measuring`].
pub fn measured() -> u32 {
    u32::MAX - read(TIMER_CURRENT)
}
