//! The virtio network interface (specification section 5.1).
//!
//! Frames are sent from and received into the user's buffers, in place. Before each frame stands the
//! interface's header of twelve bytes, for which the buffers leave room; a received frame may fill several
//! buffers if the device was told that it may.

#[cfg(test)]
mod tests;

use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use hypercall_abi::PAGE_SIZE;
use pv_runtime::memory::{Page, SharedMemory};

use crate::net::{
    BufferId, Buffers, Capabilities, Checksum, FRAME_START, Interface, IpVersion, MacAddress, Offload,
    Outgoing, Piece, Received, Segmentation,
};
use crate::virtio::{
    Buffer, DeviceFault, Doorbell, NotifyDevice, Registers, SetupError, Transport, Used, Virtqueue, feature,
};

const RECEIVE_QUEUE: u16 = 0;
const SEND_QUEUE: u16 = 1;

/// Feature bits of network interfaces.
const CSUM: u64 = 1 << 0;
const GUEST_CSUM: u64 = 1 << 1;
const MAC: u64 = 1 << 5;
const GUEST_TSO4: u64 = 1 << 7;
const GUEST_TSO6: u64 = 1 << 8;
const HOST_TSO4: u64 = 1 << 11;
const HOST_TSO6: u64 = 1 << 12;
const MRG_RXBUF: u64 = 1 << 15;
const STATUS: u64 = 1 << 16;

const PLAIN: u64 = MAC | STATUS | feature::EVENT_INDEX;
const OFFLOADS: u64 = CSUM | GUEST_CSUM | HOST_TSO4 | HOST_TSO6 | MRG_RXBUF;
/// Large frames, which only fit if they may fill several buffers.
const LARGE_FRAMES: u64 = GUEST_TSO4 | GUEST_TSO6;

/// The registers of network interfaces, by offset.
const ADDRESS_REGISTER: usize = 0;
const STATUS_REGISTER: usize = 6;
const STATUS_LINK_UP: u16 = 1;

/// The header before a frame, in bytes and in words of a buffer's page.
const HEADER_LENGTH: u16 = 12;
const HEADER_START: u16 = FRAME_START - HEADER_LENGTH;
const HEADER_WORD: usize = HEADER_START as usize / 4;
/// Bytes that the device may write into a buffer.
const RECEIVE_LENGTH: u16 = PAGE_SIZE as u16 - HEADER_START;

/// In a header's flags.
const FLAG_NEEDS_CHECKSUM: u32 = 1;
const FLAG_DATA_VALID: u32 = 2;
/// A header's kinds of segmentation.
const GSO_TCPV4: u32 = 1;
const GSO_TCPV6: u32 = 4;

/// An address for an interface that has none: one that nobody else gives out.
const ADDRESS_IF_NONE: MacAddress = MacAddress::new([0x02, 0x57, 0x65, 0x69, 0x72, 0x00]);

/// Which interrupts the driver uses, by their entry in the device's table.
#[derive(Clone, Copy, Debug)]
pub struct Vectors {
    /// For changes of the configuration.
    pub configuration: u16,
    /// For received frames.
    pub receive: u16,
    /// For sent frames.
    pub send: u16,
}

/// Whether a card is to do checksums and segmentation for us, and may leave them to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offloads {
    /// As far as it can.
    Taken,
    /// Not at all: frames are as on the wire.
    Refused,
}

/// A queue and its doorbell.
#[derive(Debug)]
struct Queue {
    queue: Virtqueue,
    doorbell: Doorbell,
}

/// A network interface.
#[derive(Debug)]
pub struct VirtioNet<R> {
    transport: Transport<R>,
    features: u64,
    address: MacAddress,
    receive: Queue,
    send: Queue,
    /// The chain being put together.
    chain: Vec<Buffer>,
    is_given_up: bool,
}

impl<R: Registers> VirtioNet<R> {
    /// Starts the device.
    ///
    /// # Errors
    ///
    /// [`SetupError`].
    pub fn start(transport: Transport<R>, vectors: Vectors, offloads: Offloads) -> Result<Self, SetupError> {
        let large = if transport.offered_features() & MRG_RXBUF != 0 { LARGE_FRAMES } else { 0 };
        let wanted = match offloads {
            Offloads::Taken => PLAIN | OFFLOADS | large,
            Offloads::Refused => PLAIN,
        };
        let features = transport.negotiate(wanted)?;
        let address = if features & MAC != 0 { read_address(&transport)? } else { ADDRESS_IF_NONE };
        transport.set_configuration_vector(vectors.configuration)?;
        let receive = start_queue(&transport, RECEIVE_QUEUE, features, vectors.receive)?;
        let mut send = start_queue(&transport, SEND_QUEUE, features, vectors.send)?;
        send.queue.refuse_interrupts();
        transport.finish();
        Ok(Self { transport, features, address, receive, send, chain: Vec::new(), is_given_up: false })
    }

