//! What a controller and its namespaces say of themselves (sections 5.15.2.1 and 5.15.2.2): pages that it has filled in.

use alloc::string::String;
use alloc::vec::Vec;

use hypercall_abi::PAGE_SIZE;
use pv_runtime::memory::SharedMemory;

use crate::disk::{Geometry, SECTOR_SIZE};
use crate::setup_error::SetupError;

/// Places in the description of a controller.
const SERIAL: core::ops::Range<usize> = 4..24;
const LARGEST_TRANSFER: usize = 77;
const NAMESPACES: usize = 516;
const WRITE_CACHE: usize = 525;

/// Places in the description of a namespace.
const SIZE: usize = 0;
const FEATURES: usize = 24;
const FORMAT: usize = 26;
const PROTECTION: usize = 29;
const PREFERRED_WRITE: usize = 64;
const ATTRIBUTES: usize = 99;
const FORMATS: usize = 128;
/// In the byte of features: the preferred size of writes is said.
const HAS_PREFERRED_WRITE: u8 = 1 << 4;
/// In the byte of attributes: nothing can be written.
const WRITE_PROTECTED: u8 = 1 << 0;
/// In the byte of protection: its kind, if there is any.
const PROTECTION_KIND: u8 = 0b111;

/// Exponents of block sizes that make sense: 512 to 4096 bytes.
const BLOCK_EXPONENTS: core::ops::RangeInclusive<u8> = 9..=12;
/// The most namespaces of a controller that become disks.
pub const NAMESPACES_MAX: usize = 32;

/// A page that the controller has filled in.
#[derive(Debug)]
pub struct Description([u8; PAGE_SIZE]);

impl Description {
    /// Copies it out of where the controller wrote it.
    pub fn of(memory: &impl SharedMemory) -> Self {
        let mut bytes = [0; PAGE_SIZE];
        memory.copy_out(0, &mut bytes);
        Self(bytes)
    }

    fn bytes<const N: usize>(&self, offset: usize) -> [u8; N] {
        core::array::from_fn(|index| self.0[offset + index])
    }

    fn u32_at(&self, offset: usize) -> u32 {
        u32::from_le_bytes(self.bytes(offset))
    }
}

/// A controller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The maker's number.
    pub serial: String,
    /// The most pages that one command may transfer; `None` if there is no limit.
    pub transfer_pages: Option<u32>,
    /// The highest number of a namespace.
    pub namespaces: u32,
    /// Whether written data may be lost until a flush.
    pub has_cache: bool,
}

impl Identity {
    /// Reads a controller's description.
    pub fn of(description: &Description) -> Self {
        let exponent = description.0[LARGEST_TRANSFER];
        let transfer_pages = (exponent != 0).then(|| 1_u32.checked_shl(exponent.into()).unwrap_or(u32::MAX));
        Self {
            serial: String::from_utf8_lossy(&description.0[SERIAL]).trim().into(),
            transfer_pages,
            namespaces: description.u32_at(NAMESPACES),
            has_cache: description.0[WRITE_CACHE] & 1 != 0,
        }
    }
}

/// The numbers in a list of namespaces, up to the first zero, and [`NAMESPACES_MAX`] at most.
pub fn namespaces(list: &Description) -> Vec<u32> {
    let numbers = (0..NAMESPACES_MAX).map(|index| list.u32_at(4 * index));
    numbers.take_while(|number| *number != 0).collect()
}

/// What a namespace looks like as a disk; `None` if it is not there.
///
/// # Errors
///
/// [`SetupError::Unsupported`] if its blocks are of a kind that disks here do not have.
pub fn geometry(
    description: &Description,
    controller: &Identity,
    segments_max: u16,
) -> Result<Option<Geometry>, SetupError> {
    let blocks = u64::from_le_bytes(description.bytes(SIZE));
    if blocks == 0 {
        return Ok(None);
    }
    let format = description.0[FORMAT];
    let index = usize::from(format & 0xf | format >> 1 & 0x30);
    let [metadata_low, metadata_high, exponent, _] = description.bytes(FORMATS + 4 * index);
    if metadata_low | metadata_high != 0 || description.0[PROTECTION] & PROTECTION_KIND != 0 {
        return Err(SetupError::Unsupported("blocks with metadata or protection are not supported"));
    }
    if !BLOCK_EXPONENTS.contains(&exponent) {
        return Err(SetupError::Unsupported(
            "blocks of other sizes than 512 to 4096 bytes are not supported",
        ));
    }
    let block = 1_u32 << exponent;
    let sectors = blocks.checked_mul(u64::from(block / SECTOR_SIZE)).ok_or(SetupError::BadConfiguration)?;
    Ok(Some(Geometry {
        sectors,
        logical_block_size: block,
        physical_block_size: preferred_write(description, block),
        is_read_only: description.0[ATTRIBUTES] & WRITE_PROTECTED != 0,
        has_cache: controller.has_cache,
        segments_max,
    }))
}

