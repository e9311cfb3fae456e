use std::cell::Cell;
use std::collections::BTreeSet;

use super::*;
use alloc::vec;
use proptest::prelude::*;
use pv_runtime::executor::testing;

/// Bytes in memory that are read like a disk, and how often they were.
struct Memory {
    bytes: Vec<u8>,
    reads: Rc<Cell<usize>>,
}

impl Source for Memory {
    fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    async fn read(&self, start: u64, length: usize) -> Result<Vec<u8>, IoError> {
        self.reads.set(self.reads.get() + 1);
        let start = start as usize;
        self.bytes.get(start..start + length).map(<[u8]>::to_vec).ok_or(IoError::OutOfRange)
    }
}

/// File systems with `auto/web.cfg`, `auto/db.cfg`, `boot/kernel` of 700,000 bytes, `empty`, and `link` to the kernel.
const EXT4: &[u8] = include_bytes!("fixtures/files.ext4.gz");
const EXT2: &[u8] = include_bytes!("fixtures/files.ext2.gz");

/// A file system with `images/plain`, `images/fragmented` of which every block lies elsewhere, and others that cannot be
/// disks.
const IMAGES: &[u8] = include_bytes!("fixtures/images.ext4.gz");

fn unpacked(gzip: &[u8]) -> Vec<u8> {
    // Ten bytes of header and eight behind the content.
    miniz_oxide::inflate::decompress_to_vec(&gzip[10..gzip.len() - 8]).expect("the fixture is sound")
}

fn kernel() -> Vec<u8> {
    pattern(700_000, 0)
}

fn pattern(length: usize, seed: usize) -> Vec<u8> {
    (0..length).map(|index| ((index * 7 + index / 251 + seed) % 251) as u8).collect()
}

/// What lies where a file is said to lie.
async fn gathered(fixture: &[u8], path: &str) -> Result<Vec<u8>, FileSystemError> {
    let bytes = unpacked(fixture);
    let files = FileSystem::open(memory(bytes.clone()).0).await.expect("a sound file system");
    let runs = files.runs(path).await?;
    Ok(runs.iter().flat_map(|run| &bytes[run.start as usize..][..run.length as usize]).copied().collect())
}

#[test]
fn a_file_lies_where_it_is_said_to_lie() {
    testing::run(async {
        assert!(gathered(EXT4, "boot/kernel").await.unwrap() == kernel());
        assert!(gathered(EXT4, "/link").await.unwrap() == kernel(), "through a link");
        assert!(gathered(IMAGES, "images/plain").await.unwrap() == pattern(65536, 1));
        assert!(gathered(IMAGES, "images/fragmented").await.unwrap() == pattern(102_400, 5));
        assert!(gathered(IMAGES, "images/odd").await.unwrap() == pattern(1000, 6));
        let files = FileSystem::open(memory(unpacked(IMAGES)).0).await.unwrap();
        assert_eq!(files.runs("images/plain").await.unwrap().len(), 1, "what lies together is one run");
    });
}

#[test]
fn a_file_that_cannot_be_a_disk_says_why() {
    testing::run(async {
        for (path, reason) in [
            ("images/sparse", "the file has a hole at byte 16384; copy it with `cp --sparse=never`"),
            ("images/tail", "the file has a hole at byte 8192; copy it with `cp --sparse=never`"),
            ("images/set-aside", "nothing was ever written at byte 0; fill the file"),
            ("images/empty", "the file is empty"),
            ("images", "it is no regular file"),
            ("images/none", "there is no such file"),
            ("images/plain/x", "path is not a directory"),
        ] {
            let error = gathered(IMAGES, path).await.unwrap_err();
            assert_eq!(error.to_string(), reason, "{path}");
        }
        let listed = "its blocks are listed one by one, as in ext2 and ext3; only extents are understood";
        assert_eq!(gathered(EXT2, "boot/kernel").await.unwrap_err().to_string(), listed);
        let mut unclean = unpacked(IMAGES);
        unclean[1024 + 0x60] |= 4;
        // Nothing is done with a file system whose journal is to be played back; the crate does not take this one either.
        let opened = FileSystem::open(memory(unclean).0).await;
        assert!(opened.is_err());
    });
}

