//! A guest's connection to the store: a ring in a page that the guest can write to at any time.
//!
//! The guest can break its ring, send rubbish, or send without end. The first two end its connection and nobody
//! else's; the last costs it only its own turns, for after each turn, which moves at most a ring's worth of bytes
//! each way, every other task runs.

use alloc::rc::{Rc, Weak};
use core::fmt;

use hypercall_abi::grant_table::GNTTAB_RESERVED_XENSTORE;
use hypercall_abi::io::xs_wire::{
    XENSTORE_ERROR_PROTO, XENSTORE_ERROR_RINGIDX, XENSTORE_RING_SIZE, XENSTORE_SERVER_FEATURE_ERROR,
    XENSTORE_SERVER_FEATURE_RECONNECTION,
};
use hypercall_abi::{DomainId, Errno, GrantReference, Port};
use pv_runtime::event_channel::EventChannel;
use pv_runtime::executor::{Notify, select, yield_now};
use pv_runtime::grant::{self, GrantAccess, GrantError, GrantMapping};
use ring::{AttachError, Corrupt, NotifyPeer, RingMemory, StoreServer};

use super::StoreService;
use crate::store::{ConnectionError, ConnectionId, Server};

/// Why a guest's ring cannot be had.
#[derive(Debug)]
pub(super) enum OpenError {
    /// Its page is not granted.
    Page(GrantError),
    /// Its port cannot be connected to.
    Port(Errno),
    /// The ring makes no sense.
    Ring(AttachError),
}

impl fmt::Display for OpenError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Page(error) => write!(formatter, "its store page cannot be mapped: {error:?}"),
            Self::Port(errno) => write!(formatter, "its store port cannot be connected to: {errno}"),
            Self::Ring(error) => write!(formatter, "its store ring makes no sense: {error:?}"),
        }
    }
}

/// Why a connection cannot go on.
enum Fault {
    /// An index in the page makes no sense.
    Ring(Corrupt),
    /// What came is no message, or the store knows the connection no more.
    Store(ConnectionError),
}

impl From<Corrupt> for Fault {
    fn from(corrupt: Corrupt) -> Self {
        Self::Ring(corrupt)
    }
}

/// Bytes that came and are not taken by the store yet.
struct Incoming {
    bytes: [u8; XENSTORE_RING_SIZE],
    start: usize,
    end: usize,
}

/// The ring, and what came through it.
struct Stream<M> {
    ring: StoreServer<M>,
    incoming: Incoming,
}

/// What a turn did.
struct Turn {
    /// Whether the guest must be told.
    notify: NotifyPeer,
    /// Whether anything was moved. If not, nothing can be before the guest or the store does something.
    moved: bool,
}

/// A guest's connection.
pub(super) struct GuestRing {
    domain: DomainId,
    channel: EventChannel,
    stream: Stream<GrantMapping>,
}

impl GuestRing {
    /// Maps a guest's page and connects to its port.
    pub fn open(domain: DomainId, port: Port) -> Result<Self, OpenError> {
        let reference = GrantReference(GNTTAB_RESERVED_XENSTORE);
        let page = grant::map(domain, reference, GrantAccess::ReadWrite).map_err(OpenError::Page)?;
        let channel = EventChannel::bind_interdomain(domain, port).map_err(OpenError::Port)?;
        let stream = Stream::attach(page).map_err(OpenError::Ring)?;
        Ok(Self { domain, channel, stream })
    }

    /// Moves bytes until the guest breaks the rules or the store is gone. Whoever spawned this cancels it when
    /// the guest is released.
    pub async fn serve(mut self, service: Weak<StoreService>, connection: ConnectionId, wake: Rc<Notify>) {
        let fault = loop {
            let Some(service) = service.upgrade() else { return };
            let turn = service.with(|server| self.stream.turn(server, connection));
            drop(service);
            match turn {
                Ok(Turn { notify, moved }) => {
                    if notify.needed() {
                        // Fails only if the guest closed its end, and then it misses nothing.
                        let _ = self.channel.notify();
                    }
                    if moved {
                        yield_now().await;
                    } else {
                        select(self.channel.wait(), wake.wait()).await;
                    }
                }
                Err(fault) => break fault,
            }
        };
        self.give_up(&fault);
    }

    fn give_up(&self, fault: &Fault) {
        let error = match fault {
            Fault::Ring(corrupt) => {
                log::warn!("store: domain {} broke its ring: {corrupt}", self.domain);
                XENSTORE_ERROR_RINGIDX
            }
            Fault::Store(error) => {
                log::warn!("store: domain {} is cut off: {error:?}", self.domain);
                XENSTORE_ERROR_PROTO
            }
        };
        self.stream.ring.report_error(error);
        let _ = self.channel.notify();
    }
}

impl<M: RingMemory> Stream<M> {
    fn attach(page: M) -> Result<Self, AttachError> {
        let ring = StoreServer::attach(page)?;
        ring.offer_features(XENSTORE_SERVER_FEATURE_RECONNECTION | XENSTORE_SERVER_FEATURE_ERROR);
        Ok(Self { ring, incoming: Incoming { bytes: [0; XENSTORE_RING_SIZE], start: 0, end: 0 } })
    }

    /// Moves what can be moved, once each way.
    fn turn(&mut self, server: &mut Server, connection: ConnectionId) -> Result<Turn, Fault> {
        if self.ring.reconnect_requested() {
            server.reset(connection);
            (self.incoming.start, self.incoming.end) = (0, 0);
            return Ok(Turn { notify: self.ring.reconnect(), moved: true });
        }
        let taken = self.take_in(server, connection)?;
        let sent = self.send_out(server, connection)?;
        Ok(Turn { notify: taken.notify | sent.notify, moved: taken.moved || sent.moved })
    }

