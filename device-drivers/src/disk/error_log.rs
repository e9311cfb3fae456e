//! Failed requests in the log: which device, what, where.

use alloc::string::String;
use core::cell::Cell;
use core::fmt;

use super::Operation;

/// Errors that are all logged; of those after them the sixteenth, thirty-second and so on, for a user can have as many as
/// it likes.
const LOGGED: u64 = 8;

/// What a request was, for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// What was to be done.
    pub operation: Operation,
    /// The first sector.
    pub first_sector: u64,
    /// How many.
    pub sectors: u64,
}

impl fmt::Display for Extent {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { operation, first_sector, sectors } = self;
        let name = match operation {
            Operation::Read => "read",
            Operation::Write => "write",
            Operation::Flush => return formatter.write_str("flush"),
        };
        write!(formatter, "{name} of {sectors} sectors from {first_sector} on")
    }
}

/// Errors of one device.
#[derive(Debug)]
pub struct ErrorLog {
    device: String,
    count: Cell<u64>,
}

impl ErrorLog {
    /// For the device of this name.
    pub fn new(device: String) -> Self {
        Self { device, count: Cell::new(0) }
    }

    /// The device's name.
    pub fn device(&self) -> &str {
        &self.device
    }

    /// Notes that a request failed, and with what.
    pub fn note(&self, extent: &Extent, what: impl fmt::Display) {
        let count = self.count.get() + 1;
        self.count.set(count);
        if count <= LOGGED || count.is_power_of_two() {
            log::error!("{}: {extent}: {what} (error {count})", self.device);
        }
    }

    /// Requests that failed.
    pub fn count(&self) -> u64 {
        self.count.get()
    }
}
