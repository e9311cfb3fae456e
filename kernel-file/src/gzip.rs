//! gzip (RFC 1952): one member, header fields passed over, checksum and length verified.

use alloc::boxed::Box;

use crc32fast::Hasher;
use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::inflate_flags::{
    TINFL_FLAG_HAS_MORE_INPUT, TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF,
};
use miniz_oxide::inflate::core::{DecompressorOxide, decompress};

use super::{Fault, Progress, STEP, Unpack};

/// Bytes of the header that are always there.
const HEADER: usize = 10;
/// The only method there is.
const DEFLATE: u8 = 8;
/// Optional fields of the header.
const HAS_HEADER_CHECKSUM: u8 = 1 << 1;
const HAS_EXTRA: u8 = 1 << 2;
const HAS_NAME: u8 = 1 << 3;
const HAS_COMMENT: u8 = 1 << 4;
/// Bits that say nothing yet.
const RESERVED: u8 = 0xe0;

/// A gzip member being unpacked.
pub(super) struct Gzip<'a> {
    /// What is left: deflated bytes, then checksum and length.
    rest: &'a [u8],
    inflater: Box<DecompressorOxide>,
    checksum: Hasher,
}

impl<'a> Gzip<'a> {
    /// Reads the header.
    pub fn new(packed: &'a [u8]) -> Result<Self, Fault> {
        Ok(Self { rest: without_header(packed)?, inflater: Box::default(), checksum: Hasher::new() })
    }

    /// Compares with the checksum behind the deflated bytes; the length is compared by the caller.
    fn check(&self) -> Result<(), Fault> {
        let wanted = self.rest.first_chunk().ok_or(Fault::Ends)?;
        let is_right = u32::from_le_bytes(*wanted) == self.checksum.clone().finalize();
        if is_right { Ok(()) } else { Err(Fault::Checksum) }
    }
}

fn without_header(packed: &[u8]) -> Result<&[u8], Fault> {
    let (header, mut rest) = packed.split_first_chunk::<HEADER>().ok_or(Fault::Ends)?;
    let [_, _, method, fields, ..] = *header;
    if method != DEFLATE || fields & RESERVED != 0 {
        return Err(Fault::Malformed);
    }
    if fields & HAS_EXTRA != 0 {
        let (length, after) = rest.split_first_chunk().ok_or(Fault::Ends)?;
        rest = after.get(usize::from(u16::from_le_bytes(*length))..).ok_or(Fault::Ends)?;
    }
    for text in [HAS_NAME, HAS_COMMENT] {
        if fields & text != 0 {
            let end = rest.iter().position(|byte| *byte == 0).ok_or(Fault::Ends)?;
            rest = &rest[end + 1..];
        }
    }
    let checksum_length = if fields & HAS_HEADER_CHECKSUM != 0 { 2 } else { 0 };
    rest.get(checksum_length..).ok_or(Fault::Ends)
}

impl Unpack for Gzip<'_> {
    fn step(&mut self, output: &mut [u8], filled: usize) -> Result<Progress, Fault> {
        let promised = output.len();
        let end = promised.min(filled + STEP);
        let flags = TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF | TINFL_FLAG_HAS_MORE_INPUT;
        let (status, read, written) =
            decompress(&mut self.inflater, self.rest, &mut output[..end], filled, flags);
        self.rest = &self.rest[read..];
        self.checksum.update(&output[filled..filled + written]);
        match status {
            TINFLStatus::Done => {
                self.check()?;
                Ok(Progress { filled: filled + written, is_whole: true })
            }
            TINFLStatus::HasMoreOutput if end == promised => Err(Fault::TooMuch { promised }),
            TINFLStatus::HasMoreOutput => Ok(Progress { filled: end, is_whole: false }),
            TINFLStatus::NeedsMoreInput | TINFLStatus::FailedCannotMakeProgress => Err(Fault::Ends),
            _ => Err(Fault::Malformed),
        }
    }
}
