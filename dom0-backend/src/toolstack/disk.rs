//! A guest's disk as its configuration says: what is behind it, what the guest calls it, whether it may write.
//!
//! Written as `target,name,access`, the last two optional: `disk0`, `disk0,xvda,w`, `disk0@64M,xvdb,r`,
//! `disk0@64M+32M`. A target is a disk of the machine, a partition (`disk0p1`), or the part of a disk from an offset
//! on, with or without a size. An exclamation mark behind the access allows what otherwise is refused: that several
//! guests have the same sectors, and one of them writes. A target with a slash in it is a file of dom0's own file system
//! (`/images/web.img`), unless it begins with `/dev/`.
//!
//! `xl`'s ways to write the same are understood too: `phy:/dev/disk0,xvda,w`, with a format (`disk0,raw,xvda,rw`),
//! and by names (`format=raw, vdev=xvda, access=rw, target=/dev/disk0`).

use alloc::borrow::ToOwned;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::str::FromStr;

use crate::block::SECTOR_SIZE;

/// Major number of the paravirtual disks, and the numbers that each of them has for itself and its partitions.
const XVD_MAJOR: u32 = 202;
const XVD_MINORS: u32 = 16;

/// What is behind a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A disk of the machine, or a part of one.
    Part(Part),
    /// A file of dom0's own file system, by its path from the root.
    File(String),
}

/// A disk of the machine, or a part of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The disk of the machine.
    pub disk: String,
    /// The first sector of the part, of 512 bytes.
    pub first_sector: u64,
    /// The part's sectors; `None` for all that follow.
    pub sectors: Option<u64>,
}

/// A guest's disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestDisk {
    /// What is behind it.
    pub target: Target,
    /// Where that lies, if it is a file, and once that is known.
    pub parts: Vec<Part>,
    /// What the guest calls it: `xvda` to `xvdp`. Empty until one is chosen.
    pub name: String,
    /// Whether the guest may write.
    pub is_writable: bool,
    /// Whether other guests may have the same sectors.
    pub is_shared: bool,
}

/// What is wrong with a disk's setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DiskError {
    /// No target, or not `disk`, `disk@offset` or `disk@offset+size` in whole sectors.
    Target(String),
    /// Not `xvda` to `xvdp`.
    Name(String),
    /// Neither `r` nor `w`, with or without `!`.
    Access(String),
    /// More parts than a disk has.
    TooMuch(String),
    /// Something that `xl` knows of disks and Weir does not have.
    Unsupported(String),
}

impl fmt::Display for DiskError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Target(text) => write!(
                formatter,
                "disk={text}: NAME, NAME@OFFSET or NAME@OFFSET+SIZE in whole sectors (such as disk0@64M), or a file's path, is expected"
            ),
            Self::Name(name) => write!(formatter, "{name:?} is no name for a guest's disk: xvda to xvdp"),
            Self::Access(access) => write!(formatter, "{access:?} is no access to a disk: r, w, r! or w!"),
            Self::TooMuch(text) => write!(formatter, "disk={text}: TARGET,NAME,ACCESS is expected"),
            Self::Unsupported(part) => write!(formatter, "disk: {part:?} is not there yet"),
        }
    }
}

impl core::error::Error for DiskError {}

impl GuestDisk {
    /// A whole disk of the machine as the guest's first.
    ///
    /// # Errors
    ///
    /// [`DiskError::Target`].
    pub fn whole(disk: &str) -> Result<Self, DiskError> {
        let (target, name) = (disk.parse()?, "xvda".to_owned());
        Ok(Self { target, parts: Vec::new(), name, is_writable: true, is_shared: false })
    }

    /// The number by which the disk goes in the store; `None` before it has a name.
    pub fn device_number(&self) -> Option<u32> {
        Some((XVD_MAJOR << 8) + index_of(&self.name)? * XVD_MINORS)
    }
}

/// 0 for `xvda`. Later ones than `xvdp` would have no number with this major number.
fn index_of(name: &str) -> Option<u32> {
    match name.strip_prefix("xvd")?.as_bytes() {
        [letter @ b'a'..=b'p'] => Some(u32::from(letter - b'a')),
        _ => None,
    }
}

impl GuestDisk {
    /// Whether giving both disks to guests would let one guest change what the other reads.
    pub fn conflicts_with(&self, other: &Self) -> bool {
        let overlaps = |part: &Part| other.parts().iter().any(|other| part.overlaps(other));
        let is_same_file = matches!(self.target, Target::File(_)) && self.target == other.target;
        (self.is_writable || other.is_writable) && (is_same_file || self.parts().iter().any(overlaps))
    }

