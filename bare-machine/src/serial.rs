//! The first serial port: where the kernel's text goes.

use core::fmt;

use crate::port;

const PORT: u16 = 0x3f8;
const LINE_STATUS: u16 = PORT + 5;
const TRANSMITTER_EMPTY: u8 = 1 << 5;
/// A port that is not there reads as all ones; waiting for it must end all the same.
const PATIENCE: u32 = 100_000;

/// Sets 115,200 baud, eight data bits, no parity; no interrupts.
pub fn set_up() {
    let settings =
        [(PORT + 1, 0x00), (PORT + 3, 0x80), (PORT, 1), (PORT + 1, 0), (PORT + 3, 0x03), (PORT + 2, 0xc7)];
    settings.into_iter().for_each(|(register, value)| port::write_u8(register, value));
}

/// Sends bytes; a line feed gets the carriage return before it.
pub fn send(bytes: &[u8]) {
    for &byte in bytes {
        if byte == b'\n' {
            send_byte(b'\r');
        }
        send_byte(byte);
    }
}

fn send_byte(byte: u8) {
    let _ = (0..PATIENCE).find(|_| port::read_u8(LINE_STATUS) & TRANSMITTER_EMPTY != 0);
    port::write_u8(PORT, byte);
}

/// The port, to be written to.
pub struct Output;

impl fmt::Write for Output {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        send(text.as_bytes());
        Ok(())
    }
}
