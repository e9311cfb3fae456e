//! Why a driver cannot start its device.

use core::fmt;

use hypercall_abi::Errno;

/// Why a device could not be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetupError {
    /// Not a virtio device of the kind expected, or one that follows the old specification only.
    NotModern,
    /// Its registers do not lie in its memory.
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
    /// It needs something that the driver does not have.
    Unsupported(&'static str),
    /// It failed a command that must succeed.
    CommandFailed,
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
            Self::Unsupported(what) => what,
            Self::CommandFailed => "it failed a command that it needs to start",
            Self::Hypervisor(errno) => return write!(formatter, "hypervisor: {errno}"),
        })
    }
}

impl core::error::Error for SetupError {}
