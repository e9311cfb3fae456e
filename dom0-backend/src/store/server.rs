//! The server: takes requests, answers them, and tells who watches.
//!
//! Nothing here waits. Whoever moves the bytes calls [`Server::receive`] with what came in, sends what
//! [`Server::output`] has for each connection that [`Server::next_ready`] names, and carries out what
//! [`Server::next_action`] asks for. A request is handled to its end before the next one is looked at, so
//! replies are in the order of requests and no two requests see each other half done.

use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::vec::Vec;

use hypercall_abi::{DomainId, MachineFrame, Port};

use super::clients::Clients;
use super::connection::{ConnectionId, Peer};
use super::database::{Database, Workspace};
use super::error::Error;
use super::notice::Notice;
use super::operation::{self, Session};
use super::path::{self, Path, Special};
use super::permission::Caller;
use super::quota::{Delta, Excess, Limits, Quota, Refusals, Usage};
use super::transaction::{Draft, Transactions};
use super::watch::Watches;
use super::wire::{
    FramingError, Management, Message, NodeOperation, Operation, Request, encode_reply, terminated,
};

/// What a request that only had to be carried out is answered with.
const DONE: &[u8] = b"OK\0";

/// The store.
pub struct Server {
    pub(super) database: Database,
    pub(super) transactions: Transactions,
    pub(super) watches: Watches,
    pub(super) clients: Clients,
    pub(super) limits: Limits,
    pub(super) refusals: Refusals,
    pub(super) actions: VecDeque<Action>,
}

/// Something that the store cannot do itself, because it takes hypercalls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Map a domain's store page and bind its event channel. If that fails, release the domain.
    Attach {
        /// The connection to which the ring belongs. If it has a ring already, the new one replaces it.
        connection: ConnectionId,
        /// The domain.
        domain: DomainId,
        /// The frame of its store page.
        frame: MachineFrame,
        /// Its end of the event channel.
        port: Port,
    },
    /// Unmap the page and unbind the channel; the connection is gone.
    Detach {
        /// The connection that was.
        connection: ConnectionId,
        /// The domain.
        domain: DomainId,
    },
}

/// Why a connection takes no bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionError {
    /// There is no such connection, or no longer.
    Gone,
    /// The client broke the protocol, now or earlier. Its watches and transactions are gone; the connection
    /// stays useless until it is reset or the domain is introduced again.
    Broken(FramingError),
}

impl Server {
    /// A store with nothing in it.
    pub fn new(limits: Limits) -> Self {
        Self {
            database: Database::new(),
            transactions: Transactions::default(),
            watches: Watches::default(),
            clients: Clients::default(),
            limits,
            refusals: Refusals::default(),
            actions: VecDeque::new(),
        }
    }

    /// Connects a part of dom0. Rights and quotas do not apply to it.
    pub fn connect(&mut self) -> ConnectionId {
        self.clients.connect(Peer::Dom0)
    }

    /// Ends a connection of a part of dom0. A domain's connection ends with [`Self::release`].
    pub fn disconnect(&mut self, connection: ConnectionId) {
        if self.clients.get(connection).is_some_and(|known| known.peer == Peer::Dom0) {
            self.drop_state(connection);
            self.clients.disconnect(connection);
        }
    }

    /// Makes a connection as if it was new: what was received or waits to be sent in part or whole, watches
    /// and transactions are gone. This is what a domain asks for that reconnects its ring.
    pub fn reset(&mut self, connection: ConnectionId) {
        self.drop_state(connection);
        if let Some(connection) = self.clients.get_mut(connection) {
            connection.reset();
        }
    }

    /// Takes bytes from a client and handles the requests that they complete; how many were taken. When fewer
    /// were taken than there are, too many replies wait: offer the rest again when output was sent.
    ///
    /// # Errors
    /// That the connection takes nothing, now or from now on.
    pub fn receive(&mut self, id: ConnectionId, bytes: &[u8]) -> Result<usize, ConnectionError> {
        let mut taken = 0;
        loop {
            let connection = self.clients.get_mut(id).ok_or(ConnectionError::Gone)?;
            if let Some(error) = connection.broken {
                return Err(ConnectionError::Broken(error));
            }
            if taken == bytes.len() || !connection.accepts_requests(&self.limits) {
                return Ok(taken);
            }
            match connection.assemble(&bytes[taken..]) {
                Ok((more, message)) => {
                    taken += more;
                    if let Some(message) = message {
                        self.handle_message(id, &message);
                    }
                }
                Err(error) => return Err(self.break_off(id, error)),
            }
        }
    }

