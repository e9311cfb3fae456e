//! What can be changed about a guest that is there: its name, its memory, its share of the processors.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;
use core::fmt;

use hypercall_abi::{DomainId, Errno};
use pv_runtime::xenbus::domain_path;

use super::configuration::GuestConfiguration;
use super::guest::Guest;
use super::{Toolstack, control, nodes, processors};
use crate::store;

/// Pages in a KiB, the other way round.
const KIBIBYTES_PER_PAGE: u64 = hypercall_abi::PAGE_SIZE as u64 / 1024;

/// Why something about a guest cannot be changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdjustError {
    /// It is no name, in words.
    Name(String),
    /// Another domain is called so.
    NameInUse(String),
    /// More memory than the guest may have.
    TooMuchMemory {
        /// KiB that were asked for.
        wanted: u64,
        /// KiB that it may have.
        most: u64,
    },
    /// Less memory than the guest has by now.
    TooLittleMemory {
        /// KiB that were asked for.
        wanted: u64,
        /// KiB that it has.
        has: u64,
    },
    /// More virtual CPUs than the guest may have.
    TooManyVcpus {
        /// How many were asked for.
        wanted: u32,
        /// How many it may have.
        most: u32,
    },
    /// The hypervisor has no shares of processors.
    NoShares,
    /// The hypervisor refused.
    Refused(Errno),
    /// The store did.
    Store(store::Error),
}

impl AdjustError {
    /// Of what kind it is, in a word that does not change.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Name(_) => "name",
            Self::NameInUse(_) => "name-in-use",
            Self::TooMuchMemory { .. } | Self::TooLittleMemory { .. } => "memory",
            Self::TooManyVcpus { .. } => "no-vcpu",
            Self::NoShares => "not-there",
            Self::Refused(_) => "hypervisor",
            Self::Store(_) => "store",
        }
    }
}

impl fmt::Display for AdjustError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(message) => formatter.write_str(message),
            Self::NameInUse(name) => write!(formatter, "there is a guest called {name} already"),
            Self::TooMuchMemory { wanted, most } => {
                write!(
                    formatter,
                    "{wanted} KiB are more than the {most} KiB that the guest may have; see `mem-max`"
                )
            }
            Self::TooLittleMemory { wanted, has } => {
                write!(
                    formatter,
                    "{wanted} KiB are less than the {has} KiB that the guest has; see `mem-set`"
                )
            }
            Self::TooManyVcpus { wanted, most } => {
                write!(
                    formatter,
                    "{wanted} virtual CPUs are more than the {most} that the guest was made with; see `maxvcpus`"
                )
            }
            Self::NoShares => formatter.write_str("the hypervisor's scheduler has no shares"),
            Self::Refused(errno) => write!(formatter, "the hypervisor refused: {errno}"),
            Self::Store(error) => write!(formatter, "the store: {error}"),
        }
    }
}

impl core::error::Error for AdjustError {}

impl From<Errno> for AdjustError {
    fn from(errno: Errno) -> Self {
        if errno == Errno::ENOSYS { Self::NoShares } else { Self::Refused(errno) }
    }
}

impl From<store::Error> for AdjustError {
    fn from(error: store::Error) -> Self {
        Self::Store(error)
    }
}

impl Toolstack {
    /// Calls a guest otherwise.
    ///
    /// # Errors
    ///
    /// If it is no name, or another domain's; what the store says.
    pub fn rename(&self, guest: &Guest, name: &str) -> Result<(), AdjustError> {
        GuestConfiguration::new(name).map_err(|error| AdjustError::Name(format!("{error}")))?;
        // Held while it is written, so that no guest of this name comes to be meanwhile.
        let _name = self.reserve(name).map_err(|_| AdjustError::NameInUse(name.to_owned()))?;
        self.service.with(|server| {
            server.write(&format!("{}/name", domain_path(guest.domain)), name)?;
            server.write(&format!("/vm/{}/name", guest.handle), name)
        })?;
        if let Some(console) = self.consoles.of(guest.domain) {
            console.rename(name);
        }
        *guest.name.borrow_mut() = name.to_owned();
        Ok(())
    }

    /// Asks a guest to change its memory. Whether and when it does is its own affair.
    ///
    /// # Errors
    ///
    /// If that is more than it may have; what hypervisor or store say.
    pub fn request_memory(&self, guest: &Guest, kibibytes: u64) -> Result<(), AdjustError> {
        let most = control::domain_info(guest.domain)?.max_pages.saturating_mul(KIBIBYTES_PER_PAGE);
        if kibibytes > most {
            return Err(AdjustError::TooMuchMemory { wanted: kibibytes, most });
        }
        self.write_memory(guest.domain, "target", kibibytes)
    }

    /// Limits the memory to which a guest may grow.
    ///
    /// # Errors
    ///
    /// If that is less than it has; what hypervisor or store say.
    pub fn limit_memory(&self, guest: &Guest, kibibytes: u64) -> Result<(), AdjustError> {
        let has = control::domain_info(guest.domain)?.tot_pages.saturating_mul(KIBIBYTES_PER_PAGE);
        if kibibytes < has {
            return Err(AdjustError::TooLittleMemory { wanted: kibibytes, has });
        }
        control::limit_memory(guest.domain, kibibytes)?;
        self.write_memory(guest.domain, "static-max", kibibytes)
    }

    fn write_memory(&self, domain: DomainId, key: &str, kibibytes: u64) -> Result<(), AdjustError> {
        let path = format!("{}/memory/{key}", domain_path(domain));
        Ok(self.service.with(|server| server.write(&path, format!("{kibibytes}")))?)
    }

    /// Plugs in as many of a guest's virtual CPUs, and unplugs the others. Whether and when its kernel brings them up or
    /// down is its own affair.
    ///
    /// # Errors
    ///
    /// If that is more than it was made with; what hypervisor or store say.
    pub fn plug_vcpus(&self, guest: &Guest, count: u32) -> Result<(), AdjustError> {
        let most = processors::vcpu_numbers(&control::domain_info(guest.domain)?).end;
        if count > most {
            return Err(AdjustError::TooManyVcpus { wanted: count, most });
        }
        let plug = |nodes: &mut store::Nodes<'_>| nodes::plug_vcpus(nodes, guest.domain, count, most);
        Ok(self.service.with(|server| server.transaction(plug))?)
    }

    /// Sends a guest's kernel a magic system request.
    ///
    /// # Errors
    ///
    /// What the store says.
    pub fn send_system_request(&self, guest: &Guest, letter: char) -> Result<(), AdjustError> {
        let path = format!("{}/control/sysrq", domain_path(guest.domain));
        Ok(self.service.with(|server| server.write(&path, format!("{letter}")))?)
    }
}
