//! The hypervisor's console: a log that keeps the last messages, and the serial line.
//!
//! Every message goes both ways. The control domain writes to the line and reads from it with
//! `HYPERVISOR_console_io`; other domains have consoles of their own, which dom0 serves, and get `EPERM` here. What
//! a guest can provoke is logged at a bounded rate, so a guest cannot drown the others' messages.

use crate::lock::Mutex;
use crate::{
    arch::{clock, serial},
    event_channel, guest_access,
    hypercall::{Arguments, Caller, HypercallResult},
};
use core::fmt::{self, Write};
use hypercall_abi::{
    Errno,
    xen::{CONSOLEIO_READ, CONSOLEIO_WRITE, VIRQ_CONSOLE},
};

/// Bytes of log that are kept.
pub const LOG_SIZE: usize = 32 * 1024;
/// Bytes typed that wait for the control domain.
const INPUT_SIZE: usize = 256;
/// Bytes written by one hypercall before it is restarted.
const WRITE_PIECE: usize = 256;

/// The last [`LOG_SIZE`] bytes of a stream.
pub struct LogRing {
    bytes: [u8; LOG_SIZE],
    /// Bytes ever written.
    written: u64,
    /// Bytes that a `clear` has hidden.
    cleared: u64,
}

impl LogRing {
    /// An empty log.
    pub const fn new() -> Self {
        Self { bytes: [0; LOG_SIZE], written: 0, cleared: 0 }
    }

    fn push(&mut self, byte: u8) {
        self.bytes[(self.written % LOG_SIZE as u64) as usize] = byte;
        self.written += 1;
    }

    /// Copies what is kept from position `from` on; returns the position it began at and the bytes copied.
    pub fn read(&self, from: u64, destination: &mut [u8]) -> (u64, usize) {
        let start =
            from.max(self.cleared).max(self.written.saturating_sub(LOG_SIZE as u64)).min(self.written);
        let count = destination.len().min((self.written - start) as usize);
        for (index, byte) in destination[..count].iter_mut().enumerate() {
            *byte = self.bytes[((start + index as u64) % LOG_SIZE as u64) as usize];
        }
        (start, count)
    }

    /// Hides everything written so far.
    pub fn clear(&mut self) {
        self.cleared = self.written;
    }
}

impl Default for LogRing {
    fn default() -> Self {
        Self::new()
    }
}

/// The hypervisor's log.
pub static LOG: Mutex<LogRing> = Mutex::new(LogRing::new());

struct Input {
    bytes: [u8; INPUT_SIZE],
    head: usize,
    length: usize,
}

static INPUT: Mutex<Input> = Mutex::new(Input { bytes: [0; INPUT_SIZE], head: 0, length: 0 });

impl Input {
    /// Fetches what was typed, as far as there is room. The rest stays in the line, which has its sender wait if it can.
    fn fetch(&mut self) {
        while self.length < INPUT_SIZE
            && let Some(byte) = serial::receive()
        {
            self.bytes[(self.head + self.length) % INPUT_SIZE] = byte;
            self.length += 1;
        }
    }

    /// The next byte. An interrupt tells only of what comes into an empty line, so what stayed there is fetched here.
    fn next(&mut self) -> Option<u8> {
        if self.length == 0 {
            self.fetch();
        }
        self.length = self.length.checked_sub(1)?;
        let byte = self.bytes[self.head];
        self.head = (self.head + 1) % INPUT_SIZE;
        Some(byte)
    }
}

/// Writes text to the line, with the carriage returns that terminals want.
fn send(byte: u8) {
    if byte == b'\n' {
        serial::send(b'\r');
    }
    serial::send(byte);
}

/// A message on its way to the log and the line.
struct Message<'a>(&'a mut LogRing);

impl Write for Message<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            self.0.push(byte);
            send(byte);
        }
        Ok(())
    }
}

/// How many messages a second guests may cause together.
const GUEST_MESSAGES_PER_SECOND: u32 = 20;
const SECOND: u64 = 1_000_000_000;

struct Rate {
    window: u64,
    used: u32,
}

static RATE: Mutex<Rate> = Mutex::new(Rate { window: 0, used: 0 });

/// True when a message that a guest caused may still be logged in this second.
pub fn guest_message_allowed() -> bool {
    let window = clock::now() / SECOND;
    let mut rate = RATE.lock();
    if rate.window != window {
        *rate = Rate { window, used: 0 };
    }
    rate.used = rate.used.saturating_add(1);
    rate.used <= GUEST_MESSAGES_PER_SECOND
}

