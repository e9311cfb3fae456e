//! Tests of the whole store, as its clients see it: bytes in, bytes out.

mod domains;
mod local;
mod model;
mod nodes;
mod permissions;
mod planting;
mod quotas;
mod robustness;
mod transactions;
mod watches;

use std::collections::HashMap;

use hypercall_abi::io::xs_wire::*;
use hypercall_abi::{DomainId, MachineFrame, Port};

use super::*;

/// A store with clients that send messages and sort what they get.
pub struct Store {
    pub server: Server,
    next_request: u32,
    events: HashMap<ConnectionId, Vec<(String, String)>>,
}

/// The payload of a reply, or the name of an error.
pub type Answer<T = Vec<u8>> = Result<T, String>;

impl Store {
    pub fn new() -> Self {
        Self::with_limits(Limits::default())
    }

    pub fn with_limits(limits: Limits) -> Self {
        Self { server: Server::new(limits), next_request: 1, events: HashMap::new() }
    }

    /// A domain with a home directory that it owns, as a toolstack makes it.
    pub fn guest(&mut self, domain: u16) -> ConnectionId {
        let home = Path::home(DomainId(domain));
        self.server.make_directory(home.as_str()).unwrap();
        self.server.set_permissions(home.as_str(), &Permissions::private(DomainId(domain))).unwrap();
        self.server.introduce(DomainId(domain), MachineFrame(500), Port(7)).unwrap()
    }

    /// A part of dom0 that speaks the wire protocol.
    pub fn dom0(&mut self) -> ConnectionId {
        self.server.connect()
    }

    /// Sends a request in a transaction (or none, if zero) and takes the reply.
    pub fn call_in(&mut self, transaction: u32, client: ConnectionId, kind: u32, payload: &[u8]) -> Answer {
        let request = self.next_request;
        self.next_request += 1;
        let bytes = encode(kind, request, transaction, payload);
        assert_eq!(self.server.receive(client, &bytes), Ok(bytes.len()));
        let mut answer = None;
        for Message { header, payload } in self.take_messages(client) {
            assert_eq!((header.req_id, header.tx_id), (request, transaction));
            assert!(header.kind == kind || header.kind == XS_ERROR, "a reply of type {}", header.kind);
            let text = String::from_utf8_lossy(&payload).trim_end_matches('\0').to_owned();
            let reply = if header.kind == XS_ERROR { Err(text) } else { Ok(payload) };
            assert!(answer.replace(reply).is_none(), "two replies");
        }
        answer.expect("no reply")
    }

    pub fn call(&mut self, client: ConnectionId, kind: u32, payload: &[u8]) -> Answer {
        self.call_in(0, client, kind, payload)
    }

    /// Takes all messages that wait for a client; keeps the events and returns the others.
    fn take_messages(&mut self, client: ConnectionId) -> Vec<Message> {
        let mut replies = vec![];
        while !self.server.output(client).is_empty() {
            let message = self.server.output(client).to_vec();
            self.server.sent(client, message.len());
            let (header, payload) = message.split_first_chunk().unwrap();
            let (header, payload) = (parse_header(header).unwrap(), payload.to_vec());
            assert_eq!(header.len as usize, payload.len());
            if header.kind != XS_WATCH_EVENT {
                replies.push(Message { header, payload });
                continue;
            }
            assert_eq!((header.req_id, header.tx_id), (0, 0));
            let mut strings = payload.split(|byte| *byte == 0).map(String::from_utf8_lossy);
            let mut string = || strings.next().unwrap().into_owned();
            self.events.entry(client).or_default().push((string(), string()));
        }
        replies
    }

    /// The watch events that a client got, as path and token.
    pub fn events(&mut self, client: ConnectionId) -> Vec<(String, String)> {
        assert!(self.take_messages(client).is_empty(), "a reply nobody asked for");
        self.events.remove(&client).unwrap_or_default()
    }

    /// The paths of the watch events that a client got.
    pub fn event_paths(&mut self, client: ConnectionId) -> Vec<String> {
        self.events(client).into_iter().map(|(path, _)| path).collect()
    }
}

