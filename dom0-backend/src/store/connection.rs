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
    /// How often that has happened.
    pub breaks: u64,
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
            breaks: 0,
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

    /// Queues a watch event: that `path` changed, or, if too many events wait already or this one does not
    /// fit a message, that something at or below `watched` did.
    pub fn send_event(&mut self, path: &str, watched: &str, token: &[u8], limits: &Limits) {
        let exact = if self.outbox.event_bytes < limits.event_bytes { Some(path) } else { None };
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
        self.outbox.take_event()
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
    messages: VecDeque<Outgoing>,
    /// How many bytes of the first message are sent.
    sent: usize,
    /// How many of the messages are replies.
    replies: usize,
    /// Those that are events, except a first one that is sent in part.
    events: BTreeSet<Rc<[u8]>>,
    /// Bytes in [`Self::events`].
    event_bytes: usize,
}

/// A whole message.
enum Outgoing {
    Reply(Vec<u8>),
    Event(Rc<[u8]>),
}

impl Outgoing {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Reply(bytes) => bytes,
            Self::Event(bytes) => bytes,
        }
    }
}

impl Outbox {
    fn push_reply(&mut self, reply: Vec<u8>) {
        self.messages.push_back(Outgoing::Reply(reply));
        self.replies += 1;
    }

    fn push_event(&mut self, payload: &[u8]) {
        let event: Rc<[u8]> = wire::encode(XS_WATCH_EVENT, 0, 0, payload).into();
        if self.events.insert(event.clone()) {
            self.event_bytes += event.len();
            self.messages.push_back(Outgoing::Event(event));
        }
    }

    fn front(&self) -> &[u8] {
        self.messages.front().and_then(|message| message.bytes().get(self.sent..)).unwrap_or_default()
    }

    fn advance(&mut self, bytes: usize) {
        if bytes == 0 {
            return;
        }
        // From its first byte on, a message is the client's: a later change needs an event of its own.
        self.let_go_of_event();
        if bytes < self.front().len() {
            self.sent += bytes;
        } else if let Some(Outgoing::Reply(_)) = self.pop() {
            self.replies -= 1;
        }
    }

    fn take_event(&mut self) -> Option<Rc<[u8]>> {
        let Some(Outgoing::Event(event)) = self.messages.front().filter(|_| self.sent == 0) else {
            return None;
        };
        let event = event.clone();
        self.let_go_of_event();
        self.pop();
        Some(event)
    }

    fn pop(&mut self) -> Option<Outgoing> {
        self.sent = 0;
        self.messages.pop_front()
    }

    /// If the message at the front is an event of which nothing is sent yet, lets the same be queued again.
    fn let_go_of_event(&mut self) {
        if self.sent == 0
            && let Some(Outgoing::Event(event)) = self.messages.front()
            && self.events.remove(event)
        {
            self.event_bytes -= event.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use hypercall_abi::io::xs_wire::XS_READ;
    use proptest::prelude::*;

    use super::*;

    fn connection() -> Connection {
        Connection::new(Peer::Ring(DomainId(1)))
    }

    /// The paths and tokens of the events that wait, taking them out.
    fn events(connection: &mut Connection) -> Vec<String> {
        let take = || connection.take_event();
        let text = |event: Rc<[u8]>| String::from_utf8_lossy(&event[HEADER_LENGTH..]).into_owned();
        std::iter::from_fn(take).map(text).collect()
    }

    proptest! {
        /// However a stream is cut, the same messages come out.
        #[test]
        fn messages_are_put_together_from_pieces(
            payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 1..8),
            cuts in prop::collection::vec(1usize..40, 1..50),
        ) {
            let stream: Vec<_> =
                payloads.iter().flat_map(|payload| wire::encode(XS_READ, 1, 0, payload)).collect();
            let (mut connection, mut received, mut rest) = (connection(), vec![], &stream[..]);
            let mut cuts = cuts.iter().cycle();
            while !rest.is_empty() {
                let piece = &rest[..rest.len().min(*cuts.next().unwrap())];
                let (taken, message) = connection.assemble(piece).unwrap();
                prop_assert!(taken > 0);
                received.extend(message.map(|message| message.payload));
                rest = &rest[taken..];
            }
            prop_assert_eq!(received, payloads);
        }
    }

    #[test]
    fn a_message_ends_where_the_next_begins() {
        let two = [wire::encode(XS_READ, 1, 0, b""), wire::encode(XS_READ, 2, 0, b"x")].concat();
        let (taken, message) = connection().assemble(&two).unwrap();
        assert_eq!((taken, message.unwrap().header.req_id), (HEADER_LENGTH, 1));
    }

    #[test]
    fn output_can_be_sent_in_pieces() {
        let mut connection = connection();
        connection.send_reply(b"abc".to_vec());
        connection.send_reply(b"de".to_vec());
        connection.sent(2);
        assert_eq!(connection.output(), b"c");
        connection.sent(1);
        assert_eq!(connection.output(), b"de");
        connection.sent(2);
        assert_eq!(connection.output(), b"");
        connection.sent(0);
    }

    #[test]
    fn replies_that_wait_hold_back_requests() {
        let (mut connection, limits) = (connection(), Limits { replies: 2, ..Limits::default() });
        connection.send_reply(b"a".to_vec());
        assert!(connection.accepts_requests(&limits));
        connection.send_reply(b"b".to_vec());
        assert!(!connection.accepts_requests(&limits));
        connection.sent(1);
        assert!(connection.accepts_requests(&limits));
    }

    #[test]
    fn an_event_that_waits_is_not_queued_again() {
        let (mut connection, limits) = (connection(), Limits::default());
        for path in ["/a", "/a", "/b", "/a"] {
            connection.send_event(path, "/", b"t", &limits);
        }
        assert_eq!(events(&mut connection), ["/a\0t\0", "/b\0t\0"]);
        connection.send_event("/a", "/", b"t", &limits);
        assert_eq!(events(&mut connection), ["/a\0t\0"]);
    }

    #[test]
    fn an_event_on_its_way_does_not_stand_for_a_later_one() {
        let (mut connection, limits) = (connection(), Limits::default());
        connection.send_event("/a", "/", b"t", &limits);
        connection.sent(3);
        connection.send_event("/a", "/", b"t", &limits);
        connection.sent(connection.output().len());
        connection.send_event("/a", "/", b"t", &limits);
        assert_eq!(events(&mut connection), ["/a\0t\0"]);
    }

    #[test]
    fn too_many_events_become_one_for_each_watch() {
        let (mut connection, limits) = (connection(), Limits { event_bytes: 46, ..Limits::default() });
        for path in ["/a/1", "/a/2", "/a/3", "/a/4"] {
            connection.send_event(path, "/a", b"t", &limits);
            connection.send_event(path, "/", b"u", &limits);
        }
        assert_eq!(events(&mut connection), ["/a/1\0t\0", "/a/1\0u\0", "/a\0t\0", "/\0u\0"]);
    }

    #[test]
    fn an_event_too_long_for_a_message_names_the_watch() {
        let (mut connection, limits) = (connection(), Limits::default());
        connection.send_event(&"a".repeat(3000), "/w", &[b't'; 2000], &limits);
        assert!(events(&mut connection)[0].starts_with("/w\0t"));
    }
}
