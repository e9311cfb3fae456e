//! xz, with its filters and checksums.

use lzma_rust2::{Error, Read, XzReader};

use super::{Fault, Progress, STEP, Unpack, has_room};

/// Largest dictionary in bytes: what `xz -9e` with Linux' settings asks for is 128 MiB.
const MOST_DICTIONARY: usize = 128 << 20;
/// What the reader needs beside its dictionary, in bytes, generously.
const BESIDE: usize = 1 << 20;

/// An xz stream being unpacked.
pub(super) struct Xz<'a> {
    reader: XzReader<&'a [u8]>,
}

impl<'a> Xz<'a> {
    /// The bytes behind the stream, if any, are not looked at.
    pub fn new(packed: &'a [u8]) -> Self {
        Self { reader: XzReader::new_mem_limit(packed, false, (room() / 1024) as u32) }
    }
}

/// Memory for the reader: as much as there is, up to the largest dictionary. Finding out that a dictionary is too big
/// comes before taking its memory, which could not fail gently.
fn room() -> usize {
    let sizes = core::iter::successors(Some(MOST_DICTIONARY), |size| Some(size / 2));
    sizes
        .take_while(|size| *size >= BESIDE)
        .map(|size| size + BESIDE)
        .find(|size| has_room(*size))
        .unwrap_or(0)
}

impl Unpack for Xz<'_> {
    fn step(&mut self, output: &mut [u8], filled: usize) -> Result<Progress, Fault> {
        let promised = output.len();
        let mut beyond = [0];
        let is_full = filled == promised;
        let end = promised.min(filled + STEP);
        let room = if is_full { &mut beyond[..] } else { &mut output[filled..end] };
        match self.reader.read(room) {
            Ok(0) => Ok(Progress { filled, is_whole: true }),
            Ok(_) if is_full => Err(Fault::TooMuch { promised }),
            Ok(read) => Ok(Progress { filled: filled + read, is_whole: false }),
            Err(error) => Err(fault(&error)),
        }
    }
}

fn fault(error: &Error) -> Fault {
    match error {
        Error::Eof => Fault::Ends,
        Error::OutOfMemory(_) => Fault::Memory,
        Error::InvalidData(text) if text.contains("hecksum") => Fault::Checksum,
        _ => Fault::Malformed,
    }
}
