#![no_std]
#![forbid(unsafe_code)]
//! Xen's rings: how two domains that need not trust each other talk through shared memory.
//!
//! # The ring of requests and responses
//!
//! Block and network devices use it. The front end writes requests, the back end writes responses, and a
//! response takes the slot of a request that was read before:
//!
//! ```text
//!          response taken      response published       request taken      request published
//!          by the front        by the back              by the back        by the front
//!                │                  │                        │                  │
//!   ─────────────▼──────────────────▼────────────────────────▼──────────────────▼──────────────▶ index
//!        free    │    responses     │   being worked on      │     requests     │     free
//!                │    to be taken   │   by the back          │     to be taken  │
//!                └─────────────── never more than the ring has slots ───────────┘
//! ```
//!
//! Only the two *published* indexes are in shared memory, one written by each side. Each half keeps all its
//! own indexes to itself and takes from its peer one number, which it checks: anything that no honest peer
//! could have written is [`Corrupt`], a different thing from "nothing there".
//!
//! A message is copied out exactly once, and what is not copied out is not looked at: it is the private copy
//! that is to be checked and used. Reading a slot again, when it may have changed, is not offered.
//!
//! # Waking the peer
//!
//! An event costs a hypercall and perhaps a switch of domains, so each side says in an *event index* from
//! which message on it wants one. Two answers must not be dropped, and the compiler complains if they are:
//! [`NotifyPeer`] after publishing and [`FinalCheck`] before waiting.
//!
//! ```text
//!    publisher                          waiter
//!    write messages                     take all messages
//!    write producer index               write event index
//!    ── full fence ──                   ── full fence ──
//!    read event index: notify?          read producer index: wait, or go on?
//! ```
//!
//! Because of the two fences at least one of the two sees what the other wrote, so no wake-up is lost.
//!
//! ```
//! # use std::sync::{Arc, atomic::AtomicU32};
//! use hypercall_abi::io::netif::{NETIF_RSP_OKAY, NetifTxRequest, NetifTxResponse};
//! use ring::{BackRing, FinalCheck, FrontRing, NetifTx};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let page: Arc<[AtomicU32]> = (0..1024).map(|_| AtomicU32::new(0)).collect();
//! let mut front = FrontRing::<NetifTx, _>::new(page.clone())?;
//! let mut back = BackRing::<NetifTx, _>::attach(page)?;
//!
//! front.push_request(&NetifTxRequest { id: 7, size: 60, ..Default::default() })?;
//! assert!(front.commit_requests().needed());
//!
//! while let Some(request) = back.take_request()? {
//!     back.push_response(&NetifTxResponse { id: request.id, status: NETIF_RSP_OKAY })?;
//! }
//! assert!(back.commit_responses().needed());
//! assert_eq!(back.final_check_for_requests()?, FinalCheck::MayWait);
//!
//! assert_eq!(front.take_response()?.map(|response| response.id), Some(7));
//! # Ok(())
//! # }
//! ```
//!
//! # The rings of bytes
//!
//! The console and the store use [`ByteRing`]: a stream of bytes each way, the same checks, and an event
//! after every step.
//!
//! # Memory
//!
//! The rings are safe code over [`RingMemory`], which every `AsRef<[AtomicU32]>` is.

#[cfg(test)]
extern crate std;

mod back;
mod byte_ring;
mod console;
mod error;
mod front;
mod memory;
mod outcome;
mod protocol;
mod slots;
mod store;
#[cfg(test)]
mod tests;

pub use back::BackRing;
pub use byte_ring::{ByteRing, StreamEnd, StreamLayout, Transfer};
pub use console::{BackEnd, ConsoleBack, ConsoleFront, FrontEnd};
pub use error::{AreaTooSmall, AttachError, Corrupt, Full, NothingToAnswer, PeerIndex};
pub use front::FrontRing;
pub use memory::{PageList, RingMemory, WORD_SIZE, WORDS_PER_PAGE};
pub use outcome::{FinalCheck, NotifyPeer};
pub use protocol::{Blkif, Message, NetifRx, NetifTx, Protocol};
pub use store::{Client, Server, StoreClient, StoreServer};
