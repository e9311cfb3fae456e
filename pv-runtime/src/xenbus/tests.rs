//! The client against a store that the test plays, over a real ring.

use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cell::RefCell;
use core::sync::atomic::{AtomicU32, Ordering};
use core::task::{Context, Poll};
use core::time::Duration;
use std::sync::Arc;

use hypercall_abi::io::xs_wire::*;
use hypercall_abi::{DomainId, Errno};
use ring::StoreServer;

use super::packet::PacketReader;
use super::*;
use crate::executor::{self, Notify, sleep, spawn, testing, timeout};

type Memory = Arc<[AtomicU32]>;

/// Two doorbells: what one end rings the other hears.
struct TestDoorbell {
    ours: Rc<Notify>,
    theirs: Rc<Notify>,
}

impl Doorbell for TestDoorbell {
    fn ring(&self) {
        self.theirs.ring();
    }

    fn poll_wait(&self, context: &mut Context<'_>) -> Poll<()> {
        self.ours.poll_wait(context)
    }
}

/// The store's end of the ring, in the hands of the test.
struct TestStore {
    ring: StoreServer<Memory>,
    memory: Memory,
    doorbell: TestDoorbell,
    reader: PacketReader,
}

/// A connected pair.
fn connect() -> (Store, TestStore) {
    let memory: Memory = (0..1024).map(|_| AtomicU32::new(0)).collect();
    let (client_bell, store_bell) = (Rc::new(Notify::new()), Rc::new(Notify::new()));
    let client_end = TestDoorbell { ours: client_bell.clone(), theirs: store_bell.clone() };
    let doorbell = TestDoorbell { ours: store_bell, theirs: client_bell };
    let transport = RingTransport::over(memory.clone(), client_end).expect("an empty ring is sound");
    let ring = StoreServer::attach(memory.clone()).expect("an empty ring is sound");
    (Store::connect(transport), TestStore { ring, memory, doorbell, reader: PacketReader::default() })
}

impl TestStore {
    async fn receive(&mut self) -> Packet {
        loop {
            if let Some(packet) = self.reader.take() {
                return packet;
            }
            let wanted = self.reader.wanted().expect("our own client sends sound headers");
            let mut piece = alloc::vec![0; wanted];
            let transfer = self.ring.read(&mut piece).expect("our own client keeps the ring sound");
            self.reader.feed(&piece[..transfer.count]);
            if transfer.notify.needed() {
                self.doorbell.ring();
            } else {
                self.doorbell.ours.wait().await;
            }
        }
    }

    async fn send(&mut self, packet: Packet) {
        let mut bytes = Vec::new();
        packet.encode(&mut bytes);
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let transfer = self.ring.write(rest).expect("our own client keeps the ring sound");
            rest = &rest[transfer.count..];
            if transfer.notify.needed() {
                self.doorbell.ring();
            } else {
                self.doorbell.ours.wait().await;
            }
        }
    }

    async fn reply(&mut self, request: &Packet, body: &[u8]) {
        self.send(Packet { body: body.to_vec(), ..request.clone() }).await;
    }

    async fn refuse(&mut self, request: &Packet, error: &str) {
        let body = format!("{error}\0").into_bytes();
        self.send(Packet { kind: XS_ERROR, body, ..request.clone() }).await;
    }

    async fn event(&mut self, path: &str, token: &str) {
        let body = format!("{path}\0{token}\0").into_bytes();
        self.send(Packet { kind: XS_WATCH_EVENT, body, ..Packet::default() }).await;
    }
}

#[test]
fn replies_find_their_requests_in_any_order() {
    testing::run(async {
        let (store, mut server) = connect();
        let (first_store, second_store) = (store.clone(), store);
        let first = spawn(async move { first_store.read("one").await });
        let second = spawn(async move { second_store.read("two").await });
        let (one, two) = (server.receive().await, server.receive().await);
        assert_eq!((one.kind, &one.body[..], &two.body[..]), (XS_READ, &b"one\0"[..], &b"two\0"[..]));
        server.reply(&two, b"2").await;
        server.reply(&one, b"1").await;
        assert_eq!(first.join().await, Ok("1".to_string()));
        assert_eq!(second.join().await, Ok("2".to_string()));
    });
}

