//! Why a guest cannot be made, or nothing done with it.

use alloc::string::String;
use core::fmt;

use domain_image::{ImageError, LayoutError};
use hypercall_abi::Errno;
use kernel_file::KernelFileError;

use super::disk::Target;
use crate::store;

/// Why a guest cannot be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CreateError {
    /// There is one of this name.
    Exists(String),
    /// The machine is about to be switched off.
    Closing,
    /// The boot archive has no such file.
    NoFile {
        /// The file.
        name: String,
        /// The files that there are.
        known: String,
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
    Memory {
        /// MiB that the guest needs.
        needed: u64,
        /// MiB that are free.
        free: u64,
    },
    /// A part of a disk that the disk does not have.
    NotOnDisk {
        /// The part.
        target: Target,
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
            Self::NoFile { name, known } => {
                write!(formatter, "the boot archive has no file {name:?}; it has: {known}")
            }
            Self::Image { file, error } => write!(formatter, "{file}: {error}"),
            Self::Packed { file, error: error @ KernelFileError::NoMemory { .. } } => {
                write!(formatter, "{file}: {error}; give domain 0 more memory with dom0_mem")
            }
            Self::Packed { file, error } => write!(formatter, "{file}: {error}"),
            Self::Layout(error) => error.fmt(formatter),
            Self::Memory { needed, free } => {
                write!(formatter, "needs {needed} MiB of memory; {free} MiB free")
            }
            Self::NotOnDisk { target, size } => {
                write!(formatter, "{target} is not on the disk: {} has {size} bytes", target.disk)
            }
            Self::DiskInUse { target, guest } => write!(
                formatter,
                "{target} is in use by {guest}; to share it all the same, put ! behind the access, as in {target},xvda,w!"
            ),
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
        assert_eq!(
            CreateError::Memory { needed: 4096, free: 812 }.to_string(),
            "needs 4096 MiB of memory; 812 MiB free"
        );
        let error = CreateError::Image { file: "notes.txt".into(), error: ImageError::NotElf };
        assert_eq!(error.to_string(), "notes.txt: the kernel is no ELF file");
        let error = CreateError::NoFile { name: "gest".into(), known: "guest exec".into() };
        assert_eq!(error.to_string(), "the boot archive has no file \"gest\"; it has: guest exec");
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