    /// Whether the device has met an error that only a reset mends.
    pub fn needs_reset(&self) -> bool {
        self.transport.needs_reset()
    }

    const fn has(&self, feature: u64) -> bool {
        self.features & feature != 0
    }

    /// Takes the next completion of a queue; none any more once the device has broken the rules.
    #[inline]
    fn take_used(&mut self, queue: u16) -> Option<Used> {
        if self.is_given_up {
            return None;
        }
        let queue = if queue == SEND_QUEUE { &mut self.send } else { &mut self.receive };
        match queue.queue.take_used() {
            Ok(used) => used,
            Err(fault) => {
                self.give_up(fault);
                None
            }
        }
    }

    /// Stops the device. Its buffers are lost, for it may still write where they said.
    fn give_up(&mut self, fault: DeviceFault) {
        log::error!("network interface given up: {fault}");
        self.is_given_up = true;
        if let Err(error) = self.transport.reset() {
            log::error!("a network interface cannot be stopped: {error}");
        }
    }

    /// The header of a frame to send, as words.
    #[inline]
    fn header(frame: &Outgoing<'_>) -> [u32; 3] {
        let Some(headers) = frame.blank_checksum else { return [0; 3] };
        let start = headers.transport_start as u32;
        let offset = headers.transport.checksum_offset() as u32;
        let (kind, size, length) = match frame.segmentation {
            Some(Segmentation { version: IpVersion::V4, size }) => (GSO_TCPV4, size, headers.payload),
            Some(Segmentation { version: IpVersion::V6, size }) => (GSO_TCPV6, size, headers.payload),
            None => (0, 0, 0),
        };
        [FLAG_NEEDS_CHECKSUM | kind << 8 | (length as u32) << 16, u32::from(size) | start << 16, offset]
    }

    /// The pieces of what was received into `first` and the buffers after it; `None` if it makes no sense.
    #[inline]
    fn collect(&mut self, page: &Page, first: u32, written: u32, pieces: &mut Vec<Piece>) -> Option<Offload> {
        let header = read_header(page);
        let count = if self.has(MRG_RXBUF) { header[2] >> 16 } else { 1 };
        let mut is_sound =
            push_piece(pieces, first, FRAME_START, written.checked_sub(u32::from(HEADER_LENGTH)));
        for _ in 1..count {
            let used = self.take_used(RECEIVE_QUEUE)?;
            is_sound &= push_piece(pieces, used.token, HEADER_START, Some(used.written));
        }
        (is_sound && count > 0).then(|| offload_of(header))
    }
}

/// Notes a piece, if it lies in its buffer.
#[inline]
fn push_piece(pieces: &mut Vec<Piece>, token: u32, offset: u16, length: Option<u32>) -> bool {
    let most = PAGE_SIZE as u32 - u32::from(offset);
    let sound = length.filter(|length| *length <= most);
    // The buffer is noted in any case: it is not the device's any more.
    pieces.push(Piece { buffer: BufferId::from_number(token), offset, length: sound.unwrap_or(0) as u16 });
    sound.is_some()
}

#[inline]
fn read_header(page: &Page) -> [u32; 3] {
    let words = &page.words()[HEADER_WORD..][..3];
    [0, 1, 2].map(|word: usize| words[word].load(Ordering::Relaxed))
}

/// What a received frame's header says was left to us.
#[inline]
fn offload_of([first, second, _]: [u32; 3]) -> Offload {
    let (flags, kind, size) = (first & 0xff, first >> 8 & 0xff, second as u16);
    let version = match kind {
        GSO_TCPV4 => Some(IpVersion::V4),
        GSO_TCPV6 => Some(IpVersion::V6),
        _ => None,
    };
    let segmentation = version.filter(|_| size > 0).map(|version| Segmentation { version, size });
    let checksum = if flags & FLAG_NEEDS_CHECKSUM != 0 || segmentation.is_some() {
        Checksum::Blank
    } else if flags & FLAG_DATA_VALID != 0 {
        Checksum::Validated
    } else {
        Checksum::InPacket
    };
    Offload { checksum, segmentation }
}