    /// Handles one request: its reply, and the watch events it causes, are queued on their connections.
    ///
    /// # Errors
    /// [`ConnectionError::Gone`].
    pub fn handle(&mut self, id: ConnectionId, request: &Request<'_>) -> Result<(), ConnectionError> {
        let caller = self.clients.caller(id).ok_or(ConnectionError::Gone)?;
        let result = self.perform(id, caller, request);
        self.settle();
        self.reply(id, request, result);
        Ok(())
    }

    /// A connection that has something to send, each once until more is queued.
    pub fn next_ready(&mut self) -> Option<ConnectionId> {
        self.clients.next_ready()
    }

    /// What a connection has to send next; more may follow when this is sent. Empty if there is nothing.
    pub fn output(&self, connection: ConnectionId) -> &[u8] {
        self.clients.get(connection).map_or(&[], |connection| connection.output())
    }

    /// So many bytes of [`Self::output`] are sent.
    pub fn sent(&mut self, connection: ConnectionId, bytes: usize) {
        if let Some(connection) = self.clients.get_mut(connection) {
            connection.sent(bytes);
        }
    }

    /// Something to be done outside the store.
    pub fn next_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// What a domain holds.
    pub fn usage(&self, domain: DomainId) -> Usage {
        self.database.usage(domain)
    }

    fn handle_message(&mut self, id: ConnectionId, message: &Message) {
        match Request::parse(message.header, &message.payload) {
            // The connection was there a moment ago.
            Ok(request) => drop(self.handle(id, &request)),
            Err(malformed) => {
                let reply = encode_reply(&message.header, Err(malformed.into()));
                self.send(id, reply);
            }
        }
    }

    fn reply(&mut self, id: ConnectionId, request: &Request<'_>, result: Result<Vec<u8>, Error>) {
        if let (Err(Error::Quota(excess)), Some(client)) = (&result, self.clients.get(id)) {
            self.note_refusal(client.peer.domain(), *excess);
        }
        let result = result.as_deref().map_err(|error| *error);
        self.send(id, encode_reply(&request.header, result));
        if let (Operation::Watch { path, token }, Ok(_)) = (&request.operation, result) {
            self.send_first_event(id, path, token);
        }
    }

    fn note_refusal(&mut self, domain: DomainId, excess: Excess) {
        let count = self.refusals.note(domain, excess);
        if count > 0 {
            let name = self.name_of(domain);
            log::warn!("store: domain {domain} ({name}) is at its quota of {excess} ({count} times so far)");
        }
    }

    fn send(&mut self, id: ConnectionId, reply: Vec<u8>) {
        if let Some(connection) = self.clients.get_mut(id) {
            connection.send_reply(reply);
            self.clients.list_ready(id);
        }
    }

    /// The event that tells that a watch is set. Its path is as the client wrote it.
    pub(super) fn send_first_event(&mut self, id: ConnectionId, path: &[u8], token: &[u8]) {
        let path = String::from_utf8_lossy(path);
        if let Some(connection) = self.clients.get_mut(id) {
            connection.send_event(&path, &path, token, &self.limits);
            self.clients.list_ready(id);
        }
    }

    /// What follows every change: those who watch are told, and transactions do not fall too far behind.
    pub(super) fn settle(&mut self) {
        self.deliver_events();
        self.transactions.refresh(&mut self.database, self.limits.lag);
    }

    /// Turns the notices of changes into watch events for those who may know.
    fn deliver_events(&mut self) {
        for notice in self.database.take_notices() {
            self.tell_of(&notice);
        }
        for path in self.database.take_planted() {
            if self.watches.any_below(&path) {
                self.database.arrivals_below(&path).iter().for_each(|notice| self.tell_of(notice));
            }
        }
    }

