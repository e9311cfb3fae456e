//! Network interfaces as their users see them: frames go out of buffers and come into buffers, and what a device does to
//! a frame by itself, checksums and segmentation, stands beside it.
//!
//! A user keeps the buffers and lends them; the interface is asked how much room there is before anything is handed over.

pub mod buffers;
pub mod ethernet;
#[cfg(any(test, feature = "fake"))]
pub mod frames;
pub mod headers;
pub mod interface;
pub mod offload;

pub use buffers::{BufferId, Buffers, FRAME_START, Piece};
pub use ethernet::MacAddress;
pub use headers::{Headers, IpVersion};
pub use interface::{Interface, Outgoing, Received};
pub use offload::{Capabilities, Checksum, Offload, Segmentation};
