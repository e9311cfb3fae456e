//! The two ends of a domain's connection to the store.
//!
//! Besides the two streams, the page has three words for a connection that went wrong: the server says
//! which of them it knows, a client asks for a fresh connection (a new kernel started by the old one does),
//! and the server says why it gave up.

use core::mem::offset_of;
use core::sync::atomic::Ordering;

use hypercall_abi::io::xs_wire::{
    XENSTORE_CONNECTED, XENSTORE_ERROR_NONE, XENSTORE_RECONNECT, XENSTORE_RING_SIZE, XenstoreDomainInterface,
};

use crate::byte_ring::{ByteRing, StreamEnd, StreamLayout};
use crate::memory::{RingMemory, WORD_SIZE};
use crate::outcome::NotifyPeer;

/// From the domain to the store.
const REQUESTS: StreamLayout = StreamLayout {
    buffer: offset_of!(XenstoreDomainInterface, req),
    size: XENSTORE_RING_SIZE as u32,
    consumer: offset_of!(XenstoreDomainInterface, req_cons),
    producer: offset_of!(XenstoreDomainInterface, req_prod),
};

/// From the store to the domain.
const REPLIES: StreamLayout = StreamLayout {
    buffer: offset_of!(XenstoreDomainInterface, rsp),
    size: XENSTORE_RING_SIZE as u32,
    consumer: offset_of!(XenstoreDomainInterface, rsp_cons),
    producer: offset_of!(XenstoreDomainInterface, rsp_prod),
};

/// The word that says what the server can do.
const SERVER_FEATURES: usize = offset_of!(XenstoreDomainInterface, server_features) / WORD_SIZE;
/// The word that says whether the connection is to be made anew.
const CONNECTION: usize = offset_of!(XenstoreDomainInterface, connection) / WORD_SIZE;
/// The word that says why the server gave up.
const ERROR: usize = offset_of!(XenstoreDomainInterface, error) / WORD_SIZE;

/// Marks the domain's end.
#[derive(Clone, Copy, Debug)]
pub enum Client {}

impl StreamEnd for Client {
    const RECEIVE: StreamLayout = REPLIES;
    const SEND: StreamLayout = REQUESTS;
}

/// Marks the store's end.
#[derive(Clone, Copy, Debug)]
pub enum Server {}

impl StreamEnd for Server {
    const RECEIVE: StreamLayout = REQUESTS;
    const SEND: StreamLayout = REPLIES;
}

/// The connection as the domain has it.
pub type StoreClient<M> = ByteRing<Client, M>;

/// The connection as the store has it.
pub type StoreServer<M> = ByteRing<Server, M>;

impl<M: RingMemory> StoreClient<M> {
    /// What the server says it can do, `XENSTORE_SERVER_FEATURE_*`.
    pub fn server_features(&self) -> u32 {
        self.memory.load(SERVER_FEATURES, Ordering::Relaxed)
    }

    /// Why the server gave up, `XENSTORE_ERROR_*`. Meaningful only if it has the feature.
    pub fn error(&self) -> u32 {
        self.memory.load(ERROR, Ordering::Relaxed)
    }
}

impl<M: RingMemory> StoreServer<M> {
    /// Says what we can do, `XENSTORE_SERVER_FEATURE_*`.
    pub fn offer_features(&self, features: u32) {
        self.memory.store(SERVER_FEATURES, features, Ordering::Relaxed);
    }

    /// Says why we give up, `XENSTORE_ERROR_*`.
    pub fn report_error(&self, error: u32) {
        self.memory.store(ERROR, error, Ordering::Relaxed);
    }

    /// Whether the domain asks for the connection to be made anew. Then drop what is known of it (watches,
    /// transactions, half a message) and call [`reconnect`](Self::reconnect).
    pub fn reconnect_requested(&self) -> bool {
        self.memory.load(CONNECTION, Ordering::Acquire) == XENSTORE_RECONNECT
    }

    /// Makes the connection anew: both streams are empty, and the domain is told so.
    pub fn reconnect(&mut self) -> NotifyPeer {
        self.reset();
        self.report_error(XENSTORE_ERROR_NONE);
        // Release: the indexes are zero before the domain may use them again.
        self.memory.store(CONNECTION, XENSTORE_CONNECTED, Ordering::Release);
        NotifyPeer::Yes
    }
}

#[cfg(test)]
mod tests {
    use hypercall_abi::io::xs_wire::{
        XENSTORE_ERROR_PROTO, XENSTORE_SERVER_FEATURE_ERROR, XENSTORE_SERVER_FEATURE_RECONNECTION,
    };

    use super::*;
    use crate::tests::{SharedPages, pages, peek, poke};

    /// Both ends of a connection, and its memory.
    fn connection() -> (StoreClient<SharedPages>, StoreServer<SharedPages>, SharedPages) {
        let page = pages(1);
        (ByteRing::attach(page.clone()).unwrap(), ByteRing::attach(page.clone()).unwrap(), page)
    }

    #[test]
    fn requests_and_replies_lie_where_the_header_file_says() {
        let (mut client, mut server, page) = connection();
        assert_eq!(client.write(b"request").unwrap().count, 7);
        assert_eq!(server.write(b"reply").unwrap().count, 5);
        let words = [peek(&page, 0), peek(&page, 256)];
        assert_eq!(words, [u32::from_le_bytes(*b"requ"), u32::from_le_bytes(*b"repl")]);
        // req_cons, req_prod, rsp_cons, rsp_prod
        let indexes: [u32; 4] = core::array::from_fn(|index| peek(&page, 512 + index));
        assert_eq!(indexes, [0, 7, 0, 5]);
    }

    #[test]
    fn the_client_sees_what_the_server_can_do_and_why_it_gave_up() {
        let (client, server, page) = connection();
        let features = XENSTORE_SERVER_FEATURE_RECONNECTION | XENSTORE_SERVER_FEATURE_ERROR;
        server.offer_features(features);
        server.report_error(XENSTORE_ERROR_PROTO);
        assert_eq!((client.server_features(), client.error()), (features, XENSTORE_ERROR_PROTO));
        assert_eq!((peek(&page, 516), peek(&page, 518)), (features, XENSTORE_ERROR_PROTO));
    }

    #[test]
    fn a_connection_made_anew_is_empty() {
        let (mut client, mut server, page) = connection();
        assert_eq!(client.write(b"half a mess").unwrap().count, 11);
        assert_eq!(server.read(&mut [0; 4]).unwrap().count, 4);
        assert_eq!(server.write(b"left over").unwrap().count, 9);
        assert!(!server.reconnect_requested());
        poke(&page, 517, XENSTORE_RECONNECT);
        assert!(server.reconnect_requested());
        assert_eq!(server.reconnect(), NotifyPeer::Yes);
        assert!(!server.reconnect_requested());

        let mut client = StoreClient::attach(page).unwrap();
        assert_eq!((client.readable(), client.writable()), (Ok(0), Ok(1024)));
        assert_eq!((server.readable(), server.writable()), (Ok(0), Ok(1024)));
        assert_eq!(client.write(b"again").unwrap().count, 5);
        let mut buffer = [0; 8];
        assert_eq!(server.read(&mut buffer).unwrap().count, 5);
        assert_eq!(&buffer[..5], b"again");
    }
}
