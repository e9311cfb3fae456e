//! A disk that a stock Linux can have as its root: an ext4 file system with a tree's files, made without mounting
//! anything and without any rights.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::command;

const PROGRAM: &str = "mke2fs";
/// Where it is on systems that do not have administrators' programs in everybody's path.
const USUAL_PLACES: [&str; 2] = ["/usr/sbin/mke2fs", "/sbin/mke2fs"];

/// Makes the disk file `image` of so many MiB with the files in `tree`.
pub fn make(tree: &Path, image: &Path, size_mib: u32) -> Result<()> {
    let mut mke2fs = Command::new(program()?);
    mke2fs.args(["-q", "-F", "-t", "ext4", "-d"]).arg(tree).arg(image).arg(format!("{size_mib}M"));
    command::text(&mut mke2fs).map(drop)
}

fn program() -> Result<PathBuf> {
    let usual = || USUAL_PLACES.iter().map(PathBuf::from).find(|path| path.is_file());
    command::find(PROGRAM)
        .or_else(usual)
        .context("mke2fs, which makes file systems, is not there; please install e2fsprogs")
}
