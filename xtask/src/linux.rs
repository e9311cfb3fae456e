//! Stock Linux: Debian's kernels and some of its programs, downloaded by the package manager and kept below
//! `work/linux`. Nothing is installed.
//!
//! The idea to hold: a kernel is a directory with its image and those of its modules without which it finds neither
//! disk nor network, ready to be loaded in order. [`initramfs`] packs them into what the kernel starts from;
//! [`root_disk`] makes the disk that it goes on with, from a tree such as that of [`programs`].

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::packages::{Apt, backports};
use crate::progress;
use crate::scratch::Scratch;
use crate::workspace::Workspace;

pub mod initramfs;
pub mod package;
pub mod programs;
pub mod root_disk;

/// The environment variable that names to the tests the directory in which all of it is.
pub const VARIABLE: &str = "WEIR_LINUX";
/// A kernel's image: a bzImage.
const IMAGE: &str = "vmlinuz";
/// What disks, file systems on them, and network interfaces need, in the order in which it is loaded. A kernel has some
/// of it built in.
const MODULES: [&str; 7] =
    ["crc16", "mbcache", "jbd2", "crc32c_generic", "ext4", "xen-blkfront", "xen-netfront"];
/// Those of them that no kernel of Debian's has built in.
const ALWAYS_MODULES: [&str; 2] = ["xen-blkfront", "xen-netfront"];

/// A kernel that Debian 12 offers. How its image is packed differs too: xz, LZ4, and twice zstd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// 6.1, for any computer.
    Standard61,
    /// 6.1, with few drivers.
    Cloud61,
    /// 6.12 from backports, for any computer.
    Standard612,
    /// 6.12 from backports, with few drivers.
    Cloud612,
}

impl Kernel {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Standard61, Self::Cloud61, Self::Standard612, Self::Cloud612];

    /// The name of its directory.
    pub fn name(self) -> &'static str {
        match self {
            Self::Standard61 => "6.1",
            Self::Cloud61 => "6.1-cloud",
            Self::Standard612 => "6.12",
            Self::Cloud612 => "6.12-cloud",
        }
    }

    /// How the name of the package with the kernel itself begins.
    fn package_prefix(self) -> String {
        let version = self.name().trim_end_matches("-cloud");
        format!("linux-image-{version}.")
    }

    /// The package that always depends on the newest of its kind.
    fn newest(self) -> &'static str {
        match self {
            Self::Standard61 | Self::Standard612 => "linux-image-amd64",
            Self::Cloud61 | Self::Cloud612 => "linux-image-cloud-amd64",
        }
    }

    fn is_in_backports(self) -> bool {
        matches!(self, Self::Standard612 | Self::Cloud612)
    }
}

/// Where one kernel's files are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    directory: PathBuf,
}

impl Files {
    /// A kernel's files in the directory with all of them; nothing if they are not there.
    pub fn find(all: &Path, kernel: Kernel) -> Option<Self> {
        let files = Self { directory: all.join(kernel.name()) };
        files.image().is_file().then_some(files)
    }

    /// The kernel itself, a bzImage.
    pub fn image(&self) -> PathBuf {
        self.directory.join(IMAGE)
    }

    /// The modules that it needs for disk and network, in the order in which they are loaded.
    pub fn modules(&self) -> Vec<PathBuf> {
        let paths = MODULES.iter().map(|name| self.directory.join(format!("{name}.ko")));
        paths.filter(|path| path.is_file()).collect()
    }
}

/// The directory in which all of it is.
pub fn directory(workspace: &Workspace) -> PathBuf {
    workspace.work().join("linux")
}

/// A kernel's files; downloads them if they are not there.
pub fn ensure(workspace: &Workspace, kernel: Kernel) -> Result<Files> {
    let all = directory(workspace);
    if let Some(files) = Files::find(&all, kernel) {
        return Ok(files);
    }
    // Its one program unpacks modules.
    let programs = programs::ensure(workspace)?;
    let apt = Apt::find().context("there is no apt-get to download a stock Linux kernel with")?;
    progress::stage(format_args!("downloading Debian's Linux {} (nothing is installed)", kernel.name()));
    let scratch = Scratch::create(&workspace.work(), "linux")?;
    let unpacked = scratch.join("unpacked");
    fs::create_dir_all(&unpacked)?;
    package::unpack(&download(&apt, kernel, &scratch)?, |path| place(path).map(|name| unpacked.join(name)))?;
    unpack_modules(&unpacked, &programs.busybox())?;
    check(&unpacked)?;
    let directory = all.join(kernel.name());
    // Complete or not there: one that was interrupted is made anew.
    let _ = fs::remove_dir_all(&directory);
    fs::rename(&unpacked, &directory).with_context(|| format!("cannot make {}", directory.display()))?;
    Ok(Files { directory })
}

