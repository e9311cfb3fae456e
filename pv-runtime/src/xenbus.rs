//! The store, as its clients see it: a tree of small values by which domains find each other.
//!
//! Requests and replies are packets; replies carry the number of their request, so many tasks can have
//! requests under way at once. Changes come as events of watches. A [`Transport`] carries the packets: the
//! ring of a guest ([`RingTransport`]), or something within the domain that runs the store.
//!
//! ```text
//!  task ── read() ──► Client ── Packet ──► Transport ══ ring, or within the domain ══► store
//!  task ◄─ reply ──── dispatcher task ◄─── Transport ◄═══════════════════════════════
//!  task ◄─ Watch::next()  ◄──┘
//! ```

mod client;
mod device;
mod error;
mod packet;
mod permission;
mod store;
#[cfg(test)]
mod tests;
mod transport;
mod watch;

pub use device::{
    Device, backend_path, domain_path, frontend_path, read_state, switch_state, wait_for_state,
};
pub use error::StoreError;
pub use packet::Packet;
pub use permission::{Access, Permission};
pub use store::{Store, StoreView, Transaction};
pub use transport::{Disconnected, Doorbell, RingTransport, Transport};
pub use watch::Watch;

pub use hypercall_abi::io::xenbus::XenbusState;
