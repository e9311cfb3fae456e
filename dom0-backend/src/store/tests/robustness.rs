//! What a hostile client can send: it hurts itself at most.

use proptest::prelude::*;

use super::*;

#[test]
fn a_message_that_is_too_long_ends_the_connection_and_nobody_elses() {
    let mut store = Store::new();
    let (bad, good) = (store.guest(3), store.guest(4));
    store.watch(bad, "x", "t").unwrap();
    store.start(bad).unwrap();
    let mut garbage = encode(XS_READ, 1, 0, b"");
    garbage[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
    let broken = ConnectionError::Broken(FramingError::PayloadTooLong { length: u32::MAX });
    assert_eq!(store.server.receive(bad, &garbage), Err(broken));
    assert_eq!(store.server.receive(bad, &encode(XS_READ, 1, 0, b"x\0")), Err(broken));
    assert_eq!(store.server.output(bad), b"");
    let usage = store.server.usage(DomainId(3));
    assert_eq!((usage.watches, usage.transactions), (0, 0));
    assert_eq!(store.write(good, "x", ""), Ok(()));
    assert_eq!(store.server.audit(), Ok(()));

    // The domain is known still, and can be given another chance.
    assert!(store.server.is_introduced(DomainId(3)));
    store.server.reset(bad);
    assert_eq!(store.write(bad, "x", ""), Ok(()));
}

#[test]
fn malformed_requests_are_answered_and_the_next_is_none_the_worse() {
    let mut store = Store::new();
    let guest = store.guest(3);
    for kind in (0..30).chain([0xffff, u32::MAX]) {
        for payload in [&b""[..], b"\0", b"\0\0\0", b"x", b"\xff\xfe\0", b"/\0/\0/\0/\0", b"@\0", &[0; 4096]]
        {
            if let Err(name) = store.call(guest, kind, payload) {
                assert!(XSD_ERRORS.iter().any(|known| known.errstring == name), "{name}");
            }
        }
        if !(0..=22).contains(&kind) || [XS_WATCH_EVENT, XS_ERROR, 20].contains(&kind) {
            assert_eq!(store.call(guest, kind, b"x\0"), error("ENOSYS"), "{kind}");
        }
    }
    assert_eq!(store.write(guest, "still", "here"), Ok(()));
    assert_eq!(store.server.audit(), Ok(()));
}

#[test]
fn a_connection_that_is_not_there_takes_and_gives_nothing() {
    let mut store = Store::new();
    let dom0 = store.dom0();
    store.server.disconnect(dom0);
    assert_eq!(store.server.receive(dom0, b"x"), Err(ConnectionError::Gone));
    assert_eq!(store.server.output(dom0), b"");
    store.server.sent(dom0, 10);
    store.server.reset(dom0);
    store.server.disconnect(dom0);
    assert_eq!(store.server.next_event(dom0), None);
}

/// What a client may do to a store, mostly nearly right.
#[derive(Clone, Debug)]
enum Attack {
    /// A request of some type, in some transaction, with a payload of some strings and bytes.
    Request {
        client: usize,
        kind: u32,
        transaction: u32,
        words: Vec<String>,
        tail: Vec<u8>,
    },
    /// Bytes as they come.
    Noise {
        client: usize,
        bytes: Vec<u8>,
    },
    /// Taking some of what waits.
    Fetch {
        client: usize,
        bytes: usize,
    },
    /// What dom0 does meanwhile.
    Release {
        domain: u16,
    },
    Introduce {
        domain: u16,
    },
    Reset {
        client: usize,
    },
}

fn word() -> impl Strategy<Value = String> {
    let common =
        ["", "/", "a", "a/b", "/a", "/local/domain/1", "/local/domain/2/a", "T", "F", "0", "1", "n1"];
    let others = ["b2", "r3", "@releaseDomain", "t", "99999999999", "/a/", "//", "../x", "-1", "w0", "b1"];
    let any = [&common[..], &others].concat();
    prop_oneof![8 => prop::sample::select(any).prop_map(str::to_owned), 1 => ".{0,20}"]
}

fn attack() -> impl Strategy<Value = Attack> {
    let words = prop::collection::vec(word(), 0..4);
    let tail = prop::collection::vec(any::<u8>(), 0..8);
    let tail = prop_oneof![3 => Just(vec![]), 1 => tail];
    let transaction = prop_oneof![2 => Just(0), 1 => 0u32..6];
    let request = (0usize..3, 0u32..24, transaction, words, tail);
    // Watches that are well formed, so that some are found again.
    let watch = (0usize..3, prop::sample::select(vec![XS_WATCH, XS_UNWATCH]), "[ab]", "[tu]");
    let noise = prop::collection::vec(any::<u8>(), 0..64);
    prop_oneof![
        60 => request.prop_map(|(client, kind, transaction, words, tail)| {
            Attack::Request { client, kind, transaction, words, tail }
        }),
        20 => watch.prop_map(|(client, kind, path, token)| {
            Attack::Request { client, kind, transaction: 0, words: vec![path, token], tail: vec![] }
        }),
        1 => (0usize..3, noise).prop_map(|(client, bytes)| Attack::Noise { client, bytes }),
        20 => (0usize..3, 0usize..300).prop_map(|(client, bytes)| Attack::Fetch { client, bytes }),
        1 => (1u16..3).prop_map(|domain| Attack::Release { domain }),
        2 => (1u16..3).prop_map(|domain| Attack::Introduce { domain }),
        2 => (0usize..3).prop_map(|client| Attack::Reset { client }),
    ]
}

/// Carries out an attack; which connection each of the clients has may change by it.
fn carry_out(server: &mut Server, clients: &mut [ConnectionId; 3], attack: Attack) {
    match attack {
        Attack::Request { client, kind, transaction, words, tail } => {
            let words: Vec<_> = words.iter().map(String::as_str).collect();
            let payload = [strings(&words), tail].concat();
            let bytes = encode(kind, 1, transaction, &payload);
            let _ = server.receive(clients[client], &bytes);
        }
        Attack::Noise { client, bytes } => drop(server.receive(clients[client], &bytes)),
        Attack::Fetch { client, bytes } => {
            let waiting = server.output(clients[client]).len();
            server.sent(clients[client], bytes.min(waiting));
        }
        Attack::Release { domain } => drop(server.release(DomainId(domain))),
        Attack::Introduce { domain } => {
            clients[usize::from(domain)] =
                server.introduce(DomainId(domain), MachineFrame(1), Port(1)).unwrap();
        }
        Attack::Reset { client } => server.reset(clients[client]),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever clients send, nothing panics, the books balance, and guests stay within their limits.
    #[test]
    fn the_books_balance_whatever_is_sent(attacks in prop::collection::vec(attack(), 1..200)) {
        let limits = Limits {
            nodes: 6, watches: 4, transactions: 3, transaction_nodes: 8,
            memory: 1500, event_bytes: 100, replies: 5, lag: 10,
            ..Limits::default()
        };
        let mut server = Server::new(limits.clone());
        let dom0 = server.connect();
        let mut clients = [dom0; 3];
        for domain in 1..3u16 {
            clients[usize::from(domain)] =
                server.introduce(DomainId(domain), MachineFrame(1), Port(1)).unwrap();
            let home = Path::home(DomainId(domain));
            server.make_directory(home.as_str()).unwrap();
            server.set_permissions(home.as_str(), &Permissions::private(DomainId(domain))).unwrap();
        }
        for attack in attacks {
            carry_out(&mut server, &mut clients, attack);
            prop_assert_eq!(server.audit(), Ok(()));
            for domain in [DomainId(1), DomainId(2)] {
                let usage = server.usage(domain);
                prop_assert!(usage.watches <= limits.watches && usage.transactions <= limits.transactions);
            }
        }
        for domain in [DomainId(1), DomainId(2)] {
            let _ = server.release(domain);
            let usage = server.usage(domain);
            prop_assert_eq!((usage.watches, usage.transactions), (0, 0));
        }
    }

    /// Bytes that mean nothing are survived.
    #[test]
    fn noise_is_survived(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..100), 0..30)) {
        let mut server = Server::new(Limits::default());
        let guest = server.introduce(DomainId(1), MachineFrame(1), Port(1)).unwrap();
        for piece in pieces {
            if server.receive(guest, &piece).is_err() {
                server.reset(guest);
            }
        }
        prop_assert_eq!(server.audit(), Ok(()));
    }
}
