//! bzImages of every kind, whole and damaged. The fixtures were packed by the programs that kernels are packed by:
//!
//! ```text
//! gzip -9 -n                                  content.gz
//! xz --check=crc32 --x86 --lzma2=dict=…       content.xz, zeroes.xz
//! zstd -22 --ultra < …                        content.zst, zeroes.zst
//! lz4 -l -9                                   content.lz4
//! ```

use super::*;
use alloc::string::ToString;
use alloc::vec;

const GZIP: &[u8] = include_bytes!("fixtures/content.gz");
const XZ: &[u8] = include_bytes!("fixtures/content.xz");
const ZSTD: &[u8] = include_bytes!("fixtures/content.zst");
const LZ4: &[u8] = include_bytes!("fixtures/content.lz4");
/// 3 MiB of zeroes: more than one step.
const ZEROES: usize = 3 << 20;
const XZ_ZEROES: &[u8] = include_bytes!("fixtures/zeroes.xz");
const ZSTD_ZEROES: &[u8] = include_bytes!("fixtures/zeroes.zst");

/// What the fixtures called content contain: calls of one function from many places, as in a program.
fn content() -> Vec<u8> {
    let mut bytes = b"\x7fELF".to_vec();
    while bytes.len() < 3000 {
        let distance = 0x1000 - bytes.len() as u32;
        bytes.push(0xe8);
        bytes.extend(distance.to_le_bytes());
        bytes.extend(b"wei");
    }
    bytes.truncate(3000);
    bytes
}

/// A payload with the length behind it.
fn with_length(packed: &[u8], length: usize) -> Vec<u8> {
    [packed, &(length as u32).to_le_bytes()].concat()
}

