//! Connections: a stream of bytes in, a queue of messages out.
//!
//! A connection never waits and never blocks anyone. What comes in may be cut anywhere; it is put together
//! again message by message. What goes out is queued, and the queue is bounded: with enough replies waiting
//! the connection takes no more requests until its client has read some, and watch events beyond a limit
//! are told less exactly, at most one for each watch. An event that is already waiting is not queued again,
//! for whoever reads it will see the later change too.

use alloc::collections::{BTreeSet, VecDeque};
use alloc::rc::Rc;
use alloc::vec::Vec;

use hypercall_abi::DomainId;
use hypercall_abi::io::xs_wire::XS_WATCH_EVENT;

use super::quota::Limits;
use super::wire::{self, FramingError, HEADER_LENGTH, Message};

/// A connection. Numbers are not used again, so an old one never means a new connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub(super) u64);

/// Who is at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// A domain, through the ring in its store page.
    Ring(DomainId),
    /// A part of dom0, in process.
    Dom0,
}

impl Peer {
    /// The domain whose home directory relative paths start at, and which is charged.
    pub fn domain(self) -> DomainId {
        match self {
            Self::Ring(domain) => domain,
            Self::Dom0 => DomainId::ZERO,
        }
    }
}

/// What the store knows of one connection.
pub(super) struct Connection {
    pub peer: Peer,
    /// The number that the latest transaction got.
    pub last_transaction: u32,
    /// Whether this connection waits in the list of those that have something to be sent.
    pub listed: bool,
    /// Why nothing more is taken or sent, if so.
    pub broken: Option<FramingError>,
    assembler: Assembler,
    outbox: Outbox,
}

impl Connection {
    /// A connection on which nothing has happened.
    pub fn new(peer: Peer) -> Self {
        Self {
            peer,
            last_transaction: 0,
            listed: false,
            broken: None,
            assembler: Assembler::default(),
            outbox: Outbox::default(),
        }
    }

    /// Forgets what was received in part and what waits to be sent.
    pub fn reset(&mut self) {
        self.assembler = Assembler::default();
        self.outbox = Outbox::default();
        self.broken = None;
    }

    /// Whether another request may be taken now.
    pub fn accepts_requests(&self, limits: &Limits) -> bool {
        self.broken.is_none() && self.outbox.replies < limits.replies
    }

    /// Takes bytes up to the end of a message: how many, and the message if it is whole.
    pub fn assemble(&mut self, bytes: &[u8]) -> Result<(usize, Option<Message>), FramingError> {
        self.assembler.feed(bytes)
    }

    /// Queues a whole reply.
    pub fn send_reply(&mut self, reply: Vec<u8>) {
        self.outbox.push_reply(reply);
    }

    /// Queues a watch event: that `path` changed, or, if too many events wait already or this one does not fit
    /// a message, that something at or below `watched` did.
    pub fn send_event(&mut self, path: &str, watched: &str, token: &[u8], limits: &Limits) {
        let exact = if self.outbox.events.len() < limits.events { Some(path) } else { None };
        let payload = exact.and_then(|path| wire::event_payload(path, token));
        if let Some(payload) = payload.or_else(|| wire::event_payload(watched, token)) {
            self.outbox.push_event(&payload);
        }
    }

    /// What is to be sent next: the rest of the message at the front.
    pub fn output(&self) -> &[u8] {
        self.outbox.front()
    }

    /// So many bytes of [`Self::output`] were sent.
    pub fn sent(&mut self, bytes: usize) {
        self.outbox.advance(bytes);
    }

    /// Takes the message at the front whole, if it is an event and not sent in part.
    pub fn take_event(&mut self) -> Option<Rc<[u8]>> {
        let first = self.outbox.messages.front()?;
        if self.outbox.sent == 0 && is_event(first) { self.outbox.pop() } else { None }
    }
}

/// Puts messages together from pieces.
#[derive(Default)]
struct Assembler {
    /// As much of the header as there is, while it is not whole.
    header: Vec<u8>,
    /// The message whose header is whole and whose payload is not.
    pending: Option<Message>,
}

impl Assembler {
    fn feed(&mut self, bytes: &[u8]) -> Result<(usize, Option<Message>), FramingError> {
        let (taken, mut message) = match self.pending.take() {
            Some(message) => (0, message),
            None => {
                let taken = take(&mut self.header, HEADER_LENGTH, bytes);
                let Some(header) = self.header.first_chunk() else { return Ok((taken, None)) };
                let header = wire::parse_header(header)?;
                self.header.clear();
                (taken, Message { header, payload: Vec::new() })
            }
        };
        let length = message.header.len as usize;
        let taken = taken + take(&mut message.payload, length, &bytes[taken..]);
        if message.payload.len() == length {
            return Ok((taken, Some(message)));
        }
        self.pending = Some(message);
        Ok((taken, None))
    }
}

/// Moves bytes from the front of `from` until `to` has `length` or there are no more; how many.
fn take(to: &mut Vec<u8>, length: usize, from: &[u8]) -> usize {
    let taken = from.len().min(length - to.len());
    to.extend_from_slice(&from[..taken]);
    taken
}

/// Messages that wait to be sent.
#[derive(Default)]
struct Outbox {
    messages: VecDeque<Rc<[u8]>>,
    /// How many bytes of the first message are sent.
    sent: usize,
    /// How many of the messages are replies.
    replies: usize,
    /// Those that are events, except a first one that is sent in part.
    events: BTreeSet<Rc<[u8]>>,
}

impl Outbox {
    fn push_reply(&mut self, reply: Vec<u8>) {
        self.messages.push_back(reply.into());
        self.replies += 1;
    }

    fn push_event(&mut self, payload: &[u8]) {
        let event: Rc<[u8]> = wire::encode(XS_WATCH_EVENT, 0, 0, payload).into();
        if self.events.insert(event.clone()) {
            self.messages.push_back(event);
        }
    }

    fn front(&self) -> &[u8] {
        self.messages.front().and_then(|message| message.get(self.sent..)).unwrap_or_default()
    }

    fn advance(&mut self, bytes: usize) {
        let left = self.front().len();
        if bytes >= left {
            self.pop();
            return;
        }
        self.sent += bytes;
        // From its first byte on, a message is the client's: a later change needs an event of its own.
        if self.sent > 0
            && let Some(message) = self.messages.front()
        {
            self.events.remove(message);
        }
    }

    fn pop(&mut self) -> Option<Rc<[u8]>> {
        let message = self.messages.pop_front()?;
        if !is_event(&message) {
            self.replies -= 1;
        } else if self.sent == 0 {
            self.events.remove(&message);
        }
        self.sent = 0;
        Some(message)
    }
}

/// Whether a whole message is a watch event.
fn is_event(message: &[u8]) -> bool {
    message.starts_with(&XS_WATCH_EVENT.to_le_bytes())
}
