//! A guest that is measured.

use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use core::fmt;
use core::time::Duration;

use hypercall_abi::Errno;

use super::service::Service;
use crate::console::{SessionError, run_command};
use crate::store;
use crate::toolstack::{CreateError, Guest, GuestConfiguration, SettingError, Toolstack};

/// How long a guest may take for one command. Where instructions are counted, the clock may leap while a device is waited
/// for.
const LIMIT: Duration = Duration::from_secs(3600);

/// Why something cannot be measured.
#[derive(Debug)]
pub enum BenchError {
    /// There is no guest of this name.
    NoGuest(String),
    /// A guest's settings make no sense.
    Setting(SettingError),
    /// A guest cannot be made.
    Create(CreateError),
    /// A guest cannot be talked to.
    Session(SessionError),
    /// A guest's command failed; what it printed.
    Failed(String),
    /// No requests or packets have this in their name, or the machine has no device for them.
    NoTraffic(String),
    /// The hypervisor refused something.
    Refused(Errno),
    /// The store did.
    Store(store::Error),
}

impl fmt::Display for BenchError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoGuest(name) => write!(formatter, "there is no guest {name:?}"),
            Self::Setting(error) => write!(formatter, "{error}"),
            Self::Create(error) => write!(formatter, "a guest to measure cannot be made: {error}"),
            Self::Session(error) => write!(formatter, "the measured guest: {error}"),
            Self::Failed(output) => write!(formatter, "the measured guest failed: {}", output.trim()),
            Self::NoTraffic(name) => {
                write!(
                    formatter,
                    "nothing is called {name:?}, or there is no device for it: see `bench micro`"
                )
            }
            Self::Refused(errno) => write!(formatter, "the hypervisor refused: {errno}"),
            Self::Store(error) => write!(formatter, "the store: {error}"),
        }
    }
}

impl core::error::Error for BenchError {}

impl From<SettingError> for BenchError {
    fn from(error: SettingError) -> Self {
        Self::Setting(error)
    }
}

impl From<CreateError> for BenchError {
    fn from(error: CreateError) -> Self {
        Self::Create(error)
    }
}

impl From<SessionError> for BenchError {
    fn from(error: SessionError) -> Self {
        Self::Session(error)
    }
}

impl From<Errno> for BenchError {
    fn from(errno: Errno) -> Self {
        Self::Refused(errno)
    }
}

impl From<store::Error> for BenchError {
    fn from(error: store::Error) -> Self {
        Self::Store(error)
    }
}

/// How a line begins that says what a guest has compared.
const CHECKED: &str = "checked ";

/// A guest that is measured. One that was made for it is to be [ended](Self::end).
pub struct Subject {
    toolstack: Rc<Toolstack>,
    guest: Rc<Guest>,
}

impl Subject {
    /// Makes a guest, with these settings as `create` takes them.
    ///
    /// # Errors
    ///
    /// Why it cannot be made.
    pub async fn make(toolstack: &Rc<Toolstack>, name: &str, settings: &[&str]) -> Result<Self, BenchError> {
        let configuration = GuestConfiguration::parse(name, settings.iter().copied())?;
        let guest = toolstack.create(&configuration).await?;
        Ok(Self::existing(toolstack, guest))
    }

    /// A guest that is there anyway.
    pub fn existing(toolstack: &Rc<Toolstack>, guest: Rc<Guest>) -> Self {
        Self { toolstack: Rc::clone(toolstack), guest }
    }

    /// The guest.
    pub fn guest(&self) -> &Guest {
        &self.guest
    }

    /// Offers the guest to send it events and to count for it, until the service is dropped.
    ///
    /// # Errors
    ///
    /// What hypervisor or store say.
    pub fn offer(&self) -> Result<Service, BenchError> {
        Service::start(self.toolstack.service(), self.guest.domain)
    }

    /// Has the guest's shell run a command; passes on what it prints.
    ///
    /// # Errors
    ///
    /// If it fails, or does not end.
    pub async fn run(&self, command: &str, mut output: impl FnMut(&str)) -> Result<(), BenchError> {
        let console = self.toolstack.consoles().of(self.guest.domain).ok_or(SessionError::Ended)?;
        let mut errors = String::new();
        let status = run_command(&console, command, LIMIT, |line| match line.starts_with("error: ") {
            true => errors.push_str(line),
            false => output(line),
        })
        .await?;
        match status {
            0 => Ok(()),
            _ => Err(BenchError::Failed(format!("{command}: {errors}"))),
        }
    }

    /// Has the guest's shell run a command, and prints what it says that it has compared.
    ///
    /// # Errors
    ///
    /// As for [`run`](Self::run).
    pub async fn run_checked(&self, command: &str) -> Result<(), BenchError> {
        let print = |line: &str| {
            if line.starts_with(CHECKED) {
                pv_runtime::print!("{line}");
            }
        };
        self.run(command, print).await
    }

    /// Takes the guest apart.
    pub async fn end(self) {
        self.toolstack.end(&self.guest).await;
    }
}
