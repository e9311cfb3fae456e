//! What can go wrong with a virtio device.

use core::fmt;

use hypercall_abi::Errno;

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

/// Why a device could not be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetupError {
    /// Not a virtio device of the kind expected, or one that follows the old specification only.
    NotModern,
    /// A capability describes registers that do not lie in the device's memory.
    BadRegion,
    /// It does not come out of reset.
    Stuck,
    /// It does not accept the features agreed on, or lacks one that is needed.
    FeaturesRefused,
    /// It lacks a queue, or the queue is too small.
    NoQueue,
    /// It has no message-signalled interrupts, or too few.
    NoInterrupt,
    /// A value in its configuration makes no sense.
    BadConfiguration,
    /// The hypervisor refused something.
    Hypervisor(Errno),
}

impl From<Errno> for SetupError {
    fn from(errno: Errno) -> Self {
        Self::Hypervisor(errno)
    }
}

impl fmt::Display for SetupError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::NotModern => "not a modern virtio device",
            Self::BadRegion => "its registers lie outside its memory",
            Self::Stuck => "it does not come out of reset",
            Self::FeaturesRefused => "no agreement on features",
            Self::NoQueue => "a queue is missing",
            Self::NoInterrupt => "it has no message-signalled interrupts",
            Self::BadConfiguration => "its configuration makes no sense",
            Self::Hypervisor(errno) => return write!(formatter, "hypervisor: {errno}"),
        })
    }
}

impl core::error::Error for SetupError {}
