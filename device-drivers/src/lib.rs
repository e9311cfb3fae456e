#![cfg_attr(target_os = "none", no_std)]
//! Drivers for devices that a domain owns: all of the machine's in dom0, those that were given to it in a guest, and all
//! of them in a kernel without a hypervisor. It is the same code everywhere.
//!
//! A driver is written in two parts. The logic (registers, queues, requests) is safe code over small traits
//! and is tested on the host against fake devices; what touches the machine is a few short functions that
//! implement those traits over mapped memory, I/O ports and hypercalls.
//!
//! Devices read and write memory by *machine* addresses. Nothing a device writes is believed: a driver keeps
//! its own record of what it asked for and checks every answer against it.

extern crate alloc;

pub mod disk;
pub mod net;
pub mod nvme;
pub mod pci;
pub mod registers;
mod setup_error;
#[cfg(target_os = "none")]
pub mod start;
pub mod virtio;
pub mod virtio_blk;
pub mod virtio_net;

pub use setup_error::SetupError;
