//! What can go wrong with a virtio device.

use core::fmt;

/// The device wrote something into a queue that no sound device could have written. Give it up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceFault {
    /// It completed more requests than it was given.
    UsedTooMuch {
        /// Its index of completed requests.
        found: u16,
        /// Where we had read up to.
        expected: u16,
    },
    /// It completed a request that it does not have.
    UnknownRequest {
        /// The descriptor that it named.
        descriptor: u32,
    },
}

impl fmt::Display for DeviceFault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UsedTooMuch { found, expected } => {
                write!(
                    formatter,
                    "the device completed requests up to {found} of a queue read up to {expected}"
                )
            }
            Self::UnknownRequest { descriptor } => {
                write!(formatter, "the device completed descriptor {descriptor}, which it does not have")
            }
        }
    }
}

impl core::error::Error for DeviceFault {}
