//! Files that nobody else is to read, for there are keys in them.

use std::fs::{DirBuilder, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use anyhow::{Context, Result};

/// Makes a directory, and those above it, that only its owner can look into; one that is there stays as it is.
pub fn create_directory(path: &Path) -> Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(0o700);
    builder.create(path).with_context(|| format!("cannot make the directory {}", path.display()))
}

/// Writes a new file that only its owner can read.
pub fn write(path: &Path, content: &[u8]) -> Result<()> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(content))
        .with_context(|| format!("cannot write {}", path.display()))
}