/// Downloads the package with the newest kernel of its kind.
fn download(apt: &Apt, kernel: Kernel, scratch: &Scratch) -> Result<PathBuf> {
    if !kernel.is_in_backports() {
        // Lists that were never read, or that a mirror has moved on from, need a refresh.
        return download_by(apt, kernel, scratch).or_else(|_| {
            apt.update()?;
            download_by(apt, kernel, scratch)
        });
    }
    let private = backports::apt(apt, Path::new("/etc/apt"), scratch)?;
    private.update()?;
    download_by(&private, kernel, scratch)
}

fn download_by(apt: &Apt, kernel: Kernel, scratch: &Scratch) -> Result<PathBuf> {
    let newest = package::download(apt, kernel.newest(), scratch)?;
    let depends = package::field(&newest, "Depends")?;
    let prefix = kernel.package_prefix();
    let name = dependency(&depends, &prefix)
        .with_context(|| format!("this system's {} is no {prefix}*: {depends}", kernel.newest()))?;
    package::download(apt, name, scratch)
}

/// The first package in a list of dependencies whose name begins like this.
fn dependency<'a>(depends: &'a str, prefix: &str) -> Option<&'a str> {
    let names = depends.split([',', '|']).filter_map(|clause| clause.split_ascii_whitespace().next());
    names.into_iter().find(|name| name.starts_with(prefix))
}

/// Under which name a file of the package is kept, if it is.
fn place(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    if path.starts_with("boot") && name.starts_with("vmlinuz-") {
        return Some(IMAGE.to_owned());
    }
    let module = name.strip_suffix(".xz").unwrap_or(name).strip_suffix(".ko")?;
    MODULES.contains(&module).then(|| name.to_owned())
}

/// Unpacks the modules that are packed by themselves.
fn unpack_modules(directory: &Path, busybox: &Path) -> Result<()> {
    for module in MODULES {
        let packed = directory.join(format!("{module}.ko.xz"));
        if !packed.is_file() {
            continue;
        }
        let to = fs::File::create(directory.join(format!("{module}.ko")))?;
        let mut unxz = Command::new(busybox);
        unxz.args(["xz", "-d", "-c"]).arg(&packed).stdin(Stdio::null()).stdout(to);
        crate::command::run(&mut unxz)?;
        fs::remove_file(&packed)?;
    }
    Ok(())
}

/// Makes sure that nothing is missing.
fn check(directory: &Path) -> Result<()> {
    ensure!(directory.join(IMAGE).is_file(), "the package has no {IMAGE}");
    for module in ALWAYS_MODULES {
        if !directory.join(format!("{module}.ko")).is_file() {
            bail!("the package has no module {module}");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_is_what_the_newest_depends_on() {
        let depends = "linux-base (>= 4), linux-image-6.12.95+deb12-cloud-amd64 (= 6.12.95-1~bpo12+1)";
        let prefix = Kernel::Cloud612.package_prefix();
        assert_eq!(dependency(depends, &prefix), Some("linux-image-6.12.95+deb12-cloud-amd64"));
        assert_eq!(dependency(depends, &Kernel::Cloud61.package_prefix()), None, "6.12 is no 6.1");
    }

    #[test]
    fn only_what_is_needed_is_taken_out_of_the_package() {
        let taken = |path: &str| place(Path::new(path));
        assert_eq!(taken("boot/vmlinuz-6.1.0-1-amd64").as_deref(), Some("vmlinuz"));
        assert_eq!(taken("boot/System.map-6.1.0-1-amd64"), None);
        let module = "lib/modules/6.1/kernel/drivers/block/xen-blkfront.ko";
        assert_eq!(taken(module).as_deref(), Some("xen-blkfront.ko"));
        assert_eq!(taken(&format!("{module}.xz")).as_deref(), Some("xen-blkfront.ko.xz"));
        assert_eq!(taken("lib/modules/6.1/kernel/drivers/block/loop.ko"), None);
    }

    #[test]
    fn a_directory_is_complete_or_says_what_is_missing() {
        let scratch = Scratch::create(&std::env::temp_dir(), "weir-linux").unwrap();
        let directory = scratch.join(Kernel::Cloud61.name());
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("ext4.ko"), "").unwrap();
        fs::write(directory.join("xen-blkfront.ko"), "").unwrap();
        assert_eq!(Files::find(scratch.path(), Kernel::Cloud61), None);
        fs::write(directory.join(IMAGE), "").unwrap();
        assert!(check(&directory).unwrap_err().to_string().contains("xen-netfront"));
        fs::write(directory.join("xen-netfront.ko"), "").unwrap();
        check(&directory).unwrap();
        let files = Files::find(scratch.path(), Kernel::Cloud61).unwrap();
        let names: Vec<_> = files.modules().iter().map(|path| path.file_stem().unwrap().to_owned()).collect();
        assert_eq!(names, ["ext4", "xen-blkfront", "xen-netfront"]);
    }
}