#[test]
fn an_error_is_told_by_its_name() {
    testing::run(async {
        let (store, mut server) = connect();
        let reader =
            spawn(async move { (store.read("a").await, store.read("b").await, store.mkdir("c").await) });
        for name in ["ENOENT", "EWHAT"] {
            let request = server.receive().await;
            server.refuse(&request, name).await;
        }
        let request = server.receive().await;
        server.send(Packet { kind: XS_RM, ..request }).await;
        let expected =
            (Err(StoreError::Refused(Errno::ENOENT)), Err(StoreError::Malformed), Err(StoreError::Malformed));
        assert_eq!(reader.join().await, expected);
    });
}

#[test]
fn a_value_larger_than_the_ring_passes_both_ways() {
    testing::run(async {
        let (store, mut server) = connect();
        let value = alloc::vec![b'v'; 4000];
        let sent = value.clone();
        let client = spawn(async move {
            store.write("k", &sent).await?;
            store.read_bytes("k").await
        });
        let write = server.receive().await;
        assert_eq!(write.body, [b"k\0", &value[..]].concat());
        server.reply(&write, b"OK\0").await;
        let read = server.receive().await;
        server.reply(&read, &value).await;
        assert_eq!(client.join().await, Ok(value));
    });
}

#[test]
fn what_cannot_be_said_is_not_sent() {
    testing::run(async {
        let (store, _server) = connect();
        assert_eq!(store.read("a\0b").await, Err(StoreError::Unspeakable));
        assert_eq!(store.write("k", [0; 4096]).await, Err(StoreError::Unspeakable));
    });
}

#[test]
fn a_watch_gets_its_events_even_before_the_reply_and_none_of_another() {
    testing::run(async {
        let (store, mut server) = connect();
        let client = spawn(async move {
            let watch = store.watch("dir").await.expect("the store agrees");
            let seen = [watch.next().await, watch.next().await];
            drop(watch);
            seen
        });
        let request = server.receive().await;
        let token = String::from_utf8(request.body[4..request.body.len() - 1].to_vec()).expect("a number");
        server.event("dir", &token).await;
        server.reply(&request, b"OK\0").await;
        server.event("elsewhere", "4711").await;
        server.event("dir/state", &token).await;
        assert_eq!(client.join().await, ["dir", "dir/state"]);
        let unwatch = server.receive().await;
        assert_eq!((unwatch.kind, unwatch.body), (XS_UNWATCH, request.body));
    });
}

#[test]
fn the_reply_to_a_request_given_up_disturbs_nobody() {
    testing::run(async {
        let (store, mut server) = connect();
        assert!(timeout(Duration::from_secs(1), store.read("slow")).await.is_err());
        let slow = server.receive().await;
        server.reply(&slow, b"late").await;
        let reader = spawn(async move { store.read("next").await });
        let next = server.receive().await;
        server.reply(&next, b"now").await;
        assert_eq!(reader.join().await, Ok("now".to_string()));
    });
}

#[test]
fn a_transaction_is_tried_again_after_a_conflict() {
    testing::run(async {
        let (store, mut server) = connect();
        let client = spawn(async move { store.transaction(async |t| t.write("k", "v").await).await });
        for (number, outcome) in [(5, "EAGAIN"), (6, "OK")] {
            let start = server.receive().await;
            assert_eq!((start.kind, start.transaction_id), (XS_TRANSACTION_START, 0));
            server.reply(&start, format!("{number}\0").as_bytes()).await;
            let write = server.receive().await;
            assert_eq!((write.kind, write.transaction_id), (XS_WRITE, number));
            server.reply(&write, b"OK\0").await;
            let end = server.receive().await;
            assert_eq!(
                (end.kind, end.transaction_id, &end.body[..]),
                (XS_TRANSACTION_END, number, &b"T\0"[..])
            );
            match outcome {
                "OK" => server.reply(&end, b"OK\0").await,
                error => server.refuse(&end, error).await,
            }
        }
        assert_eq!(client.join().await, Ok(()));
    });
}

