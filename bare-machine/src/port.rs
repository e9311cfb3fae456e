#![expect(unsafe_code, reason = "port I/O")]
//! I/O ports.

use x86::io::{inb, inl, outb, outl};

/// Reads a byte.
pub fn read_u8(port: u16) -> u8 {
    // SAFETY: reading a port does not touch memory.
    unsafe { inb(port) }
}

/// Writes a byte.
pub fn write_u8(port: u16, value: u8) {
    // SAFETY: only ports of the serial port, the timer, the interrupt controllers and the debug-exit device are written,
    // none of which touches memory.
    unsafe { outb(port, value) }
}

/// Reads four bytes.
pub fn read_u32(port: u16) -> u32 {
    // SAFETY: as for a byte.
    unsafe { inl(port) }
}

/// Writes four bytes.
pub fn write_u32(port: u16, value: u32) {
    // SAFETY: only the address of a configuration register is written, which changes what the data port shows.
    unsafe { outl(port, value) }
}
