//! How packets get to the store and back.

use alloc::collections::VecDeque;
use core::cell::RefCell;
use core::task::{Context, Poll};

use hypercall_abi::{Errno, MachineFrame, Port};
use ring::{AttachError, RingMemory, StoreClient};

use super::packet::{Packet, PacketReader};
use crate::event_channel::EventChannel;
use crate::memory::BuilderPage;

/// There is no connection to the store any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disconnected;

/// A connection to the store.
pub trait Transport {
    /// Sends a packet. Packets arrive whole and in order; this does not wait.
    fn send(&self, packet: Packet);

    /// Takes a packet that has arrived, or registers to be woken when one has. One task does this.
    ///
    /// # Errors
    ///
    /// [`Disconnected`] once there will be no more packets.
    fn poll_receive(&self, context: &mut Context<'_>) -> Poll<Result<Packet, Disconnected>>;
}

/// A way to tell the other end of a ring that something changed, and to be told so.
pub trait Doorbell {
    /// Tells the other end.
    fn ring(&self);

    /// Takes a ring of the other end, or registers to be woken by it.
    fn poll_wait(&self, context: &mut Context<'_>) -> Poll<()>;
}

impl Doorbell for EventChannel {
    fn ring(&self) {
        if let Err(errno) = self.notify() {
            log::warn!("event channel {} has no other end: {errno}", self.port());
        }
    }

    fn poll_wait(&self, context: &mut Context<'_>) -> Poll<()> {
        self.poll_wait(context)
    }
}

/// The connection of a domain that does not run the store itself: a ring in a page, and an event channel.
#[derive(Debug)]
pub struct RingTransport<M = BuilderPage, D = EventChannel> {
    state: RefCell<State<M>>,
    doorbell: D,
}

/// The ring, what does not fit into it yet, and the packet that is coming in.
#[derive(Debug)]
struct State<M> {
    ring: StoreClient<M>,
    outgoing: VecDeque<u8>,
    reader: PacketReader,
}

impl RingTransport {
    /// The connection that [`BootInfo::store`](crate::boot::BootInfo::store) names.
    ///
    /// # Errors
    ///
    /// `ENOENT` if the domain has no such page, `EIO` if the ring in it makes no sense.
    pub fn new(frame: MachineFrame, port: Port) -> Result<Self, Errno> {
        let page = BuilderPage::find(frame)?;
        Self::over(page, EventChannel::from_port(port)).map_err(|_| Errno::EIO)
    }
}

impl<M: RingMemory, D: Doorbell> RingTransport<M, D> {
    /// A connection over any memory and doorbell.
    ///
    /// # Errors
    ///
    /// If the memory is too small, or the ring in it makes no sense.
    pub fn over(memory: M, doorbell: D) -> Result<Self, AttachError> {
        let ring = StoreClient::attach(memory)?;
        let state = State { ring, outgoing: VecDeque::new(), reader: PacketReader::default() };
        Ok(Self { state: RefCell::new(state), doorbell })
    }

    /// Moves bytes both ways as far as possible; a complete packet ends it.
    fn step(&self) -> Result<Option<Packet>, Disconnected> {
        let (outcome, notify) = self.state.borrow_mut().step();
        if notify {
            self.doorbell.ring();
        }
        outcome
    }
}

impl<M: RingMemory> State<M> {
    /// Moves bytes; the second value says whether the other end must be told.
    fn step(&mut self) -> (Result<Option<Packet>, Disconnected>, bool) {
        let mut notify = false;
        let outcome = self.flush(&mut notify).and_then(|()| self.receive(&mut notify));
        (outcome, notify)
    }

    fn flush(&mut self, notify: &mut bool) -> Result<(), Disconnected> {
        while !self.outgoing.is_empty() {
            let (first, _) = self.outgoing.as_slices();
            let transfer = self.ring.write(first).map_err(|_| Disconnected)?;
            if transfer.count == 0 {
                break;
            }
            *notify |= transfer.notify.needed();
            self.outgoing.drain(..transfer.count);
        }
        Ok(())
    }

    fn receive(&mut self, notify: &mut bool) -> Result<Option<Packet>, Disconnected> {
        let mut piece = [0; 256];
        loop {
            if let Some(packet) = self.reader.take() {
                return Ok(Some(packet));
            }
            let wanted = self.reader.wanted().map_err(|_| Disconnected)?.min(piece.len());
            let transfer = self.ring.read(&mut piece[..wanted]).map_err(|_| Disconnected)?;
            if transfer.count == 0 {
                return Ok(None);
            }
            *notify |= transfer.notify.needed();
            self.reader.feed(&piece[..transfer.count]);
        }
    }
}

impl<M: RingMemory, D: Doorbell> Transport for RingTransport<M, D> {
    fn send(&self, packet: Packet) {
        let mut state = self.state.borrow_mut();
        packet.encode(&mut state.outgoing);
        let mut notify = false;
        // A broken ring is reported to the receiver, which every request waits for.
        let _ = state.flush(&mut notify);
        drop(state);
        if notify {
            self.doorbell.ring();
        }
    }

    fn poll_receive(&self, context: &mut Context<'_>) -> Poll<Result<Packet, Disconnected>> {
        loop {
            match self.step() {
                Ok(Some(packet)) => return Poll::Ready(Ok(packet)),
                Ok(None) => {}
                Err(disconnected) => return Poll::Ready(Err(disconnected)),
            }
            if self.doorbell.poll_wait(context).is_pending() {
                return Poll::Pending;
            }
        }
    }
}
