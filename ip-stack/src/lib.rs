#![cfg_attr(target_os = "none", no_std)]
//! TCP/IP over a network interface: smoltcp, and one task that turns it.
//!
//! All sockets and the interface belong to one cell. A task that uses a socket does so between two awaits and
//! then pokes the stack's own task, which takes one turn for everything that came together: packets in, packets
//! out, one notification. A task that waits for a socket leaves its waker there.
//!
//! What is below is a [`Port`]: a guest's network device, or a card of the machine's.

extern crate alloc;

mod address;
mod card;
mod port;
mod stack;
mod tcp;

pub use address::{AddressPlan, BadAddress};
pub use card::Card;
pub use port::{Port, Turn, put_frames, take_frames};
pub use stack::Stack;
pub use tcp::{Buffers, ConnectionError, TcpStream};
