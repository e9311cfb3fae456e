//! Network interfaces: the front half of a vif, as a device that the TCP/IP stack drives.
//!
//! ```text
//!            stack (smoltcp)
//!      transmit │       ▲ receive
//!   buffer, filled      │ slice of the page that the back end wrote
//!               ▼       │
//!    TxQueue ── requests, batched ──▶ back end ── pages, posted in advance ──▶ RxQueue
//! ```
//!
//! Nothing here waits. The owner polls the stack, then [`NetDevice::flush`]es once for the whole batch, then asks
//! with [`NetDevice::may_wait`] whether an event will come.

mod checksum;
mod driver;
mod features;
mod port;
mod rx;
#[cfg(test)]
mod tests;
mod tx;

pub use driver::VifDriver;
pub use features::Features;
pub use port::NetPort;
pub use rx::{Received, RxCounters, RxQueue};
pub use tx::{Offload, TxCounters, TxQueue};

use alloc::vec;
use core::num::NonZeroUsize;

use ring::NotifyPeer;
use smoltcp::phy::{Checksum, Device, DeviceCapabilities, Medium, PacketMeta};
use smoltcp::time::Instant;

use crate::buffer::GrantTable;
use crate::fault::Fault;

/// Bytes of an Ethernet header.
const ETHERNET_HEADER: usize = 14;
/// The largest packet that goes out in one piece, to be cut into segments by the back end.
const LARGEST_UNCUT: usize = 65535;
/// Packets taken in one turn, so that other tasks get theirs.
const MOST_PACKETS_A_TURN: usize = 128;

/// The rings of a connected interface.
pub struct Queues<T: GrantTable> {
    /// Packets out.
    pub tx: TxQueue<T>,
    /// Packets in.
    pub rx: RxQueue<T>,
}

/// A network interface, connected or not.
pub struct NetDevice<T: GrantTable> {
    queues: Option<Queues<T>>,
    features: Features,
    fault: Option<Fault>,
    /// Whether a packet could not be sent for want of room.
    starved: bool,
    /// Packets that may still be taken in this turn.
    budget: usize,
}

impl<T: GrantTable> NetDevice<T> {
    /// An interface that is not connected.
    pub fn new() -> Self {
        Self { queues: None, features: Features::default(), fault: None, starved: false, budget: 0 }
    }

    /// Connects the interface: from now on it has these rings, and the back end has these features.
    pub fn attach(&mut self, queues: Queues<T>, features: Features) {
        (self.queues, self.features) = (Some(queues), features);
        (self.fault, self.starved) = (None, false);
    }

    /// Takes the rings away; what was under way is lost, as packets may be.
    pub fn detach(&mut self) -> Option<Queues<T>> {
        self.queues.take()
    }

    /// What the back end can do.
    pub fn features(&self) -> &Features {
        &self.features
    }

    /// The rings, if the interface is connected.
    pub fn queues(&self) -> Option<&Queues<T>> {
        self.queues.as_ref()
    }

    /// What the back end did wrong since it was connected. After that the interface neither sends nor receives.
    pub fn fault(&self) -> Option<Fault> {
        self.fault
    }

    /// The rings, if the interface is connected and its back end behaves.
    fn working(&mut self) -> Option<&mut Queues<T>> {
        self.queues.as_mut().filter(|_| self.fault.is_none())
    }

    /// Notes a fault instead of passing it on.
    fn note<R>(&mut self, outcome: Result<R, Fault>) -> Option<R> {
        outcome.map_err(|fault| self.fault = Some(fault)).ok()
    }

    /// Whether a packet could not be sent in this turn for want of room.
    pub fn is_starved(&self) -> bool {
        self.starved
    }

    /// Begins a turn: takes back what was sent.
    pub fn begin(&mut self) {
        self.starved = false;
        self.budget = MOST_PACKETS_A_TURN;
        if let Some(queues) = self.working() {
            let outcome = queues.tx.reap();
            self.note(outcome);
        }
    }

