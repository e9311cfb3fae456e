//! Zstandard: one frame, checksum verified.

use ruzstd::decoding::errors::FrameDecoderError;
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};
use ruzstd::io::Read;

use super::{Fault, KernelFileError, Progress, STEP, Unpack, has_room};

/// Largest window in bytes: what `zstd --ultra -22` asks for is 128 MiB.
const MOST_WINDOW: u64 = 128 << 20;

/// A frame being unpacked.
pub(super) struct Zstd<'a> {
    rest: &'a [u8],
    decoder: FrameDecoder,
    has_begun: bool,
}

impl<'a> Zstd<'a> {
    /// Makes sure of the memory for what the decoder keeps of `length` bytes: a power of two of them, and while it
    /// grows half as much again.
    pub fn new(packed: &'a [u8], length: usize) -> Result<Self, KernelFileError> {
        let kept = (length.min(MOST_WINDOW as usize) + 2 * STEP).next_power_of_two();
        let needed = kept + kept / 2 + 2 * STEP;
        if !has_room(needed) {
            return Err(KernelFileError::NoMemory { needed });
        }
        let mut decoder = FrameDecoder::new();
        decoder.set_max_window_size(MOST_WINDOW);
        Ok(Self { rest: packed, decoder, has_begun: false })
    }

    fn check(&self) -> Result<(), Fault> {
        match self.decoder.get_checksum_from_data() {
            Some(wanted) if Some(wanted) != self.decoder.get_calculated_checksum() => Err(Fault::Checksum),
            _ => Ok(()),
        }
    }
}

impl Unpack for Zstd<'_> {
    fn step(&mut self, output: &mut [u8], filled: usize) -> Result<Progress, Fault> {
        let promised = output.len();
        if !self.has_begun {
            self.decoder.init(&mut self.rest).map_err(|error| fault(&error))?;
            self.has_begun = true;
        }
        let some = BlockDecodingStrategy::UptoBytes(STEP);
        self.decoder.decode_blocks(&mut self.rest, some).map_err(|error| fault(&error))?;
        let written = self.decoder.read(&mut output[filled..]).map_err(|_| Fault::Malformed)?;
        if self.decoder.can_collect() > 0 {
            return Err(Fault::TooMuch { promised });
        }
        let is_whole = self.decoder.is_finished();
        if is_whole {
            self.check()?;
        }
        Ok(Progress { filled: filled + written, is_whole })
    }
}

fn fault(error: &FrameDecoderError) -> Fault {
    match error {
        FrameDecoderError::WindowSizeTooBig { .. } => Fault::Memory,
        _ => Fault::Malformed,
    }
}
