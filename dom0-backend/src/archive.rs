//! The boot archive: the files that domain 0 was started with, a plain tar.
//!
//! The bytes stay where the hypervisor put them; a file is a slice of them. The archive is checked as a whole
//! when it is opened, so later steps cannot fail.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use tar_no_std::{CorruptDataError, TarArchiveRef};

/// The file with commands to be run at once, one a line.
pub const EXEC: &str = "exec";
/// The kernel of guests for which nothing else is said.
pub const GUEST: &str = "guest";

/// Why bytes are no archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAnArchive(CorruptDataError);

impl fmt::Display for NotAnArchive {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "the boot archive is damaged: {:?}", self.0)
    }
}

impl core::error::Error for NotAnArchive {}

/// The files, by name.
#[derive(Clone, Debug, Default)]
pub struct Archive<'a> {
    files: Vec<(String, &'a [u8])>,
}

impl<'a> Archive<'a> {
    /// Opens an archive. No bytes at all are an archive without files.
    ///
    /// # Errors
    ///
    /// [`NotAnArchive`] if any part of it is damaged.
    pub fn open(bytes: &'a [u8]) -> Result<Self, NotAnArchive> {
        if bytes.is_empty() {
            return Ok(Self::default());
        }
        let archive = TarArchiveRef::new(bytes).map_err(NotAnArchive)?;
        let name = |text: &str| String::from(text.trim_start_matches("./"));
        let files = archive.entries().filter_map(|entry| {
            let filename = entry.filename();
            Some((name(filename.as_str().ok()?), entry.data()))
        });
        Ok(Self { files: files.collect() })
    }

    /// An archive with one file.
    #[cfg(test)]
    pub(crate) fn of(name: &str, content: &'a [u8]) -> Self {
        Self { files: Vec::from([(String::from(name), content)]) }
    }

    /// A file's content. Of several with the same name the last one counts, as when a tar is unpacked.
    pub fn file(&self, name: &str) -> Option<&'a [u8]> {
        let name = name.trim_start_matches("./");
        self.files.iter().rev().find(|(known, _)| known == name).map(|(_, content)| *content)
    }

    /// The names of the files, in the archive's order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.files.iter().map(|(name, _)| name.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    /// A ustar archive, written by the rules of POSIX.
    fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (name, content) in files {
            bytes.extend(header(name, content.len()));
            bytes.extend_from_slice(content);
            bytes.resize(bytes.len().next_multiple_of(512), 0);
        }
        bytes.extend([0; 1024]);
        bytes
    }

    fn header(name: &str, size: usize) -> [u8; 512] {
        let mut header = [0; 512];
        let mut put = |offset: usize, text: &[u8]| header[offset..offset + text.len()].copy_from_slice(text);
        put(0, name.as_bytes());
        put(100, b"0000644\0");
        put(108, b"0000000\0");
        put(116, b"0000000\0");
        put(124, alloc::format!("{size:011o}\0").as_bytes());
        put(136, b"00000000000\0");
        put(148, b"        ");
        put(156, b"0");
        put(257, b"ustar\x0000");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(alloc::format!("{sum:06o}\0 ").as_bytes());
        header
    }

    #[test]
    fn files_are_found_by_name() {
        let bytes = tar(&[("guest", b"kernel"), ("./exec", b"list\n"), ("empty", b"")]);
        let archive = Archive::open(&bytes).unwrap();
        assert_eq!(archive.file(GUEST), Some(&b"kernel"[..]));
        assert_eq!(archive.file(EXEC), Some(&b"list\n"[..]));
        assert_eq!(archive.file("empty"), Some(&b""[..]));
        assert_eq!(archive.file("other"), None);
        assert_eq!(archive.names().collect::<Vec<_>>(), ["guest", "exec", "empty"]);
    }

    #[test]
    fn contents_of_any_length_come_back_whole() {
        for length in [1, 511, 512, 513, 5000] {
            let content = vec![7; length];
            let bytes = tar(&[("a", &content), ("b", b"end")]);
            let archive = Archive::open(&bytes).unwrap();
            assert_eq!((archive.file("a"), archive.file("b")), (Some(&content[..]), Some(&b"end"[..])));
        }
    }

    #[test]
    fn the_last_of_several_counts() {
        let bytes = tar(&[("a", b"old"), ("a", b"new")]);
        assert_eq!(Archive::open(&bytes).unwrap().file("a"), Some(&b"new"[..]));
    }

    #[test]
    fn nothing_is_an_archive_without_files() {
        assert_eq!(Archive::open(b"").unwrap().names().count(), 0);
    }

    #[test]
    fn damage_is_noticed_at_once() {
        let whole = tar(&[("guest", &[1; 2000])]);
        for cut in [512, 1000, 2048, whole.len() - 512] {
            assert!(Archive::open(&whole[..cut]).is_err(), "cut at {cut}");
        }
        let mut flipped = whole.clone();
        flipped[3] ^= 1;
        assert!(Archive::open(&flipped).is_err());
    }
}
