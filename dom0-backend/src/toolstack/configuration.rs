//! What a guest is to be like: the settings of its configuration, their defaults, and how they are written.
//!
//! Settings are words such as `memory=64` or `disk=disk0,xvda,w`; names and meanings are those of `xl` where it
//! has them. Everything is checked here, before anything is made.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;
use core::str::FromStr;

use hypercall_abi::xen::XEN_LEGACY_MAX_VCPUS;

use super::cpus::{CpuSet, CpuSetError};
use super::disk::{DiskError, GuestDisk};
use super::handle::Handle;
use super::nic::{GuestNic, MacAddress, NicError};
use super::pci::{GuestPci, PciError};
use crate::archive;

/// The longest name of a guest.
const NAME_LENGTH: usize = 64;
/// Memory of a guest for which nothing is said, in MiB.
pub const DEFAULT_MEMORY: u64 = 64;
/// A guest's share of the processors for which nothing is said.
pub const DEFAULT_WEIGHT: u16 = 256;
/// Most memory of a guest, in MiB: what its first page tables can describe.
const MEMORY_LIMIT: u64 = 64 * 1024;
/// Most virtual CPUs of a guest: those with a place in its shared page.
const VCPU_LIMIT: u32 = XEN_LEGACY_MAX_VCPUS as u32;
/// The longest command line: what `start_info` has room for, less the zero at its end.
const COMMAND_LINE_LENGTH: usize = hypercall_abi::xen::MAX_GUEST_CMDLINE - 1;

/// What is done when a guest has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reaction {
    /// It is taken apart.
    Destroy,
    /// It is taken apart and made anew.
    Restart,
    /// It is left as it is, to be looked at.
    Preserve,
}

impl FromStr for Reaction {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "destroy" => Ok(Self::Destroy),
            "restart" => Ok(Self::Restart),
            "preserve" => Ok(Self::Preserve),
            _ => Err(()),
        }
    }
}

/// What a guest is to be like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestConfiguration {
    /// Its name.
    pub name: String,
    /// The file in the boot archive with its kernel.
    pub kernel: String,
    /// The file in the boot archive with its module, such as a RAM disk.
    pub ramdisk: Option<String>,
    /// Its memory in MiB.
    pub memory: u64,
    /// Its virtual CPUs when it starts, from 1 to 32.
    pub vcpus: u32,
    /// Its virtual CPUs when all are plugged in, if they are more.
    pub most_vcpus: Option<u32>,
    /// The memory in MiB up to which it may grow, if it is more than it starts with.
    pub most_memory: Option<u64>,
    /// Its share of the processors, as against others: [`DEFAULT_WEIGHT`] unless said.
    pub weight: u16,
    /// The most it may use of the processors, in per cent of one; 0 for no limit.
    pub cap: u16,
    /// On which processors each of its virtual CPUs may run, in their order; the others run everywhere.
    pub cpus: Vec<CpuSet>,
    /// On which they should run, likewise.
    pub cpus_soft: Vec<CpuSet>,
    /// Its handle, if it was said.
    pub handle: Option<Handle>,
    /// Its command line.
    pub command_line: String,
    /// Its disks.
    pub disks: Vec<GuestDisk>,
    /// Its network interfaces.
    pub nics: Vec<GuestNic>,
    /// Devices of the machine that it drives itself.
    pub pci: Vec<GuestPci>,
    /// What is done when it switches itself off.
    pub on_poweroff: Reaction,
    /// What is done when it wants to be started anew.
    pub on_reboot: Reaction,
    /// What is done when it crashed.
    pub on_crash: Reaction,
    /// Whether it stays paused when it is made.
    pub starts_paused: bool,
}

