//! LZ4's legacy frame, which Linux uses: a magic number, then blocks of at most 8 MiB when unpacked, each behind its
//! packed length.
//!
//! There is neither an end mark nor a checksum. The length of the unpacked bytes follows the last block; what tells it
//! from another block is that it stands at the very end.

use lz4_flex::block::{DecompressError, decompress_into};

use super::{Fault, Progress, Unpack};

/// How a frame begins.
pub(super) const MAGIC: [u8; 4] = 0x184c_2102_u32.to_le_bytes();
/// Most bytes in a block when unpacked.
const BLOCK: usize = 8 << 20;

/// A frame being unpacked.
pub(super) struct Lz4<'a> {
    /// Blocks that are left, without the length at the end.
    rest: &'a [u8],
}

impl<'a> Lz4<'a> {
    /// `packed` begins with the magic number and ends with the length of what is in it.
    pub fn new(packed: &'a [u8]) -> Self {
        let blocks = packed.strip_prefix(&MAGIC).unwrap_or(packed);
        Self { rest: blocks.split_last_chunk::<4>().map_or(&[], |(blocks, _length)| blocks) }
    }

    fn next_block(&mut self) -> Result<&'a [u8], Fault> {
        let (length, rest) = self.rest.split_first_chunk().ok_or(Fault::Ends)?;
        let (block, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize).ok_or(Fault::Ends)?;
        self.rest = rest;
        Ok(block)
    }
}

impl Unpack for Lz4<'_> {
    fn step(&mut self, output: &mut [u8], filled: usize) -> Result<Progress, Fault> {
        let promised = output.len();
        let block = self.next_block()?;
        let room = &mut output[filled..promised.min(filled.saturating_add(BLOCK))];
        match decompress_into(block, room) {
            Ok(0) => Err(Fault::Malformed),
            Ok(written) => Ok(Progress { filled: filled + written, is_whole: self.rest.is_empty() }),
            Err(DecompressError::OutputTooSmall { .. }) => Err(Fault::TooMuch { promised }),
            Err(DecompressError::ExpectedAnotherByte) => Err(Fault::Ends),
            Err(_) => Err(Fault::Malformed),
        }
    }
}
