//! Matching replies to requests, and events to watches.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::fmt::Write;
use core::future::poll_fn;
use core::str;
use core::task::{Poll, Waker};

use hypercall_abi::Errno;
use hypercall_abi::io::xs_wire::{XENSTORE_PAYLOAD_MAX, XS_ERROR, XS_UNWATCH, XS_WATCH, XS_WATCH_EVENT};

use super::error::StoreError;
use super::packet::Packet;
use super::transport::Transport;
use super::watch::{Watch, WatchQueue};

/// What became of a request.
enum Reply {
    Awaited(Option<Waker>),
    Arrived(Packet),
}

/// One connection to the store.
pub(super) struct Client {
    transport: Box<dyn Transport>,
    next_request: Cell<u32>,
    next_token: Cell<u32>,
    replies: RefCell<BTreeMap<u32, Reply>>,
    watches: RefCell<BTreeMap<u32, Rc<WatchQueue>>>,
    connected: Cell<bool>,
}

/// A request whose reply is awaited. Dropping it gives the reply up.
struct PendingRequest<'a> {
    client: &'a Client,
    id: u32,
}

impl Drop for PendingRequest<'_> {
    fn drop(&mut self) {
        self.client.replies.borrow_mut().remove(&self.id);
    }
}

impl Client {
    pub(super) fn new(transport: Box<dyn Transport>) -> Rc<Self> {
        Rc::new(Self {
            transport,
            next_request: Cell::new(1),
            next_token: Cell::new(1),
            replies: RefCell::default(),
            watches: RefCell::default(),
            connected: Cell::new(true),
        })
    }

    /// Hands what arrives to whom it is for, until the connection ends.
    pub(super) async fn dispatch(self: Rc<Self>) {
        while let Ok(packet) = poll_fn(|context| self.transport.poll_receive(context)).await {
            match packet.kind {
                XS_WATCH_EVENT => self.deliver_event(&packet.body),
                _ => self.deliver_reply(packet),
            }
        }
        log::error!("the connection to the store is gone");
        self.connected.set(false);
        for (_, reply) in core::mem::take(&mut *self.replies.borrow_mut()) {
            if let Reply::Awaited(Some(waiter)) = reply {
                waiter.wake();
            }
        }
    }

    fn deliver_reply(&self, packet: Packet) {
        let mut replies = self.replies.borrow_mut();
        // A reply nobody awaits is that of a request which was given up, or of one sent without waiting.
        let Some(reply) = replies.get_mut(&packet.request_id) else { return };
        let before = core::mem::replace(reply, Reply::Arrived(packet));
        if let Reply::Awaited(Some(waiter)) = before {
            waiter.wake();
        }
    }

    fn deliver_event(&self, body: &[u8]) {
        let mut texts = body.split(|byte| *byte == 0).map(str::from_utf8);
        let (Some(Ok(path)), Some(Ok(token))) = (texts.next(), texts.next()) else { return };
        let queue = token.parse().ok().and_then(|token: u32| self.watches.borrow().get(&token).cloned());
        if let Some(queue) = queue {
            queue.push(path.into());
        }
    }

    /// A number for the next request.
    fn next_request_id(&self) -> u32 {
        let id = self.next_request.get();
        self.next_request.set(id.wrapping_add(1));
        id
    }

    /// Sends a request whose outcome does not matter.
    pub(super) fn send_unheeded(&self, kind: u32, transaction_id: u32, body: Vec<u8>) {
        if self.connected.get() {
            let request_id = self.next_request_id();
            self.transport.send(Packet { kind, request_id, transaction_id, body });
        }
    }

    /// Sends a request and waits for the body of the reply.
    pub(super) async fn request(
        &self,
        kind: u32,
        transaction_id: u32,
        body: Vec<u8>,
    ) -> Result<Vec<u8>, StoreError> {
        if body.len() > XENSTORE_PAYLOAD_MAX {
            return Err(StoreError::Unspeakable);
        }
        if !self.connected.get() {
            return Err(StoreError::Disconnected);
        }
        let request = PendingRequest { client: self, id: self.next_request_id() };
        self.replies.borrow_mut().insert(request.id, Reply::Awaited(None));
        self.transport.send(Packet { kind, request_id: request.id, transaction_id, body });
        let packet = poll_fn(|context| {
            let mut replies = self.replies.borrow_mut();
            match replies.get_mut(&request.id) {
                Some(Reply::Awaited(waiter)) => {
                    *waiter = Some(context.waker().clone());
                    Poll::Pending
                }
                Some(Reply::Arrived(packet)) => Poll::Ready(Ok(core::mem::take(packet))),
                None => Poll::Ready(Err(StoreError::Disconnected)),
            }
        })
        .await?;
        check_reply(kind, packet)
    }

    /// Makes a watch.
    pub(super) async fn watch(self: &Rc<Self>, path: &str) -> Result<Watch, StoreError> {
        let token = self.next_token.get();
        self.next_token.set(token.wrapping_add(1));
        let body = watch_body(path, token)?;
        let queue = WatchQueue::new(path.into());
        // The first event may come before the reply. From here on, dropping the watch undoes it.
        self.watches.borrow_mut().insert(token, Rc::clone(&queue));
        let watch = Watch { client: Rc::clone(self), token, queue };
        self.request(XS_WATCH, 0, body).await?;
        Ok(watch)
    }

    /// Ends a watch, without waiting.
    pub(super) fn unwatch(&self, path: &str, token: u32) {
        self.watches.borrow_mut().remove(&token);
        if let Ok(body) = watch_body(path, token) {
            self.send_unheeded(XS_UNWATCH, 0, body);
        }
    }
}

/// The body of a packet that makes or ends a watch.
fn watch_body(path: &str, token: u32) -> Result<Vec<u8>, StoreError> {
    let mut text = String::from(check_text(path)?);
    // Writing to a string does not fail.
    let _ = write!(text, "\0{token}\0");
    Ok(text.into_bytes())
}

/// Text in the middle of a message must not have a zero.
pub(super) fn check_text(text: &str) -> Result<&str, StoreError> {
    if text.contains('\0') { Err(StoreError::Unspeakable) } else { Ok(text) }
}

/// The body of a reply of the right kind, or the error that it reports.
fn check_reply(kind: u32, reply: Packet) -> Result<Vec<u8>, StoreError> {
    if reply.kind == kind {
        return Ok(reply.body);
    }
    if reply.kind != XS_ERROR {
        return Err(StoreError::Malformed);
    }
    let name = reply.body.split(|byte| *byte == 0).next().and_then(|name| str::from_utf8(name).ok());
    let errno = name.and_then(Errno::from_name).ok_or(StoreError::Malformed)?;
    Err(StoreError::Refused(errno))
}
