//! Drivers for the machine's own devices.
//!
//! A driver is written in two parts. The logic (registers, queues, requests) is safe code over small traits
//! and is tested on the host against fake devices; what touches the machine is a few short functions that
//! implement those traits over mapped memory, I/O ports and hypercalls.
//!
//! Devices read and write memory by *machine* addresses. Nothing a device writes is believed: a driver keeps
//! its own record of what it asked for and checks every answer against it.

pub mod pci;
pub mod virtio;
pub mod virtio_blk;
pub mod virtio_net;
