//! A network interface, as who sends and receives by it sees it.

use alloc::vec::Vec;

use super::buffers::{BufferId, Buffers, Piece};
use super::ethernet::MacAddress;
use super::headers::Headers;
use super::offload::{Capabilities, Offload, Segmentation};

/// A frame to send. Its first piece leaves room for the interface's header.
#[derive(Clone, Copy, Debug)]
pub struct Outgoing<'a> {
    /// The frame's bytes.
    pub pieces: &'a [Piece],
    /// Where the headers are, if the checksum above IP is blank; the sum of the pseudo header stands in its
    /// place then.
    pub blank_checksum: Option<Headers>,
    /// Segmentation, if the interface is to do it; only with a blank checksum.
    pub segmentation: Option<Segmentation>,
}

/// What came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// Nothing.
    Nothing,
    /// A frame, and what the interface knows of it.
    Frame(Offload),
    /// Something that makes no sense.
    Bad,
}

/// An interface that sends from buffers and receives into them.
///
/// Buffers belong to the interface from [`send`](Self::send) to [`take_sent`](Self::take_sent), and from
/// [`offer`](Self::offer) to [`take_received`](Self::take_received).
pub trait Interface {
    /// The interface's address.
    fn address(&self) -> MacAddress;

    /// What it can do for frames that it sends.
    fn capabilities(&self) -> Capabilities;

    /// Whether there is a link, as far as the interface knows; asks the device.
    fn link_is_up(&self) -> bool;

    /// How many pieces can be sent now, over all frames.
    fn send_room(&self) -> usize;

    /// Hands a frame over, for which there must be room. `token` comes back when it was sent.
    fn send(&mut self, buffers: &Buffers, frame: &Outgoing<'_>, token: u16);

    /// The token of a frame that was sent.
    fn take_sent(&mut self) -> Option<u16>;

    /// How many buffers can be offered now.
    fn receive_room(&self) -> usize;

    /// Lets the interface receive into a buffer.
    fn offer(&mut self, buffers: &Buffers, buffer: BufferId);

    /// Takes what was received next. All buffers that it used are among the pieces, in order.
    fn take_received(&mut self, buffers: &Buffers, pieces: &mut Vec<Piece>) -> Received;

    /// Makes the interface look at what was handed over.
    fn kick(&mut self);

    /// Asks for an interrupt when `received` frames are there to be taken and, if `sent` is set, when frames were
    /// sent. Says whether that is so already: then take them rather than wait.
    #[must_use = "waiting although there is something to take may wait for ever"]
    fn ask_for_interrupts(&mut self, received: u16, sent: bool) -> bool;
}