/// Bytes that are best written at once: a power of two, and at least a block.
fn preferred_write(description: &Description, block: u32) -> u32 {
    if description.0[FEATURES] & HAS_PREFERRED_WRITE == 0 {
        return block;
    }
    let blocks = u32::from(u16::from_le_bytes(description.bytes(PREFERRED_WRITE))) + 1;
    if blocks.is_power_of_two() { blocks.saturating_mul(block) } else { block }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn description(places: &[(usize, &[u8])]) -> Description {
        let mut bytes = [0; PAGE_SIZE];
        for (place, content) in places {
            bytes[*place..][..content.len()].copy_from_slice(content);
        }
        Description(bytes)
    }

    fn controller() -> Identity {
        Identity::of(&description(&[
            (SERIAL.start, b"WEIR-1              "),
            (LARGEST_TRANSFER, &[7]),
            (WRITE_CACHE, &[7]),
        ]))
    }

    #[test]
    fn a_controller_says_its_name_and_limits() {
        let identity = controller();
        assert_eq!((identity.serial.as_str(), identity.transfer_pages), ("WEIR-1", Some(128)));
        assert!(identity.has_cache);
        let most = Identity::of(&description(&[(LARGEST_TRANSFER, &[255])]));
        assert_eq!(most.transfer_pages, Some(u32::MAX));
        assert_eq!(Identity::of(&description(&[])).transfer_pages, None);
    }

    #[test]
    fn blocks_become_sectors() {
        let size = 1000_u64.to_le_bytes();
        let small = description(&[(SIZE, &size), (FORMATS, &[0, 0, 9, 0])]);
        let small = geometry(&small, &controller(), 128).expect("supported").expect("there");
        assert_eq!((small.sectors, small.logical_block_size), (1000, 512));
        // The format in use is the third.
        let large = description(&[
            (SIZE, &size),
            (FORMAT, &[2]),
            (FORMATS + 8, &[0, 0, 12, 0]),
            (FEATURES, &[HAS_PREFERRED_WRITE]),
            (PREFERRED_WRITE, &[3, 0]),
            (ATTRIBUTES, &[1]),
        ]);
        let large = geometry(&large, &controller(), 128).expect("supported").expect("there");
        assert_eq!((large.sectors, large.logical_block_size, large.physical_block_size), (8000, 4096, 16384));
        assert!(large.is_read_only && large.has_cache);
    }

    #[test]
    fn what_disks_here_are_not_is_refused() {
        let size = 1000_u64.to_le_bytes();
        for (format, protection) in
            [([8, 0, 9, 0], 0), ([0, 1, 12, 0], 0), ([0, 0, 9, 0], 1), ([0, 0, 13, 0], 0), ([0; 4], 0)]
        {
            let strange = description(&[(SIZE, &size), (FORMATS, &format), (PROTECTION, &[protection])]);
            assert!(
                matches!(geometry(&strange, &controller(), 128), Err(SetupError::Unsupported(_))),
                "{format:?}"
            );
        }
        let endless = description(&[(SIZE, &[0xff; 8]), (FORMATS, &[0, 0, 12, 0])]);
        assert_eq!(geometry(&endless, &controller(), 128), Err(SetupError::BadConfiguration));
        assert_eq!(geometry(&description(&[]), &controller(), 128), Ok(None), "no such namespace");
    }

    #[test]
    fn a_list_ends_with_zero_or_when_it_is_too_long() {
        assert_eq!(namespaces(&description(&[(0, &[1, 0, 0, 0, 7])])), [1, 7]);
        let mut all = [0; PAGE_SIZE];
        all.fill(1);
        assert_eq!(namespaces(&Description(all)).len(), NAMESPACES_MAX);
    }
}
