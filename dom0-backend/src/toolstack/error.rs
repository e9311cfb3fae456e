//! Why a guest cannot be made, or nothing done with it.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use domain_image::{ImageError, LayoutError};
use hypercall_abi::{DomainId, Errno};
use kernel_file::KernelFileError;

use super::disk::{Part, Target};
use super::nic::MacAddress;
use super::processors::PinError;
use crate::file_system::FileSystemError;
use crate::pci::PciProblem;
use crate::store;

/// Memory that is missing, and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shortage {
    /// MiB that are needed.
    pub needed: u64,
    /// MiB that are free, and nobody has claimed.
    pub free: u64,
    /// MiB that are free, but set aside for guests that are being made.
    pub claimed: u64,
    /// Domains that are shutting down, and the MiB that each still holds.
    pub held: Vec<(DomainId, u64)>,
}

impl fmt::Display for Shortage {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "needs {} MiB; {} MiB free", self.needed, self.free)?;
        if self.claimed > 0 {
            write!(formatter, "; {} MiB claimed by guests being made", self.claimed)?;
        }
        for (domain, held) in &self.held {
            write!(formatter, "; {held} MiB held by domain {domain}, which is shutting down")?;
        }
        Ok(())
    }
}

/// Why a guest cannot be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CreateError {
    /// There is one of this name.
    Exists(String),
    /// The machine is about to be switched off.
    Closing,
    /// There is no such file.
    NoFile {
        /// The file.
        name: String,
        /// The files that the boot archive has.
        known: String,
        /// Whether dom0's own disk was looked at too.
        has_disk: bool,
    },
    /// A file of dom0's own disk cannot be read.
    File {
        /// The file.
        name: String,
        /// Why.
        error: FileSystemError,
    },
    /// The kernel is none that can be started.
    Image {
        /// Its file.
        file: String,
        /// Why.
        error: ImageError,
    },
    /// The kernel cannot be unpacked.
    Packed {
        /// Its file.
        file: String,
        /// Why.
        error: KernelFileError,
    },
    /// The guest would have too little memory.
    Layout(LayoutError),
    /// The machine has too little memory.
    Memory(Shortage),
    /// A part of a disk that the disk does not have.
    NotOnDisk {
        /// The part.
        part: Part,
        /// Bytes on the disk.
        size: u64,
    },
    /// Another guest has the same sectors, and one of the two may write.
    DiskInUse {
        /// The sectors.
        target: Target,
        /// The other guest.
        guest: String,
    },
    /// The sectors hold dom0's own files, so nobody else writes them.
    DiskIsOwn(Target),
    /// Another guest has an interface with the same address.
    AddressInUse {
        /// The address.
        address: MacAddress,
        /// The other guest.
        guest: String,
    },
    /// Another guest, this one, has the same handle.
    HandleInUse(String),
    /// A device of the machine is not to be had.
    Pci(PciProblem),
    /// It cannot run on the processors that it is to run on.
    Processors(PinError),
    /// The hypervisor refused a step.
    Refused {
        /// Which one.
        step: &'static str,
        /// Why.
        errno: Errno,
    },
    /// The store refused what was to be written there.
    Store(store::Error),
    /// The store did not take up the connection to the guest.
    NotIntroduced,
}

impl CreateError {
    /// Of what kind it is, in a word that does not change.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Exists(_) => "name-in-use",
            Self::Closing => "closing",
            Self::NoFile { .. } => "no-file",
            Self::File { .. } => "file",
            Self::Image { .. } | Self::Packed { .. } => "kernel",
            Self::Layout(_) => "layout",
            Self::Memory(_) => "memory",
            Self::NotOnDisk { .. } => "not-on-disk",
            Self::DiskInUse { .. } | Self::DiskIsOwn(_) => "disk-in-use",
            Self::AddressInUse { .. } => "address-in-use",
            Self::HandleInUse(_) => "uuid-in-use",
            Self::Pci(problem) => problem.kind(),
            Self::Processors(error) => error.kind(),
            Self::Refused { .. } => "hypervisor",
            Self::Store(_) => "store",
            Self::NotIntroduced => "store-connection",
        }
    }

    /// Makes of a hypercall's error one that says in which step it came.
    pub fn in_step(step: &'static str) -> impl Fn(Errno) -> Self {
        move |errno| Self::Refused { step, errno }
    }
}