/// The requests by name. `path` is as the client writes it.
impl Store {
    pub fn read(&mut self, client: ConnectionId, path: &str) -> Answer<String> {
        self.read_in(0, client, path)
    }

    pub fn read_in(&mut self, transaction: u32, client: ConnectionId, path: &str) -> Answer<String> {
        self.call_in(transaction, client, XS_READ, &strings(&[path])).map(text)
    }

    pub fn write(&mut self, client: ConnectionId, path: &str, value: &str) -> Answer<()> {
        self.write_in(0, client, path, value)
    }

    pub fn write_in(
        &mut self,
        transaction: u32,
        client: ConnectionId,
        path: &str,
        value: &str,
    ) -> Answer<()> {
        let payload = [&strings(&[path]), value.as_bytes()].concat();
        self.call_in(transaction, client, XS_WRITE, &payload).map(done)
    }

    pub fn make_directory(&mut self, client: ConnectionId, path: &str) -> Answer<()> {
        self.call(client, XS_MKDIR, &strings(&[path])).map(done)
    }

    pub fn remove(&mut self, client: ConnectionId, path: &str) -> Answer<()> {
        self.remove_in(0, client, path)
    }

    pub fn remove_in(&mut self, transaction: u32, client: ConnectionId, path: &str) -> Answer<()> {
        self.call_in(transaction, client, XS_RM, &strings(&[path])).map(done)
    }

    pub fn list(&mut self, client: ConnectionId, path: &str) -> Answer<Vec<String>> {
        self.list_in(0, client, path)
    }

    pub fn list_in(&mut self, transaction: u32, client: ConnectionId, path: &str) -> Answer<Vec<String>> {
        self.call_in(transaction, client, XS_DIRECTORY, &strings(&[path])).map(split)
    }

    pub fn permissions(&mut self, client: ConnectionId, path: &str) -> Answer<Vec<String>> {
        self.call(client, XS_GET_PERMS, &strings(&[path])).map(split)
    }

    pub fn set_permissions(&mut self, client: ConnectionId, path: &str, entries: &[&str]) -> Answer<()> {
        self.call(client, XS_SET_PERMS, &strings(&[&[path], entries].concat())).map(done)
    }

    pub fn watch(&mut self, client: ConnectionId, path: &str, token: &str) -> Answer<()> {
        self.call(client, XS_WATCH, &strings(&[path, token])).map(done)
    }

    pub fn unwatch(&mut self, client: ConnectionId, path: &str, token: &str) -> Answer<()> {
        self.call(client, XS_UNWATCH, &strings(&[path, token])).map(done)
    }

    pub fn start(&mut self, client: ConnectionId) -> Answer<u32> {
        let number = self.call(client, XS_TRANSACTION_START, b"\0").map(text)?;
        Ok(number.trim_end_matches('\0').parse().unwrap())
    }

    pub fn end(&mut self, transaction: u32, client: ConnectionId, commit: bool) -> Answer<()> {
        let payload: &[u8] = if commit { b"T\0" } else { b"F\0" };
        self.call_in(transaction, client, XS_TRANSACTION_END, payload).map(done)
    }

    pub fn commit(&mut self, transaction: u32, client: ConnectionId) -> Answer<()> {
        self.end(transaction, client, true)
    }
}

/// Strings, each with a NUL behind it.
pub fn strings(all: &[&str]) -> Vec<u8> {
    all.iter().flat_map(|string| [string.as_bytes(), b"\0"].concat()).collect()
}

fn text(payload: Vec<u8>) -> String {
    String::from_utf8(payload).unwrap()
}

fn split(payload: Vec<u8>) -> Vec<String> {
    text(payload).split_terminator('\0').map(str::to_owned).collect()
}

fn done(payload: Vec<u8>) {
    assert_eq!(payload, b"OK\0");
}

pub fn error<T>(name: &str) -> Answer<T> {
    Err(name.to_owned())
}
