//! The disk that domain 0 finds on its virtio block device: a raw file, all zeros at first.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use crate::progress;
use crate::workspace::Workspace;

/// Size of a new disk unless told otherwise.
pub const DEFAULT_SIZE_MIB: u64 = 64;

/// Where the disk of ordinary runs is.
pub fn default_path(workspace: &Workspace) -> PathBuf {
    workspace.work().join("disk.img")
}

/// Makes the disk of ordinary runs if there is none, and returns its path. An existing one is left as it is.
pub fn ensure_default(workspace: &Workspace) -> Result<PathBuf> {
    let path = default_path(workspace);
    if !path.exists() {
        create(&path, DEFAULT_SIZE_MIB)?;
    }
    Ok(path)
}

/// Makes an empty disk; its file takes space only where something is written. Never replaces a file.
pub fn create(path: &Path, size_mib: u64) -> Result<()> {
    ensure!(size_mib > 0, "a disk of no size is no disk");
    let Some(bytes) = size_mib.checked_mul(1024 * 1024) else {
        bail!("{size_mib} MiB is more than a file can hold");
    };
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    }
    let file = OpenOptions::new().write(true).create_new(true).open(path);
    let file = file.with_context(|| format!("cannot make the disk {}", path.display()))?;
    file.set_len(bytes)
        .with_context(|| format!("cannot give {} a size of {size_mib} MiB", path.display()))?;
    progress::stage(format_args!("made an empty disk of {size_mib} MiB: {}", path.display()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    #[test]
    fn the_default_disk_is_made_once_and_kept() {
        let scratch = Scratch::create(&std::env::temp_dir(), "weir-disk").unwrap();
        let workspace = Workspace::at(scratch.path());
        let path = ensure_default(&workspace).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), 64 << 20);
        fs::write(&path, "precious").unwrap();
        ensure_default(&workspace).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }

    #[test]
    fn a_file_is_never_replaced() {
        let scratch = Scratch::create(&std::env::temp_dir(), "weir-disk").unwrap();
        let path = scratch.join("disk");
        fs::write(&path, "precious").unwrap();
        assert!(create(&path, 1).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }

    #[test]
    fn odd_sizes_are_refused() {
        let scratch = Scratch::create(&std::env::temp_dir(), "weir-disk").unwrap();
        assert!(create(&scratch.join("none"), 0).is_err());
        assert!(create(&scratch.join("huge"), u64::MAX).is_err());
        assert!(!scratch.join("none").exists() && !scratch.join("huge").exists());
    }
}