/// Where the `log` crate's messages go.
struct Logger;

impl log::Log for Logger {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &log::Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let now = clock::now();
        let mut ring = LOG.lock();
        let (seconds, micros) = (now / SECOND, now % SECOND / 1000);
        // Writing to the ring and the line cannot fail.
        let _ = writeln!(Message(&mut ring), "(weir) [{seconds:4}.{micros:06}] {}", record.args());
    }

    fn flush(&self) {}
}

/// Sends the `log` crate's messages here from now on.
pub fn set_up(level: log::LevelFilter) {
    if log::set_logger(&Logger).is_ok() {
        log::set_max_level(level);
    }
}

/// Fetches what was typed; called on the line's interrupt.
pub fn input_interrupt() {
    INPUT.lock().fetch();
    event_channel::notify_global_virq(VIRQ_CONSOLE);
}

/// [`Input::next`], with the lock held no longer than that.
fn next_input() -> Option<u8> {
    INPUT.lock().next()
}

/// `HYPERVISOR_console_io(command, count, buffer)`: returns bytes read, or 0 after writing all.
///
/// # Errors
/// `EPERM` except for the control domain, `ENOSYS`, `EFAULT`.
pub fn console_io(caller: &mut Caller<'_>, arguments: &Arguments) -> HypercallResult {
    if !caller.domain.is_privileged {
        return Err(Errno::EPERM.into());
    }
    let (count, buffer) = (arguments[1] as u32 as usize, arguments[2]);
    match arguments[0] as u32 {
        CONSOLEIO_WRITE => write(caller, count, buffer),
        CONSOLEIO_READ => read(count, buffer),
        _ => Err(Errno::ENOSYS.into()),
    }
}

fn write(caller: &mut Caller<'_>, count: usize, buffer: u64) -> HypercallResult {
    let mut piece = [0; WRITE_PIECE];
    let length = count.min(WRITE_PIECE);
    guest_access::read_bytes(buffer, &mut piece[..length])?;
    piece[..length].iter().copied().for_each(send);
    if length == count {
        return Ok(0);
    }
    caller.set_argument(1, (count - length) as u64);
    caller.set_argument(2, buffer + length as u64);
    Err(crate::hypercall::HypercallError::Restart)
}

fn read(count: usize, buffer: u64) -> HypercallResult {
    let mut copied = 0;
    while copied < count.min(INPUT_SIZE)
        && let Some(byte) = next_input()
    {
        guest_access::write_element(buffer, copied as u64, &byte)?;
        copied += 1;
    }
    Ok(copied as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    fn log_of(text: &[u8]) -> LogRing {
        let mut ring = LogRing::new();
        text.iter().copied().for_each(|byte| ring.push(byte));
        ring
    }

    #[test]
    fn reads_from_where_it_is_told() {
        let ring = log_of(b"hello world");
        let mut buffer = [0; 5];
        assert_eq!(ring.read(6, &mut buffer), (6, 5));
        assert_eq!(&buffer, b"world");
        assert_eq!(ring.read(11, &mut buffer), (11, 0));
        assert_eq!(ring.read(1 << 40, &mut buffer), (11, 0));
    }

    #[test]
    fn keeps_only_the_last_bytes() {
        let mut ring = log_of(&[b'a'; LOG_SIZE]);
        ring.push(b'z');
        let mut buffer = [0; 2];
        assert_eq!(ring.read(0, &mut buffer), (1, 2));
        assert_eq!(ring.read(LOG_SIZE as u64, &mut buffer), (LOG_SIZE as u64, 1));
        assert_eq!(buffer[0], b'z');
    }

    #[test]
    fn clear_hides_what_was_there() {
        let mut ring = log_of(b"old");
        ring.clear();
        ring.push(b'n');
        let mut buffer = [0; 8];
        assert_eq!(ring.read(0, &mut buffer), (3, 1));
    }
    #[test]
    fn what_finds_no_room_stays_in_the_line() {
        let typed: Vec<u8> = (0..5000).map(|number| (number % 251) as u8).collect();
        serial::type_in(&typed);
        let mut input = Input { bytes: [0; INPUT_SIZE], head: 0, length: 0 };
        input.fetch();
        input.fetch();
        assert_eq!(input.length, INPUT_SIZE);
        let read: Vec<u8> = core::iter::from_fn(|| input.next()).collect();
        assert!(read == typed, "{} of {} bytes", read.len(), typed.len());
    }
}
