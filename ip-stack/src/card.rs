#![expect(unsafe_code, reason = "lends buffers as plain slices while the card does not have them")]
//! A network card that this domain drives itself, as the port of a TCP/IP stack.
//!
//! A frame lies in one buffer: it is read where the card has written it, and written where the card will read it. A buffer
//! is the card's from when it is handed over until the card gives it back, and is lent as a slice at other times only.
//! Checksums and segmentation are done here, not by the card.

use alloc::vec;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::slice;
use core::task::{Context, Poll};

use device_drivers::net::{BufferId, Buffers, FRAME_START, Interface, Outgoing, Piece, Received};
use pv_runtime::executor::Notify;
use smoltcp::iface::{Config, Interface as IpInterface, SocketSet};
use smoltcp::phy::{self, DeviceCapabilities, Medium};
use smoltcp::time::Instant;
use smoltcp::wire::EthernetAddress;

use super::port::{self, Port, Turn};

/// The longest frame that is sent.
const LONGEST: usize = 1514;
/// Frames that are taken in one turn.
const BATCH: usize = 128;

/// The card with its buffers.
struct Device<I> {
    interface: I,
    buffers: Buffers,
    /// Buffers that the card may receive into, at most.
    most_offered: usize,
    /// Buffers that the card receives into.
    offered: usize,
    /// Buffers of frames that came and were looked at.
    seen: Vec<BufferId>,
    /// Kept for its storage.
    pieces: Vec<Piece>,
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
    /// A card that works, and does no checksums and no segmentation for us. Half of its `buffers`, a page each, are for
    /// what comes in.
    pub fn new(interface: I, buffers: usize) -> Self {
        let address = EthernetAddress(interface.address().bytes());
        let device = Device {
            interface,
            buffers: Buffers::new(buffers),
            most_offered: buffers / 2,
            offered: 0,
            seen: Vec::new(),
            pieces: Vec::new(),
            budget: 0,
            is_starved: false,
        };
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

    fn poll(&self, interface: &mut IpInterface, sockets: &mut SocketSet<'static>, now: Instant) {
        let device = &mut *self.device.borrow_mut();
        device.begin();
        interface.poll(now, device, sockets);
    }

    fn put_frames(&self, length: usize, count: u32, fill: &mut dyn FnMut(u32, &mut [u8])) -> u32 {
        let device = &mut *self.device.borrow_mut();
        device.begin();
        port::put_frames(device, length, count, fill)
    }

    fn take_frames(&self, take: &mut dyn FnMut(&[u8])) {
        let device = &mut *self.device.borrow_mut();
        device.begin();
        port::take_frames(device, take);
    }

    fn hand_over(&self) {
        let device = &mut *self.device.borrow_mut();
        device.offer();
        device.interface.kick();
    }

    fn ask_for_event(&self) -> Turn {
        let device = &mut *self.device.borrow_mut();
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
        self.seen.drain(..).for_each(|buffer| self.buffers.put(buffer));
        while self.offered < self.most_offered && self.interface.receive_room() > 0 {
            let Some(buffer) = self.buffers.take() else { return };
            self.interface.offer(&self.buffers, buffer);
            self.offered += 1;
        }
    }

    /// Where the next frame that came in is; those that make no sense are passed over.
    fn next_frame(&mut self) -> Option<Piece> {
        while self.budget > 0 {
            let received = self.interface.take_received(&self.buffers, &mut self.pieces);
            if received == Received::Nothing {
                return None;
            }
            self.budget -= 1;
            self.offered = self.offered.saturating_sub(self.pieces.len());
            // A card that was not told otherwise puts each frame into one buffer.
            if let (Received::Frame(_), [piece]) = (received, &self.pieces[..]) {
                let piece = *piece;
                self.pieces.clear();
                return Some(piece);
            }
            self.buffers.put_pieces(&mut self.pieces);
        }
        None
    }

    /// Whether a frame can be sent.
    fn has_room(&mut self) -> bool {
        let has_room = self.interface.send_room() > 0 && self.buffers.available() > 0;
        self.is_starved |= !has_room;
        has_room
    }
}

impl<I: Interface> phy::Device for Device<I> {
    type RxToken<'a>
        = RxToken<'a>
    where
        I: 'a;
    type TxToken<'a>
        = TxToken<'a, I>
    where
        I: 'a;