/// What is wrong with a guest's settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SettingError {
    /// The name is empty, too long, or not made of letters, digits, `-`, `_`, `.` and `+`.
    Name(String),
    /// No setting is called so.
    Unknown(String),
    /// The value is none for this setting; what would be.
    Value {
        /// The setting.
        setting: &'static str,
        /// The value.
        value: String,
        /// What is expected.
        expected: &'static str,
    },
    /// A disk.
    Disk(DiskError),
    /// A network interface.
    Nic(NicError),
    /// A device of the machine.
    Pci(PciError),
    /// Processors to run on.
    Cpus(CpuSetError),
    /// Two disks have the same name.
    SameDisk(String),
    /// There is no name left for another disk.
    TooManyDisks,
    /// Two disks, by their names, are the same sectors, and one of them may be written.
    SameSectors(String, String),
    /// Two network interfaces have the same address.
    SameAddress(MacAddress),
    /// The guest may grow up to less than it starts with.
    LessThanAtFirst {
        /// The setting, and with what it starts.
        first: (&'static str, u64),
        /// The setting, and up to what it may grow.
        most: (&'static str, u64),
    },
}

impl fmt::Display for SettingError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => write!(
                formatter,
                "{name:?} is no name for a guest: 1 to {NAME_LENGTH} letters, digits, '-', '_', '.', '+', and not only digits"
            ),
            Self::Unknown(word) => write!(formatter, "there is no setting {word:?}; see `help create`"),
            Self::Value { setting, value, expected } => {
                write!(formatter, "{setting}={value}: {expected} is expected")
            }
            Self::Disk(error) => error.fmt(formatter),
            Self::Pci(error) => error.fmt(formatter),
            Self::Nic(error) => error.fmt(formatter),
            Self::TooManyDisks => formatter.write_str("a guest has at most 16 disks"),
            Self::Cpus(error) => error.fmt(formatter),
            Self::SameDisk(name) => write!(formatter, "two disks are called {name}"),
            Self::SameSectors(one, other) => {
                write!(formatter, "{one} and {other} are the same sectors, and one may be written")
            }
            Self::SameAddress(address) => write!(formatter, "two interfaces have the address {address}"),
            Self::LessThanAtFirst { first, most } => {
                write!(formatter, "{}={} is less than {}={}", most.0, most.1, first.0, first.1)
            }
        }
    }
}

impl core::error::Error for SettingError {}

impl From<DiskError> for SettingError {
    fn from(error: DiskError) -> Self {
        Self::Disk(error)
    }
}

impl From<PciError> for SettingError {
    fn from(error: PciError) -> Self {
        Self::Pci(error)
    }
}

impl From<NicError> for SettingError {
    fn from(error: NicError) -> Self {
        Self::Nic(error)
    }
}

impl From<CpuSetError> for SettingError {
    fn from(error: CpuSetError) -> Self {
        Self::Cpus(error)
    }
}

impl GuestConfiguration {
    /// A guest with our own kernel, and no devices.
    ///
    /// # Errors
    ///
    /// [`SettingError::Name`].
    pub fn new(name: &str) -> Result<Self, SettingError> {
        if !is_name(name) {
            return Err(SettingError::Name(name.to_owned()));
        }
        Ok(Self {
            name: name.to_owned(),
            kernel: archive::GUEST.to_owned(),
            ramdisk: None,
            memory: DEFAULT_MEMORY,
            vcpus: 1,
            most_vcpus: None,
            most_memory: None,
            weight: DEFAULT_WEIGHT,
            cap: 0,
            cpus: Vec::new(),
            cpus_soft: Vec::new(),
            handle: None,
            command_line: String::new(),
            disks: Vec::new(),
            nics: Vec::new(),
            pci: Vec::new(),
            on_poweroff: Reaction::Destroy,
            on_reboot: Reaction::Restart,
            on_crash: Reaction::Destroy,
            starts_paused: false,
        })
    }

    /// The guest that is made at start-up: the first disk, and a network interface.
    pub fn of_start_up() -> Self {
        Self {
            disks: GuestDisk::whole("disk0").into_iter().collect(),
            nics: Vec::from([GuestNic::default()]),
            ..Self::plain()
        }
    }

    fn plain() -> Self {
        Self::new(archive::GUEST).expect("the name is one")
    }

