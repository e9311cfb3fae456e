//! What can go wrong with a request, and by which name the wire knows it.
//!
//! The kinds here say more than the wire can: most of them become `EINVAL` or `ENOENT` there, but whoever
//! uses the store in process, and the log, see which.

use core::fmt;

use hypercall_abi::Errno;
use hypercall_abi::io::xs_wire::XSD_ERRORS;

use super::path::PathError;
use super::quota::Excess;
use super::wire::Malformed;

/// Why a request was not carried out. It then changed nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The request's payload is not what its type asks for.
    Malformed(Malformed),
    /// A path is none.
    Path(PathError),
    /// The caller may not do this, or may not even know whether the node is there.
    Denied,
    /// Only the owner of a node, and only dom0 among them, may give it to another.
    NotYoursToGive,
    /// There is no such node, watch, transaction or domain.
    NotFound,
    /// The caller watches this path with this token already.
    AlreadyWatched,
    /// Transactions do not nest.
    Nested,
    /// Somebody changed what the transaction depends on; start again.
    Conflict,
    /// The root can not be removed.
    Root,
    /// The number is not one of an ordinary domain.
    NotADomain,
    /// The store has no such command.
    UnknownCommand,
    /// The reply would be longer than a message may be.
    ReplyTooLong,
    /// The caller has as much as it may have.
    Quota(Excess),
}

impl Error {
    /// The error's number.
    pub fn errno(self) -> Errno {
        match self {
            Self::Malformed(malformed) => malformed.errno(),
            Self::Path(_) | Self::Root | Self::NotADomain | Self::UnknownCommand => Errno::EINVAL,
            Self::Denied => Errno::EACCES,
            Self::NotYoursToGive => Errno::EPERM,
            Self::NotFound => Errno::ENOENT,
            Self::AlreadyWatched => Errno::EEXIST,
            Self::Nested => Errno::EBUSY,
            Self::Conflict => Errno::EAGAIN,
            Self::ReplyTooLong => Errno::E2BIG,
            Self::Quota(excess) => excess.quota.errno(),
        }
    }

    /// The name that an error reply carries.
    pub(super) fn wire_name(self) -> &'static str {
        let errno = self.errno();
        let known = XSD_ERRORS.iter().find(|known| known.errnum == errno);
        known.map_or("EINVAL", |known| known.errstring)
    }
}

impl From<Malformed> for Error {
    fn from(malformed: Malformed) -> Self {
        Self::Malformed(malformed)
    }
}

impl From<PathError> for Error {
    fn from(error: PathError) -> Self {
        Self::Path(error)
    }
}

impl From<Excess> for Error {
    fn from(excess: Excess) -> Self {
        Self::Quota(excess)
    }
}

impl From<Error> for Errno {
    fn from(error: Error) -> Self {
        error.errno()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(malformed) => write!(formatter, "malformed request: {malformed:?}"),
            Self::Path(error) => write!(formatter, "not a path: {error:?}"),
            Self::Denied => formatter.write_str("permission denied"),
            Self::NotYoursToGive => formatter.write_str("only dom0 may change an owner"),
            Self::NotFound => formatter.write_str("no such node, watch, transaction or domain"),
            Self::AlreadyWatched => formatter.write_str("watched already with this token"),
            Self::Nested => formatter.write_str("transactions do not nest"),
            Self::Conflict => formatter.write_str("conflicting change, try again"),
            Self::Root => formatter.write_str("the root can not be removed"),
            Self::NotADomain => formatter.write_str("not an ordinary domain"),
            Self::UnknownCommand => formatter.write_str("unknown command"),
            Self::ReplyTooLong => formatter.write_str("the reply would be too long"),
            Self::Quota(excess) => write!(formatter, "quota of {excess}"),
        }
    }
}

impl core::error::Error for Error {}
