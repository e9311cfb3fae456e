//! What all virtio devices have in common (virtio 1.x, "modern", over PCI).
//!
//! ```text
//!   layout      capabilities in configuration space say where the registers are
//!   transport   reset, features, queues, doorbells: the registers
//!   queue       the split virtqueue: how requests go out and completions come back
//!   mapped      a transport over real registers
//! ```
//!
//! A device is on the other side of a fence much like a guest is: what it writes is read once and checked
//! against our own record. A device that breaks the rules is given up ([`DeviceFault`]), with everything that
//! was in flight failing, and nothing worse.

mod error;
#[cfg(any(test, feature = "fake"))]
pub mod fake;
mod layout;
#[cfg(target_os = "none")]
mod mapped;
mod queue;
mod transport;

#[cfg(target_os = "none")]
pub use crate::registers::MappedRegisters;
pub use crate::registers::Registers;
pub use crate::setup_error::SetupError;
pub use error::DeviceFault;
pub use layout::{DeviceKind, Layout, Region};
#[cfg(target_os = "none")]
pub use mapped::{connect, reset};
pub use queue::{
    Buffer, DESCRIPTOR_WORDS, NotifyDevice, QUEUE_SIZE_MAX, QueueFull, Used, Virtqueue, write_in_table,
};
pub use transport::{Doorbell, NO_VECTOR, QueueAddresses, Transport, feature};
