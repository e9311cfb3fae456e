#![expect(unsafe_code, reason = "registers of the local APIC")]
//! The local APIC of each CPU: its timer, the end of interrupts, and interrupts to other CPUs.
//!
//! All CPUs' registers are at the same address, where each sees its own.
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
/// Vector by which one CPU interrupts another to have something done.
pub const REQUEST_VECTOR: u8 = 0xf2;
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
const COMMAND: usize = 0x300;
const COMMAND_DESTINATION: usize = 0x310;
const TIMER: usize = 0x320;
const LINT0: usize = 0x350;
const ERROR: usize = 0x370;
const TIMER_INITIAL: usize = 0x380;
const TIMER_CURRENT: usize = 0x390;
const TIMER_DIVIDE: usize = 0x3e0;

const ENABLE: u32 = 1 << 8;
const MASKED: u32 = 1 << 16;
const DIVIDE_BY_1: u32 = 0b1011;
const DIVIDE_BY_128: u32 = 0b1010;
/// How much slower the slow timer is.
pub const SLOWLY: u64 = 128;
/// In the command register: an interrupt is still to be sent.
const PENDING: u32 = 1 << 12;
/// In the command register: the level of all commands but one that is not used.
const ASSERT: u32 = 1 << 14;

static REGISTERS: AtomicPtr<u8> = AtomicPtr::new(ptr::null_mut());

fn write(register: usize, value: u32) {
    // SAFETY: the page was mapped as device registers in `set_up`, before anything else is called.
    unsafe { REGISTERS.load(Ordering::Relaxed).add(register).cast::<u32>().write_volatile(value) };
}

fn read(register: usize) -> u32 {
    // SAFETY: as in `write`.
    unsafe { REGISTERS.load(Ordering::Relaxed).add(register).cast::<u32>().read_volatile() }
}

/// Maps the registers and enables the boot CPU's local APIC; returns its identifier.
///
/// # Panics
/// If its page cannot be mapped, which the page tables were prepared for.
pub fn set_up() -> u32 {
    let Some(registers) = paging::map_device(ADDRESS) else {
        panic!("the local APIC's page cannot be mapped")
    };
    REGISTERS.store(registers, Ordering::Relaxed);
    enable()
}

/// Enables this CPU's local APIC; returns its identifier.
pub fn enable() -> u32 {
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
    write(TIMER_DIVIDE, DIVIDE_BY_1);
    write(TIMER_INITIAL, ticks);
}

/// Starts the timer for so many slow ticks, once.
pub fn start_slow_timer(ticks: u32) {
    write(TIMER, u32::from(TIMER_VECTOR));
    write(TIMER_DIVIDE, DIVIDE_BY_128);
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

/// Waits until the last interrupt sent to other CPUs is on its way.
fn wait_for_delivery() {
    while read(COMMAND) & PENDING != 0 {
        core::hint::spin_loop();
    }
}

fn send(destination: u32, command: u32) {
    wait_for_delivery();
    write(COMMAND_DESTINATION, destination << 24);
    write(COMMAND, command);
}

/// Interrupts another CPU, named by its local APIC's identifier.
pub fn interrupt(destination: u32, vector: u8) {
    send(destination, ASSERT | u32::from(vector));
}

/// Sends a non-maskable interrupt to every other CPU.
pub fn interrupt_others_unmaskably() {
    const NON_MASKABLE: u32 = 0b100 << 8;
    const ALL_OTHERS: u32 = 0b11 << 18;
    send(0, ALL_OTHERS | ASSERT | NON_MASKABLE);
}

/// Resets another CPU, which then waits for [`start_up`].
pub fn reset(destination: u32) {
    const INIT: u32 = 0b101 << 8;
    send(destination, ASSERT | INIT);
}

/// Has a CPU that was reset start in real mode at the beginning of a page below 1 MiB.
pub fn start_up(destination: u32, page: u8) {
    const START_UP: u32 = 0b110 << 8;
    send(destination, ASSERT | START_UP | u32::from(page));
}
