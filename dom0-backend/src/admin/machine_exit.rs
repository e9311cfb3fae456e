#![expect(unsafe_code, reason = "writes an I/O port")]
//! Ending the virtual machine with a value that whoever started it gets to see.
//!
//! QEMU's debug-exit device ends the whole machine when a byte is written to its port.

use core::arch::asm;

use hypercall_abi::physdev::PhysdevSetIopl;
use pv_runtime::hypercall::physdev_op;

/// Where the device is.
const PORT: u16 = 0xf4;

/// Ends the machine. Returns if there is no such device, or the hypervisor forbids it.
pub fn exit(value: u8) {
    if let Err(errno) = physdev_op(&mut PhysdevSetIopl { iopl: 1 }) {
        return log::warn!("I/O ports cannot be used: {errno}");
    }
    // SAFETY: the right to use ports was given a moment ago. The port ends the machine or does nothing; no
    // device that this domain drives is there.
    unsafe { asm!("out dx, al", in("dx") PORT, in("al") value, options(nomem, nostack, preserves_flags)) };
}
