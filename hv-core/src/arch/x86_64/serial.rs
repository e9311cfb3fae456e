#![expect(unsafe_code, reason = "port I/O to the first UART")]
//! The first serial port: the hypervisor's console.
//!
//! Output is polled, so that a message is out when the call returns, even from a panic. Input is fetched by the
//! timer and by whoever asks; QEMU and every PC have the port at 0x3f8.

use x86::io::{inb, outb};

const PORT: u16 = 0x3f8;
const LINE_STATUS: u16 = PORT + 5;
const DATA_READY: u8 = 1 << 0;
const TRANSMITTER_EMPTY: u8 = 1 << 5;
/// A UART that is not there reads as all ones; waiting for it must end.
const PATIENCE: u32 = 100_000;

/// Sets 115,200 baud, eight data bits, no parity, FIFOs on, and receive interrupts on.
pub fn set_up() {
    // SAFETY: these ports belong to the UART, which the hypervisor alone owns.
    unsafe {
        outb(PORT + 1, 0x00);
        outb(PORT + 3, 0x80);
        outb(PORT, 1);
        outb(PORT + 1, 0);
        outb(PORT + 3, 0x03);
        outb(PORT + 2, 0xc7);
        outb(PORT + 4, 0x0b);
        outb(PORT + 1, 0x01);
    }
}

/// Sends one byte, waiting for room.
pub fn send(byte: u8) {
    // SAFETY: as in `set_up`.
    unsafe {
        let mut patience = PATIENCE;
        while inb(LINE_STATUS) & TRANSMITTER_EMPTY == 0 && patience > 0 {
            patience -= 1;
        }
        outb(PORT, byte);
    }
}

/// The next received byte, if there is one.
pub fn receive() -> Option<u8> {
    // SAFETY: as in `set_up`.
    unsafe { (inb(LINE_STATUS) & DATA_READY != 0).then(|| inb(PORT)) }
}

/// The ISA interrupt line of the port.
pub const INTERRUPT_LINE: u32 = 4;
