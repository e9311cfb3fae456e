//! Packets, and how they pass through a stream of bytes.

use alloc::vec::Vec;
use core::mem::size_of;

use hypercall_abi::io::xs_wire::{XENSTORE_PAYLOAD_MAX, XsdSockmsg};
use zerocopy::{FromBytes, IntoBytes};

/// Bytes before the body.
const HEADER_BYTES: usize = size_of::<XsdSockmsg>();

/// A request, a reply or an event (`xs_wire.h`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Packet {
    /// `XS_*`.
    pub kind: u32,
    /// The number by which a reply names its request.
    pub request_id: u32,
    /// The transaction, or zero.
    pub transaction_id: u32,
    /// What follows the header, mostly text that ends with a zero.
    pub body: Vec<u8>,
}

impl Packet {
    /// The header that goes before the body.
    pub fn header(&self) -> XsdSockmsg {
        XsdSockmsg {
            kind: self.kind,
            req_id: self.request_id,
            tx_id: self.transaction_id,
            len: self.body.len() as u32,
        }
    }

    /// Appends the packet's bytes.
    pub fn encode(&self, into: &mut impl Extend<u8>) {
        into.extend(self.header().as_bytes().iter().copied());
        into.extend(self.body.iter().copied());
    }
}

/// Somebody sent a header that announces more than the protocol allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooLong;

/// Puts packets together from bytes that come in pieces.
#[derive(Debug, Default)]
pub(crate) struct PacketReader {
    bytes: Vec<u8>,
}

impl PacketReader {
    /// How many more bytes are needed to go on: to the end of the header, then to the end of the packet. Zero
    /// if the packet is complete.
    pub(crate) fn wanted(&self) -> Result<usize, TooLong> {
        let Ok((header, body)) = XsdSockmsg::read_from_prefix(&self.bytes) else {
            return Ok(HEADER_BYTES - self.bytes.len());
        };
        let length = header.len as usize;
        if length > XENSTORE_PAYLOAD_MAX {
            return Err(TooLong);
        }
        Ok(length - body.len())
    }

    /// Takes bytes, no more than are wanted.
    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The packet, if it is complete.
    pub(crate) fn take(&mut self) -> Option<Packet> {
        if self.wanted() != Ok(0) {
            return None;
        }
        let (header, body) = XsdSockmsg::read_from_prefix(&self.bytes).ok()?;
        let packet = Packet {
            kind: header.kind,
            request_id: header.req_id,
            transaction_id: header.tx_id,
            body: body.to_vec(),
        };
        self.bytes.clear();
        Some(packet)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_in_pieces(bytes: &[u8], piece: usize) -> Vec<Packet> {
        let mut reader = PacketReader::default();
        let mut packets = Vec::new();
        let mut rest = bytes;
        while !rest.is_empty() {
            let count = reader.wanted().expect("a sound header").min(piece).min(rest.len());
            let (now, later) = rest.split_at(count);
            reader.feed(now);
            rest = later;
            packets.extend(reader.take());
        }
        packets
    }

    #[test]
    fn packets_survive_any_cutting() {
        let packets = [
            Packet { kind: 2, request_id: 7, transaction_id: 1, body: b"path\0".to_vec() },
            Packet { kind: 6, ..Packet::default() },
            Packet { kind: 15, request_id: 0, transaction_id: 0, body: alloc::vec![b'x'; 4096] },
        ];
        let mut bytes = Vec::new();
        packets.iter().for_each(|packet| packet.encode(&mut bytes));
        for piece in [1, 3, 16, 17, 5000] {
            assert_eq!(read_in_pieces(&bytes, piece), packets);
        }
    }

    #[test]
    fn a_header_that_announces_too_much_is_refused() {
        let mut reader = PacketReader::default();
        let header = XsdSockmsg { len: XENSTORE_PAYLOAD_MAX as u32 + 1, ..XsdSockmsg::default() };
        reader.feed(header.as_bytes());
        assert_eq!(reader.wanted(), Err(TooLong));
        assert_eq!(reader.take(), None);
    }
}