    /// Where it lies, as far as that is known.
    fn parts(&self) -> &[Part] {
        match &self.target {
            Target::Part(part) => core::slice::from_ref(part),
            Target::File(_) => &self.parts,
        }
    }
}

impl Part {
    /// Whether it lies on a disk of this many sectors.
    pub fn lies_within(&self, disk_sectors: u64) -> bool {
        match self.sectors {
            None => self.first_sector < disk_sectors,
            Some(count) => self.first_sector.checked_add(count).is_some_and(|end| end <= disk_sectors),
        }
    }

    /// Whether some sector belongs to both.
    pub(super) fn overlaps(&self, other: &Self) -> bool {
        let end = |target: &Self| {
            target.sectors.map_or(u64::MAX, |count| target.first_sector.saturating_add(count))
        };
        self.disk == other.disk && self.first_sector < end(other) && other.first_sector < end(self)
    }
}

/// The parts of a disk's setting, as they are written.
#[derive(Default)]
struct Parts<'a> {
    target: &'a str,
    name: &'a str,
    access: Option<&'a str>,
}

impl<'a> Parts<'a> {
    /// By place or by name, or first by place and then by name.
    fn of(text: &'a str) -> Result<Self, DiskError> {
        let mut parts = Self::default();
        let mut places = 0;
        let mut rest = Some(text);
        while let Some(left) = rest {
            let (part, behind) = left.split_once(',').map_or((left, None), |(part, rest)| (part, Some(rest)));
            rest = behind;
            match part.trim().split_once('=') {
                // It is the last in any case: its value may have commas in it.
                Some(("target", _)) => {
                    parts.target = left.trim_start().strip_prefix("target=").unwrap_or(left);
                    break;
                }
                Some((key, value)) => parts.name_part(key, value, part)?,
                None if places > 0 && FORMATS.contains(&part.trim()) => check_format(part.trim())?,
                None => {
                    places += 1;
                    parts.place_part(places, part.trim(), text)?;
                }
            }
        }
        Ok(parts)
    }

    fn name_part(&mut self, key: &str, value: &'a str, part: &str) -> Result<(), DiskError> {
        match (key, value) {
            ("vdev", name) => self.name = name,
            ("access", access) => self.access = Some(access),
            ("format", format) => check_format(format)?,
            ("devtype", "disk") | ("backendtype", "phy") => {}
            _ => return Err(DiskError::Unsupported(part.trim().to_owned())),
        }
        Ok(())
    }

    fn place_part(&mut self, place: u32, part: &'a str, text: &str) -> Result<(), DiskError> {
        match place {
            1 => self.target = part,
            2 => self.name = part,
            3 => self.access = Some(part),
            _ => return Err(DiskError::TooMuch(text.to_owned())),
        }
        Ok(())
    }
}

/// What `xl` knows of how a disk is kept.
const FORMATS: [&str; 6] = ["raw", "qcow", "qcow2", "vhd", "qed", "cdrom"];

fn check_format(format: &str) -> Result<(), DiskError> {
    if format == "raw" { Ok(()) } else { Err(DiskError::Unsupported(format.to_owned())) }
}

impl FromStr for GuestDisk {
    type Err = DiskError;

    fn from_str(text: &str) -> Result<Self, DiskError> {
        let parts = Parts::of(text)?;
        let target = parts.target.parse()?;
        let name = parts.name;
        if !name.is_empty() && index_of(name).is_none() {
            return Err(DiskError::Name(name.to_owned()));
        }
        let access = parts.access.unwrap_or("w");
        let is_writable = match access.trim_end_matches('!') {
            "w" | "rw" => true,
            "r" | "ro" => false,
            _ => return Err(DiskError::Access(access.to_owned())),
        };
        let is_shared = access.ends_with('!');
        Ok(Self { target, parts: Vec::new(), name: name.to_owned(), is_writable, is_shared })
    }
}

impl FromStr for Target {
    type Err = DiskError;

