//! A Linux initial file system: a cpio archive of the "newc" kind, not packed.

/// An archive in the making.
#[derive(Default)]
pub struct Initramfs {
    bytes: Vec<u8>,
    entries: u32,
}

/// Kinds of entries and their permissions, as in `stat`.
const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
/// The entry that ends the archive.
const TRAILER: &str = "TRAILER!!!";

impl Initramfs {
    /// An archive without entries.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a directory; those above it come first.
    #[must_use]
    pub fn directory(self, path: &str) -> Self {
        self.entry(path, DIRECTORY, b"")
    }

    /// Adds a file that can be run.
    #[must_use]
    pub fn program(self, path: &str, content: &[u8]) -> Self {
        self.entry(path, PROGRAM, content)
    }

    /// The archive.
    pub fn finish(self) -> Vec<u8> {
        self.entry(TRAILER, 0, b"").bytes
    }

    fn entry(mut self, path: &str, mode: u32, content: &[u8]) -> Self {
        self.entries += 1;
        let name_size = path.len() as u32 + 1;
        let mut header = String::from("070701");
        // Inode, mode, owner, group, links, time, size, four device numbers, length of the name, checksum.
        for field in [self.entries, mode, 0, 0, 1, 0, content.len() as u32, 0, 0, 0, 0, name_size, 0] {
            header += &format!("{field:08x}");
        }
        self.bytes.extend(header.as_bytes());
        self.bytes.extend(path.as_bytes());
        self.bytes.push(0);
        self.align();
        self.bytes.extend(content);
        self.align();
        self
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_aligned_and_end_with_the_trailer() {
        let archive = Initramfs::new().directory("bin").program("init", b"#!sh\n").finish();
        let text = String::from_utf8(archive.clone()).unwrap();
        assert_eq!(archive.len() % 4, 0);
        assert!(text.starts_with("07070100000001000041ed"), "{text}");
        let init = text.find("init\0").unwrap();
        assert_eq!(&text[init - 16..init], "0000000500000000", "length of the name, no checksum");
        assert_eq!(&text[init + 6..init + 11], "#!sh\n");
        assert!(text.trim_end_matches('\0').ends_with(TRAILER));
    }
}