    fn receive(&mut self, _: Instant) -> Option<(RxToken<'_>, TxToken<'_, I>)> {
        // What came in may have to be answered.
        if !self.has_room() {
            return None;
        }
        let piece = self.next_frame()?;
        let start = self.buffers.page(piece.buffer).as_ptr().wrapping_add(piece.offset.into());
        // SAFETY:
        // 1. The piece lies in its page, as the driver has checked; pages are mapped and initialised while `self.buffers`
        //    lives, which the token borrows.
        // 2. Nobody writes there: the card has given the buffer back, and it is offered again only from `seen`, where the
        //    token puts it at its end.
        let frame = unsafe { slice::from_raw_parts(start, piece.length.into()) };
        let token = RxToken { frame, buffer: piece.buffer, seen: &mut self.seen };
        Some((token, TxToken { interface: &mut self.interface, buffers: &mut self.buffers }))
    }

    fn transmit(&mut self, _: Instant) -> Option<TxToken<'_, I>> {
        let has_room = self.has_room();
        has_room.then_some(TxToken { interface: &mut self.interface, buffers: &mut self.buffers })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = LONGEST;
        capabilities
    }
}

/// A frame that came in.
struct RxToken<'a> {
    frame: &'a [u8],
    buffer: BufferId,
    seen: &'a mut Vec<BufferId>,
}

impl phy::RxToken for RxToken<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(self.frame)
    }
}

impl Drop for RxToken<'_> {
    fn drop(&mut self) {
        self.seen.push(self.buffer);
    }
}

/// Room for a frame to send.
struct TxToken<'a, I: Interface> {
    interface: &'a mut I,
    buffers: &'a mut Buffers,
}