    fn from_str(text: &str) -> Result<Self, DiskError> {
        let wrong = || DiskError::Target(text.to_owned());
        let device = text.strip_prefix("phy:").unwrap_or(text);
        let file = text
            .strip_prefix("file:")
            .or_else(|| (device == text && text.contains('/') && !text.starts_with("/dev/")).then_some(text));
        match file.map(|path| path.trim_matches('/')) {
            Some("") => Err(wrong()),
            Some(path) => Ok(Self::File(path.to_owned())),
            None => {
                parse_part(device.strip_prefix("/dev/").unwrap_or(device)).map(Self::Part).ok_or_else(wrong)
            }
        }
    }
}

impl FromStr for Part {
    type Err = DiskError;

    fn from_str(text: &str) -> Result<Self, DiskError> {
        parse_part(text).ok_or_else(|| DiskError::Target(text.to_owned()))
    }
}

fn parse_part(text: &str) -> Option<Part> {
    let (disk, part) = match text.split_once('@') {
        Some((disk, part)) => (disk, Some(part)),
        None => (text, None),
    };
    if disk.is_empty() || !disk.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return None;
    }
    let (first_sector, sectors) = match part.map(|part| part.split_once('+').unwrap_or((part, ""))) {
        None => (0, None),
        Some((offset, "")) => (sectors_in(offset)?, None),
        Some((offset, size)) => (sectors_in(offset)?, Some(sectors_in(size)?).filter(|count| *count > 0)),
    };
    if part.is_some_and(|part| part.contains('+')) && sectors.is_none() {
        return None;
    }
    Some(Part { disk: disk.to_owned(), first_sector, sectors })
}

/// Sectors in a number of bytes such as `512`, `64K`, `16M`, `2G`.
fn sectors_in(text: &str) -> Option<u64> {
    let (digits, shift) = match text.as_bytes().last()? {
        b'k' | b'K' => (&text[..text.len() - 1], 10),
        b'm' | b'M' => (&text[..text.len() - 1], 20),
        b'g' | b'G' => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    let bytes = digits.parse::<u64>().ok()?.checked_mul(1 << shift)?;
    bytes.is_multiple_of(u64::from(SECTOR_SIZE)).then_some(bytes / u64::from(SECTOR_SIZE))
}

/// The form in which the store has it.
impl fmt::Display for Target {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Part(part) => part.fmt(formatter),
            Self::File(path) => write!(formatter, "/{path}"),
        }
    }
}

