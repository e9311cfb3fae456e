//! The machine's devices as guests get them: where a disk lies, and who has what.
//!
//! Nothing here changes anything. Whoever makes a guest or plugs a device in asks, and notes in the guest's
//! configuration what it got before anybody else can ask.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;

use super::Toolstack;
use super::configuration::GuestConfiguration;
use super::disk::{GuestDisk, Part, Target};
use super::error::CreateError;
use crate::block::{ImageDisk, Partition, Piece, SECTOR_SIZE};
use crate::file_system::{FileSystemError, Run};

/// A disk of the machine.
#[derive(Clone, Debug)]
pub struct MachineDisk {
    /// What it is called.
    pub name: String,
    /// Its size in sectors of 512 bytes.
    pub sectors: u64,
    /// Its partitions, as they were when the machine started.
    pub partitions: Vec<Partition>,
}

impl MachineDisk {
    /// Its name, and those of its partitions.
    fn names(&self) -> Vec<String> {
        let partitions = self.partitions.iter().map(|one| format!("{}p{}", self.name, one.number));
        core::iter::once(self.name.clone()).chain(partitions).collect()
    }
}

/// What the machine has for guests.
#[derive(Clone, Debug, Default)]
pub struct Inventory {
    /// Its disks.
    pub disks: Vec<MachineDisk>,
    /// Whether there is a switch to which interfaces of guests can be connected.
    pub has_switch: bool,
}

impl Toolstack {
    /// Finds out where a disk lies; `false` if the machine does not have what it is to be.
    ///
    /// # Errors
    ///
    /// [`CreateError::File`], if it is a file that cannot be a disk.
    pub(super) async fn locate(&self, disk: &mut GuestDisk) -> Result<bool, CreateError> {
        match &disk.target {
            Target::Part(part) => {
                let resolved = self.resolve(part);
                let is_there = resolved.is_some();
                disk.target = Target::Part(resolved.unwrap_or_else(|| part.clone()));
                Ok(is_there)
            }
            Target::File(path) => {
                let wrong = |error| CreateError::File { name: path.clone(), error };
                disk.parts = self.open_image(path).await.map_err(wrong)?;
                Ok(true)
            }
        }
    }

    /// Makes a disk of a file of dom0's own file system; the parts of the machine's disk that it is.
    async fn open_image(&self, path: &str) -> Result<Vec<Part>, FileSystemError> {
        let wrong = |words: &str| FileSystemError::Other(words.to_owned());
        let home = self
            .home
            .borrow()
            .clone()
            .ok_or_else(|| wrong("domain 0 has no file system of its own; it is told with home=DISK"))?;
        let runs = home.files.runs(path).await?;
        let size: u64 = runs.iter().map(|run| run.length).sum();
        if !size.is_multiple_of(u64::from(SECTOR_SIZE)) {
            return Err(FileSystemError::Other(format!(
                "its {size} bytes are no whole sectors of {SECTOR_SIZE}"
            )));
        }
        let piece = |run: &Run| Piece {
            first_sector: run.start / u64::from(SECTOR_SIZE),
            sectors: run.length / u64::from(SECTOR_SIZE),
        };
        let pieces: Vec<_> = runs.iter().map(piece).collect();
        let image = ImageDisk::new(Rc::clone(&home.device), &pieces).map_err(FileSystemError::Disk)?;
        self.images.put(path.to_owned(), image);
        let part = |piece: &Piece| Part {
            disk: home.part.disk.clone(),
            first_sector: home.part.first_sector + piece.first_sector,
            sectors: Some(piece.sectors),
        };
        Ok(pieces.iter().map(part).collect())
    }

    /// A part with its partition replaced by where that lies. `None` if the machine does not have it.
    pub(super) fn resolve(&self, target: &Part) -> Option<Part> {
        let disks = &self.inventory.disks;
        if disks.iter().any(|disk| disk.name == target.disk) {
            return Some(target.clone());
        }
        let (disk, number) = target.disk.rsplit_once('p')?;
        let disk = disks.iter().find(|known| known.name == disk)?;
        let number: u32 = number.parse().ok()?;
        let partition = disk.partitions.iter().find(|partition| partition.number == number)?;
        let left = partition.sectors.checked_sub(target.first_sector)?;
        let sectors = target.sectors.unwrap_or(left);
        let first_sector = partition.first_sector + target.first_sector;
        (sectors > 0 && sectors <= left).then(|| Part {
            disk: disk.name.clone(),
            first_sector,
            sectors: Some(sectors),
        })
    }