fn start_queue<R: Registers>(
    transport: &Transport<R>,
    index: u16,
    features: u64,
    vector: u16,
) -> Result<Queue, SetupError> {
    let size = transport.queue_size(index)?;
    let queue = Virtqueue::new(size, features & feature::EVENT_INDEX != 0)?;
    let doorbell = transport.start_queue(index, size, queue.addresses(), vector)?;
    Ok(Queue { queue, doorbell })
}

fn read_address<R: Registers>(transport: &Transport<R>) -> Result<MacAddress, SetupError> {
    let bytes = transport.read_configuration(ADDRESS_REGISTER + 6, |registers| {
        [0, 1, 2, 3, 4, 5].map(|byte: usize| registers.read_u8(ADDRESS_REGISTER + byte))
    })?;
    Ok(MacAddress::new(bytes))
}

impl<R: Registers> Interface for VirtioNet<R> {
    fn address(&self) -> MacAddress {
        self.address
    }

    fn capabilities(&self) -> Capabilities {
        let capabilities = Capabilities {
            scatter: true,
            checksum_v4: self.has(CSUM),
            checksum_v6: self.has(CSUM),
            segmentation_v4: self.has(HOST_TSO4),
            segmentation_v6: self.has(HOST_TSO6),
        };
        capabilities.consistent()
    }

    fn link_is_up(&self) -> bool {
        let status = || {
            self.transport
                .read_configuration(STATUS_REGISTER + 2, |registers| registers.read_u16(STATUS_REGISTER))
        };
        !self.has(STATUS) || status().is_ok_and(|status| status & STATUS_LINK_UP != 0)
    }

    #[inline]
    fn send_room(&self) -> usize {
        if self.is_given_up { 0 } else { self.send.queue.free_descriptors().into() }
    }

    fn send(&mut self, buffers: &Buffers, frame: &Outgoing<'_>, token: u16) {
        self.chain.clear();
        for (position, piece) in frame.pieces.iter().enumerate() {
            let page_address = buffers.frame(piece.buffer).physical_address();
            let (offset, length) = if position == 0 {
                let start = piece.offset - HEADER_LENGTH;
                write_header(buffers.page(piece.buffer), start, Self::header(frame));
                (start, u32::from(piece.length) + u32::from(HEADER_LENGTH))
            } else {
                (piece.offset, piece.length.into())
            };
            let address = page_address + u64::from(offset);
            self.chain.push(Buffer { address, length, is_written: false });
        }
        let added = self.send.queue.add(&self.chain, token.into());
        debug_assert!(added.is_ok(), "the user asks for room first");
    }

    fn take_sent(&mut self) -> Option<u16> {
        self.take_used(SEND_QUEUE).map(|used| used.token as u16)
    }

    fn receive_room(&self) -> usize {
        if self.is_given_up { 0 } else { self.receive.queue.free_descriptors().into() }
    }

    fn offer(&mut self, buffers: &Buffers, buffer: BufferId) {
        let address = buffers.frame(buffer).physical_address() + u64::from(HEADER_START);
        let chain = [Buffer { address, length: RECEIVE_LENGTH.into(), is_written: true }];
        let added = self.receive.queue.add(&chain, buffer.number());
        debug_assert!(added.is_ok(), "the user asks for room first");
    }

    fn take_received(&mut self, buffers: &Buffers, pieces: &mut Vec<Piece>) -> Received {
        let Some(used) = self.take_used(RECEIVE_QUEUE) else { return Received::Nothing };
        let page = buffers.page(BufferId::from_number(used.token));
        match self.collect(page, used.token, used.written, pieces) {
            Some(offload) => Received::Frame(offload),
            None => Received::Bad,
        }
    }

    fn kick(&mut self) {
        if self.is_given_up {
            return;
        }
        for queue in [&mut self.receive, &mut self.send] {
            if queue.queue.publish() == NotifyDevice::Yes {
                self.transport.ring(queue.doorbell);
            }
        }
    }

    fn ask_for_interrupts(&mut self, received: u16, sent: bool) -> bool {
        if self.is_given_up {
            return false;
        }
        let has_received = self.receive.queue.ask_for_interrupt(received);
        let has_sent = sent && self.send.queue.ask_for_interrupt(1);
        has_received || has_sent
    }
}

#[inline]
fn write_header(page: &Page, start: u16, header: [u32; 3]) {
    for (word, value) in page.words()[usize::from(start) / 4..].iter().zip(header) {
        word.store(value, Ordering::Relaxed);
    }
}
