//! The PCI bus: what is plugged in, where its registers are, and how its interrupts reach us.
//!
//! The hypervisor drives no device. It lets this domain at the configuration registers, and keeps for itself
//! only the tables that direct interrupts.

mod base_address;
#[cfg(target_os = "none")]
mod bus;
mod capability;
mod config_space;
#[cfg(any(test, feature = "fake"))]
pub mod fake;
#[cfg(target_os = "none")]
mod interrupt;
#[cfg(target_os = "none")]
mod ports;
#[cfg(target_os = "none")]
mod reset;
mod scan;

pub use base_address::{BASE_ADDRESS_COUNT, MemoryRange, memory_range, port_range};
#[cfg(target_os = "none")]
pub use bus::Bus;
pub use capability::{CAPABILITY_MSI, CAPABILITY_MSIX, CAPABILITY_VENDOR, Capability, Msix, capabilities};
pub use config_space::{
    Address, BASE_ADDRESS, COMMAND, COMMAND_BUS_MASTER, COMMAND_IO, COMMAND_MEMORY,
    COMMAND_NO_INTERRUPT_LINE, ConfigSpace, HEADER_TYPE, NoAddress, change_command,
};
#[cfg(target_os = "none")]
pub use interrupt::{Interrupt, report};
#[cfg(target_os = "none")]
pub use ports::ConfigPorts;
#[cfg(target_os = "none")]
pub use reset::Reset;
pub use scan::{Function, scan};
