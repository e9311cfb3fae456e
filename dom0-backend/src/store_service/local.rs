//! Clients of the store within this domain: packets instead of bytes in a ring.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::task::{Context, Poll};

use hypercall_abi::io::xs_wire::XsdSockmsg;
use pv_runtime::executor::Channel;
use pv_runtime::xenbus::{Disconnected, Packet, Transport};
use zerocopy::FromBytes;

use super::StoreService;
use crate::store::{ConnectionId, Server};

/// Packets on their way from the store to a client.
pub(super) type PacketQueue = Channel<Packet>;

/// A connection from within. It lasts as long as the store.
pub(super) struct LocalTransport {
    service: Rc<StoreService>,
    connection: ConnectionId,
    queue: Rc<PacketQueue>,
}

impl LocalTransport {
    /// The client's end of a connection.
    pub fn new(service: Rc<StoreService>, connection: ConnectionId, queue: Rc<PacketQueue>) -> Self {
        Self { service, connection, queue }
    }
}

impl Transport for LocalTransport {
    fn send(&self, packet: Packet) {
        let mut bytes = Vec::new();
        packet.encode(&mut bytes);
        self.service.with(|server| {
            let mut rest = bytes.as_slice();
            while !rest.is_empty() {
                match server.receive(self.connection, rest) {
                    Ok(taken) => rest = &rest[taken..],
                    Err(error) => return log::error!("store: a client in dom0: {error:?}"),
                }
                // With many replies waiting the store takes no more requests, so they are fetched first.
                fetch(server, self.connection, &self.queue);
            }
        });
    }

    fn poll_receive(&self, context: &mut Context<'_>) -> Poll<Result<Packet, Disconnected>> {
        self.queue.poll_receive(context).map(Ok)
    }
}

/// Moves what the store has for a client into its queue.
pub(super) fn fetch(server: &mut Server, connection: ConnectionId, queue: &PacketQueue) {
    loop {
        let message = server.output(connection);
        // Nothing is ever sent in part, so what is there is a whole message, or nothing.
        let Ok((header, body)) = XsdSockmsg::read_from_prefix(message) else { return };
        let packet = Packet {
            kind: header.kind,
            request_id: header.req_id,
            transaction_id: header.tx_id,
            body: body.to_vec(),
        };
        let length = message.len();
        server.sent(connection, length);
        // The queue always has room.
        let _ = queue.try_send(packet);
    }
}
