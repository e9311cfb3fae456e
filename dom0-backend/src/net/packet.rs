//! A packet on its way through the switch.

use alloc::vec::Vec;

use super::buffers::Piece;
use super::mac_table::PortId;
use super::offload::Offload;

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

/// A packet in our buffers.
#[derive(Debug, Default)]
pub struct OwnPacket {
    /// Its bytes, in order.
    pub pieces: Vec<Piece>,
    /// How many.
    pub length: usize,
    /// What its sender left to others.
    pub offload: Offload,
    /// How many ports it is still to go out by.
    pub holders: u16,
}