/// A bzImage with this payload.
fn bzimage(payload: &[u8]) -> Vec<u8> {
    const SETUP: usize = 3;
    const OFFSET: usize = 0x2b1;
    let mut file = vec![0; (1 + SETUP) * 512 + OFFSET];
    file[0x1f1] = SETUP as u8;
    file[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
    file[0x202..0x206].copy_from_slice(b"HdrS");
    file[0x206..0x208].copy_from_slice(&0x20f_u16.to_le_bytes());
    file[0x248..0x24c].copy_from_slice(&(OFFSET as u32).to_le_bytes());
    file[0x24c..0x250].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    file.extend(payload);
    file.extend([0xee; 40]);
    file
}

fn unpacked(file: Vec<u8>) -> Result<Vec<u8>, KernelFileError> {
    unpack(&file).map(Cow::into_owned)
}

/// Every packing with the same content.
fn payloads() -> [(Packing, Vec<u8>); 4] {
    [
        (Packing::Gzip, GZIP.to_vec()),
        (Packing::Xz, with_length(XZ, 3000)),
        (Packing::Zstd, with_length(ZSTD, 3000)),
        (Packing::Lz4, with_length(LZ4, 3000)),
    ]
}

fn damage(packing: Packing, fault: Fault) -> Result<Vec<u8>, KernelFileError> {
    Err(KernelFileError::Damaged { packing, fault })
}

#[test]
fn every_packing_is_unpacked() {
    for (packing, payload) in payloads() {
        assert_eq!(unpacked(bzimage(&payload)), Ok(content()), "{packing}");
    }
}

#[test]
fn long_content_is_unpacked_in_steps() {
    let zeroes = vec![0; ZEROES];
    assert!(unpacked(bzimage(&with_length(XZ_ZEROES, ZEROES))) == Ok(zeroes.clone()));
    assert!(unpacked(bzimage(&with_length(ZSTD_ZEROES, ZEROES))) == Ok(zeroes.clone()));
    let mut gzip = vec![0x1f, 0x8b, 8, 0b1_1110, 0, 0, 0, 0, 0, 3, 2, 0, 9, 9];
    gzip.extend(b"name\0comment\0\x12\x34");
    gzip.extend(miniz_oxide::deflate::compress_to_vec(&zeroes, 6));
    gzip.extend(crc32fast::hash(&zeroes).to_le_bytes());
    assert!(unpacked(bzimage(&with_length(&gzip, ZEROES))) == Ok(zeroes));
}

#[test]
fn lz4_blocks_follow_each_other() {
    let blocks = [vec![1_u8; 8 << 20], vec![2; 100]];
    let mut lz4 = lz4::MAGIC.to_vec();
    for block in &blocks {
        let packed = lz4_flex::block::compress(block);
        lz4.extend((packed.len() as u32).to_le_bytes());
        lz4.extend(packed);
    }
    let whole = blocks.concat();
    assert!(unpacked(bzimage(&with_length(&lz4, whole.len()))) == Ok(whole));
}

#[test]
fn what_is_no_bzimage_or_not_packed_is_left_as_it_is() {
    for file in [&b""[..], b"\x7fELF", &[0x55; 700]] {
        assert_eq!(unpacked(file.to_vec()), Ok(file.to_vec()));
    }
    let plain = unpacked(bzimage(&with_length(&content(), 3000))).unwrap();
    assert!(plain.starts_with(&content()));
}

#[test]
fn the_header_is_believed_only_as_far_as_the_file_goes() {
    let file = bzimage(GZIP);
    let end = file.len() - 40;
    for length in [end - 1, 0x251, 0x250] {
        let error = unpacked(file[..length].to_vec()).unwrap_err();
        assert_eq!(error, KernelFileError::Truncated { needed: end as u64, length });
    }
    let error = unpacked(file[..0x24f].to_vec()).unwrap_err();
    assert_eq!(error.to_string(), "the bzImage is cut short: it has 591 bytes and should have 592");
    for field in [0x248, 0x24c] {
        let mut file = bzimage(GZIP);
        file[field..field + 4].fill(0xff);
        assert!(matches!(unpacked(file), Err(KernelFileError::Truncated { .. })));
    }
}

#[test]
fn old_and_unknown_images_are_named() {
    let mut file = bzimage(GZIP);
    file[0x206..0x208].copy_from_slice(&0x207_u16.to_le_bytes());
    let error = unpacked(file).unwrap_err();
    assert_eq!(error.to_string(), "the bzImage has boot protocol 2.07; 2.08 or newer is needed");
    assert_eq!(
        unpacked(bzimage(&with_length(b"BZh91AY", 9))),
        Err(KernelFileError::UnknownPacking(*b"BZh9"))
    );
    assert_eq!(unpacked(bzimage(b"")), Err(KernelFileError::UnknownPacking([0xee; 4])));
}

#[test]
fn nobody_gets_more_memory_than_is_allowed() {
    let length = MOST_UNPACKED + 1;
    for (_, payload) in payloads() {
        let payload = with_length(&payload, length);
        assert_eq!(unpacked(bzimage(&payload)), Err(KernelFileError::TooLong { length }));
    }
}

#[test]
fn the_length_must_be_right() {
    for (packing, mut payload) in payloads() {
        let end = payload.len() - 4;
        payload[end..].copy_from_slice(&2999_u32.to_le_bytes());
        let fault = Fault::TooMuch { promised: 2999 };
        assert_eq!(unpacked(bzimage(&payload)), damage(packing, fault), "{packing}");
        payload[end..].copy_from_slice(&3001_u32.to_le_bytes());
        let fault = Fault::TooLittle { promised: 3001, unpacked: 3000 };
        assert_eq!(unpacked(bzimage(&payload)), damage(packing, fault), "{packing}");
    }
}

#[test]
fn a_wrong_checksum_is_noticed() {
    let mut gzip = GZIP.to_vec();
    let at = gzip.len() - 8;
    gzip[at] ^= 1;
    assert_eq!(unpacked(bzimage(&gzip)), damage(Packing::Gzip, Fault::Checksum));
    let mut zstd = ZSTD.to_vec();
    *zstd.last_mut().unwrap() ^= 1;
    assert_eq!(unpacked(bzimage(&with_length(&zstd, 3000))), damage(Packing::Zstd, Fault::Checksum));
}

/// Everything but LZ4 has checksums, so only its damage can stay unnoticed; nothing may panic.
#[test]
fn damage_anywhere_is_an_error() {
    for (packing, payload) in payloads() {
        let packed = payload.len() - 4;
        for at in 0..packed {
            let mut flipped = payload.clone();
            flipped[at] ^= 0x41;
            let result = unpacked(bzimage(&flipped));
            let is_optional = packing == Packing::Gzip && (4..10).contains(&at);
            assert!(packing == Packing::Lz4 || is_optional || result.is_err(), "{packing} at {at}");
        }
        for length in 0..packed {
            let cut = with_length(&payload[..length], 3000);
            assert!(unpacked(bzimage(&cut)).is_err(), "{packing} cut at {length}");
        }
    }
}
