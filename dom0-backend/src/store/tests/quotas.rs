//! How much one domain may have.

use super::*;

/// A store with tight limits and one guest.
fn tight() -> (Store, ConnectionId) {
    let limits = Limits {
        nodes: 5,
        node_size: 10,
        permissions: 3,
        path_depth: 8,
        path_length: 40,
        watches: 2,
        transactions: 2,
        transaction_nodes: 6,
        ..Limits::default()
    };
    let mut store = Store::with_limits(limits);
    let guest = store.guest(3);
    (store, guest)
}

fn balanced(store: &Store) {
    assert_eq!(store.server.audit(), Ok(()));
}

#[test]
fn nodes_are_counted_with_those_made_on_the_way() {
    let (mut store, guest) = tight();
    // The home directory is the first.
    assert_eq!(store.write(guest, "a/b", ""), Ok(()));
    assert_eq!(store.write(guest, "c/d/e", ""), error("ENOSPC"));
    assert_eq!(store.read(guest, "c"), error("ENOENT"));
    assert_eq!(store.write(guest, "c/d", ""), Ok(()));
    assert_eq!(store.make_directory(guest, "e"), error("ENOSPC"));
    assert_eq!(store.write(guest, "c/d", "1"), Ok(()));
    store.remove(guest, "a").unwrap();
    assert_eq!(store.write(guest, "e/f", ""), Ok(()));
    assert_eq!(store.server.usage(DomainId(3)).nodes, 5);
    balanced(&store);
}

#[test]
fn nodes_made_in_a_transaction_are_counted_at_once_and_at_the_end() {
    let (mut store, guest) = tight();
    let t = store.start(guest).unwrap();
    assert_eq!(store.write_in(t, guest, "a/b/c", ""), Ok(()));
    assert_eq!(store.write_in(t, guest, "d/e", ""), error("ENOSPC"));
    store.write(guest, "x/y", "").unwrap();
    // Three more would be six.
    assert_eq!(store.commit(t, guest), error("ENOSPC"));
    assert_eq!(store.read(guest, "a"), error("ENOENT"));
    balanced(&store);
}

#[test]
fn values_permissions_and_paths_have_a_size() {
    let (mut store, guest) = tight();
    assert_eq!(store.write(guest, "a", "0123456789"), Ok(()));
    assert_eq!(store.write(guest, "a", "0123456789+"), error("ENOSPC"));
    assert_eq!(store.set_permissions(guest, "a", &["n3", "r1", "r2"]), Ok(()));
    assert_eq!(store.set_permissions(guest, "a", &["n3", "r1", "r2", "r4"]), error("ENOSPC"));
    assert_eq!(store.read(guest, &"x".repeat(40)), error("ENOENT"));
    assert_eq!(store.read(guest, &"x".repeat(41)), error("EINVAL"));
    assert_eq!(store.write(guest, "1/2/3/4/5/6", ""), error("ENOSPC"));
    assert_eq!(store.read(guest, "1/2/3/4/5/6"), error("ENOENT"));
    balanced(&store);
}

#[test]
fn dom0_sees_which_limit_a_guest_hit_and_how_often() {
    let (mut store, guest) = tight();
    store.server.write("/local/domain/3/name", "web").unwrap();
    for _ in 0..3 {
        assert_eq!(store.write(guest, "a", "0123456789+"), error("ENOSPC"));
    }
    store.watch(guest, "a", "1").unwrap();
    store.watch(guest, "a", "2").unwrap();
    assert_eq!(store.watch(guest, "a", "3"), error("E2BIG"));
    let accounts = store.server.accounts();
    let account = accounts.iter().find(|account| account.domain == DomainId(3)).unwrap();
    assert_eq!((account.name.as_str(), account.usage.watches), ("web", 2));
    let size = Excess { quota: Quota::NodeSize, wanted: 11, limit: 10 };
    let watches = Excess { quota: Quota::Watches, wanted: 3, limit: 2 };
    assert_eq!(account.refused, [(3, size), (1, watches)]);
    store.server.release(DomainId(3)).unwrap();
    assert!(store.server.accounts().iter().all(|account| account.refused.is_empty()));
}

#[test]
fn watches_and_transactions_are_counted() {
    let (mut store, guest) = tight();
    store.watch(guest, "a", "1").unwrap();
    store.watch(guest, "a", "2").unwrap();
    assert_eq!(store.watch(guest, "a", "3"), error("E2BIG"));
    store.unwatch(guest, "a", "1").unwrap();
    assert_eq!(store.watch(guest, "a", "3"), Ok(()));

    let t = store.start(guest).unwrap();
    store.start(guest).unwrap();
    assert_eq!(store.start(guest), error("ENOSPC"));
    store.end(t, guest, false).unwrap();
    assert!(store.start(guest).is_ok());
    balanced(&store);
}

