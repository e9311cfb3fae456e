//! Clients: the connections there are, the domains they belong to, and which of them have something waiting.

use alloc::collections::VecDeque;

use hashbrown::HashMap;
use hypercall_abi::DomainId;

use super::connection::{Connection, ConnectionId, Peer};
use super::permission::Caller;

/// An introduced domain.
pub(super) struct Domain {
    /// Its connection.
    pub connection: ConnectionId,
    /// The connection of the domain for which it acts. A connection and not a number, so that it means nobody
    /// once that domain is gone, even if another gets the number.
    pub target: Option<ConnectionId>,
    /// Whether its shutdown was told already.
    pub shut_down: bool,
}

/// All clients.
#[derive(Default)]
pub(super) struct Clients {
    connections: HashMap<ConnectionId, Connection>,
    domains: HashMap<DomainId, Domain>,
    /// Connections that have got something to send since they were last asked for, each once.
    ready: VecDeque<ConnectionId>,
    last: u64,
}

impl Clients {
    /// Adds a connection.
    pub fn connect(&mut self, peer: Peer) -> ConnectionId {
        self.last += 1;
        let id = ConnectionId(self.last);
        self.connections.insert(id, Connection::new(peer));
        if let Peer::Ring(domain) = peer {
            self.domains.insert(domain, Domain { connection: id, target: None, shut_down: false });
        }
        id
    }

    /// Removes a connection, and with it the domain that it belongs to.
    pub fn disconnect(&mut self, id: ConnectionId) {
        let connection = self.connections.remove(&id);
        if let Some(Connection { peer: Peer::Ring(domain), .. }) = connection {
            self.domains.remove(&domain);
        }
    }

    /// A connection.
    pub fn get(&self, id: ConnectionId) -> Option<&Connection> {
        self.connections.get(&id)
    }

    /// A connection, to be changed.
    pub fn get_mut(&mut self, id: ConnectionId) -> Option<&mut Connection> {
        self.connections.get_mut(&id)
    }

    /// An introduced domain.
    pub fn domain(&self, domain: DomainId) -> Option<&Domain> {
        self.domains.get(&domain)
    }

    /// An introduced domain, to be changed.
    pub fn domain_mut(&mut self, domain: DomainId) -> Option<&mut Domain> {
        self.domains.get_mut(&domain)
    }

    /// On whose behalf a connection speaks.
    pub fn caller(&self, id: ConnectionId) -> Option<Caller> {
        let Peer::Ring(domain) = self.get(id)?.peer else { return Some(Caller::DOM0) };
        let target = self.domain(domain).and_then(|domain| self.get(domain.target?));
        Some(Caller { target: target.map(|connection| connection.peer.domain()), ..Caller::domain(domain) })
    }

    /// Something was queued on a connection.
    pub fn list_ready(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if !connection.listed && !connection.output().is_empty() {
            connection.listed = true;
            self.ready.push_back(id);
        }
    }

    /// A connection that got something to send.
    pub fn next_ready(&mut self) -> Option<ConnectionId> {
        while let Some(id) = self.ready.pop_front() {
            let Some(connection) = self.connections.get_mut(&id) else { continue };
            connection.listed = false;
            if !connection.output().is_empty() {
                return Some(id);
            }
        }
        None
    }
}
