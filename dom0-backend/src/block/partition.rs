//! Partition tables: where on a disk its partitions lie.
//!
//! A table is something that whoever may write to the disk has written, so it says nothing but which sectors somebody
//! calls a partition: what does not lie on the disk, or not whole, is passed over.

use alloc::vec::Vec;
use core::mem::size_of;

use bytemuck::{AnyBitPattern, pod_read_unaligned};
use gpt_disk_types::{Crc32, GptHeader, GptPartitionEntry, MasterBootRecord};

use super::device::SECTOR_SIZE;

/// Sectors at a disk's beginning that hold the usual tables: boot record, header, 128 entries of 128 bytes.
pub const TABLE_SECTORS: u64 = 34;

const SECTOR: usize = SECTOR_SIZE as usize;
/// The signature at the end of a boot record.
const BOOT_SIGNATURE: [u8; 2] = [0x55, 0xaa];
/// Types of a boot record's partitions: unused, and the one that stands for a whole GUID partition table.
const UNUSED: u8 = 0;
const PROTECTIVE: u8 = 0xee;
/// Types that stand for a chain of further tables, which are not followed.
const EXTENDED: [u8; 3] = [0x05, 0x0f, 0x85];
/// Bytes of a header that its checksum is taken of, at least and at most.
const HEADER_SIZES: core::ops::RangeInclusive<usize> = 92..=SECTOR;
/// Where in the header its own checksum lies.
const CHECKSUM: core::ops::Range<usize> = 16..20;

/// A partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Partition {
    /// Its number, the first being 1.
    pub number: u32,
    /// Its first sector.
    pub first_sector: u64,
    /// How many sectors it has.
    pub sectors: u64,
}

/// The partitions of a disk of `sectors` sectors whose first bytes these are; none if there is no table.
pub fn partitions(start: &[u8], sectors: u64) -> Vec<Partition> {
    let Some(record) = read::<MasterBootRecord>(start, 0).filter(|record| record.signature == BOOT_SIGNATURE)
    else {
        return Vec::new();
    };
    let found = if record.partitions.iter().any(|entry| entry.os_indicator == PROTECTIVE) {
        from_guid_table(start).unwrap_or_default()
    } else {
        from_boot_record(&record)
    };
    let lies_on_disk = |partition: &Partition| {
        let end = partition.first_sector.checked_add(partition.sectors);
        partition.sectors > 0 && end.is_some_and(|end| end <= sectors)
    };
    found.into_iter().filter(lies_on_disk).collect()
}

fn read<T: AnyBitPattern>(bytes: &[u8], at: usize) -> Option<T> {
    bytes.get(at..at.checked_add(size_of::<T>())?).map(pod_read_unaligned)
}

fn from_boot_record(record: &MasterBootRecord) -> Vec<Partition> {
    let used = (1..)
        .zip(&record.partitions)
        .filter(|(_, entry)| entry.os_indicator != UNUSED && !EXTENDED.contains(&entry.os_indicator));
    let partition = |(number, entry): (u32, &gpt_disk_types::MbrPartitionRecord)| Partition {
        number,
        first_sector: u64::from(entry.starting_lba.to_u32()),
        sectors: u64::from(entry.size_in_lba.to_u32()),
    };
    used.map(partition).collect()
}

/// The partitions of a GUID partition table, if its checksums are right.
fn from_guid_table(start: &[u8]) -> Option<Vec<Partition>> {
    let header: GptHeader = read(start, SECTOR)?;
    let header_size = usize::try_from(header.header_size.to_u32()).ok()?;
    if !header.is_signature_valid() || !HEADER_SIZES.contains(&header_size) {
        return None;
    }
    let mut own = start.get(SECTOR..SECTOR + header_size)?.to_vec();
    own.get_mut(CHECKSUM)?.fill(0);
    let layout = header.get_partition_entry_array_layout().ok()?;
    let first = usize::try_from(layout.start_lba.to_u64()).ok()?.checked_mul(SECTOR)?;
    let entry_size = layout.entry_size.to_usize()?;
    let size = entry_size.checked_mul(usize::try_from(layout.num_entries).ok()?)?;
    let entries = start.get(first..first.checked_add(size)?)?;
    if crc(&own) != header.header_crc32 || crc(entries) != header.partition_entry_array_crc32 {
        return None;
    }
    let entry = |(number, bytes): (u32, &[u8])| {
        let entry: GptPartitionEntry = read(bytes, 0).filter(GptPartitionEntry::is_used)?;
        let range = entry.lba_range()?;
        Some(Partition { number, first_sector: range.start().to_u64(), sectors: range.num_blocks() })
    };
    Some((1..).zip(entries.chunks_exact(entry_size)).filter_map(entry).collect())
}

