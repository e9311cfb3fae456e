//! Pages of our own for frames: what the machine's interface receives into and sends from.
//!
//! A frame starts some bytes into its first page, so that the header which such interfaces want before a frame
//! can stand there, even if the frame gets a tag:
//!
//! ```text
//!   byte 0     4             16
//!   ┌──────────┬─────────────┬──────────────────────────────────┐
//!   │          │ its header  │ frame ...                        │
//!   ├──────────┴──┬──────────┴──────┬─────┬─────────────────────┤
//!   │ its header  │ addresses       │ tag │ rest of the frame...│
//!   └─────────────┴─────────────────┴─────┴─────────────────────┘
//! ```

use alloc::vec::Vec;

use hypercall_abi::{MachineFrame, PAGE_SIZE};
use pv_runtime::memory::Page;

/// Where a frame starts in its first buffer.
pub const FRAME_START: u16 = 16;
/// Bytes of a frame that fit into its first buffer.
pub const FIRST_ROOM: u16 = PAGE_SIZE as u16 - FRAME_START;

/// Names a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BufferId(u16);

/// A piece of a frame: bytes of one buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The buffer.
    pub buffer: BufferId,
    /// First byte in it.
    pub offset: u16,
    /// Bytes.
    pub length: u16,
}

#[derive(Debug)]
struct Buffer {
    page: Page,
    frame: MachineFrame,
}

/// The buffers, made as they are needed and up to a bound.
#[derive(Debug)]
pub struct Buffers {
    buffers: Vec<Buffer>,
    free: Vec<BufferId>,
    limit: usize,
}

impl Buffers {
    /// No buffers, and at most `limit` of them (65,536 count as many).
    pub fn new(limit: usize) -> Self {
        Self { buffers: Vec::new(), free: Vec::new(), limit: limit.min(1 << 16) }
    }

    /// How many can be had, if memory does not run out.
    #[inline]
    pub fn available(&self) -> usize {
        self.free.len() + (self.limit - self.buffers.len())
    }

    /// A buffer of any content.
    #[inline]
    pub fn take(&mut self) -> Option<BufferId> {
        match self.free.pop() {
            Some(buffer) => Some(buffer),
            None => self.make(),
        }
    }

    fn make(&mut self) -> Option<BufferId> {
        if self.buffers.len() >= self.limit {
            return None;
        }
        let id = BufferId(u16::try_from(self.buffers.len()).ok()?);
        let page = Page::new().ok()?;
        let frame = page.machine_frame();
        self.buffers.push(Buffer { page, frame });
        Some(id)
    }

    /// Gives a buffer back.
    #[inline]
    pub fn put(&mut self, buffer: BufferId) {
        self.free.push(buffer);
    }

    /// Takes buffers for a frame of `length` bytes, in order, and lists its pieces. Takes none if there are not
    /// enough.
    #[inline]
    pub fn take_for_frame(&mut self, length: usize, pieces: &mut Vec<Piece>) -> bool {
        let (mut left, mut offset) = (length, FRAME_START);
        while left > 0 {
            let Some(buffer) = self.take() else {
                self.put_pieces(pieces);
                return false;
            };
            let part = left.min(PAGE_SIZE - usize::from(offset));
            pieces.push(Piece { buffer, offset, length: part as u16 });
            left -= part;
            offset = 0;
        }
        true
    }

    /// Gives the buffers of all pieces back, and forgets the pieces.
    #[inline]
    pub fn put_pieces(&mut self, pieces: &mut Vec<Piece>) {
        self.free.extend(pieces.drain(..).map(|piece| piece.buffer));
    }

    /// The buffer's memory.
    #[inline]
    pub fn page(&self, buffer: BufferId) -> &Page {
        &self.buffers[usize::from(buffer.0)].page
    }

    /// The buffer's frame.
    #[inline]
    pub fn frame(&self, buffer: BufferId) -> MachineFrame {
        self.buffers[usize::from(buffer.0)].frame
    }
}

impl BufferId {
    /// The buffer's number, for the queue of an interface.
    pub const fn number(self) -> u32 {
        self.0 as u32
    }

    /// The buffer with a number that [`number`](Self::number) gave.
    pub const fn from_number(number: u32) -> Self {
        Self(number as u16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_frame_takes_as_many_as_it_needs() {
        let mut buffers = Buffers::new(4);
        let mut pieces = Vec::new();
        assert!(buffers.take_for_frame(4080 + 4096 + 1, &mut pieces));
        let shapes: Vec<_> = pieces.iter().map(|piece| (piece.offset, piece.length)).collect();
        assert_eq!(shapes, [(16, 4080), (0, 4096), (0, 1)]);
        assert_eq!(buffers.available(), 1);
        buffers.put_pieces(&mut pieces);
        assert_eq!(buffers.available(), 4);
    }

    #[test]
    fn nothing_is_kept_when_there_are_too_few() {
        let mut buffers = Buffers::new(2);
        let mut pieces = Vec::new();
        assert!(!buffers.take_for_frame(3 * 4096, &mut pieces));
        assert!(pieces.is_empty());
        assert_eq!(buffers.available(), 2);
    }
}
