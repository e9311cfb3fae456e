//! Packets in our own buffers.

use alloc::vec::Vec;

use hypercall_abi::PAGE_SIZE;
use pv_runtime::grant::CopyEnd;
use pv_runtime::memory::{Page, SharedMemory};

use super::buffers::{Buffers, FIRST_ROOM, FRAME_START, Piece};
use super::ethernet::{ADDRESSES_LENGTH, Addresses, HEADER_LENGTH, TAG_LENGTH, TAG_TYPE, Vlan};
use super::headers::HEADERS_MAX;
use super::interface::{Interface, Received};
use super::offload::Offload;
use super::pool::Pool;
use super::spans::{Span, copy_all};
use crate::backend::GrantCopy;

/// Buffers that packets from guests leave to the machine's interface for receiving.
const RECEIVE_RESERVE: usize = 256;

/// A packet in our buffers.
#[derive(Debug, Default)]
pub struct OwnPacket {
    /// Its bytes, in order.
    pub pieces: Vec<Piece>,
    /// How many.
    pub length: usize,
    /// What its sender left to others.
    pub offload: Offload,
    /// The virtual network that it belongs to. On its way through here it has no tag.
    pub vlan: Vlan,
    /// How many ports it is still to go out by.
    pub holders: u16,
}

/// All of them, and the buffers they are in.
#[derive(Debug)]
pub struct OwnPackets {
    packets: Pool<OwnPacket>,
    /// The buffers.
    pub buffers: Buffers,
}

impl OwnPackets {
    /// No packets, and up to `limit` buffers for them.
    pub fn new(limit: usize) -> Self {
        Self { packets: Pool::default(), buffers: Buffers::new(limit) }
    }

    /// How many packets there are.
    #[cfg(test)]
    pub fn in_use(&self) -> usize {
        self.packets.in_use()
    }

    /// A packet.
    #[inline]
    pub fn get(&self, own: u16) -> &OwnPacket {
        self.packets.get(own)
    }

    /// A packet, to be changed.
    #[inline]
    pub fn get_mut(&mut self, own: u16) -> &mut OwnPacket {
        self.packets.get_mut(own)
    }

    /// Buffers that a packet of `length` bytes takes.
    #[inline]
    pub const fn buffers_for(length: usize) -> usize {
        (length + FRAME_START as usize).div_ceil(PAGE_SIZE)
    }

    /// Whether so many buffers can be had and enough are left for receiving.
    #[inline]
    pub fn has_buffers(&self, count: usize) -> bool {
        self.buffers.available() >= count + RECEIVE_RESERVE
    }

    /// A packet of `length` bytes of a virtual network in new buffers; `None` if there are none to spare.
    #[inline]
    pub fn take(&mut self, length: usize, offload: Offload, vlan: Vlan) -> Option<u16> {
        if !self.has_buffers(Self::buffers_for(length)) {
            return None;
        }
        let own = self.packets.take()?;
        let packet = self.packets.get_mut(own);
        if !self.buffers.take_for_frame(length, &mut packet.pieces) {
            self.packets.put(own);
            return None;
        }
        (packet.length, packet.offload, packet.vlan, packet.holders) = (length, offload, vlan, 1);
        Some(own)
    }

    /// A packet without buffers, for what is being received.
    #[inline]
    pub fn take_empty(&mut self) -> Option<u16> {
        let own = self.packets.take()?;
        let packet = self.packets.get_mut(own);
        (packet.vlan, packet.holders) = (Vlan::UNTAGGED, 1);
        Some(own)
    }

    /// Takes what an interface received next into an empty packet.
    #[inline]
    pub fn receive(&mut self, own: u16, interface: &mut impl Interface) -> Received {
        let packet = self.packets.get_mut(own);
        let received = interface.take_received(&self.buffers, &mut packet.pieces);
        packet.length = packet.pieces.iter().map(|piece| usize::from(piece.length)).sum();
        received
    }

    /// Is done with a packet at one port; its buffers are free after the last. Says whether they are.
    #[inline]
    pub fn release(&mut self, own: u16) -> bool {
        let packet = self.packets.get_mut(own);
        packet.holders = packet.holders.saturating_sub(1);
        if packet.holders > 0 {
            return false;
        }
        self.buffers.put_pieces(&mut packet.pieces);
        self.packets.put(own);
        true
    }

    /// Where a piece is.
    #[inline]
    pub fn span(&self, piece: &Piece) -> Span {
        let start = CopyEnd::Own { frame: self.buffers.frame(piece.buffer), offset: piece.offset };
        Span { start, length: piece.length }
    }

