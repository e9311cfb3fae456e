//! A disk file that a user names: `FILE`, with `,ro` behind it for one that is only read, and `,nvme` for one behind an
//! NVMe controller.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, Result, ensure};

use crate::machine::DiskKind;

/// What a disk's size is a multiple of, in bytes.
const SECTOR: u64 = 512;
/// What is behind the name of a file that is only read.
const READ_ONLY: &str = ",ro";
/// What is behind the name of a file that is an NVMe disk.
const NVME: &str = ",nvme";

/// A raw disk file, and what may be done with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskImage {
    /// The file.
    pub path: PathBuf,
    /// Whether it is only read.
    pub is_read_only: bool,
    /// What the machine has it behind.
    pub kind: DiskKind,
}

impl FromStr for DiskImage {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut image = Self::writable("");
        let mut rest = text;
        loop {
            if let Some(path) = rest.strip_suffix(READ_ONLY) {
                (image.is_read_only, rest) = (true, path);
            } else if let Some(path) = rest.strip_suffix(NVME) {
                (image.kind, rest) = (DiskKind::Nvme, path);
            } else {
                return Ok(Self { path: rest.into(), ..image });
            }
        }
    }
}

impl DiskImage {
    /// A disk file that is also written.
    pub fn writable(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), is_read_only: false, kind: DiskKind::Virtio }
    }

    /// A disk file that is only read.
    pub fn read_only(path: impl Into<PathBuf>) -> Self {
        Self { is_read_only: true, ..Self::writable(path) }
    }

    /// Makes sure that the file can be a disk and can be used as asked.
    pub fn check(&self) -> Result<()> {
        let shown = self.path.display();
        let found = fs::metadata(&self.path).with_context(|| format!("the disk {shown} cannot be used"))?;
        ensure!(!found.is_dir(), "the disk {shown} cannot be used: it is a directory");
        let mut options = OpenOptions::new();
        options.read(true).write(!self.is_read_only);
        if let Err(error) = options.open(&self.path) {
            let advice = if OpenOptions::new().read(true).open(&self.path).is_ok() {
                format!(" for writing; {shown}{READ_ONLY} is a disk that is only read")
            } else {
                String::new()
            };
            return Err(error).context(format!("the disk {shown} cannot be opened{advice}"));
        }
        // A device has its size elsewhere, and QEMU looks there.
        if found.is_file() {
            let size = found.len();
            ensure!(size > 0, "the disk {shown} cannot be used: the file is empty");
            ensure!(
                size.is_multiple_of(SECTOR),
                "the disk {shown} cannot be used: its size of {size} bytes is no multiple of {SECTOR}"
            );
        }
        Ok(())
    }

    /// Whether both are the same file, and one of them is written.
    fn conflicts_with(&self, other: &Self) -> bool {
        !(self.is_read_only && other.is_read_only) && is_same_file(&self.path, &other.path)
    }
}

fn is_same_file(one: &Path, two: &Path) -> bool {
    match (one.canonicalize(), two.canonicalize()) {
        (Ok(one), Ok(two)) => one == two,
        _ => false,
    }
}

/// Makes sure that all of these files can be disks of one machine.
pub fn check_all(disks: &[DiskImage]) -> Result<()> {
    for (index, disk) in disks.iter().enumerate() {
        disk.check()?;
        ensure!(
            disks[..index].iter().all(|earlier| !earlier.conflicts_with(disk)),
            "the disk {} is given twice, and one of them would be written",
            disk.path.display()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    fn parsed(text: &str) -> DiskImage {
        let Ok(disk) = text.parse();
        disk
    }

    #[test]
    fn a_file_is_written_unless_told_otherwise() {
        assert_eq!(parsed("/d/a,b.img"), DiskImage::writable("/d/a,b.img"));
        assert_eq!(parsed("a.img,ro"), DiskImage::read_only("a.img"));
        let nvme = DiskImage { kind: DiskKind::Nvme, ..DiskImage::writable("a.img") };
        assert_eq!(parsed("a.img,nvme"), nvme);
        let both = DiskImage { is_read_only: true, ..nvme };
        assert_eq!([parsed("a.img,nvme,ro"), parsed("a.img,ro,nvme")], [both.clone(), both]);
    }

    #[test]
    fn what_cannot_be_a_disk_is_named_with_the_reason() {
        let scratch = Scratch::create(&std::env::temp_dir(), "weir-disk-image").unwrap();
        let error =
            |name: &str| format!("{:#}", parsed(scratch.join(name).to_str().unwrap()).check().unwrap_err());
        let there = scratch.path().display();
        fs::write(scratch.join("odd"), [0; 700]).unwrap();
        fs::write(scratch.join("empty"), []).unwrap();
        fs::create_dir(scratch.join("directory")).unwrap();
        assert_eq!(
            error("none"),
            format!("the disk {there}/none cannot be used: No such file or directory (os error 2)")
        );
        assert_eq!(
            error("directory"),
            format!("the disk {there}/directory cannot be used: it is a directory")
        );
        assert_eq!(error("empty"), format!("the disk {there}/empty cannot be used: the file is empty"));
        assert_eq!(
            error("odd"),
            format!("the disk {there}/odd cannot be used: its size of 700 bytes is no multiple of 512")
        );
    }

    #[test]
    fn a_good_disk_is_good_and_two_writers_are_not() {
        let scratch = Scratch::create(&std::env::temp_dir(), "weir-disk-image").unwrap();
        fs::write(scratch.join("a"), [0; 1024]).unwrap();
        let writable = DiskImage::writable(scratch.join("a"));
        let read_only = DiskImage { is_read_only: true, ..writable.clone() };
        check_all(&[read_only.clone(), read_only.clone()]).unwrap();
        let error = check_all(&[read_only, writable]).unwrap_err().to_string();
        assert!(error.ends_with("/a is given twice, and one of them would be written"), "{error}");
    }

    #[test]
    fn a_file_that_may_only_be_read_needs_to_be_given_so() {
        // Who is the superuser may write all files, so a file is taken that nobody may: a running program.
        let program = DiskImage::writable(std::env::current_exe().unwrap());
        let error = format!("{:#}", program.check().unwrap_err());
        assert!(error.contains(",ro is a disk that is only read: "), "{error}");
    }
}
