//! A stock Linux for tests: Debian's cloud kernel, its two Xen drivers and a busybox, downloaded by the package manager
//! and unpacked below `work`. Nothing is installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::command;
use crate::packages::Apt;
use crate::progress;
use crate::scratch::Scratch;
use crate::workspace::Workspace;

/// The environment variable that names the directory to the tests.
pub const VARIABLE: &str = "WEIR_LINUX";
/// The kernel: a bzImage.
pub const KERNEL: &str = "vmlinuz";
/// The driver of paravirtual disks.
pub const DISK_DRIVER: &str = "xen-blkfront.ko";
/// The driver of paravirtual network interfaces.
pub const NETWORK_DRIVER: &str = "xen-netfront.ko";
/// All of user space in one program that needs no libraries.
pub const BUSYBOX: &str = "busybox";

/// The package that always depends on the newest kernel.
const NEWEST_KERNEL: &str = "linux-image-cloud-amd64";
const BUSYBOX_PACKAGE: &str = "busybox-static";

/// The directory with the four files; downloads them if they are not there.
pub fn ensure(workspace: &Workspace) -> Result<PathBuf> {
    let directory = workspace.work().join("linux");
    if [KERNEL, DISK_DRIVER, NETWORK_DRIVER, BUSYBOX].iter().all(|name| directory.join(name).is_file()) {
        return Ok(directory);
    }
    let apt = Apt::find().context("there is no apt-get to download a stock Linux kernel with")?;
    progress::stage("downloading a stock Linux kernel for the tests (nothing is installed)");
    fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
    let scratch = Scratch::create(&workspace.work(), "linux")?;
    download(&apt, &scratch)?;
    collect(scratch.path(), &directory)?;
    Ok(directory)
}

/// Downloads and unpacks the packages.
fn download(apt: &Apt, scratch: &Scratch) -> Result<()> {
    let kernel = match newest_kernel() {
        Ok(package) => package,
        // Lists that were never read know no packages.
        Err(_) => apt.update().and_then(|()| newest_kernel())?,
    };
    let fetch = || {
        let mut apt_get = Command::new("apt-get");
        apt_get.args(["download", &kernel, BUSYBOX_PACKAGE]).current_dir(scratch.path());
        command::text(&mut apt_get)
    };
    if fetch().is_err() {
        // The usual reason is a mirror that moved on since the lists were read.
        apt.update()?;
        fetch()?;
    }
    let packages: Vec<_> =
        files(scratch.path())?.into_iter().filter(|path| has_extension(path, "deb")).collect();
    for package in packages {
        command::run(Command::new("dpkg-deb").arg("--extract").arg(package).arg(scratch.path()))?;
    }
    Ok(())
}

/// The package with the newest kernel, by its name.
fn newest_kernel() -> Result<String> {
    let printed = command::text(Command::new("apt-cache").args(["depends", NEWEST_KERNEL]))?;
    dependency(&printed).with_context(|| format!("apt knows no {NEWEST_KERNEL}"))
}

/// The kernel's package in what `apt-cache depends` prints.
fn dependency(printed: &str) -> Option<String> {
    let mut packages = printed.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
    packages.find(|name| name.starts_with("linux-image-")).map(str::to_owned)
}

/// Moves what is needed from unpacked packages to where it stays.
fn collect(unpacked: &Path, directory: &Path) -> Result<()> {
    let found = files(unpacked)?;
    let fits = |wanted: &str, path: &Path| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name == wanted || wanted == KERNEL && name.starts_with("vmlinuz-")
    };
    for wanted in [KERNEL, DISK_DRIVER, NETWORK_DRIVER, BUSYBOX] {
        let Some(path) = found.iter().find(|path| fits(wanted, path)) else {
            bail!("the packages have no {wanted}");
        };
        fs::copy(path, directory.join(wanted)).with_context(|| format!("cannot copy {}", path.display()))?;
    }
    Ok(())
}

/// All files below a directory.
fn files(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut directories = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in
            fs::read_dir(&directory).with_context(|| format!("cannot read {}", directory.display()))?
        {
            let entry = entry?;
            if entry.file_type()?.is_dir() { &mut directories } else { &mut found }.push(entry.path());
        }
    }
    Ok(found)
}

fn has_extension(path: &Path, wanted: &str) -> bool {
    path.extension().is_some_and(|extension| extension == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_is_what_the_newest_depends_on() {
        let printed = "linux-image-cloud-amd64\n  Depends: linux-image-6.1.0-56-cloud-amd64\n";
        assert_eq!(dependency(printed).as_deref(), Some("linux-image-6.1.0-56-cloud-amd64"));
        assert_eq!(dependency("linux-image-cloud-amd64\n"), None);
    }

    #[test]
    fn the_four_files_are_found_wherever_they_are() {
        let scratch = Scratch::create(&std::env::temp_dir(), "weir-linux").unwrap();
        let (from, to) = (scratch.join("from"), scratch.join("to"));
        fs::create_dir_all(from.join("lib/deep")).unwrap();
        fs::create_dir_all(&to).unwrap();
        for name in ["vmlinuz-6.1", "lib/xen-blkfront.ko", "lib/deep/xen-netfront.ko"] {
            fs::write(from.join(name), name).unwrap();
        }
        assert!(collect(&from, &to).unwrap_err().to_string().contains("busybox"));
        fs::write(from.join("busybox"), "b").unwrap();
        collect(&from, &to).unwrap();
        assert_eq!(fs::read_to_string(to.join(KERNEL)).unwrap(), "vmlinuz-6.1");
        assert_eq!(fs::read_to_string(to.join(NETWORK_DRIVER)).unwrap(), "lib/deep/xen-netfront.ko");
    }
}
