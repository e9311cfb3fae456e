//! A bus as drivers need it, however this domain gets at it.

use alloc::vec::Vec;

use hypercall_abi::Errno;

use super::capability::Msix;
use super::config_space::{Address, ConfigSpace};
use super::interrupt::Interrupt;

/// Configuration space, and interrupts of what is plugged in there.
pub trait Bus: ConfigSpace {
    /// Gives a function's first `count` table entries, or as many as there are, an interrupt each, and switches
    /// the function over to them.
    ///
    /// # Errors
    ///
    /// What the hypervisor answers.
    fn bind_interrupts(&self, function: Address, msix: &Msix, count: u16) -> Result<Vec<Interrupt>, Errno>;
}