    /// A guest as `words` say, each a setting.
    ///
    /// # Errors
    ///
    /// The first [`SettingError`].
    pub fn parse<'a>(name: &str, words: impl IntoIterator<Item = &'a str>) -> Result<Self, SettingError> {
        let mut configuration = Self::new(name)?;
        words.into_iter().try_for_each(|word| configuration.set(word))?;
        configuration.check()?;
        Ok(configuration)
    }

    /// Makes sure that what was said goes together.
    ///
    /// # Errors
    ///
    /// The first two things that do not.
    pub(super) fn check(&self) -> Result<(), SettingError> {
        let memory = ("memory", self.memory, "maxmem", self.most_memory);
        let vcpus = ("vcpus", self.vcpus.into(), "maxvcpus", self.most_vcpus.map(u64::from));
        for (setting, first, limit, most) in [memory, vcpus] {
            if let Some(most) = most.filter(|most| *most < first) {
                return Err(SettingError::LessThanAtFirst { first: (setting, first), most: (limit, most) });
            }
        }
        for (index, disk) in self.disks.iter().enumerate() {
            let same =
                |other: &&GuestDisk| disk.conflicts_with(other) && !(disk.is_shared || other.is_shared);
            if let Some(other) = self.disks[..index].iter().find(same) {
                return Err(SettingError::SameSectors(other.name.clone(), disk.name.clone()));
            }
        }
        for (index, address) in self.addresses().enumerate() {
            if self.addresses().take(index).any(|other| other == address) {
                return Err(SettingError::SameAddress(address));
            }
        }
        Ok(())
    }

    /// Its virtual CPUs, those included that are not plugged in when it starts.
    pub fn all_vcpus(&self) -> u32 {
        self.most_vcpus.unwrap_or(self.vcpus)
    }

    /// The addresses of its network interfaces.
    pub fn addresses(&self) -> impl Iterator<Item = MacAddress> {
        self.nics.iter().map(|nic| nic.address(&self.name))
    }

    /// Changes what one word says.
    pub(super) fn set(&mut self, word: &str) -> Result<(), SettingError> {
        match word.split_once('=') {
            Some(("kernel", file)) => self.kernel = file_name("kernel", file)?,
            Some(("ramdisk", file)) => self.ramdisk = Some(file_name("ramdisk", file)?),
            Some(("memory", size)) => self.memory = memory("memory", size)?,
            Some(("maxmem", size)) => self.most_memory = Some(memory("maxmem", size)?),
            Some(("cpu_weight", share)) => self.weight = weight(share)?,
            Some(("cap", cap)) => self.cap = cap_of(cap)?,
            Some(("cpus", cpus)) => self.cpus = for_all(cpus)?,
            Some(("cpus_soft", cpus)) => self.cpus_soft = for_all(cpus)?,
            Some(("uuid", handle)) => self.handle = Some(uuid(handle)?),
            Some(("vcpus", count)) => self.vcpus = vcpus("vcpus", count)?,
            Some(("maxvcpus", count)) => self.most_vcpus = Some(vcpus("maxvcpus", count)?),
            Some(("cmdline" | "extra", line)) => self.command_line = command_line(line)?,
            Some(("disk", disk)) => {
                self.add_disk(disk.parse()?)?;
            }
            Some(("vif", nic)) => {
                self.add_nic(nic.parse()?);
            }
            Some(("pci", device)) => self.add_pci(device.parse()?)?,
            None if word == "vif" => {
                self.add_nic(GuestNic::default());
            }
            Some(("on_poweroff", what)) => self.on_poweroff = reaction("on_poweroff", what)?,
            Some(("on_reboot", what)) => self.on_reboot = reaction("on_reboot", what)?,
            Some(("on_crash", what)) => self.on_crash = reaction("on_crash", what)?,
            None if word == "paused" => self.starts_paused = true,
            _ => return Err(SettingError::Unknown(word.to_owned())),
        }
        Ok(())
    }

    /// Adds a device of the machine.
    fn add_pci(&mut self, device: GuestPci) -> Result<(), PciError> {
        if self.pci.iter().any(|known| known.address == device.address) {
            return Err(PciError::Same(device.address));
        }
        self.pci.push(device);
        Ok(())
    }

    /// Adds an interface, which gets the number behind the highest.
    pub(super) fn add_nic(&mut self, nic: GuestNic) -> &mut GuestNic {
        let number = self.nics.iter().map(|nic| nic.number + 1).max().unwrap_or(0);
        self.nics.push_mut(GuestNic { number, ..nic })
    }

    /// Adds a disk; one without a name gets the first that is free.
    pub(super) fn add_disk(&mut self, mut disk: GuestDisk) -> Result<&GuestDisk, SettingError> {
        let taken = |name: &str| self.disks.iter().any(|disk| disk.name == name);
        if disk.name.is_empty() {
            let free = ('a'..='p').map(|letter| format!("xvd{letter}")).find(|name| !taken(name));
            disk.name = free.ok_or(SettingError::TooManyDisks)?;
        }
        if taken(&disk.name) {
            return Err(SettingError::SameDisk(disk.name));
        }
        Ok(self.disks.push_mut(disk))
    }
}