impl<I: Interface> phy::TxToken for TxToken<'_, I> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, f: F) -> R {
        let free = if length <= LONGEST { self.buffers.take() } else { None };
        let Some(buffer) = free else {
            // Longer than was said, or no memory for another buffer: the frame is lost, as on any network.
            return f(&mut vec![0; length]);
        };
        let start = self.buffers.page(buffer).as_ptr().wrapping_add(FRAME_START.into());
        // SAFETY:
        // 1. A page has room for the longest frame behind `FRAME_START`; it is mapped and initialised while
        //    `self.buffers` lives.
        // 2. Nobody else has the buffer: it was free, and the card gets it below.
        let result = f(unsafe { slice::from_raw_parts_mut(start, length) });
        let piece = Piece { buffer, offset: FRAME_START, length: length as u16 };
        let outgoing = Outgoing { pieces: &[piece], blank_checksum: None, segmentation: None };
        self.interface.send(self.buffers, &outgoing, buffer.number() as u16);
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::VecDeque;
    use device_drivers::net::{Capabilities, MacAddress, Offload};
    use pv_runtime::memory::SharedMemory;

    /// A card that keeps what it is to send, and receives what stands in a list, each frame in so many buffers.
    #[derive(Default)]
    struct FakeCard {
        sent: Vec<Vec<u8>>,
        /// Tokens of what was sent.
        done: VecDeque<u16>,
        offered: VecDeque<BufferId>,
        incoming: VecDeque<(Vec<u8>, usize)>,
    }

    impl Interface for FakeCard {
        fn address(&self) -> MacAddress {
            MacAddress::new([2, 0, 0, 0, 0, 1])
        }

        fn capabilities(&self) -> Capabilities {
            Capabilities::default()
        }

        fn link_is_up(&self) -> bool {
            true
        }

        fn send_room(&self) -> usize {
            4 - self.done.len()
        }

        fn send(&mut self, buffers: &Buffers, frame: &Outgoing<'_>, token: u16) {
            let [piece] = frame.pieces else { panic!("one buffer") };
            let mut bytes = vec![0; piece.length.into()];
            buffers.page(piece.buffer).copy_out(piece.offset.into(), &mut bytes);
            self.sent.push(bytes);
            self.done.push_back(token);
        }

        fn take_sent(&mut self) -> Option<u16> {
            self.done.pop_front()
        }

        fn receive_room(&self) -> usize {
            4 - self.offered.len()
        }

        fn offer(&mut self, _: &Buffers, buffer: BufferId) {
            assert!(!self.offered.contains(&buffer), "offered twice");
            self.offered.push_back(buffer);
        }

        fn take_received(&mut self, buffers: &Buffers, pieces: &mut Vec<Piece>) -> Received {
            let Some((bytes, count)) = self.incoming.pop_front() else { return Received::Nothing };
            for buffer in self.offered.drain(..count) {
                buffers.page(buffer).copy_in(FRAME_START.into(), &bytes);
                pieces.push(Piece { buffer, offset: FRAME_START, length: bytes.len() as u16 });
            }
            Received::Frame(Offload::default())
        }

        fn kick(&mut self) {}

        fn ask_for_interrupts(&mut self, _: u16, _: bool) -> bool {
            !self.incoming.is_empty()
        }
    }

    fn card() -> Card<FakeCard> {
        Card::new(FakeCard::default(), 8)
    }

    fn with<R>(card: &Card<FakeCard>, body: impl FnOnce(&mut FakeCard) -> R) -> R {
        body(&mut card.device.borrow_mut().interface)
    }

    fn taken(card: &Card<FakeCard>) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        card.take_frames(&mut |frame| frames.push(frame.to_vec()));
        frames
    }

    #[test]
    fn frames_are_sent_as_they_are_filled_and_as_far_as_there_is_room() {
        let card = card();
        let fill = &mut |number: u32, frame: &mut [u8]| frame.fill(number as u8 + 1);
        assert_eq!(card.put_frames(60, 6, fill), 4);
        assert!(card.ask_for_event().is_starved);
        with(&card, |fake| assert_eq!(fake.sent, [1, 2, 3, 4].map(|byte| vec![byte; 60])));
        assert_eq!(card.put_frames(60, 2, fill), 2, "what was sent makes room");
        assert!(!card.ask_for_event().is_starved);
    }

    #[test]
    fn a_frame_that_is_too_long_is_lost() {
        let card = card();
        assert_eq!(card.put_frames(LONGEST + 1, 1, &mut |_, frame| frame.fill(1)), 1);
        with(&card, |fake| assert!(fake.sent.is_empty()));
    }

    #[test]
    fn buffers_of_frames_that_were_taken_are_offered_again() {
        let card = card();
        for round in 0..5 {
            assert_eq!(taken(&card), Vec::<Vec<u8>>::new());
            card.hand_over();
            with(&card, |fake| {
                assert_eq!(fake.offered.len(), 4, "round {round}");
                fake.incoming.extend([1, 2, 3].map(|byte| (vec![byte; 64], 1)));
            });
            assert!(!card.ask_for_event().may_wait);
            assert_eq!(taken(&card), [1, 2, 3].map(|byte| vec![byte; 64]));
            assert!(card.ask_for_event().may_wait);
        }
    }

    #[test]
    fn what_is_not_one_buffer_is_passed_over_and_its_buffers_come_back() {
        let card = card();
        card.put_frames(60, 0, &mut |_, _| {});
        with(&card, |fake| fake.incoming.extend([(vec![1; 64], 2), (vec![], 0), (vec![2; 64], 1)]));
        assert_eq!(taken(&card), [vec![2; 64]]);
        card.hand_over();
        with(&card, |fake| assert_eq!(fake.offered.len(), 4));
    }
}
