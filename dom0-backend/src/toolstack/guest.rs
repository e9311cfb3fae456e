//! A guest as the toolstack knows it.

use core::cell::Cell;
use core::time::Duration;

use hypercall_abi::DomainId;

use super::configuration::GuestConfiguration;
use super::handle::Handle;

/// How far a guest's life has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// It is there; it may be paused.
    Alive,
    /// It ended by itself, and will be taken apart.
    Ended,
    /// It ended by itself and is left to be looked at.
    Preserved,
    /// It is being taken apart.
    Ending,
}

/// A guest.
#[derive(Debug)]
pub struct Guest {
    /// Its number.
    pub domain: DomainId,
    /// Its handle.
    pub handle: Handle,
    /// What it is to be like.
    pub configuration: GuestConfiguration,
    /// When it was made.
    pub made_at: Duration,
    /// How far its life has come.
    pub stage: Cell<Stage>,
    /// Whether an administrator paused it.
    pub is_paused: Cell<bool>,
}

impl Guest {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.configuration.name
    }
}
