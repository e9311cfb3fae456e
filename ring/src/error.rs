//! What can be wrong with a ring, and whose fault it is.

use core::error::Error;
use core::fmt;

/// An index that the peer writes into shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerIndex {
    /// `req_prod` of a request and response ring.
    RequestProducer,
    /// `rsp_prod` of a request and response ring.
    ResponseProducer,
    /// The producer index of the stream of bytes that we receive.
    ByteProducer,
    /// The consumer index of the stream of bytes that we send.
    ByteConsumer,
}

/// The peer wrote an index that no honest peer could have written.
///
/// This is the peer's fault, and nothing sensible can follow: give the ring up. The ring itself stays as it
/// was before the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Corrupt {
    /// Which index it was.
    pub index: PeerIndex,
    /// What was found there.
    pub found: u32,
    /// The lowest value that would have made sense.
    pub lowest: u32,
    /// The highest value that would have made sense; lower than `lowest` if indexes wrap in between.
    pub highest: u32,
}

impl fmt::Display for Corrupt {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { index, found, lowest, highest } = self;
        write!(formatter, "peer set {index:?} to {found:#x}, outside {lowest:#x}..={highest:#x}")
    }
}

impl Error for Corrupt {}

/// The memory handed over is too small for the ring that should be in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AreaTooSmall {
    /// Bytes that were handed over.
    pub size_bytes: usize,
    /// Bytes that the smallest ring of this kind takes.
    pub needed_bytes: usize,
}

impl fmt::Display for AreaTooSmall {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { size_bytes, needed_bytes } = self;
        write!(formatter, "ring of at least {needed_bytes} bytes in an area of {size_bytes}")
    }
}

impl Error for AreaTooSmall {}

/// Why an end could not be attached to a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachError {
    /// Our fault: too little memory was handed over.
    TooSmall(AreaTooSmall),
    /// The peer's fault: the indexes found do not fit together.
    Corrupt(Corrupt),
}

impl From<AreaTooSmall> for AttachError {
    fn from(error: AreaTooSmall) -> Self {
        Self::TooSmall(error)
    }
}

impl From<Corrupt> for AttachError {
    fn from(error: Corrupt) -> Self {
        Self::Corrupt(error)
    }
}

impl fmt::Display for AttachError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooSmall(error) => error.fmt(formatter),
            Self::Corrupt(error) => error.fmt(formatter),
        }
    }
}

impl Error for AttachError {}

/// No slot is free: as many requests are under way as the ring has slots. Take responses first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

impl fmt::Display for Full {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("no free slot on the ring")
    }
}

impl Error for Full {}

/// Every request taken has its response already, so another response would overwrite what is not ours.
///
/// This is the fault of the code that drives the ring, never the peer's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NothingToAnswer;

impl fmt::Display for NothingToAnswer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("response without a request")
    }
}

impl Error for NothingToAnswer {}