    /// Hands over all that was sent and all pages that are free, and says whether the back end waits for it.
    pub fn flush(&mut self) -> NotifyPeer {
        match self.working() {
            Some(queues) => queues.tx.commit() | queues.rx.post(),
            None => NotifyPeer::No,
        }
    }

    /// Whether to wait for an event, which will come when there is something to do. Otherwise there is
    /// something to do already.
    pub fn may_wait(&mut self) -> bool {
        if self.budget == 0 {
            return false;
        }
        let starved = self.starved;
        let Some(queues) = self.working() else { return true };
        let outcome = queues.rx.ask_for_event().and_then(|packets| {
            let room = if starved { queues.tx.ask_for_room()?.may_wait() } else { true };
            Ok(packets.may_wait() && room)
        });
        self.note(outcome).unwrap_or(true)
    }
}

impl<T: GrantTable> Default for NetDevice<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: GrantTable> Device for NetDevice<T> {
    type RxToken<'a>
        = RxToken<'a, T>
    where
        T: 'a;
    type TxToken<'a>
        = TxToken<'a, T>
    where
        T: 'a;

    fn receive(&mut self, _: Instant) -> Option<(RxToken<'_, T>, TxToken<'_, T>)> {
        self.budget = self.budget.checked_sub(1)?;
        let features = self.features;
        if !self.working()?.tx.has_room(features.segmentation) {
            self.starved = true;
            return None;
        }
        let outcome = self.working()?.rx.receive();
        let Some(packet) = self.note(outcome)? else {
            // The ring is empty, so the turn did not end for want of budget.
            self.budget += 1;
            return None;
        };
        let Queues { tx, rx } = self.queues.as_mut()?;
        Some((RxToken { rx, packet }, TxToken::new(tx, features)))
    }

    fn transmit(&mut self, _: Instant) -> Option<TxToken<'_, T>> {
        let features = self.features;
        if !self.working()?.tx.has_room(features.segmentation) {
            self.starved = true;
            return None;
        }
        Some(TxToken::new(&mut self.queues.as_mut()?.tx, features))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = self.features.mtu + ETHERNET_HEADER;
        // What comes in is checked here, as far as nobody has vouched for it. See `RxQueue`.
        capabilities.checksum.tcp = if self.features.blank_checksums { Checksum::None } else { Checksum::Tx };
        capabilities.checksum.udp = Checksum::Tx;
        capabilities.segmentation.tcpv4 =
            NonZeroUsize::new(LARGEST_UNCUT).filter(|_| self.features.segmentation);
        capabilities
    }
}

/// A packet that was received.
pub struct RxToken<'a, T: GrantTable> {
    rx: &'a mut RxQueue<T>,
    packet: Received<T>,
}

impl<T: GrantTable> smoltcp::phy::RxToken for RxToken<'_, T> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        let result = f(self.rx.bytes(&self.packet));
        self.rx.recycle(self.packet);
        result
    }
}

/// Room for a packet to send.
pub struct TxToken<'a, T: GrantTable> {
    tx: &'a mut TxQueue<T>,
    features: Features,
    segment_size: Option<u16>,
}

impl<'a, T: GrantTable> TxToken<'a, T> {
    fn new(tx: &'a mut TxQueue<T>, features: Features) -> Self {
        Self { tx, features, segment_size: None }
    }
}

impl<T: GrantTable> smoltcp::phy::TxToken for TxToken<'_, T> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, f: F) -> R {
        let Some(mut buffer) = self.tx.take_buffer(length) else {
            // More than the interface was said to take, or no memory: the packet is lost.
            return f(&mut vec![0; length]);
        };
        let packet = &mut buffer[..length];
        let result = f(packet);
        let checksum = self.features.blank_checksums && checksum::leave_blank(packet);
        let segment_size = self.segment_size.filter(|_| checksum);
        self.tx.send(buffer, length, Offload { checksum, segment_size });
        result
    }

    fn set_meta(&mut self, meta: PacketMeta) {
        self.segment_size = meta.segmentation_offload_size.map(Into::into);
    }
}
