//! What a back end can do that no honest one does.
//!
//! A fault costs the back end the device: the front end takes its memory back and does not connect again of its
//! own accord. Nothing else in the domain notices more than a device that is gone.

use core::error::Error;
use core::fmt;

use ring::Corrupt;

/// What a back end did wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It wrote an impossible index into a ring.
    Ring(Corrupt),
    /// It answered a request that was never made, or one that it had answered before.
    UnknownId(u64),
    /// It answered a receive request in the slot of another.
    WrongSlot {
        /// The id in the response.
        id: u16,
        /// The slot that the response lies in.
        slot: u32,
    },
    /// It claims to have written beyond the end of a page.
    OutsidePage {
        /// Where its data starts, in bytes.
        offset: u16,
        /// How many bytes it claims.
        length: i16,
    },
    /// It sent extra information where none may stand.
    MisplacedExtra,
    /// It sent extra information of a kind that does not exist.
    UnknownExtra(u8),
    /// It marked as extra information what was none.
    NoSuchExtra,
    /// It answered an operation other than the one asked for.
    WrongOperation {
        /// What was asked for, `BLKIF_OP_*`.
        asked: u8,
        /// What was answered.
        answered: u8,
    },
}

impl From<Corrupt> for Fault {
    fn from(corrupt: Corrupt) -> Self {
        Self::Ring(corrupt)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ring(corrupt) => corrupt.fmt(formatter),
            Self::UnknownId(id) => write!(formatter, "answer to request {id}, which is not under way"),
            Self::WrongSlot { id, slot } => write!(formatter, "answer to request {id} in slot {slot}"),
            Self::OutsidePage { offset, length } => {
                write!(formatter, "{length} bytes at {offset} do not lie in a page")
            }
            Self::MisplacedExtra => {
                formatter.write_str("extra information not after the first part of a packet")
            }
            Self::UnknownExtra(kind) => write!(formatter, "extra information of unknown kind {kind}"),
            Self::NoSuchExtra => formatter.write_str("empty answer where no extra information was sent"),
            Self::WrongOperation { asked, answered } => {
                write!(formatter, "answer to operation {answered} where {asked} was asked for")
            }
        }
    }
}

impl Error for Fault {}
