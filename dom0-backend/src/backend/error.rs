//! Why a device could not be connected to its front end.

use alloc::string::String;
use core::fmt;

use hypercall_abi::Errno;
use pv_runtime::grant::GrantError;
use pv_runtime::xenbus::StoreError;
use ring::AttachError;

/// Why a device could not be offered or connected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConnectError {
    /// The store did not do what it was asked.
    Store(StoreError),
    /// The front end did not say something that it must say.
    Missing(&'static str),
    /// The front end wants something that we did not offer.
    NotOffered(&'static str),
    /// The ring's pages are not granted.
    Grant(GrantError),
    /// The ring makes no sense.
    Ring(AttachError),
    /// The hypervisor refused something.
    Hypervisor(Errno),
    /// What the toolstack wants the device to be made of is not there.
    NoSource(String),
    /// There are too many devices.
    Full,
}

impl fmt::Display for ConnectError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Store(error) => write!(formatter, "store: {error}"),
            Self::Missing(key) => write!(formatter, "the front end does not say {key}"),
            Self::NotOffered(what) => write!(formatter, "the front end wants {what}"),
            Self::Grant(error) => write!(formatter, "the ring is not granted: {error}"),
            Self::Ring(error) => write!(formatter, "the ring makes no sense: {error}"),
            Self::Hypervisor(errno) => write!(formatter, "hypervisor: {errno}"),
            Self::NoSource(what) => write!(formatter, "there is no {what}"),
            Self::Full => formatter.write_str("there are too many devices"),
        }
    }
}

impl core::error::Error for ConnectError {}

impl From<StoreError> for ConnectError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<GrantError> for ConnectError {
    fn from(error: GrantError) -> Self {
        Self::Grant(error)
    }
}

impl From<AttachError> for ConnectError {
    fn from(error: AttachError) -> Self {
        Self::Ring(error)
    }
}

impl From<Errno> for ConnectError {
    fn from(errno: Errno) -> Self {
        Self::Hypervisor(errno)
    }
}