/// Names that can be typed, told from domain numbers, and put into paths of the store.
fn is_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.+".contains(&byte);
    let is_number = name.bytes().all(|byte| byte.is_ascii_digit());
    (1..=NAME_LENGTH).contains(&name.len()) && name.bytes().all(allowed) && !is_number
}

fn wrong(setting: &'static str, value: &str, expected: &'static str) -> SettingError {
    SettingError::Value { setting, value: value.to_string(), expected }
}

fn file_name(setting: &'static str, value: &str) -> Result<String, SettingError> {
    if value.is_empty() {
        Err(wrong(setting, value, "a file of the boot archive"))
    } else {
        Ok(value.to_owned())
    }
}

/// A number of MiB.
fn memory(setting: &'static str, value: &str) -> Result<u64, SettingError> {
    let size = value.parse().ok().filter(|size| (1..=MEMORY_LIMIT).contains(size));
    size.ok_or_else(|| wrong(setting, value, "a number of MiB from 1 to 65536"))
}

/// The same processors for all virtual CPUs.
fn for_all(value: &str) -> Result<Vec<CpuSet>, SettingError> {
    Ok(vec![value.parse()?; VCPU_LIMIT as usize])
}

fn cap_of(value: &str) -> Result<u16, SettingError> {
    value.parse().map_err(|_| wrong("cap", value, "per cent of a CPU from 1 to 65535, or 0 for no cap,"))
}

fn weight(value: &str) -> Result<u16, SettingError> {
    let share = value.parse().ok().filter(|share| *share > 0);
    share.ok_or_else(|| wrong("cpu_weight", value, "a number from 1 to 65535"))
}

fn uuid(value: &str) -> Result<Handle, SettingError> {
    value.parse().map_err(|()| wrong("uuid", value, "32 hexadecimal digits in five groups"))
}

/// A number of virtual CPUs.
fn vcpus(setting: &'static str, value: &str) -> Result<u32, SettingError> {
    let count = value.parse().ok().filter(|count| (1..=VCPU_LIMIT).contains(count));
    count.ok_or_else(|| wrong(setting, value, "a number of virtual CPUs from 1 to 32"))
}

fn command_line(value: &str) -> Result<String, SettingError> {
    if value.len() > COMMAND_LINE_LENGTH || value.contains('\0') {
        return Err(wrong("cmdline", value, "a text of at most 1023 bytes"));
    }
    Ok(value.to_owned())
}

