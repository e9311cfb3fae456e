//! A network card of the machine's as the port of a TCP/IP stack.
//!
//! Frames are copied between the stack and the card's buffers, one buffer each: what an administrator moves is little.

use alloc::vec;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::task::{Context, Poll};

use ip_stack::{Port, Turn};
use pv_runtime::executor::Notify;
use pv_runtime::memory::SharedMemory;
use smoltcp::iface::{Config, Interface as IpInterface, SocketSet};
use smoltcp::phy::{self, DeviceCapabilities, Medium};
use smoltcp::time::Instant;
use smoltcp::wire::EthernetAddress;

use crate::net::{BufferId, Buffers, FRAME_START, Interface, Outgoing, Piece, Received};

/// Buffers in all; half of them are for what comes in.
const BUFFERS: usize = 128;
/// The longest frame that is sent.
const LONGEST: usize = 1514;
/// Frames that are taken in one turn.
const BATCH: usize = 64;

/// The card with its buffers.
struct Device<I> {
    interface: I,
    buffers: Buffers,
    /// Buffers that the card receives into.
    offered: usize,
    /// Frames that may still be taken in this turn.
    budget: usize,
    is_starved: bool,
}

/// A network card.
pub struct Card<I> {
    device: RefCell<Device<I>>,
    address: EthernetAddress,
    event: Notify,
}

impl<I: Interface> Card<I> {
    /// A card that works, and does no checksums and no segmentation for us.
    pub fn new(interface: I) -> Self {
        let address = EthernetAddress(interface.address().bytes());
        let buffers = Buffers::new(BUFFERS);
        let device = Device { interface, buffers, offered: 0, budget: 0, is_starved: false };
        Self { device: RefCell::new(device), address, event: Notify::new() }
    }

    /// Has the card looked after, as after an interrupt.
    pub fn ring(&self) {
        self.event.ring();
    }
}

impl<I: Interface> Port for Card<I> {
    fn address(&self) -> EthernetAddress {
        self.address
    }

    fn connections(&self) -> u32 {
        1
    }

    fn is_connected(&self) -> bool {
        true
    }

    fn make_interface(&self, config: Config, now: Instant) -> IpInterface {
        IpInterface::new(config, &mut *self.device.borrow_mut(), now)
    }

    fn turn(&self, interface: &mut IpInterface, sockets: &mut SocketSet<'static>, now: Instant) -> Turn {
        let device = &mut *self.device.borrow_mut();
        device.begin();
        interface.poll(now, device, sockets);
        device.offer();
        device.interface.kick();
        let is_starved = device.is_starved;
        let may_wait = device.budget > 0 && !device.interface.ask_for_interrupts(1, is_starved);
        Turn { may_wait, is_starved }
    }

    fn poll_event(&self, context: &mut Context<'_>) -> Poll<()> {
        self.event.poll_wait(context)
    }
}

impl<I: Interface> Device<I> {
    /// Begins a turn: takes back what was sent.
    fn begin(&mut self) {
        self.budget = BATCH;
        self.is_starved = false;
        while let Some(token) = self.interface.take_sent() {
            self.buffers.put(BufferId::from_number(token.into()));
        }
        self.offer();
    }

    /// Lets the card receive into as many buffers as are for that.
    fn offer(&mut self) {
        while self.offered < BUFFERS / 2 && self.interface.receive_room() > 0 {
            let Some(buffer) = self.buffers.take() else { return };
            self.interface.offer(&self.buffers, buffer);
            self.offered += 1;
        }
    }

    /// The next frame that came in; frames that make no sense are passed over.
    fn next_frame(&mut self) -> Option<Vec<u8>> {
        while self.budget > 0 {
            let mut pieces = Vec::new();
            let received = self.interface.take_received(&self.buffers, &mut pieces);
            if received == Received::Nothing {
                return None;
            }
            self.budget -= 1;
            let frame = pieces.iter().flat_map(|piece| self.bytes(piece)).collect();
            self.offered = self.offered.saturating_sub(pieces.len());
            self.buffers.put_pieces(&mut pieces);
            if matches!(received, Received::Frame(_)) {
                return Some(frame);
            }
        }
        None
    }

    fn bytes(&self, piece: &Piece) -> Vec<u8> {
        let mut bytes = vec![0; piece.length.into()];
        self.buffers.page(piece.buffer).copy_out(piece.offset.into(), &mut bytes);
        bytes
    }

    /// Whether a frame can be sent.
    fn has_room(&mut self) -> bool {
        let has_room = self.interface.send_room() > 0 && self.buffers.available() > 0;
        self.is_starved |= !has_room;
        has_room
    }

    fn send(&mut self, frame: &[u8]) {
        // Without memory for another buffer the frame is lost, as on any network.
        let Some(buffer) = self.buffers.take() else { return };
        self.buffers.page(buffer).copy_in(FRAME_START.into(), frame);
        let piece = Piece { buffer, offset: FRAME_START, length: frame.len() as u16 };
        let outgoing = Outgoing { pieces: &[piece], blank_checksum: None, segmentation: None };
        self.interface.send(&self.buffers, &outgoing, buffer.number() as u16);
    }
}

impl<I: Interface> phy::Device for Device<I> {
    type RxToken<'a>
        = RxToken
    where
        I: 'a;
    type TxToken<'a>
        = TxToken<'a, I>
    where
        I: 'a;

    fn receive(&mut self, _: Instant) -> Option<(RxToken, TxToken<'_, I>)> {
        // What came in may have to be answered.
        if !self.has_room() {
            return None;
        }
        let frame = self.next_frame()?;
        Some((RxToken(frame), TxToken(self)))
    }

    fn transmit(&mut self, _: Instant) -> Option<TxToken<'_, I>> {
        self.has_room().then_some(TxToken(self))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = LONGEST;
        capabilities
    }
}

/// A frame that came in.
struct RxToken(Vec<u8>);

impl phy::RxToken for RxToken {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

/// Room for a frame to send.
struct TxToken<'a, I: Interface>(&'a mut Device<I>);

impl<I: Interface> phy::TxToken for TxToken<'_, I> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, f: F) -> R {
        let mut frame = vec![0; length];
        let result = f(&mut frame);
        self.0.send(&frame[..length.min(LONGEST)]);
        result
    }
}