/// As it is written, in bytes.
impl fmt::Display for Part {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = |sectors: u64| sectors.saturating_mul(u64::from(SECTOR_SIZE));
        formatter.write_str(&self.disk)?;
        match (self.first_sector, self.sectors) {
            (0, None) => Ok(()),
            (first, None) => write!(formatter, "@{}", bytes(first)),
            (first, Some(count)) => write!(formatter, "@{}+{}", bytes(first), bytes(count)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    fn target(text: &str) -> Option<(String, u64, Option<u64>)> {
        parse_part(text).map(|target| (target.disk, target.first_sector, target.sectors))
    }

    #[test]
    fn a_target_is_a_disk_or_a_part_of_one() {
        assert_eq!(target("disk0"), Some(("disk0".into(), 0, None)));
        assert_eq!(target("disk0@1M"), Some(("disk0".into(), 2048, None)));
        assert_eq!(target("disk1@512+2K"), Some(("disk1".into(), 1, Some(4))));
        assert_eq!(target("disk1@0+1G"), Some(("disk1".into(), 0, Some(1 << 21))));
    }

    #[test]
    fn what_is_no_target_is_refused() {
        for text in [
            "",
            "@1M",
            "disk0@",
            "disk0@1M+",
            "disk0@x",
            "disk0@100",
            "disk0@0+0",
            "disk0@-1",
            "a/b",
            "disk0@99999999999G",
        ] {
            assert_eq!(target(text), None, "{text}");
        }
    }

    #[test]
    fn a_target_reads_back_as_written() {
        for text in ["disk0", "disk0@1M", "disk7@512+1024", "disk0@0+4K", "/images/web.img"] {
            let parsed: Target = text.parse().unwrap();
            assert_eq!(parsed.to_string().parse::<Target>().unwrap(), parsed);
        }
    }

    #[test]
    fn name_and_access_may_be_left_out() {
        let disk: GuestDisk = "disk0".parse().unwrap();
        assert_eq!((disk.name.as_str(), disk.is_writable), ("", true));
        let disk: GuestDisk = "disk0,xvdb,r".parse().unwrap();
        assert_eq!(
            (disk.name.as_str(), disk.is_writable, disk.device_number()),
            ("xvdb", false, Some(51728))
        );
        assert!("disk0,sda".parse::<GuestDisk>().is_err());
        assert!("disk0,xvda,x".parse::<GuestDisk>().is_err());
        assert!("disk0,xvda,r,more".parse::<GuestDisk>().is_err());
    }

    #[test]
    fn xls_ways_to_write_a_disk_are_understood() {
        let plain: GuestDisk = "disk0,xvda,w".parse().unwrap();
        for text in [
            "phy:/dev/disk0,xvda,w",
            "phy:disk0,xvda,rw",
            "/dev/disk0,raw,xvda,rw",
            "disk0, raw, xvda, w",
            "format=raw, vdev=xvda, access=rw, target=/dev/disk0",
            "disk0,vdev=xvda",
            "disk0,format=raw,xvda",
            "devtype=disk,vdev=xvda,target=disk0",
        ] {
            assert_eq!(text.parse::<GuestDisk>().as_ref(), Ok(&plain), "{text}");
        }
        for (text, message) in [
            ("disk0,qcow2,xvda", "disk: \"qcow2\" is not there yet"),
            ("disk0,xvda,devtype=cdrom", "disk: \"devtype=cdrom\" is not there yet"),
            ("script=iscsi,target=x", "disk: \"script=iscsi\" is not there yet"),
            ("disk0,hda,w", "\"hda\" is no name for a guest's disk: xvda to xvdp"),
            (
                "vdev=xvda",
                "disk=: NAME, NAME@OFFSET or NAME@OFFSET+SIZE in whole sectors (such as disk0@64M), or a file's path, is expected",
            ),
        ] {
            assert_eq!(text.parse::<GuestDisk>().unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn a_path_is_a_file_of_dom0s() {
        let file = Ok(Target::File("images/web.img".into()));
        for text in ["/images/web.img", "images/web.img", "file:/images/web.img", "file:images/web.img"] {
            assert_eq!(text.parse(), file, "{text}");
        }
        assert_eq!("file:web".parse(), Ok(Target::File("web".into())));
        assert!(matches!("phy:/dev/disk0".parse(), Ok(Target::Part(_))));
        for text in ["file:", "/", "phy:a/b", "/dev/a/b"] {
            assert!(text.parse::<Target>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_file_is_where_it_lies() {
        let disk = |text: &str| text.parse::<GuestDisk>().unwrap();
        let parts = ["disk0@8K+4K", "disk0@64K+4K"].map(|part| part.parse().unwrap());
        let file = GuestDisk { parts: parts.into(), ..disk("/a") };
        assert!(file.conflicts_with(&disk("disk0")));
        assert!(
            file.conflicts_with(&disk("disk0@64K,xvda,r")) && disk("disk0@64K,xvda,r").conflicts_with(&file)
        );
        assert!(!file.conflicts_with(&disk("disk0@0+8K")) && !file.conflicts_with(&disk("disk1")));
        assert!(disk("/a").conflicts_with(&disk("/a")) && !disk("/a").conflicts_with(&disk("/b")));
        assert!(!disk("/a,,r").conflicts_with(&disk("/a,,r")));
    }

    #[test]
    fn there_are_sixteen_disks() {
        assert!("disk0,xvdp".parse::<GuestDisk>().is_ok());
        assert!("disk0,xvdq".parse::<GuestDisk>().is_err());
    }

    #[test]
    fn sectors_that_one_guest_writes_are_nobody_elses() {
        let disk = |text: &str| text.parse::<GuestDisk>().unwrap();
        let conflict = |one: &str, two: &str| disk(one).conflicts_with(&disk(two));
        assert!(conflict("disk0", "disk0"));
        assert!(conflict("disk0,xvda,r", "disk0@1M"));
        assert!(!conflict("disk0,xvda,r", "disk0,xvda,r"));
        assert!(!conflict("disk0", "disk1"));
        assert!(!conflict("disk0@0+1M", "disk0@1M"));
        assert!(conflict("disk0@0+1M", "disk0@512+512"));
        assert!(disk("disk0,xvda,w!").is_shared && !disk("disk0").is_shared);
    }

    #[test]
    fn a_target_must_lie_on_the_disk() {
        let lies = |text: &str| text.parse::<Part>().unwrap().lies_within(2048);
        assert!(lies("disk0") && lies("disk0@512") && lies("disk0@512K+512K"));
        assert!(!lies("disk0@1M") && !lies("disk0@512K+513K") && !lies("disk0@0+2M"));
    }
}
