//! Debian's packages as files: fetched, asked, and unpacked as far as needed.

use std::fs;
use std::path::{Component, Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use tar::Archive;

use crate::command;
use crate::packages::Apt;
use crate::scratch::Scratch;

const DPKG_DEB: &str = "dpkg-deb";

/// Downloads one package; its file, in a directory of its own.
pub fn download(apt: &Apt, name: &str, scratch: &Scratch) -> Result<PathBuf> {
    let directory = scratch.join(format!("{name}.package"));
    fs::create_dir_all(&directory)?;
    apt.download(&[name], &directory)?;
    let found = files(&directory)?;
    found.into_iter().next().with_context(|| format!("apt downloaded no file of {name}"))
}

/// Downloads packages; their files.
pub fn download_all(apt: &Apt, names: &[&str], scratch: &Scratch) -> Result<Vec<PathBuf>> {
    let directory = scratch.join("packages");
    fs::create_dir_all(&directory)?;
    apt.download(names, &directory)?;
    let found = files(&directory)?;
    ensure!(found.len() == names.len(), "apt downloaded {} of {} packages", found.len(), names.len());
    Ok(found)
}

/// The packages in a directory.
fn files(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))?;
    let paths = entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<Vec<_>, _>>()?;
    Ok(paths.into_iter().filter(|path| path.extension().is_some_and(|kind| kind == "deb")).collect())
}

/// What a package says of itself under this heading.
pub fn field(package: &Path, name: &str) -> Result<String> {
    command::text(Command::new(DPKG_DEB).arg("--field").arg(package).arg(name))
}

/// Unpacks files and symbolic links of a package: `place` says to where, by the path in the package, or that it is not
/// needed. The directories have to be there.
pub fn unpack(package: &Path, mut place: impl FnMut(&Path) -> Option<PathBuf>) -> Result<()> {
    let mut dpkg = Command::new(DPKG_DEB);
    dpkg.arg("--fsys-tarfile").arg(package).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = dpkg.spawn().with_context(|| format!("cannot start `{}`", command::shown(&dpkg)))?;
    let output = child.stdout.take().context("the package's content is not ours to read")?;
    let mut archive = Archive::new(output);
    for entry in archive.entries()? {
        let mut entry = entry.with_context(|| format!("{} is damaged", package.display()))?;
        let kind = entry.header().entry_type();
        if !kind.is_file() && !kind.is_symlink() {
            continue;
        }
        let path = plain(&entry.path()?);
        if let Some(to) = place(&path) {
            entry.unpack(&to).with_context(|| format!("cannot write {}", to.display()))?;
        }
    }
    // Its last bytes are padding that nobody has read, so how it ended says nothing.
    drop(archive);
    child.wait()?;
    Ok(())
}

/// The path without the `./` it begins with.
fn plain(path: &Path) -> PathBuf {
    path.components().filter(|part| matches!(part, Component::Normal(_))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_begin_with_a_name() {
        assert_eq!(plain(Path::new("./usr/bin/x")), Path::new("usr/bin/x"));
        assert_eq!(plain(Path::new("/../x")), Path::new("x"));
    }
}