#[test]
fn a_transaction_remembers_so_many_nodes() {
    let (mut store, guest) = tight();
    let t = store.start(guest).unwrap();
    // A missing node and its parent, which is there.
    assert_eq!(store.read_in(t, guest, "a"), error("ENOENT"));
    for name in ["b", "c", "d", "e"] {
        assert_eq!(store.read_in(t, guest, name), error("ENOENT"));
    }
    assert_eq!(store.read_in(t, guest, "f"), error("ENOSPC"));
    assert_eq!(store.write_in(t, guest, "f", ""), error("ENOSPC"));
    assert_eq!(store.write_in(t, guest, "a", ""), Ok(()));
    assert_eq!(store.commit(t, guest), Ok(()));
    balanced(&store);
}

#[test]
fn memory_is_counted_over_everything() {
    let mut store = Store::with_limits(Limits { memory: 1100, ..Limits::default() });
    let guest = store.guest(3);
    assert_eq!(store.write(guest, "a", &"x".repeat(600)), Ok(()));
    assert_eq!(store.write(guest, "b", &"x".repeat(600)), error("ENOMEM"));
    assert_eq!(store.write(guest, "a", &"y".repeat(700)), Ok(()));
    assert_eq!(store.write(guest, "a", &"y".repeat(1100)), error("ENOMEM"));
    assert_eq!(store.watch(guest, "a", &"t".repeat(400)), error("ENOMEM"));
    assert_eq!(store.watch(guest, "a", &"t".repeat(100)), Ok(()));
    let t = store.start(guest).unwrap();
    assert_eq!(store.write_in(t, guest, "b", &"x".repeat(200)), error("ENOMEM"));
    // What is overwritten in a transaction counts once.
    for value in ["1", "2", "3"] {
        assert_eq!(store.write_in(t, guest, "a", &value.repeat(20)), Ok(()));
    }
    balanced(&store);
    store.end(t, guest, false).unwrap();
    balanced(&store);
}

#[test]
fn one_guests_limits_are_not_anothers() {
    let (mut store, three) = tight();
    let four = store.guest(4);
    store.write(three, "a/b/c/d", "").unwrap();
    assert_eq!(store.write(three, "e", ""), error("ENOSPC"));
    assert_eq!(store.write(four, "a/b/c/d", ""), Ok(()));
}

#[test]
fn dom0_is_counted_and_not_limited() {
    let (mut store, guest) = tight();
    let dom0 = store.dom0();
    for number in 0..20 {
        assert_eq!(store.write(dom0, &format!("/many/{number}"), &"x".repeat(2000)), Ok(()));
        assert_eq!(store.write(dom0, &format!("/local/domain/3/{number}"), ""), Ok(()));
        assert_eq!(store.watch(dom0, "/", &number.to_string()), Ok(()));
        assert!(store.start(dom0).is_ok());
    }
    // What dom0 makes in the guest's directory is the guest's, even beyond its limit.
    assert_eq!(store.server.usage(DomainId(3)).nodes, 21);
    assert_eq!(store.write(guest, "more", ""), error("ENOSPC"));
    assert_eq!(store.write(guest, "7", "still works"), error("ENOSPC"));
    assert_eq!(store.write(guest, "7", "works"), Ok(()));
    let deep = "/d".repeat(9);
    assert_eq!(store.write(dom0, &deep, ""), error("ENOSPC"));
    balanced(&store);
}

#[test]
fn a_client_that_takes_no_replies_is_not_listened_to() {
    let mut store = Store::with_limits(Limits { replies: 3, ..Limits::default() });
    let (guest, other) = (store.guest(3), store.guest(4));
    let request = encode(XS_READ, 1, 0, b"x\0");
    let many = request.repeat(10);
    assert_eq!(store.server.receive(guest, &many), Ok(3 * request.len()));
    assert_eq!(store.server.receive(guest, &many), Ok(0));
    assert_eq!(store.write(other, "x", ""), Ok(()));
    let reply = store.server.output(guest).len();
    store.server.sent(guest, reply - 1);
    assert_eq!(store.server.receive(guest, &many), Ok(0));
    store.server.sent(guest, 1);
    assert_eq!(store.server.receive(guest, &many), Ok(request.len()));
}