fn memory(bytes: Vec<u8>) -> (Memory, Rc<Cell<usize>>) {
    let reads = Rc::new(Cell::new(0));
    (Memory { bytes, reads: Rc::clone(&reads) }, reads)
}

#[test]
fn files_are_read_and_directories_listed() {
    for fixture in [EXT4, EXT2] {
        testing::run(async move {
            let (source, reads) = memory(unpacked(fixture));
            let files = FileSystem::open(source).await.unwrap();
            assert_eq!(files.list("auto").await.unwrap(), ["db.cfg", "web.cfg"]);
            assert_eq!(files.read("/auto/web.cfg").await.unwrap(), b"name = \"web\"\nmemory = 32\n");
            assert_eq!(files.read("empty").await.unwrap(), b"");
            assert!(files.read("boot/kernel").await.unwrap() == kernel());
            assert!(files.read("link").await.unwrap() == kernel(), "through a link");
            assert!(reads.get() <= 20, "hardly anything is read twice: {} chunks", reads.get());
        });
    }
}

#[test]
fn what_cannot_be_read_is_said() {
    testing::run(async {
        let (source, _) = memory(unpacked(EXT4));
        let files = FileSystem::open(source).await.unwrap();
        assert_eq!(files.read("none").await, Err(FileSystemError::NotFound));
        assert_eq!(files.list("none").await, Err(FileSystemError::NotFound));
        assert!(matches!(files.read("auto").await, Err(FileSystemError::Other(_))));
        for bytes in [vec![], vec![0; 100], vec![0; 1 << 20], vec![0xff; 1 << 20]] {
            assert!(FileSystem::open(memory(bytes).0).await.is_err());
        }
    });
}

#[test]
fn a_disk_that_fails_is_told_from_a_damaged_file_system() {
    struct Broken;
    impl Source for Broken {
        fn size(&self) -> u64 {
            1 << 20
        }
        async fn read(&self, _start: u64, _length: usize) -> Result<Vec<u8>, IoError> {
            Err(IoError::Device)
        }
    }
    testing::run(async {
        assert_eq!(FileSystem::open(Broken).await.err(), Some(FileSystemError::Disk(IoError::Device)));
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// A damaged file system may lose its files, but reading it comes to an end.
    #[test]
    fn damage_ends_with_an_error_or_a_file(
        damage in prop::collection::vec((0..1_572_864_usize, any::<u8>()), 1..60),
        early in prop::collection::vec((1024..40_000_usize, any::<u8>()), 0..20),
    ) {
        let mut bytes = unpacked(EXT2);
        for (at, byte) in damage.into_iter().chain(early) {
            if let Some(place) = bytes.get_mut(at) {
                *place = byte;
            }
        }
        testing::run(async move {
            let Ok(files) = FileSystem::open(memory(bytes).0).await else { return };
            let names: BTreeSet<_> = files.list("/auto").await.unwrap_or_default().into_iter().collect();
            for name in names {
                let _ = files.read(&format!("auto/{name}")).await;
            }
            let _ = files.read("boot/kernel").await;
        });
    }

    /// Nor does a damaged one lead to bytes that are not on the disk.
    #[test]
    fn damage_ends_with_an_error_or_with_what_is_there(
        damage in prop::collection::vec((1024..360_000_usize, any::<u8>()), 1..60),
        path in prop::sample::select(vec!["images/plain", "images/fragmented", "images/sparse"]),
    ) {
        let mut bytes = unpacked(IMAGES);
        let size = bytes.len() as u64;
        for (at, byte) in damage {
            bytes[at] = byte;
        }
        testing::run(async move {
            let mut reader = Reader { chunks: Rc::default(), size };
            for (number, chunk) in bytes.chunks(CHUNK as usize).enumerate() {
                reader.chunks.borrow_mut().put(number as u64, chunk.to_vec());
            }
            let runs = extents::runs(&mut reader, path).unwrap_or_default();
            assert!(runs.iter().all(|run| run.start + run.length <= size));
        });
    }
}
