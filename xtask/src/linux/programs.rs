//! Programs for a stock Linux: busybox, which is all of user space in one program without libraries, and stress-ng with
//! the libraries it needs, as a small tree of directories.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::package;
use crate::command;
use crate::packages::Apt;
use crate::progress;
use crate::scratch::Scratch;
use crate::workspace::Workspace;

/// The name of the directory, beside those of the kernels.
const NAME: &str = "programs";
const BUSYBOX: &str = "bin/busybox";
const STRESS: &str = "usr/bin/stress-ng";
/// Where the libraries are.
const LIBRARIES: &str = "lib/x86_64-linux-gnu";
/// The program that loads libraries, under the name that programs know.
const LOADER: &str = "lib64/ld-linux-x86-64.so.2";
/// The packages. Those after the first two are what stress-ng needs, directly or not.
const PACKAGES: [&str; 25] = [
    "busybox-static",
    "stress-ng",
    "libapparmor1",
    "libbsd0",
    "libc6",
    "libcrypt1",
    "libdrm2",
    "libegl1",
    "libexpat1",
    "libffi8",
    "libgbm1",
    "libgles2",
    "libglvnd0",
    "libipsec-mb1",
    "libjpeg62-turbo",
    "libjudydebian1",
    "libkmod2",
    "liblzma5",
    "libmd0",
    "libsctp1",
    "libssl3",
    "libwayland-server0",
    "libxxhash0",
    "libzstd1",
    "zlib1g",
];

/// The tree with the programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Programs {
    tree: PathBuf,
}

impl Programs {
    /// The programs in the directory with the kernels; nothing if they are not there.
    pub fn find(all: &Path) -> Option<Self> {
        let programs = Self { tree: all.join(NAME) };
        programs.busybox().is_file().then_some(programs)
    }

    /// The tree: `bin`, `usr/bin`, `lib`, `lib64`.
    pub fn tree(&self) -> &Path {
        &self.tree
    }

    /// The program that is all of user space.
    pub fn busybox(&self) -> PathBuf {
        self.tree.join(BUSYBOX)
    }
}

/// The programs; downloads them if they are not there.
pub fn ensure(workspace: &Workspace) -> Result<Programs> {
    let all = super::directory(workspace);
    if let Some(programs) = Programs::find(&all) {
        return Ok(programs);
    }
    let apt = Apt::find().context("there is no apt-get to download programs for a stock Linux with")?;
    progress::stage("downloading programs for a stock Linux (nothing is installed)");
    let scratch = Scratch::create(&workspace.work(), NAME)?;
    let packages = package::download_all(&apt, &PACKAGES, &scratch).or_else(|_| {
        // The usual reason is a mirror that moved on since the lists were read.
        apt.update()?;
        package::download_all(&apt, &PACKAGES, &scratch)
    })?;
    let tree = scratch.join("tree");
    for directory in ["bin", "usr/bin", LIBRARIES, "lib64"] {
        fs::create_dir_all(tree.join(directory))?;
    }
    for file in packages {
        package::unpack(&file, |path| place(path).map(|kept| tree.join(kept)))?;
    }
    symlink(Path::new("..").join(LIBRARIES).join("ld-linux-x86-64.so.2"), tree.join(LOADER))?;
    check(&tree)?;
    let kept = all.join(NAME);
    fs::create_dir_all(&all).with_context(|| format!("cannot make {}", all.display()))?;
    // Complete or not there: one that was interrupted is made anew.
    let _ = fs::remove_dir_all(&kept);
    fs::rename(&tree, &kept).with_context(|| format!("cannot make {}", kept.display()))?;
    Ok(Programs { tree: kept })
}

/// Where in the tree a file of a package goes, if it is needed. All libraries go to one place.
fn place(path: &Path) -> Option<PathBuf> {
    let own = [BUSYBOX, STRESS].iter().any(|wanted| path == Path::new(wanted));
    if own {
        return Some(path.to_owned());
    }
    let parent = path.parent()?;
    let name = path.file_name()?;
    let is_library = (parent == Path::new(LIBRARIES) || parent == Path::new("usr").join(LIBRARIES))
        && name.to_string_lossy().contains(".so");
    is_library.then(|| Path::new(LIBRARIES).join(name))
}

/// Makes sure that no library is missing, by asking the loader of the tree.
fn check(tree: &Path) -> Result<()> {
    ensure!(tree.join(BUSYBOX).is_file(), "the packages have no {BUSYBOX}");
    let mut loader = Command::new(tree.join(LOADER));
    loader.arg("--library-path").arg(tree.join(LIBRARIES)).arg("--list").arg(tree.join(STRESS));
    let printed = command::text(&mut loader)?;
    let missing: Vec<_> = printed.lines().filter(|line| line.contains("not found")).map(str::trim).collect();
    ensure!(missing.is_empty(), "stress-ng lacks libraries: {}", missing.join("; "));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_of_all_packages_go_to_one_place() {
        let placed = |path: &str| place(Path::new(path));
        let kept = Path::new("lib/x86_64-linux-gnu/libz.so.1");
        assert_eq!(placed("lib/x86_64-linux-gnu/libz.so.1").as_deref(), Some(kept));
        assert_eq!(placed("usr/lib/x86_64-linux-gnu/libz.so.1").as_deref(), Some(kept));
        assert_eq!(placed("usr/lib/x86_64-linux-gnu/gconv/UTF-7.so"), None);
        assert_eq!(placed("usr/share/doc/libc6/copyright"), None);
        assert_eq!(placed("bin/busybox").as_deref(), Some(Path::new("bin/busybox")));
        assert_eq!(placed("usr/bin/ldd"), None);
    }
}
