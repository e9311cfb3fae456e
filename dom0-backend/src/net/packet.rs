//! A packet on its way through the switch.

use super::mac_table::PortId;
use super::offload::Checksum;
use super::spans::Span;

/// Names a packet: still in a guest's pages, or in buffers of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packet {
    /// A tx packet of a guest's interface, by its number there.
    Guest {
        /// The interface.
        port: PortId,
        /// The packet's number.
        index: u16,
    },
    /// A packet in our buffers.
    Own(u16),
}

/// A packet that waits at a port.
#[derive(Clone, Copy, Debug)]
pub struct Waiting {
    /// Which.
    pub packet: Packet,
    /// Where its bytes are if they lie together and are not to be cut: then it is moved in one go, and nothing more
    /// need be known of it.
    pub whole: Option<Whole>,
    /// What is known of its checksum.
    pub checksum: Checksum,
}

/// The bytes of a packet that lie together.
#[derive(Clone, Copy, Debug)]
pub struct Whole {
    /// All of them.
    pub all: Span,
    /// Our copy of the first of them, if it is that copy that is to be delivered.
    pub head: Option<Span>,
}

/// Where a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// To nobody.
    Nowhere,
    /// To nobody, since its sender may not send it.
    Refused,
    /// To one port.
    One(PortId),
    /// To all ports but the one it came from.
    All,
}