#[test]
fn a_transaction_whose_body_fails_is_undone() {
    testing::run(async {
        let (store, mut server) = connect();
        let client = spawn(async move { store.transaction(async |t| t.read("k").await).await });
        let start = server.receive().await;
        server.reply(&start, b"9\0").await;
        let read = server.receive().await;
        server.refuse(&read, "EACCES").await;
        let end = server.receive().await;
        assert_eq!((end.kind, end.transaction_id, &end.body[..]), (XS_TRANSACTION_END, 9, &b"F\0"[..]));
        assert_eq!(client.join().await, Err(StoreError::Refused(Errno::EACCES)));
    });
}

#[test]
fn a_long_list_is_read_in_parts_and_anew_if_it_changes() {
    testing::run(async {
        let (store, mut server) = connect();
        let client = spawn(async move { store.directory("d").await });
        let whole = server.receive().await;
        server.refuse(&whole, "E2BIG").await;
        let answers: [(&[u8], &[u8]); 4] = [
            (b"d\x000\0", b"1\0a\0b\0"),
            (b"d\x004\0", b"2\0x\0"),
            (b"d\x000\0", b"2\0a\0c\0"),
            (b"d\x004\0", b"2\0e\0\0"),
        ];
        for (asked, answer) in answers {
            let part = server.receive().await;
            assert_eq!((part.kind, &part.body[..]), (XS_DIRECTORY_PART, asked));
            server.reply(&part, answer).await;
        }
        assert_eq!(client.join().await, Ok(["a", "c", "e"].map(String::from).to_vec()));
    });
}

#[test]
fn permissions_are_text_on_the_wire() {
    testing::run(async {
        let (store, mut server) = connect();
        let list = [Permission { domain: DomainId(4), access: Access::Read }];
        let client = spawn(async move {
            store.set_permissions("p", &list).await?;
            store.get_permissions("p").await
        });
        let set = server.receive().await;
        assert_eq!(set.body, b"p\0r4\0");
        server.reply(&set, b"OK\0").await;
        let get = server.receive().await;
        server.reply(&get, b"n0\0b7\0").await;
        let expected = [(0, Access::None), (7, Access::ReadWrite)];
        let expected = expected.map(|(domain, access)| Permission { domain: DomainId(domain), access });
        assert_eq!(client.join().await, Ok(expected.to_vec()));
    });
}

#[test]
fn a_broken_ring_fails_every_request() {
    testing::run(async {
        let (store, mut server) = connect();
        let waiting = spawn({
            let store = store.clone();
            async move { store.read("a").await }
        });
        server.receive().await;
        // The index of the bytes from the store, far beyond what the buffer holds.
        server.memory[515].store(5000, Ordering::Relaxed);
        server.doorbell.ring();
        assert_eq!(waiting.join().await, Err(StoreError::Disconnected));
        assert_eq!(store.write("b", "").await, Err(StoreError::Disconnected));
    });
}

#[test]
fn waiting_for_a_state_reads_it_after_each_event() {
    testing::run(async {
        let (store, mut server) = connect();
        let states = Rc::new(RefCell::new(alloc::vec!["4", "2", "nonsense"]));
        spawn(async move {
            loop {
                let request = server.receive().await;
                match request.kind {
                    XS_READ => {
                        let state = states.borrow_mut().pop().unwrap_or("6");
                        server.reply(&request, state.as_bytes()).await;
                        sleep(Duration::from_secs(1)).await;
                        server.event("peer/state", "1").await;
                    }
                    XS_WATCH => {
                        server.reply(&request, b"OK\0").await;
                        server.event("peer/state", "1").await;
                    }
                    _ => server.reply(&request, b"OK\0").await,
                }
            }
        });
        let state = wait_for_state(&store, "peer", |state| state == XenbusState::Connected).await;
        assert_eq!(state, Ok(XenbusState::Connected));
        assert_eq!(executor::now(), Duration::from_secs(2));
    });
}