    fn tell_of(&mut self, notice: &Notice) {
        for (watched, id, group) in self.watches.concerned(notice) {
            let Some(caller) = self.clients.caller(id) else { continue };
            let Some(connection) = self.clients.get_mut(id) else { continue };
            if !notice.may_be_told_to(&caller) {
                continue;
            }
            for (token, hidden) in group {
                let seen = |path: &'_ str| path.get(*hidden..).map(String::from).unwrap_or_default();
                connection.send_event(&seen(notice.path.as_str()), &seen(watched), token, &self.limits);
            }
            self.clients.list_ready(id);
        }
    }

    fn break_off(&mut self, id: ConnectionId, error: FramingError) -> ConnectionError {
        self.reset(id);
        if let Some(connection) = self.clients.get_mut(id) {
            connection.broken = Some(error);
            connection.breaks += 1;
            let (peer, breaks) = (connection.peer, connection.breaks);
            if breaks.is_power_of_two() {
                log::warn!("store: {peer:?} sent what is no message: {error:?} ({breaks} times so far)");
            }
        }
        ConnectionError::Broken(error)
    }

    /// Ends a connection's watches and transactions.
    pub(super) fn drop_state(&mut self, id: ConnectionId) {
        let Some(connection) = self.clients.get(id) else { return };
        let domain = connection.peer.domain();
        for (path, token) in self.watches.remove_all(id) {
            self.database.ledger.enter(domain, watch_charge(&path, &token).undone());
        }
        self.transactions.abandon_all(id, &mut self.database);
    }
}

/// What a watch costs.
pub(super) fn watch_charge(path: &Path, token: &[u8]) -> Delta {
    Delta::watch(path.as_str().len() + token.len())
}

/// The requests, one by one.
impl Server {
    /// Carries out a request; the payload of the reply.
    fn perform(&mut self, id: ConnectionId, caller: Caller, request: &Request<'_>) -> Result<Vec<u8>, Error> {
        let done = |()| DONE.to_vec();
        let transaction = request.header.tx_id;
        let about_watches = matches!(request.operation, Operation::Watch { .. } | Operation::Unwatch { .. });
        // Watches are the only requests for which the transaction does not matter.
        if transaction != 0 && !about_watches && self.transactions.get_mut(id, transaction).is_none() {
            return Err(Error::NotFound);
        }
        match &request.operation {
            Operation::Node { path, operation } => {
                self.perform_on_node(id, caller, transaction, path, operation)
            }
            Operation::Watch { path, token } => self.set_watch(id, caller, path, token).map(done),
            Operation::Unwatch { path, token } => self.end_watch(id, caller, path, token).map(done),
            Operation::ResetWatches => {
                self.drop_state(id);
                Ok(done(()))
            }
            Operation::TransactionStart => self.start_transaction(id, caller, transaction),
            Operation::TransactionEnd { commit } => {
                self.end_transaction(id, caller, transaction, *commit).map(done)
            }
            Operation::GetDomainPath(domain) => Ok(terminated(Path::home(*domain))),
            Operation::Management(management) if caller.privileged => self.manage(management),
            Operation::Management(_) => Err(Error::Denied),
        }
    }

    /// Carries out a request that only dom0 may make.
    fn manage(&mut self, management: &Management<'_>) -> Result<Vec<u8>, Error> {
        let done = |()| DONE.to_vec();
        match *management {
            Management::Introduce { domain, frame, port } => {
                self.introduce(domain, frame, port).map(|_| done(()))
            }
            Management::Release(domain) => self.release(domain).map(done),
            Management::Resume(domain) => self.resume(domain).map(done),
            Management::SetTarget { domain, target } => self.set_target(domain, target).map(done),
            Management::IsDomainIntroduced(domain) => {
                Ok(terminated(if self.is_introduced(domain) { "T" } else { "F" }))
            }
            Management::Control { command, ref arguments } => self.control(command, arguments),
        }
    }

    /// Carries out a request about a node, on the database or in a transaction that exists.
    fn perform_on_node(
        &mut self,
        id: ConnectionId,
        caller: Caller,
        transaction: u32,
        path: &[u8],
        operation: &NodeOperation<'_>,
    ) -> Result<Vec<u8>, Error> {
        use NodeOperation::{GetPermissions, SetPermissions};
        let session = Session { caller, limits: &self.limits };
        let about_permissions = matches!(operation, GetPermissions | SetPermissions(_));
        let special = if about_permissions { Special::Allowed } else { Special::Refused };
        let path = &resolve(session, path, special)?;
        let Some(transaction) = self.transactions.get_mut(id, transaction) else {
            return perform_in(&mut self.database, session, path, operation);
        };
        let mut draft = Draft { transaction, database: &mut self.database, session };
        perform_in(&mut draft, session, path, operation)
    }

