//! TCP/IP over a network interface: smoltcp, and one task that turns it.
//!
//! All sockets and the interface belong to one cell. A task that uses a socket does so between two awaits and
//! then pokes the stack's own task, which takes one turn for everything that came together: packets in, packets
//! out, one notification. A task that waits for a socket leaves its waker there.

mod address;
mod interface;
mod tcp;

pub use address::{AddressPlan, BadAddress};
pub use interface::Stack;
pub use tcp::{Buffers, ConnectionError, TcpStream};
