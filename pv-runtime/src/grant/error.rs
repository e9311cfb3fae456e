//! Why a grant could not be used.

use core::fmt;

use hypercall_abi::Errno;
use hypercall_abi::grant_table::{GNTST_OKAY, status_meaning};

/// Why a grant could not be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GrantError {
    /// The hypervisor refused this grant, with a status of `GNTST_*`; as a rule the granting domain's doing.
    Refused(i16),
    /// The whole call failed, or there was no room on our side.
    Failed(Errno),
}

impl GrantError {
    /// The outcome that a status stands for.
    pub(super) fn check(status: i16) -> Result<(), Self> {
        if status == GNTST_OKAY { Ok(()) } else { Err(Self::Refused(status)) }
    }
}

impl From<Errno> for GrantError {
    fn from(errno: Errno) -> Self {
        Self::Failed(errno)
    }
}

impl fmt::Display for GrantError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(status) => write!(formatter, "{} (status {status})", status_meaning(*status)),
            Self::Failed(errno) => errno.fmt(formatter),
        }
    }
}

impl core::error::Error for GrantError {}
