#![no_std]
#![forbid(unsafe_code)]
//! Kernels as distributions ship them: an ELF file, or one packed into a "bzImage".
//!
//! Domains are built from ELF files, so a bzImage is unpacked first: by domain 0, and by whoever wants to know before
//! the machine is started whether it can be. The one idea: a bzImage says how long its content is when unpacked, so the
//! memory is taken once, up front and fallibly, and no unpacker can write a byte more. The files come from the
//! administrator, but a damaged one must not end domain 0, so whatever is wrong is an error.
//!
//! Unpacking goes in steps of about a mebibyte, between which the caller may do something else.

extern crate alloc;
#[cfg(test)]
extern crate std;

mod bzimage;
mod gzip;
mod lz4;
#[cfg(test)]
mod tests;
mod xz;
mod zstd;

use alloc::borrow::Cow;
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;

/// Longest content that is unpacked, in bytes.
pub const MOST_UNPACKED: usize = 256 << 20;

/// Bytes unpacked in a step; LZ4's blocks are longer and go in one piece.
const STEP: usize = 1 << 20;

/// Why a file's kernel cannot be unpacked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KernelFileError {
    /// The boot protocol is so old that the header does not say where the content is.
    OldProtocol {
        /// Its version, as in the header: 0x20f is 2.15.
        version: u16,
    },
    /// The file ends before what its header promises.
    Truncated {
        /// Bytes that it should have at least.
        needed: u64,
        /// Bytes that it has.
        length: usize,
    },
    /// The content is not packed in a way that is known here: its first four bytes.
    UnknownPacking([u8; 4]),
    /// The content is longer than may be unpacked.
    TooLong {
        /// Its length in bytes.
        length: usize,
    },
    /// There is too little memory to unpack it.
    NoMemory {
        /// Bytes that it takes, in one piece.
        needed: usize,
    },
    /// The packed content is damaged.
    Damaged {
        /// How it is packed.
        packing: Packing,
        /// What is wrong.
        fault: Fault,
    },
}

impl fmt::Display for KernelFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OldProtocol { version } => {
                let (major, minor) = (version >> 8, version & 0xff);
                write!(f, "the bzImage has boot protocol {major}.{minor:02}; 2.08 or newer is needed")
            }
            Self::Truncated { needed, length } => {
                write!(f, "the bzImage is cut short: it has {length} bytes and should have {needed}")
            }
            Self::UnknownPacking(start) => write!(
                f,
                "the bzImage is packed in an unknown way (it begins with {start:02x?}); gzip, xz, zstd and LZ4 are known"
            ),
            Self::TooLong { length } => {
                write!(f, "the bzImage has {length} bytes when unpacked; at most {MOST_UNPACKED} can be")
            }
            Self::NoMemory { needed } => write!(
                f,
                "there is too little memory to unpack the bzImage: it takes {} MiB in one piece",
                needed.div_ceil(1 << 20)
            ),
            Self::Damaged { packing, fault } => write!(f, "the bzImage is damaged: {packing}: {fault}"),
        }
    }
}

impl core::error::Error for KernelFileError {}

/// How the content of a bzImage can be packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// gzip.
    Gzip,
    /// xz, usually with its filter for x86 code.
    Xz,
    /// Zstandard.
    Zstd,
    /// LZ4 in the legacy frame.
    Lz4,
}

impl Packing {
    /// How content that begins like this is packed.
    fn of(content: &[u8]) -> Option<Self> {
        const STARTS: [(&[u8], Packing); 4] = [
            (&[0x1f, 0x8b], Packing::Gzip),
            (b"\xfd7zXZ\0", Packing::Xz),
            (&[0x28, 0xb5, 0x2f, 0xfd], Packing::Zstd),
            (&lz4::MAGIC, Packing::Lz4),
        ];
        STARTS.iter().find(|(start, _)| content.starts_with(start)).map(|(_, packing)| *packing)
    }

    /// The unpacker for `packed`, whose content has `length` bytes.
    fn unpacker(self, packed: &[u8], length: usize) -> Result<Box<dyn Unpack + '_>, KernelFileError> {
        let damaged = |fault| KernelFileError::Damaged { packing: self, fault };
        Ok(match self {
            Self::Gzip => Box::new(gzip::Gzip::new(packed).map_err(damaged)?),
            Self::Xz => Box::new(xz::Xz::new(packed)),
            Self::Zstd => Box::new(zstd::Zstd::new(packed, length)?),
            Self::Lz4 => Box::new(lz4::Lz4::new(packed)),
        })
    }
}

impl fmt::Display for Packing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gzip => "gzip",
            Self::Xz => "xz",
            Self::Zstd => "zstd",
            Self::Lz4 => "LZ4",
        })
    }
}