    /// A guest starts without devices that the machine does not have.
    ///
    /// # Errors
    ///
    /// As [`Self::locate`].
    pub(super) async fn without_missing_devices(
        &self,
        configuration: &GuestConfiguration,
    ) -> Result<GuestConfiguration, CreateError> {
        let mut possible = configuration.clone();
        possible.disks.clear();
        for disk in &configuration.disks {
            let mut disk = disk.clone();
            if self.locate(&mut disk).await? {
                possible.disks.push(disk);
            } else {
                let (guest, missing) = (&configuration.name, self.missing_disk(&disk));
                pv_runtime::println!("error: {guest}: {missing}: the guest starts without {}", disk.name);
            }
        }
        if !self.inventory.has_switch && !possible.nics.is_empty() {
            pv_runtime::println!(
                "error: {}: there is no switch: the guest starts without network",
                configuration.name
            );
            possible.nics.clear();
        }
        Ok(possible)
    }

    /// Every disk lies where there is something, and belongs to nobody else who would mind.
    pub(super) fn check_disks(&self, configuration: &GuestConfiguration) -> Result<(), CreateError> {
        for disk in &configuration.disks {
            if let Target::Part(part) = &disk.target {
                self.check_part(part, disk.is_writable)?;
            }
            if let Some(guest) = self.user_of(disk, &configuration.name) {
                return Err(CreateError::DiskInUse { target: disk.target.clone(), guest });
            }
        }
        Ok(())
    }

    /// A part lies on its disk, and nobody writes what dom0 has its own files on.
    fn check_part(&self, part: &Part, is_written: bool) -> Result<(), CreateError> {
        let disk = self.inventory.disks.iter().find(|known| known.name == part.disk);
        let sectors = disk.map_or(0, |known| known.sectors);
        if !part.lies_within(sectors) {
            let size = sectors.saturating_mul(u64::from(SECTOR_SIZE));
            return Err(CreateError::NotOnDisk { part: part.clone(), size });
        }
        let home = self.home.borrow();
        if is_written && home.as_ref().is_some_and(|home| home.part.overlaps(part)) {
            return Err(CreateError::DiskIsOwn(Target::Part(part.clone())));
        }
        Ok(())
    }

    /// What guests other than `guest` are like: those that are there, and those that are being made.
    pub(super) fn others(&self, guest: &str) -> Vec<(String, GuestConfiguration)> {
        let guests = self.guests.borrow();
        let there = guests.values().map(|guest| (guest.name(), guest.next_configuration()));
        let in_making = self.in_making.borrow();
        let coming = in_making.iter().filter_map(|(name, known)| Some((name.clone(), known.clone()?)));
        there.chain(coming).filter(|(name, _)| name != guest).collect()
    }

    /// No interface of another guest has the same address, and no other guest the same handle.
    pub(super) fn check_addresses(&self, configuration: &GuestConfiguration) -> Result<(), CreateError> {
        for (guest, other) in self.others(&configuration.name) {
            for address in configuration.addresses() {
                if other.addresses().any(|known| known == address) {
                    return Err(CreateError::AddressInUse { address, guest });
                }
            }
            if configuration.handle.is_some() && other.handle == configuration.handle {
                return Err(CreateError::HandleInUse(guest));
            }
        }
        Ok(())
    }

    /// A guest other than `guest` that does not go together with that one having this disk.
    fn user_of(&self, disk: &GuestDisk, guest: &str) -> Option<String> {
        if disk.is_shared {
            return None;
        }
        let uses = |other: &GuestConfiguration| other.disks.iter().any(|used| disk.conflicts_with(used));
        self.others(guest).into_iter().find_map(|(name, other)| uses(&other).then_some(name))
    }

