#![no_std]
#![no_main]
//! Runs one of our paravirtual kernels on the bare machine, with no hypervisor under it.
//!
//! The kernel's file is the same that Weir and Xen run. What it calls a hypercall is here an ordinary function of the
//! machine layer below it, in the same address space and in ring 0, so it costs a call and not a change of world: this
//! is what such a kernel would be had it been written for the machine. It owns all devices, its interrupts reach it
//! directly, and waiting is `hlt`.
//!
//! ```text
//!   boot        from the boot loader to 64-bit mode
//!   load        the kernel into memory, its page tables
//!   call        hypercalls: which there are
//!   memory      page-table entries, written as they are
//!   event       event channels: interrupts and the timer, nothing else
//!   interrupt   vectors, the local APIC
//!   message     interrupt messages of PCI devices
//!   clock       the TSC's rate, the timer
//! ```
//!
//! There is no other domain, so no grants, no store and no ring of a console: those calls do not exist, as on a
//! hypervisor that never had them. Nothing is checked that only a hypervisor would have to check.

mod boot;
mod call;
mod clock;
mod event;
mod interrupt;
mod load;
mod memory;
mod message;
mod port;
mod serial;

use core::fmt::Write;

/// Ends the machine with this value, by QEMU's debug-exit device; for ever waits where there is none.
fn end(value: u8) -> ! {
    /// Where the device is.
    const DEBUG_EXIT: u16 = 0xf4;
    port::write_u8(DEBUG_EXIT, value);
    interrupt::halt_for_ever()
}

/// The value of an end that was asked for.
const ENDED_WELL: u8 = 0x10;
/// The value of any other.
const ENDED_BADLY: u8 = 0x12;

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    // The serial port takes everything.
    let _ = writeln!(serial::Output, "BARE PANIC: {info}");
    end(ENDED_BADLY)
}
