//! What a stack sends and receives by.

use core::task::{Context, Poll};

use smoltcp::iface::{Config, Interface, SocketSet};
use smoltcp::phy::{Device, RxToken as _, TxToken as _};
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

/// A network interface, for a stack or for somebody who sends and takes frames as they are.
///
/// Either begins a turn with [`poll`](Self::poll), [`put_frames`](Self::put_frames) or
/// [`take_frames`](Self::take_frames), ends it with [`hand_over`](Self::hand_over), and before waiting
/// [asks for an event](Self::ask_for_event).
pub trait Port {
    /// Its Ethernet address.
    fn address(&self) -> EthernetAddress;

    /// How often it was connected. A new connection may have other abilities.
    fn connections(&self) -> u32;

    /// Whether it is connected.
    fn is_connected(&self) -> bool;

    /// Makes smoltcp's half of the interface for what is connected now.
    fn make_interface(&self, config: Config, now: Instant) -> Interface;

    /// Takes all packets that came, and lets all sockets send.
    fn poll(&self, interface: &mut Interface, sockets: &mut SocketSet<'static>, now: Instant);

    /// Has `count` frames of `length` bytes filled, which are told their numbers. Says for how many there was room.
    fn put_frames(&self, length: usize, count: u32, fill: &mut dyn FnMut(u32, &mut [u8])) -> u32;

    /// Shows all frames that came.
    fn take_frames(&self, take: &mut dyn FnMut(&[u8]));

    /// Hands over at once what is to be sent, and room for what comes.
    fn hand_over(&self);

    /// Asks for an event.
    fn ask_for_event(&self) -> Turn;

    /// Waits for an event, or for a change of connection.
    fn poll_event(&self, context: &mut Context<'_>) -> Poll<()>;
}

/// [`Port::put_frames`] for a device of smoltcp's.
pub fn put_frames(
    device: &mut impl Device,
    length: usize,
    count: u32,
    fill: &mut dyn FnMut(u32, &mut [u8]),
) -> u32 {
    for number in 0..count {
        let Some(token) = device.transmit(Instant::ZERO) else { return number };
        token.consume(length, |frame| fill(number, frame));
    }
    count
}

/// [`Port::take_frames`] for a device of smoltcp's.
pub fn take_frames(device: &mut impl Device, take: &mut dyn FnMut(&[u8])) {
    while let Some((token, _)) = device.receive(Instant::ZERO) {
        token.consume(&mut *take);
    }
}