fn reaction(setting: &'static str, value: &str) -> Result<Reaction, SettingError> {
    value.parse().map_err(|()| wrong(setting, value, "destroy, restart or preserve"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<GuestConfiguration, SettingError> {
        GuestConfiguration::parse("web", words.iter().copied())
    }

    #[test]
    fn nothing_said_means_the_defaults() {
        let plain = parse(&[]).unwrap();
        assert_eq!((plain.name.as_str(), plain.kernel.as_str(), plain.memory), ("web", "guest", 64));
        assert_eq!(plain.vcpus, 1);
        assert!(plain.disks.is_empty() && plain.nics.is_empty() && plain.command_line.is_empty());
        assert_eq!(plain.on_crash, Reaction::Destroy);
        assert_eq!(plain.on_reboot, Reaction::Restart);
    }

    #[test]
    fn every_setting_is_taken() {
        let all = parse(&[
            "kernel=linux",
            "ramdisk=initrd",
            "memory=128",
            "vcpus=8",
            "cmdline=a b=c",
            "disk=disk0",
            "disk=disk1,xvdc,r",
            "vif",
            "vif=mac=00:16:3e:01:02:03",
            "on_crash=preserve",
            "on_reboot=destroy",
            "on_poweroff=restart",
            "paused",
        ])
        .unwrap();
        assert_eq!((all.kernel.as_str(), all.ramdisk.as_deref(), all.memory), ("linux", Some("initrd"), 128));
        assert_eq!(all.command_line, "a b=c");
        assert_eq!(all.vcpus, 8);
        assert_eq!(all.disks.iter().map(|disk| disk.name.as_str()).collect::<Vec<_>>(), ["xvda", "xvdc"]);
        assert_eq!(all.nics.len(), 2);
        let reactions = (all.on_poweroff, all.on_reboot, all.on_crash);
        assert_eq!(reactions, (Reaction::Restart, Reaction::Destroy, Reaction::Preserve));
        assert!(all.starts_paused);
    }

    #[test]
    fn disks_without_a_name_get_the_next_free_one() {
        let disks = parse(&["disk=disk0,xvda,w", "disk=disk1", "disk=disk2"]).unwrap().disks;
        assert_eq!(disks.iter().map(|disk| disk.name.as_str()).collect::<Vec<_>>(), ["xvda", "xvdb", "xvdc"]);
        assert_eq!(
            parse(&["disk=disk0,xvda", "disk=disk1,xvda"]),
            Err(SettingError::SameDisk("xvda".into()))
        );
    }

    #[test]
    fn mistakes_are_named() {
        let message = |words: &[&str]| parse(words).unwrap_err().to_string();
        assert_eq!(message(&["memory=lots"]), "memory=lots: a number of MiB from 1 to 65536 is expected");
        assert_eq!(message(&["memory=0"]), "memory=0: a number of MiB from 1 to 65536 is expected");
        for count in ["0", "33", "-1", "two", ""] {
            let expected = format!("vcpus={count}: a number of virtual CPUs from 1 to 32 is expected");
            assert_eq!(message(&[&format!("vcpus={count}")]), expected);
        }
        assert_eq!(message(&["colour=red"]), "there is no setting \"colour=red\"; see `help create`");
        assert_eq!(message(&["pci=00:04.0", "pci=0000:00:04.0"]), "pci: 00:04.0 is there twice");
        assert_eq!(message(&["kernel="]), "kernel=: a file of the boot archive is expected");
        assert_eq!(message(&["on_crash=cry"]), "on_crash=cry: destroy, restart or preserve is expected");
        assert!(parse(&[&format!("cmdline={}", "x".repeat(1024))]).is_err());
    }

    #[test]
    fn names_can_be_told_from_numbers_and_paths() {
        for name in ["a", "web-1", "db.example", "3com", "x+y_z"] {
            assert!(GuestConfiguration::new(name).is_ok(), "{name}");
        }
        let long = "x".repeat(65);
        for name in ["", "12", "a/b", "a b", "ä", "a\0", long.as_str()] {
            assert!(GuestConfiguration::new(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn the_guest_of_start_up_has_a_disk_and_a_network_interface() {
        let guest = GuestConfiguration::of_start_up();
        assert_eq!((guest.name.as_str(), guest.disks.len(), guest.nics.len()), ("guest", 1, 1));
        assert_eq!(guest.disks[0].device_number(), Some(51712));
    }
}
