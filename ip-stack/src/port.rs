//! What a stack sends and receives by.

use core::task::{Context, Poll};

use smoltcp::iface::{Config, Interface, SocketSet};
use smoltcp::time::Instant;
use smoltcp::wire::EthernetAddress;

/// What a turn of the stack left behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    /// Whether there will be an event when there is something to do; otherwise there is already.
    pub may_wait: bool,
    /// Whether something could not be sent for want of room.
    pub is_starved: bool,
}

/// A network interface.
pub trait Port {
    /// Its Ethernet address.
    fn address(&self) -> EthernetAddress;

    /// How often it was connected. A new connection may have other abilities.
    fn connections(&self) -> u32;

    /// Whether it is connected.
    fn is_connected(&self) -> bool;

    /// Makes smoltcp's half of the interface for what is connected now.
    fn make_interface(&self, config: Config, now: Instant) -> Interface;

    /// Takes all packets that came, lets all sockets send, and hands everything over at once.
    fn turn(&self, interface: &mut Interface, sockets: &mut SocketSet<'static>, now: Instant) -> Turn;

    /// Waits for an event, or for a change of connection.
    fn poll_event(&self, context: &mut Context<'_>) -> Poll<()>;
}