/// What is wrong with packed content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It ends too early.
    Ends,
    /// It makes no sense, or asks for something that is not supported.
    Malformed,
    /// It is longer when unpacked than the file says.
    TooMuch {
        /// Bytes that the file promises.
        promised: usize,
    },
    /// It is shorter when unpacked than the file says.
    TooLittle {
        /// Bytes that the file promises.
        promised: usize,
        /// Bytes that came.
        unpacked: usize,
    },
    /// What came out has another checksum than was put in.
    Checksum,
    /// The unpacker needs more memory than it may have.
    Memory,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ends => f.write_str("it ends too early"),
            Self::Malformed => f.write_str("it makes no sense"),
            Self::TooMuch { promised } => write!(f, "it unpacks to more than the {promised} bytes promised"),
            Self::TooLittle { promised, unpacked } => {
                write!(f, "it unpacks to {unpacked} bytes; {promised} were promised")
            }
            Self::Checksum => f.write_str("the checksum is wrong"),
            Self::Memory => f.write_str("its dictionary is too big for the memory there is"),
        }
    }
}

/// How far unpacking has come.
struct Progress {
    /// Bytes unpacked so far.
    filled: usize,
    /// The content is at its end and was found whole.
    is_whole: bool,
}

/// Takes packed content apart, step by step.
trait Unpack {
    /// Unpacks some more into `output`, of which `filled` bytes are done. Not called again once all is done.
    fn step(&mut self, output: &mut [u8], filled: usize) -> Result<Progress, Fault>;
}

/// What a kernel's file turned out to be.
pub enum KernelFile<'a> {
    /// A kernel that is not packed, or something else altogether: whether it is an ELF file is not looked at here.
    Plain(&'a [u8]),
    /// A bzImage, whose content is to be unpacked.
    Packed(Unpacking<'a>),
}

impl<'a> KernelFile<'a> {
    /// Looks at a file's first bytes, and takes the memory to unpack a bzImage.
    ///
    /// # Errors
    ///
    /// [`KernelFileError`].
    pub fn open(file: &'a [u8]) -> Result<Self, KernelFileError> {
        let Some(payload) = bzimage::payload(file)? else { return Ok(Self::Plain(file)) };
        if payload.content.starts_with(b"\x7fELF") {
            return Ok(Self::Plain(payload.content));
        }
        let start = payload.content.first_chunk().copied().unwrap_or_default();
        let packing = Packing::of(payload.content).ok_or(KernelFileError::UnknownPacking(start))?;
        Unpacking::begin(packing, payload.content, payload.unpacked_length()).map(Self::Packed)
    }
}

/// The ELF file in a kernel's file, unpacked at once: what a bzImage contains, and any other file as it is.
///
/// # Errors
///
/// [`KernelFileError`]. Whether the result really is an ELF file is not looked at here.
pub fn unpack(file: &[u8]) -> Result<Cow<'_, [u8]>, KernelFileError> {
    match KernelFile::open(file)? {
        KernelFile::Plain(content) => Ok(Cow::Borrowed(content)),
        KernelFile::Packed(mut unpacking) => {
            while !unpacking.step()? {}
            Ok(Cow::Owned(unpacking.finish()?))
        }
    }
}

/// A bzImage's content on its way out.
pub struct Unpacking<'a> {
    packing: Packing,
    unpacker: Box<dyn Unpack + 'a>,
    output: Vec<u8>,
    progress: Progress,
}

impl<'a> Unpacking<'a> {
    fn begin(packing: Packing, packed: &'a [u8], length: usize) -> Result<Self, KernelFileError> {
        if length > MOST_UNPACKED {
            return Err(KernelFileError::TooLong { length });
        }
        let output = zeroes(length)?;
        let unpacker = packing.unpacker(packed, length)?;
        Ok(Self { packing, unpacker, output, progress: Progress { filled: 0, is_whole: false } })
    }

    /// Unpacks some more; whether that was all.
    ///
    /// # Errors
    ///
    /// [`KernelFileError::Damaged`].
    pub fn step(&mut self) -> Result<bool, KernelFileError> {
        if !self.progress.is_whole {
            let step = self.unpacker.step(&mut self.output, self.progress.filled);
            self.progress = step.map_err(|fault| self.damaged(fault))?;
        }
        Ok(self.progress.is_whole)
    }

    /// The content, when [`step`](Self::step) has said that this is all of it.
    ///
    /// # Errors
    ///
    /// [`KernelFileError::Damaged`] if it is shorter than the file says.
    pub fn finish(self) -> Result<Vec<u8>, KernelFileError> {
        let (promised, unpacked) = (self.output.len(), self.progress.filled);
        if unpacked < promised {
            return Err(self.damaged(Fault::TooLittle { promised, unpacked }));
        }
        Ok(self.output)
    }

    fn damaged(&self, fault: Fault) -> KernelFileError {
        KernelFileError::Damaged { packing: self.packing, fault }
    }
}

/// So many bytes, if there is the memory.
fn zeroes(length: usize) -> Result<Vec<u8>, KernelFileError> {
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(length).map_err(|_| KernelFileError::NoMemory { needed: length })?;
    bytes.resize(length, 0);
    Ok(bytes)
}

/// Whether so many bytes could be had in one piece just now. Nothing else runs before the caller takes them.
fn has_room(length: usize) -> bool {
    Vec::<u8>::new().try_reserve_exact(length).is_ok()
}
