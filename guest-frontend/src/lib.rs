#![cfg_attr(target_os = "none", no_std)]
//! The front-end kernel: a guest whose network and disks belong to another domain.
//!
//! It runs on Xen's interface, on Weir and on Xen alike. A *front end* is the guest's half of a device; the
//! *back end*, in another domain, is not trusted: it can withhold what it should deliver and deliver rubbish, but
//! it can neither reach memory that it was not granted nor stop anything but the device it serves.
//!
//! ```text
//!   apps        a command shell, and workloads that print what a test can compare
//!   net, block  front halves of vif and vbd: pure queues over `ring`, and drivers that connect them
//!   bench       what things cost, in ticks
//!   pci         devices that were given to this domain
//!   lifecycle   how a front end comes, goes and comes back
//!   buffer      pages that are private or shared, never both
//! ```
//!
//! The queues and the commands know nothing of hypercalls and are tested on a host, against back halves that
//! behave and back halves that do not.

extern crate alloc;

pub mod apps;
pub mod bench;
pub mod block;
pub mod buffer;
pub mod command_line;
pub mod fault;
pub mod lifecycle;
pub mod net;
pub mod pci;
#[cfg(test)]
mod testing;