/// The checksum that these tables use, which is that of gzip too.
fn crc(bytes: &[u8]) -> Crc32 {
    Crc32(gpt_disk_types::U32Le(crc32fast::hash(bytes).to_le_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use proptest::prelude::*;

    fn boot_record(entries: &[(u8, u32, u32)]) -> Vec<u8> {
        let mut bytes = vec![0; TABLE_SECTORS as usize * SECTOR];
        for (index, (kind, first, count)) in entries.iter().enumerate() {
            let at = 446 + index * 16;
            bytes[at + 4] = *kind;
            bytes[at + 8..at + 12].copy_from_slice(&first.to_le_bytes());
            bytes[at + 12..at + 16].copy_from_slice(&count.to_le_bytes());
        }
        bytes[510..512].copy_from_slice(&BOOT_SIGNATURE);
        bytes
    }

    /// A table with these partitions, by first and last sector.
    fn guid_table(entries: &[(u64, u64)]) -> Vec<u8> {
        let mut bytes = boot_record(&[(PROTECTIVE, 1, u32::MAX)]);
        for (index, (first, last)) in entries.iter().enumerate() {
            let at = 2 * SECTOR + index * 128;
            bytes[at..at + 16].fill(if *last == 0 { 0 } else { 7 });
            bytes[at + 32..at + 40].copy_from_slice(&first.to_le_bytes());
            bytes[at + 40..at + 48].copy_from_slice(&last.to_le_bytes());
        }
        let entries_crc = crc32fast::hash(&bytes[2 * SECTOR..34 * SECTOR]);
        let header = &mut bytes[SECTOR..2 * SECTOR];
        header[..8].copy_from_slice(b"EFI PART");
        header[12..16].copy_from_slice(&92_u32.to_le_bytes());
        header[72..80].copy_from_slice(&2_u64.to_le_bytes());
        header[80..84].copy_from_slice(&128_u32.to_le_bytes());
        header[84..88].copy_from_slice(&128_u32.to_le_bytes());
        header[88..92].copy_from_slice(&entries_crc.to_le_bytes());
        let header_crc = crc32fast::hash(&header[..92]);
        header[16..20].copy_from_slice(&header_crc.to_le_bytes());
        bytes
    }

    fn places(bytes: &[u8]) -> Vec<(u32, u64, u64)> {
        let found = partitions(bytes, 100_000);
        found.iter().map(|one| (one.number, one.first_sector, one.sectors)).collect()
    }

    #[test]
    fn a_boot_record_has_four_partitions() {
        let bytes = boot_record(&[(0x83, 2048, 1000), (0, 0, 0), (0x05, 4096, 10), (0x82, 8192, 500)]);
        assert_eq!(places(&bytes), [(1, 2048, 1000), (4, 8192, 500)]);
        assert_eq!(
            places(&boot_record(&[(0x83, 99_999, 2), (0x83, 5, 0)])),
            [],
            "not on the disk, and nothing"
        );
    }

    #[test]
    fn a_guid_table_has_many() {
        let bytes = guid_table(&[(2048, 4095), (0, 0), (4096, 4096), (9, 200_000)]);
        assert_eq!(places(&bytes), [(1, 2048, 2048), (3, 4096, 1)]);
        for wrong in [SECTOR, SECTOR + 40, 2 * SECTOR + 33] {
            let mut broken = bytes.clone();
            broken[wrong] ^= 1;
            assert_eq!(places(&broken), [], "byte {wrong}");
        }
    }

    #[test]
    fn what_is_no_table_has_no_partitions() {
        for bytes in [vec![], vec![0; 512], vec![0xff; 17408], b"x".repeat(600)] {
            assert_eq!(places(&bytes), []);
        }
        assert_eq!(places(&boot_record(&[(PROTECTIVE, 1, 9)])), [], "without the table that it announces");
    }

    proptest! {
        #[test]
        fn any_table_ends_with_what_lies_on_the_disk(changes in prop::collection::vec((0..17408_usize, any::<u8>()), 0..40)) {
            let mut bytes = guid_table(&[(2048, 4095)]);
            for (at, byte) in changes {
                bytes[at] = byte;
            }
            for one in partitions(&bytes, 5000) {
                prop_assert!(one.sectors > 0 && one.first_sector + one.sectors <= 5000);
            }
        }
    }
}