impl fmt::Display for CreateError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exists(name) => write!(formatter, "there is a guest called {name} already"),
            Self::Closing => formatter.write_str("the machine is about to be switched off"),
            Self::NoFile { name, known, has_disk } => {
                let (who, it) = match has_disk {
                    true => ("neither the boot archive nor dom0's disk has a", "the archive"),
                    false => ("the boot archive has no", "it"),
                };
                write!(formatter, "{who} file {name:?}; {it} has: {known}")
            }
            Self::File { name, error } => write!(formatter, "{name}: {error}"),
            Self::Image { file, error } => write!(formatter, "{file}: {error}"),
            Self::Packed { file, error: error @ KernelFileError::NoMemory { .. } } => {
                write!(formatter, "{file}: {error}; give domain 0 more memory with dom0_mem")
            }
            Self::Packed { file, error } => write!(formatter, "{file}: {error}"),
            Self::Layout(error) => error.fmt(formatter),
            Self::Memory(shortage) => shortage.fmt(formatter),
            Self::NotOnDisk { part, size } => {
                write!(formatter, "{part} is not on the disk: {} has {size} bytes", part.disk)
            }
            Self::DiskInUse { target, guest } => write!(
                formatter,
                "{target} is in use by {guest}; to share it all the same, put ! behind the access, as in {target},xvda,w!"
            ),
            Self::DiskIsOwn(target) => {
                write!(
                    formatter,
                    "{target} holds dom0's own files: a guest may read it (access r), not write"
                )
            }
            Self::AddressInUse { address, guest } => {
                write!(formatter, "{address} is the address of an interface of {guest}")
            }
            Self::HandleInUse(guest) => write!(formatter, "the uuid is that of {guest}"),
            Self::Pci(problem) => problem.fmt(formatter),
            Self::Processors(error) => error.fmt(formatter),
            Self::Refused { step, errno } => write!(formatter, "the hypervisor refused to {step}: {errno}"),
            Self::Store(error) => write!(formatter, "the store: {error}"),
            Self::NotIntroduced => {
                formatter.write_str("the store did not take up the connection to the guest")
            }
        }
    }
}

impl core::error::Error for CreateError {}

impl From<store::Error> for CreateError {
    fn from(error: store::Error) -> Self {
        Self::Store(error)
    }
}

impl From<PciProblem> for CreateError {
    fn from(problem: PciProblem) -> Self {
        Self::Pci(problem)
    }
}

impl From<PinError> for CreateError {
    fn from(error: PinError) -> Self {
        Self::Processors(error)
    }
}

impl From<LayoutError> for CreateError {
    fn from(error: LayoutError) -> Self {
        Self::Layout(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn shortages_come_with_their_numbers() {
        let shortage = Shortage { needed: 422, free: 398, claimed: 0, held: [(DomainId(7), 64)].into() };
        assert_eq!(
            CreateError::Memory(shortage).to_string(),
            "needs 422 MiB; 398 MiB free; 64 MiB held by domain 7, which is shutting down"
        );
        let shortage = Shortage { needed: 4096, free: 812, claimed: 100, held: Vec::new() };
        assert_eq!(
            shortage.to_string(),
            "needs 4096 MiB; 812 MiB free; 100 MiB claimed by guests being made"
        );
        let error = CreateError::Image { file: "notes.txt".into(), error: ImageError::NotElf };
        assert_eq!(error.to_string(), "notes.txt: the kernel is no ELF file");
        let error = |has_disk| CreateError::NoFile { name: "gest".into(), known: "guest".into(), has_disk };
        assert_eq!(error(false).to_string(), "the boot archive has no file \"gest\"; it has: guest");
        assert_eq!(
            error(true).to_string(),
            "neither the boot archive nor dom0's disk has a file \"gest\"; the archive has: guest"
        );
    }

    #[test]
    fn refusals_say_in_which_step() {
        let error = CreateError::in_step("pin its page tables")(Errno::EINVAL);
        assert_eq!(
            error.to_string(),
            "the hypervisor refused to pin its page tables: EINVAL (an argument makes no sense)"
        );
    }
}
