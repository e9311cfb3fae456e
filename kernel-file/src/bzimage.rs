//! The header of a bzImage, which is a program for real mode with the packed kernel behind it.
//!
//! ```text
//!   0      setup code: 1 + setup_sects sectors, the header at 0x1f1
//!   then   protected-mode code, in it at payload_offset the packed kernel:
//!          packed bytes | length of the unpacked bytes, 4 bytes      (with gzip these are its own last field)
//! ```
//!
//! Linux' Documentation/arch/x86/boot.rst describes the fields.

use super::KernelFileError;

/// Sectors of setup code; 0 stands for 4.
const SETUP_SECTORS: usize = 0x1f1;
const DEFAULT_SETUP_SECTORS: usize = 4;
/// 0xaa55, as at the end of any boot sector.
const BOOT_FLAG: usize = 0x1fe;
/// "HdrS".
const MAGIC: usize = 0x202;
/// The boot protocol's version.
const VERSION: usize = 0x206;
/// The first version that tells where the payload is: 2.08.
const FIRST_VERSION_WITH_PAYLOAD: u16 = 0x208;
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;
const SECTOR: usize = 512;
/// The length of the unpacked bytes at the payload's end.
const LENGTH_FIELD: usize = 4;

/// The packed kernel in a bzImage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Payload<'a> {
    /// Its bytes, with the length of what is in it as the last four.
    pub content: &'a [u8],
}

impl Payload<'_> {
    /// The length of what is packed in it, as it says itself.
    pub fn unpacked_length(&self) -> usize {
        self.content.last_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes) as usize)
    }
}

/// The packed kernel, or nothing if the file is no bzImage.
pub(super) fn payload(file: &[u8]) -> Result<Option<Payload<'_>>, KernelFileError> {
    if bytes(file, BOOT_FLAG) != Some([0x55, 0xaa]) || bytes(file, MAGIC) != Some(*b"HdrS") {
        return Ok(None);
    }
    let version = bytes(file, VERSION).map_or(0, u16::from_le_bytes);
    if version < FIRST_VERSION_WITH_PAYLOAD {
        return Err(KernelFileError::OldProtocol { version });
    }
    let [offset, length] = [PAYLOAD_OFFSET, PAYLOAD_LENGTH].map(|field| bytes(file, field));
    let cut = |needed| KernelFileError::Truncated { needed, length: file.len() };
    let (Some(offset), Some(length)) = (offset, length) else {
        return Err(cut((PAYLOAD_LENGTH + LENGTH_FIELD) as u64));
    };
    let start = setup_length(file) as u64 + u64::from(u32::from_le_bytes(offset));
    let end = start + u64::from(u32::from_le_bytes(length)).max(LENGTH_FIELD as u64);
    let content = file.get(start as usize..end as usize).ok_or(cut(end))?;
    Ok(Some(Payload { content }))
}

/// Bytes before the protected-mode code.
fn setup_length(file: &[u8]) -> usize {
    let sectors = match file.get(SETUP_SECTORS) {
        Some(0) | None => DEFAULT_SETUP_SECTORS,
        Some(&sectors) => usize::from(sectors),
    };
    (1 + sectors) * SECTOR
}

/// Some bytes of the header, if the file has them.
fn bytes<const COUNT: usize>(file: &[u8], offset: usize) -> Option<[u8; COUNT]> {
    file.get(offset..)?.first_chunk().copied()
}
