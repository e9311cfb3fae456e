//! A Linux initial file system: a cpio archive of the "newc" kind, not packed.
//!
//! [`for_root_disk`] makes one that does what a distribution's does for a paravirtual guest: loads the modules and goes
//! on with the first program on the disk.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::Files;

/// An archive in the making.
#[derive(Default)]
pub struct Initramfs {
    bytes: Vec<u8>,
    entries: u32,
}

/// Kinds of entries and their permissions, as in `stat`.
const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const LINK: u32 = 0o120_777;
/// The entry that ends the archive.
const TRAILER: &str = "TRAILER!!!";
/// Where modules lie in the archive; each name begins with its place in the order.
const MODULES: &str = "modules";
/// The first program: loads the modules, waits for the disk that the command line names (`root=`, by default the first),
/// and goes on with the first program there (`init=`, as for any Linux).
const INIT: &str = r#"#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc none /proc; mount -t devtmpfs none /dev
root=/dev/xvda init=/sbin/init mode=rw
for word in $(cat /proc/cmdline); do
    case $word in
        root=*) root=${word#*=};;
        init=*) init=${word#*=};;
        ro) mode=ro;;
    esac
done
echo "starting with Linux $(uname -r)"
for module in /modules/*; do insmod $module || echo "$module cannot be loaded"; done
tries=0
while ! [ -b $root ] && [ $tries -lt 200 ]; do usleep 50000; tries=$((tries + 1)); done
if mount -t ext4 -o $mode $root /root; then
    umount /proc
    mount -o move /dev /root/dev
    exec switch_root /root $init
fi
echo "no file system on $root"
poweroff -f
"#;

/// The archive with which a kernel goes on from the file system on a disk.
pub fn for_root_disk(kernel: &Files, busybox: &Path) -> Result<Vec<u8>> {
    let directories = ["bin", "proc", "dev", "root", MODULES];
    let archive = directories.iter().fold(Initramfs::new(), |all, name| all.directory(name));
    let archive = archive.program("init", INIT.as_bytes()).program("bin/busybox", &read(busybox)?);
    Ok(archive.modules(MODULES, kernel)?.finish())
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

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

    /// Adds a kernel's modules to a directory that is there; their names sort in the order in which they are loaded.
    pub fn modules(self, directory: &str, kernel: &Files) -> Result<Self> {
        kernel.modules().iter().enumerate().try_fold(self, |archive, (index, path)| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            Ok(archive.program(&format!("{directory}/{index}-{name}"), &read(path)?))
        })
    }

    /// Adds a symbolic link to `target`.
    #[must_use]
    pub fn link(self, path: &str, target: &str) -> Self {
        self.entry(path, LINK, target.as_bytes())
    }

    /// Adds everything below a directory of this computer, in the order of the names; every file can be run.
    pub fn tree(self, directory: &Path) -> Result<Self> {
        let mut found = BTreeMap::new();
        list(directory, Path::new(""), &mut found)?;
        found.into_iter().try_fold(self, |archive, (path, place)| {
            let name = path.to_string_lossy();
            let context = || format!("cannot read {}", place.display());
            let kind = fs::symlink_metadata(&place).with_context(context)?;
            Ok(if kind.is_dir() {
                archive.directory(&name)
            } else if kind.is_symlink() {
                archive.link(&name, &fs::read_link(&place).with_context(context)?.to_string_lossy())
            } else {
                archive.program(&name, &fs::read(&place).with_context(context)?)
            })
        })
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

/// All that is below `directory`: its path from there, and where it is.
fn list(directory: &Path, path: &Path, found: &mut BTreeMap<PathBuf, PathBuf>) -> Result<()> {
    for entry in fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))? {
        let entry = entry?;
        let inner = path.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            list(&entry.path(), &inner, found)?;
        }
        found.insert(inner, entry.path());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    #[test]
    fn a_tree_comes_with_its_directories_first_and_its_links() {
        let scratch = Scratch::create(&std::env::temp_dir(), "weir-tree").unwrap();
        fs::create_dir_all(scratch.join("a/b")).unwrap();
        fs::write(scratch.join("a/b/file"), "content").unwrap();
        std::os::unix::fs::symlink("b/file", scratch.join("a/link")).unwrap();
        let tree = Initramfs::new().tree(scratch.path()).unwrap().finish();
        let by_hand = Initramfs::new().directory("a").directory("a/b").program("a/b/file", b"content");
        assert!(tree == by_hand.link("a/link", "b/file").finish());
    }

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