    fn take_in(&mut self, server: &mut Server, connection: ConnectionId) -> Result<Turn, Fault> {
        let mut notify = NotifyPeer::No;
        if self.incoming.start == self.incoming.end {
            let transfer = self.ring.read(&mut self.incoming.bytes)?;
            (self.incoming.start, self.incoming.end) = (0, transfer.count);
            notify = transfer.notify;
        }
        let waiting = &self.incoming.bytes[self.incoming.start..self.incoming.end];
        let taken = server.receive(connection, waiting).map_err(Fault::Store)?;
        self.incoming.start += taken;
        Ok(Turn { notify, moved: taken > 0 })
    }

    fn send_out(&mut self, server: &mut Server, connection: ConnectionId) -> Result<Turn, Fault> {
        let mut turn = Turn { notify: NotifyPeer::No, moved: false };
        loop {
            let transfer = self.ring.write(server.output(connection))?;
            if transfer.count == 0 {
                return Ok(turn);
            }
            server.sent(connection, transfer.count);
            turn = Turn { notify: turn.notify | transfer.notify, moved: true };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Limits;
    use alloc::vec;
    use alloc::vec::Vec;
    use core::sync::atomic::{AtomicU32, Ordering};
    use hypercall_abi::MachineFrame;
    use hypercall_abi::io::xs_wire::{XENSTORE_RECONNECT, XS_GET_DOMAIN_PATH, XS_WRITE, XsdSockmsg};
    use ring::StoreClient;
    use zerocopy::IntoBytes;

    type SharedPage = Rc<[AtomicU32]>;

    #[derive(Clone)]
    struct Page(SharedPage);

    impl AsRef<[AtomicU32]> for Page {
        fn as_ref(&self) -> &[AtomicU32] {
            &self.0
        }
    }

    struct Guest {
        page: Page,
        client: StoreClient<Page>,
        stream: Stream<Page>,
        server: Server,
        connection: ConnectionId,
    }

    fn guest() -> Guest {
        let page = Page((0..1024).map(|_| AtomicU32::new(0)).collect());
        let mut server = Server::new(Limits::default());
        let connection = server.introduce(DomainId(4), MachineFrame(1), Port(1)).unwrap();
        let (client, stream) =
            (StoreClient::attach(page.clone()).unwrap(), Stream::attach(page.clone()).unwrap());
        Guest { page, client, stream, server, connection }
    }

    impl Guest {
        fn turn(&mut self) -> Result<Turn, Fault> {
            self.stream.turn(&mut self.server, self.connection)
        }

        fn received(&mut self) -> Vec<u8> {
            let mut bytes = vec![0; 1024];
            let count = self.client.read(&mut bytes).unwrap().count;
            bytes.truncate(count);
            bytes
        }
    }

    fn request(kind: u32, body: &[u8]) -> Vec<u8> {
        let header = XsdSockmsg { kind, req_id: 9, tx_id: 0, len: body.len() as u32 };
        [header.as_bytes(), body].concat()
    }

    #[test]
    fn a_request_is_answered_however_it_is_cut() {
        let mut guest = guest();
        for byte in request(XS_GET_DOMAIN_PATH, b"4\0") {
            assert_eq!(guest.client.write(&[byte]).unwrap().count, 1);
            assert!(guest.turn().is_ok());
        }
        assert!(guest.received().ends_with(b"/local/domain/4\0"));
        assert!(
            matches!(guest.turn(), Ok(Turn { notify: NotifyPeer::No, moved: false })),
            "nothing is left to do"
        );
    }

    #[test]
    fn replies_wait_for_room_and_none_is_lost() {
        let mut guest = guest();
        let question = request(XS_GET_DOMAIN_PATH, b"4\0");
        let (mut asked, mut answers) = (0, 0);
        while answers < 200 * (16 + 16) {
            if asked < 200 && guest.client.writable().unwrap() as usize >= question.len() {
                assert_eq!(guest.client.write(&question).unwrap().count, question.len());
                asked += 1;
                if asked % 50 != 0 {
                    continue;
                }
            }
            assert!(guest.turn().is_ok());
            answers += guest.received().len();
        }
        assert_eq!((asked, answers), (200, 200 * 32));
    }

    #[test]
    fn a_broken_index_ends_the_connection() {
        let mut guest = guest();
        // The index of what the guest has written.
        guest.page.0[2052 / 4].store(5000, Ordering::Relaxed);
        assert!(matches!(guest.turn(), Err(Fault::Ring(_))));
    }

    #[test]
    fn a_message_without_end_ends_the_connection() {
        let mut guest = guest();
        let header = XsdSockmsg { kind: XS_WRITE, req_id: 0, tx_id: 0, len: 5000 };
        assert_eq!(guest.client.write(header.as_bytes()).unwrap().count, 16);
        assert!(matches!(guest.turn(), Err(Fault::Store(ConnectionError::Broken(_)))));
        assert!(guest.turn().is_err(), "and stays so");
    }

    #[test]
    fn a_reconnection_forgets_what_was_half_sent() {
        let mut guest = guest();
        assert_eq!(guest.client.write(b"half a he").unwrap().count, 9);
        assert!(guest.turn().is_ok());
        guest.page.0[2068 / 4].store(XENSTORE_RECONNECT, Ordering::Relaxed);
        assert!(matches!(guest.turn(), Ok(Turn { notify: NotifyPeer::Yes, .. })));
        guest.client = StoreClient::attach(guest.page.clone()).unwrap();
        assert!(guest.client.write(&request(XS_GET_DOMAIN_PATH, b"4\0")).unwrap().count > 0);
        assert!(guest.turn().is_ok());
        assert!(guest.received().ends_with(b"/local/domain/4\0"));
    }
}