    /// Where all bytes of a packet are, if they lie together.
    #[inline]
    pub fn whole(&self, own: u16) -> Option<Span> {
        match &self.get(own).pieces[..] {
            [piece] => Some(self.span(piece)),
            _ => None,
        }
    }

    /// Lists where a packet's bytes are.
    pub fn spans(&self, own: u16, spans: &mut Vec<Span>) {
        spans.extend(self.get(own).pieces.iter().map(|piece| self.span(piece)));
    }

    /// Has the bytes of `sources` copied into a packet's buffers.
    #[inline]
    pub fn copy_into(&self, own: u16, sources: &[Span], copies: &mut impl GrantCopy) {
        let pieces = &self.get(own).pieces;
        match (sources, &pieces[..]) {
            ([source], [piece]) if source.length == piece.length => {
                copies.push(source.start, self.span(piece).start, source.length);
            }
            _ => copy_all(copies, sources, pieces.iter().map(|piece| self.span(piece))),
        }
    }

    /// The place `offset` bytes into a packet's first piece.
    pub fn place_in_first(&self, own: u16, offset: u16) -> CopyEnd {
        let first = self.get(own).pieces[0];
        CopyEnd::Own { frame: self.buffers.frame(first.buffer), offset: first.offset + offset }
    }

    /// The addresses of a packet, whose first piece holds them at a multiple of four bytes.
    #[inline]
    pub fn addresses(&self, own: u16) -> Addresses {
        let first = self.get(own).pieces[0];
        Addresses::in_page(self.buffers.page(first.buffer), usize::from(first.offset))
    }

    /// Takes the tag from behind the addresses of a packet that came in, and notes the virtual network that it names.
    /// Says whether there is such a network, and more of a packet than addresses and tag.
    pub fn remove_tag(&mut self, own: u16) -> bool {
        let packet = self.packets.get_mut(own);
        let first = &mut packet.pieces[0];
        let mut tag = [0; 2];
        let place = usize::from(first.offset) + ADDRESSES_LENGTH + size_of_val(&TAG_TYPE);
        SharedMemory::copy_out(self.buffers.page(first.buffer), place, &mut tag);
        let Some(vlan) = Vlan::of_tag(u16::from_be_bytes(tag)) else { return false };
        if usize::from(first.length) < HEADER_LENGTH + usize::from(TAG_LENGTH) {
            return false;
        }
        move_addresses(self.buffers.page(first.buffer), first.offset, first.offset + TAG_LENGTH);
        first.offset += TAG_LENGTH;
        first.length -= TAG_LENGTH;
        packet.length -= usize::from(TAG_LENGTH);
        packet.vlan = vlan;
        true
    }

    /// Puts the tag of its virtual network behind the addresses of a packet, into the room that there is before a frame
    /// that did not come in. Nobody else may still need the packet.
    pub fn insert_tag(&mut self, own: u16) {
        let packet = self.packets.get_mut(own);
        let first = &mut packet.pieces[0];
        let page = self.buffers.page(first.buffer);
        move_addresses(page, first.offset, first.offset - TAG_LENGTH);
        first.offset -= TAG_LENGTH;
        first.length += TAG_LENGTH;
        packet.length += usize::from(TAG_LENGTH);
        let tag = [TAG_TYPE, packet.vlan.number()].map(u16::to_be_bytes);
        SharedMemory::copy_in(page, usize::from(first.offset) + ADDRESSES_LENGTH, tag.as_flattened());
    }

    /// Copies a packet's first bytes out, and says how many there are.
    pub fn copy_head(&self, own: u16, into: &mut [u8; HEADERS_MAX]) -> usize {
        let first = self.get(own).pieces[0];
        let length = usize::from(first.length).min(HEADERS_MAX);
        let page = self.buffers.page(first.buffer);
        SharedMemory::copy_out(page, first.offset.into(), &mut into[..length]);
        length
    }

    /// Writes to a packet's first piece; what does not fit there is not written.
    pub fn write_head(&self, own: u16, offset: usize, bytes: &[u8]) {
        let first = self.get(own).pieces[0];
        if offset + bytes.len() <= usize::from(first.length) {
            let page = self.buffers.page(first.buffer);
            SharedMemory::copy_in(page, usize::from(first.offset) + offset, bytes);
        }
    }

    /// Whether `length` bytes fit into a packet's first buffer.
    pub const fn fits_in_one(length: usize) -> bool {
        length <= FIRST_ROOM as usize
    }
}

fn move_addresses(page: &Page, from: u16, to: u16) {
    let mut addresses = [0; ADDRESSES_LENGTH];
    SharedMemory::copy_out(page, from.into(), &mut addresses);
    SharedMemory::copy_in(page, to.into(), &addresses);
}
