//! Why a request to the store failed.

use core::fmt;

use hypercall_abi::Errno;

use super::transport::Disconnected;

/// Why a request to the store failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreError {
    /// The store said no: `ENOENT` for what is not there, `EACCES` for what is not allowed.
    Refused(Errno),
    /// The reply was not one to this request, or its text makes no sense.
    Malformed,
    /// The request is longer than the protocol allows, or has a zero in the middle.
    Unspeakable,
    /// There is no connection any more.
    Disconnected,
}

impl StoreError {
    /// Whether the store said that there is no such node.
    pub fn is_not_found(self) -> bool {
        self == Self::Refused(Errno::ENOENT)
    }
}

impl From<Disconnected> for StoreError {
    fn from(_: Disconnected) -> Self {
        Self::Disconnected
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(errno) => write!(formatter, "the store refused: {errno}"),
            Self::Malformed => formatter.write_str("the store's reply makes no sense"),
            Self::Unspeakable => formatter.write_str("the request cannot be put into a message"),
            Self::Disconnected => formatter.write_str("there is no connection to the store"),
        }
    }
}

impl core::error::Error for StoreError {}
