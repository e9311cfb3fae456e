//! What the device says about the disk.

use crate::disk::{Geometry, SECTOR_SIZE};
use crate::virtio::{Registers, SetupError, Transport, feature};

/// Feature bits of disks.
const SIZE_MAX: u64 = 1 << 1;
const SEG_MAX: u64 = 1 << 2;
const READ_ONLY: u64 = 1 << 5;
const BLOCK_SIZE: u64 = 1 << 6;
const FLUSH: u64 = 1 << 9;
const TOPOLOGY: u64 = 1 << 10;

/// The features that the driver knows.
pub(super) const WANTED: u64 = SIZE_MAX
    | SEG_MAX
    | READ_ONLY
    | BLOCK_SIZE
    | FLUSH
    | TOPOLOGY
    | feature::INDIRECT_DESCRIPTORS
    | feature::EVENT_INDEX;

/// The registers of disks, by offset.
const CAPACITY: usize = 0;
const SEGMENT_SIZE_MAX: usize = 8;
const SEGMENTS_MAX: usize = 12;
const BLOCK_SIZE_REGISTER: usize = 20;
const PHYSICAL_BLOCK_EXPONENT: usize = 24;

/// Block sizes that make sense, in bytes.
const BLOCK_SIZES: core::ops::RangeInclusive<u32> = SECTOR_SIZE..=4096;
/// As many segments as every front end may send in one request.
const SEGMENTS_NEEDED: u16 = 11;

/// Reads what the features agreed on promise, and the most bytes of a segment. `segments_max` is what the driver can handle.
pub(super) fn read_geometry<R: Registers>(
    transport: &Transport<R>,
    features: u64,
    segments_max: u16,
) -> Result<(Geometry, u32), SetupError> {
    let has = |feature| features & feature != 0;
    let u32_if = |feature, offset: usize, otherwise| {
        if !has(feature) {
            return Ok(otherwise);
        }
        transport.read_configuration(offset + 4, |registers| registers.read_u32(offset))
    };
    let sectors = transport.read_configuration(CAPACITY + 8, |registers| {
        u64::from(registers.read_u32(CAPACITY)) | u64::from(registers.read_u32(CAPACITY + 4)) << 32
    })?;
    let logical_block_size = u32_if(BLOCK_SIZE, BLOCK_SIZE_REGISTER, SECTOR_SIZE)?;
    let exponent = if has(TOPOLOGY) {
        let offset = PHYSICAL_BLOCK_EXPONENT;
        transport.read_configuration(offset + 1, |registers| registers.read_u8(offset))?
    } else {
        0
    };
    let segment_size = u32_if(SIZE_MAX, SEGMENT_SIZE_MAX, u32::MAX)?;
    let segments = u32_if(SEG_MAX, SEGMENTS_MAX, u32::from(segments_max))?;
    let segments_max = u16::try_from(segments).unwrap_or(u16::MAX).min(segments_max);
    let is_sound = logical_block_size.is_power_of_two()
        && BLOCK_SIZES.contains(&logical_block_size)
        && segment_size >= 4096
        && segments_max >= SEGMENTS_NEEDED;
    if !is_sound {
        return Err(SetupError::BadConfiguration);
    }
    let geometry = Geometry {
        sectors,
        logical_block_size,
        physical_block_size: logical_block_size.checked_shl(exponent.into()).unwrap_or(logical_block_size),
        is_read_only: has(READ_ONLY),
        has_cache: has(FLUSH),
        segments_max,
    };
    Ok((geometry, segment_size))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::virtio::fake::FakeRegisters;

    fn geometry(features: u64, set: impl Fn(&FakeRegisters)) -> Result<(Geometry, u32), SetupError> {
        let config = FakeRegisters::new(60);
        config.put(CAPACITY, &0x1_0000_0000_u64.to_le_bytes());
        set(&config);
        let common = FakeRegisters::new(56);
        let transport = Transport::begin(common, FakeRegisters::new(4), 4, Some(config)).expect("no fault");
        read_geometry(&transport, features, 250)
    }

    #[test]
    fn a_plain_disk_has_sectors_only() {
        let (plain, segment_size) = geometry(0, |_| {}).expect("sound");
        assert_eq!(segment_size, u32::MAX);
        assert_eq!(plain.sectors, 1 << 32);
        assert_eq!((plain.logical_block_size, plain.physical_block_size), (512, 512));
        assert_eq!((plain.is_read_only, plain.has_cache, plain.segments_max), (false, false, 250));
    }

    #[test]
    fn features_bring_their_registers_in() {
        let all = geometry(u64::MAX, |config| {
            config.put(SEGMENT_SIZE_MAX, &4096_u32.to_le_bytes());
            config.put(SEGMENTS_MAX, &126_u32.to_le_bytes());
            config.put(BLOCK_SIZE_REGISTER, &512_u32.to_le_bytes());
            config.put(PHYSICAL_BLOCK_EXPONENT, &[3]);
        });
        let (all, segment_size) = all.expect("sound");
        assert_eq!(segment_size, 4096);
        assert_eq!((all.logical_block_size, all.physical_block_size), (512, 4096));
        assert_eq!((all.is_read_only, all.has_cache, all.segments_max), (true, true, 126));
    }

    #[test]
    fn nonsense_is_refused() {
        for size in [0, 1, 511, 513, 8192, u32::MAX] {
            let outcome = geometry(BLOCK_SIZE, |config| config.put(BLOCK_SIZE_REGISTER, &size.to_le_bytes()));
            assert_eq!(outcome, Err(SetupError::BadConfiguration), "blocks of {size}");
        }
        let few = geometry(SEG_MAX, |config| config.put(SEGMENTS_MAX, &10_u32.to_le_bytes()));
        assert_eq!(few, Err(SetupError::BadConfiguration));
        let small = geometry(SIZE_MAX, |config| config.put(SEGMENT_SIZE_MAX, &2048_u32.to_le_bytes()));
        assert_eq!(small, Err(SetupError::BadConfiguration));
    }
}