    /// That the machine does not have what a disk is to be, in words.
    pub(super) fn missing_disk(&self, disk: &GuestDisk) -> String {
        let known = match self.inventory.disks.as_slice() {
            [] => "no disks".to_owned(),
            disks => disks.iter().flat_map(MachineDisk::names).collect::<Vec<_>>().join(" "),
        };
        let wanted = match &disk.target {
            Target::Part(part) => &part.disk,
            Target::File(path) => path,
        };
        format!("the machine has no {wanted} (it has {known})")
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::toolstack;
    use super::super::{Guest, Handle};
    use super::*;
    use alloc::string::ToString;
    use core::time::Duration;
    use hypercall_abi::DomainId;
    use pv_runtime::executor::testing;

    #[test]
    fn only_devices_that_the_machine_has_are_kept() {
        testing::run(async {
            let configuration =
                GuestConfiguration::parse("web", ["disk=disk0", "disk=disk7", "vif"]).unwrap();
            let possible = async |disks: &[&str], has_switch| {
                let disks = disks
                    .iter()
                    .map(|name| MachineDisk { name: name.to_string(), sectors: 2048, partitions: Vec::new() })
                    .collect();
                let toolstack = toolstack(Inventory { disks, has_switch });
                let possible = toolstack.without_missing_devices(&configuration).await.unwrap();
                (possible.disks.len(), possible.nics.len())
            };
            assert_eq!(possible(&["disk0", "disk7"], true).await, (2, 1));
            assert_eq!(possible(&["disk0"], false).await, (1, 0));
            assert_eq!(possible(&[], true).await, (0, 1));
            let message = toolstack(Inventory::default()).missing_disk(&configuration.disks[1]);
            assert_eq!(message, "the machine has no disk7 (it has no disks)");
        });
    }

    #[test]
    fn disks_must_be_there_and_free() {
        testing::run(async {
            let disks =
                Vec::from([MachineDisk { name: "disk0".into(), sectors: 2048, partitions: Vec::new() }]);
            let toolstack = toolstack(Inventory { disks, has_switch: true });
            let check = |word: &str| {
                let checked = toolstack.check_disks(&GuestConfiguration::parse("web", [word]).unwrap());
                checked.map_err(|error| error.to_string())
            };
            assert_eq!(check("disk=disk0"), Ok(()));
            assert_eq!(
                check("disk=disk0@1M"),
                Err("disk0@1048576 is not on the disk: disk0 has 1048576 bytes".into())
            );
            let configuration = GuestConfiguration::parse("other", ["disk=disk0@512K"]).unwrap();
            let other = Guest::new(DomainId(3), Handle::DOM0, configuration, Duration::ZERO);
            toolstack.add(other);
            let in_use = check("disk=disk0").unwrap_err();
            assert!(in_use.starts_with("disk0 is in use by other; "), "{in_use}");
            assert_eq!(check("disk=disk0,xvda,r!"), Ok(()));
            assert_eq!(check("disk=disk0@0+512K"), Ok(()));
        });
    }

    #[test]
    fn a_partition_is_a_part_of_its_disk() {
        testing::run(async {
            let partitions = Vec::from([Partition { number: 2, first_sector: 100, sectors: 50 }]);
            let disks = Vec::from([MachineDisk { name: "disk0".into(), sectors: 2048, partitions }]);
            let toolstack = toolstack(Inventory { disks, has_switch: true });
            let resolve = |text: &str| {
                let target: Part = text.parse().unwrap();
                toolstack.resolve(&target).map(|target| (target.disk, target.first_sector, target.sectors))
            };
            let part = |first, count| Some(("disk0".into(), first, Some(count)));
            assert_eq!(resolve("disk0p2"), part(100, 50));
            assert_eq!(resolve("disk0p2@512"), part(101, 49));
            assert_eq!(resolve("disk0p2@512+1K"), part(101, 2));
            assert_eq!(resolve("disk0"), Some(("disk0".into(), 0, None)));
            for text in ["disk0p1", "disk1p2", "disk0p2@25600", "disk0p2@512+25600", "disk0p", "other"] {
                assert_eq!(resolve(text), None, "{text}");
            }
            let error = toolstack.missing_disk(&"disk9".parse().unwrap());
            assert!(error.contains("(it has disk0 disk0p2)"), "{error}");
        });
    }

    #[test]
    fn addresses_and_handles_are_nobody_elses() {
        testing::run(async {
            let toolstack = toolstack(Inventory { disks: Vec::new(), has_switch: true });
            let words = ["vif=mac=00:16:3e:00:00:09", "uuid=11111111-2222-3333-4444-555555555555"];
            let configuration = GuestConfiguration::parse("other", words).unwrap();
            let other = Guest::new(
                DomainId(3),
                "11111111-2222-3333-4444-555555555555".parse().unwrap(),
                configuration,
                Duration::ZERO,
            );
            toolstack.add(other);
            let check = |word: &str| {
                let configuration = GuestConfiguration::parse("web", [word]).unwrap();
                toolstack.check_addresses(&configuration).map_err(|error| error.to_string())
            };
            assert_eq!(check("vif"), Ok(()));
            assert_eq!(
                check(words[0]),
                Err("00:16:3e:00:00:09 is the address of an interface of other".into())
            );
            assert_eq!(check(words[1]), Err("the uuid is that of other".into()));
        });
    }
}
