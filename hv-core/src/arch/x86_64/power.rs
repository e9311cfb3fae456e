//! How the machine ends.
//!
//! When the control domain shuts down, so does the machine. Under QEMU's debug exit device (named on the command line)
//! the end has a status that scripts can read; elsewhere the machine is reset or powered off as firmware describes.

use super::{cpu, port};
use core::sync::atomic::{AtomicU16, AtomicU32, Ordering};
use hypercall_abi::sched::{SHUTDOWN_POWEROFF, SHUTDOWN_REBOOT};

/// Port of QEMU's debug exit device; zero when there is none.
static DEBUG_EXIT: AtomicU16 = AtomicU16::new(0);
/// ACPI's power control: port in the upper half, the value that powers off in the lower; zero when unknown.
static POWER_OFF: AtomicU32 = AtomicU32::new(0);

/// What a machine that ends well writes to the debug exit device, if the control domain has not written before.
const EXIT_GOOD: u32 = 0x10;
/// What a machine that ends badly writes.
const EXIT_BAD: u32 = 0x12;

/// Names the debug exit device.
pub fn set_debug_exit(exit_port: u16) {
    DEBUG_EXIT.store(exit_port, Ordering::Relaxed);
}

/// Says how the machine powers off: what to write to which port.
pub fn set_power_off(control_port: u16, value: u16) {
    POWER_OFF.store(u32::from(control_port) << 16 | u32::from(value), Ordering::Relaxed);
}

/// The control domain has stopped for this `SHUTDOWN_*` reason.
pub fn control_domain_stopped(reason: u32) -> ! {
    cpu::stop_others();
    match reason {
        SHUTDOWN_POWEROFF => {
            log::info!("the control domain has shut down: powering off");
            exit(EXIT_GOOD);
            power_off()
        }
        SHUTDOWN_REBOOT => {
            log::info!("the control domain asks for a reboot");
            reset()
        }
        _ => {
            log::error!("WEIR PANIC: the control domain has crashed (reason {reason})");
            exit(EXIT_BAD);
            cpu::halt_for_ever()
        }
    }
}

/// Ends the machine after a failure of the hypervisor itself.
pub fn failed() -> ! {
    cpu::stop_others();
    exit(EXIT_BAD);
    cpu::halt_for_ever()
}

/// Ends QEMU, if there is a debug exit device.
fn exit(status: u32) {
    let exit_port = DEBUG_EXIT.load(Ordering::Relaxed);
    if exit_port != 0 {
        port::write(exit_port, 4, status);
        cpu::halt_for_ever();
    }
}

fn power_off() -> ! {
    let control = POWER_OFF.load(Ordering::Relaxed);
    if control != 0 {
        port::write((control >> 16) as u16, 2, control & 0xffff);
    }
    log::info!("it is now safe to turn the power off");
    cpu::halt_for_ever()
}

fn reset() -> ! {
    const RESET_CONTROL: u16 = 0xcf9;
    const KEYBOARD_COMMAND: u16 = 0x64;
    port::write(RESET_CONTROL, 1, 0x02);
    port::write(RESET_CONTROL, 1, 0x06);
    port::write(KEYBOARD_COMMAND, 1, 0xfe);
    cpu::halt_for_ever()
}
