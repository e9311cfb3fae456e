//! The store: a small tree of names and values through which domains find each other.
//!
//! Toolstack, front ends and back ends write here where their rings and event channels are, and watch what
//! the others write. Guests speak Xen's wire protocol through a ring in a shared page; parts of dom0 call
//! functions. This module is all logic and no I/O: bytes come in through [`Server::receive`] and leave
//! through [`Server::output`], and what takes a hypercall is handed out as an [`Action`].
//!
//! ```text
//!   bytes ──▶ connection ──▶ wire ──▶ server ──▶ operation ──▶ database ──▶ tree
//!             (messages)   (requests)    │       (rights,         │          (nodes,
//!                                        │        quotas)         │           snapshots)
//!   bytes ◀── connection ◀───────────────┴──────── watch ◀── notices
//! ```
//!
//! The idea to hold on to: the tree is a *persistent* data structure. A snapshot costs nothing, so a
//! transaction is a snapshot plus the list of what it looked at, and its end checks that nothing it looked at
//! has changed since. Everything else is book-keeping, and the books can be audited at any time.
//!
//! A guest can do harm only to itself: what it sends is parsed from a copy, what it holds is counted and
//! limited, and what it does not fetch is bounded.

mod clients;
mod connection;
mod control;
mod database;
mod directory;
mod error;
mod holdings;
mod introduction;
mod local;
mod notice;
mod operation;
mod path;
mod permission;
mod quota;
mod seedling;
mod server;
mod transaction;
mod tree;
mod watch;
mod wire;

#[cfg(test)]
mod tests;

pub use connection::{ConnectionId, Peer};
pub use control::{Account, Imbalance};
pub use error::Error;
pub use local::{Nodes, WatchEvent};
pub use path::{Path, PathError, Special};
pub use permission::{Caller, Grant, Permissions, Rights};
pub use quota::{Excess, Limits, Quota, Usage};
pub use seedling::Seedling;
pub use server::{Action, ConnectionError, Server};
pub use tree::{INTRODUCE_DOMAIN, RELEASE_DOMAIN};
pub use wire::{
    FramingError, HEADER_LENGTH, Malformed, Management, Message, NodeOperation, Operation, Request, encode,
    parse_header,
};
