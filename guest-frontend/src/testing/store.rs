//! A store that answers at once, and that the test can look at and change.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::format;
use std::rc::Rc;
use std::string::{String, ToString};
use std::task::{Context, Poll};
use std::vec::Vec;

use hypercall_abi::io::xenbus::XenbusState;
use hypercall_abi::io::xs_wire::*;
use pv_runtime::executor::Channel;
use pv_runtime::xenbus::{Disconnected, Packet, Transport};

#[derive(Default)]
struct Tree {
    nodes: RefCell<BTreeMap<String, String>>,
    /// Watched path and token.
    watches: RefCell<Vec<(String, String)>>,
    replies: Channel<Packet>,
}

/// A store. Clones are the same one.
#[derive(Clone, Default)]
pub(crate) struct FakeStore(Rc<Tree>);

impl FakeStore {
    /// A node's value.
    pub(crate) fn get(&self, path: &str) -> Option<String> {
        self.0.nodes.borrow().get(path).cloned()
    }

    /// Sets a node, as somebody else.
    pub(crate) fn set(&self, path: &str, value: &str) {
        self.0.nodes.borrow_mut().insert(path.to_string(), value.to_string());
        self.changed(path);
    }

    /// Sets the state in a directory, as somebody else.
    pub(crate) fn set_state(&self, directory: &str, state: XenbusState) {
        self.set(&format!("{directory}/state"), &state.number().to_string());
    }

    /// The state in a directory.
    pub(crate) fn state(&self, directory: &str) -> Option<XenbusState> {
        XenbusState::from_number(self.get(&format!("{directory}/state"))?.parse().ok()?)
    }

    /// Removes a node and all below it, as somebody else.
    pub(crate) fn remove(&self, path: &str) {
        let below = format!("{path}/");
        self.0.nodes.borrow_mut().retain(|node, _| node != path && !node.starts_with(&below));
        self.changed(path);
    }

    /// Tells of a change at a path: watches of it, of what is above it, and of what was below.
    fn changed(&self, path: &str) {
        let is_within = |inner: &str, outer: &str| {
            inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        for (watched, token) in &*self.0.watches.borrow() {
            if is_within(path, watched) {
                self.event(path, token);
            } else if is_within(watched, path) {
                self.event(watched, token);
            }
        }
    }

    fn event(&self, path: &str, token: &str) {
        let body = format!("{path}\0{token}\0").into_bytes();
        self.push(Packet { kind: XS_WATCH_EVENT, body, ..Packet::default() });
    }

    fn push(&self, packet: Packet) {
        self.0.replies.try_send(packet).expect("the channel is unbounded");
    }

    /// What a request is answered with.
    fn answer(&self, kind: u32, words: &[&str]) -> Result<String, &'static str> {
        let path = words[0];
        match kind {
            XS_READ => self.get(path).ok_or("ENOENT"),
            XS_WRITE => {
                self.set(path, words[1]);
                Ok("OK\0".to_string())
            }
            XS_RM => {
                self.remove(path);
                Ok("OK\0".to_string())
            }
            XS_WATCH => {
                self.0.watches.borrow_mut().push((path.to_string(), words[1].to_string()));
                self.event(path, words[1]);
                Ok("OK\0".to_string())
            }
            XS_UNWATCH => {
                self.0.watches.borrow_mut().retain(|(_, token)| token != words[1]);
                Ok("OK\0".to_string())
            }
            XS_TRANSACTION_START => Ok("1\0".to_string()),
            XS_TRANSACTION_END => Ok("OK\0".to_string()),
            _ => Err("ENOSYS"),
        }
    }
}

impl Transport for FakeStore {
    fn send(&self, packet: Packet) {
        let text = String::from_utf8(packet.body.clone()).expect("requests are text");
        let words: Vec<_> = text.split('\0').collect();
        let reply = match self.answer(packet.kind, &words) {
            Ok(body) => Packet { body: body.into_bytes(), ..packet },
            Err(error) => Packet { kind: XS_ERROR, body: format!("{error}\0").into_bytes(), ..packet },
        };
        self.push(reply);
    }

    fn poll_receive(&self, context: &mut Context<'_>) -> Poll<Result<Packet, Disconnected>> {
        self.0.replies.poll_receive(context).map(Ok)
    }
}