    fn start_transaction(
        &mut self,
        id: ConnectionId,
        caller: Caller,
        transaction: u32,
    ) -> Result<Vec<u8>, Error> {
        if transaction != 0 {
            return Err(Error::Nested);
        }
        let connection = self.clients.get_mut(id).ok_or(Error::NotFound)?;
        let domain = connection.peer.domain();
        let session = Session { caller, limits: &self.limits };
        let open = self.database.usage(domain).transactions;
        session.check(Quota::Transactions, open + 1, self.limits.transactions)?;
        let last = connection.last_transaction;
        connection.last_transaction = self.transactions.start(id, last, &mut self.database, domain);
        Ok(terminated(connection.last_transaction))
    }

    fn end_transaction(
        &mut self,
        id: ConnectionId,
        caller: Caller,
        transaction: u32,
        commit: bool,
    ) -> Result<(), Error> {
        let transaction = self.transactions.take(id, transaction).ok_or(Error::NotFound)?;
        if commit {
            return transaction.commit(&mut self.database, Session { caller, limits: &self.limits });
        }
        transaction.abandon(&mut self.database);
        Ok(())
    }

    pub(super) fn set_watch(
        &mut self,
        id: ConnectionId,
        caller: Caller,
        text: &[u8],
        token: &[u8],
    ) -> Result<(), Error> {
        let session = Session { caller, limits: &self.limits };
        let path = resolve(session, text, Special::Allowed)?;
        if self.watches.contains(id, &path, token) {
            return Err(Error::AlreadyWatched);
        }
        let held = self.database.usage(caller.domain);
        let charge = watch_charge(&path, token);
        let wanted = held.about(charge);
        session.check(Quota::Watches, wanted.watches, self.limits.watches)?;
        session.check(Quota::Memory, wanted.bytes, self.limits.memory)?;
        let hidden = if path::is_relative(text) { path.as_str().len() - text.len() } else { 0 };
        self.watches.add(id, &path, token.into(), hidden)?;
        self.database.ledger.enter(caller.domain, charge);
        Ok(())
    }

    pub(super) fn end_watch(
        &mut self,
        id: ConnectionId,
        caller: Caller,
        text: &[u8],
        token: &[u8],
    ) -> Result<(), Error> {
        let session = Session { caller, limits: &self.limits };
        let path = resolve(session, text, Special::Allowed)?;
        self.watches.remove(id, &path, token)?;
        self.database.ledger.enter(caller.domain, watch_charge(&path, token).undone());
        Ok(())
    }
}

/// Carries out a request about a node; the payload of the reply.
fn perform_in(
    workspace: &mut dyn Workspace,
    session: Session<'_>,
    path: &Path,
    operation: &NodeOperation<'_>,
) -> Result<Vec<u8>, Error> {
    let done = |()| DONE.to_vec();
    match operation {
        NodeOperation::Directory => operation::directory(workspace, session, path),
        NodeOperation::DirectoryPart(offset) => operation::directory_part(workspace, session, path, *offset),
        NodeOperation::Read => operation::read(workspace, session, path).map(|value| value.to_vec()),
        NodeOperation::Write(value) => operation::write(workspace, session, path, value).map(done),
        NodeOperation::MakeDirectory => operation::make_directory(workspace, session, path).map(done),
        NodeOperation::Remove => operation::remove(workspace, session, path).map(done),
        NodeOperation::GetPermissions => operation::permissions(workspace, session, path)
            .map(|permissions| permissions.to_wire().into_bytes()),
        NodeOperation::SetPermissions(permissions) => {
            operation::set_permissions(workspace, session, path, permissions).map(done)
        }
    }
}

/// The path that a client's text means, if the client may have one so long.
pub(super) fn resolve(session: Session<'_>, text: &[u8], special: Special) -> Result<Path, Error> {
    let path = Path::resolve(text, session.caller.domain, special)?;
    session.check(Quota::PathLength, path.counted_length(), session.limits.path_length)?;
    Ok(path)
}
