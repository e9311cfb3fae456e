//! All or nothing, and as if alone.

use super::*;

/// A store with dom0 twice and something to read.
fn store() -> (Store, ConnectionId, ConnectionId) {
    let mut store = Store::new();
    let clients = (store.dom0(), store.dom0());
    for (path, value) in [("/a", "1"), ("/b", "2"), ("/dir/x", "3")] {
        store.server.write(path, value).unwrap();
    }
    (store, clients.0, clients.1)
}

#[test]
fn changes_are_seen_by_others_only_after_the_end() {
    let (mut store, one, two) = store();
    let t = store.start(one).unwrap();
    store.write_in(t, one, "/a", "new").unwrap();
    store.write_in(t, one, "/new/node", "made").unwrap();
    store.remove_in(t, one, "/dir").unwrap();
    assert_eq!(store.read_in(t, one, "/a").as_deref(), Ok("new"));
    assert_eq!(store.read_in(t, one, "/dir/x"), error("ENOENT"));
    assert_eq!(store.read(two, "/a").as_deref(), Ok("1"));
    assert_eq!(store.read(two, "/new"), error("ENOENT"));
    assert_eq!(store.read(one, "/dir/x").as_deref(), Ok("3"));

    assert_eq!(store.commit(t, one), Ok(()));
    assert_eq!(store.read(two, "/a").as_deref(), Ok("new"));
    assert_eq!(store.read(two, "/new/node").as_deref(), Ok("made"));
    assert_eq!(store.read(two, "/dir"), error("ENOENT"));
    assert_eq!(store.server.audit(), Ok(()));
}

#[test]
fn a_transaction_given_up_leaves_nothing() {
    let (mut store, one, two) = store();
    let before = store.server.usage(DomainId(0));
    let t = store.start(one).unwrap();
    store.write_in(t, one, "/a", "new").unwrap();
    store.write_in(t, one, "/new", "made").unwrap();
    assert_eq!(store.end(t, one, false), Ok(()));
    assert_eq!(store.read(two, "/a").as_deref(), Ok("1"));
    assert_eq!(store.read(two, "/new"), error("ENOENT"));
    assert_eq!(store.server.usage(DomainId(0)), before);
    assert_eq!(store.end(t, one, false), error("ENOENT"));
}

#[test]
fn a_transaction_reads_the_store_as_it_was_at_its_start() {
    let (mut store, one, two) = store();
    let t = store.start(one).unwrap();
    store.write(two, "/a", "changed").unwrap();
    store.remove(two, "/dir").unwrap();
    store.write(two, "/new", "").unwrap();
    assert_eq!(store.read_in(t, one, "/a").as_deref(), Ok("1"));
    assert_eq!(store.list_in(t, one, "/dir").unwrap(), ["x"]);
    assert_eq!(store.read_in(t, one, "/new"), error("ENOENT"));
    assert_eq!(store.commit(t, one), error("EAGAIN"));
}

#[test]
fn what_was_read_must_not_have_changed() {
    type Change = fn(&mut Store, ConnectionId) -> Answer<()>;
    let changes: [(&str, Change); 4] = [
        ("another value", |store, client| store.write(client, "/a", "x")),
        ("the same value", |store, client| store.write(client, "/a", "1")),
        ("other permissions", |store, client| store.set_permissions(client, "/a", &["r0"])),
        ("gone and back", |store, client| {
            store.remove(client, "/a")?;
            store.write(client, "/a", "1")
        }),
    ];
    for (name, change) in changes {
        let (mut store, one, two) = store();
        let t = store.start(one).unwrap();
        store.read_in(t, one, "/a").unwrap();
        store.write_in(t, one, "/b", "lost").unwrap();
        change(&mut store, two).unwrap();
        assert_eq!(store.commit(t, one), error("EAGAIN"), "{name}");
        assert_eq!(store.read(two, "/b").as_deref(), Ok("2"));
        assert_eq!(store.server.audit(), Ok(()));
    }
}

#[test]
fn changes_elsewhere_do_not_matter() {
    let (mut store, one, two) = store();
    let t = store.start(one).unwrap();
    store.read_in(t, one, "/a").unwrap();
    store.write_in(t, one, "/dir/mine", "").unwrap();
    store.write(two, "/b", "x").unwrap();
    store.write(two, "/dir/x", "x").unwrap();
    store.write(two, "/dir/yours", "").unwrap();
    store.remove(two, "/dir/x").unwrap();
    assert_eq!(store.commit(t, one), Ok(()));
    assert_eq!(store.list(one, "/dir").unwrap(), ["mine", "yours"]);
}

#[test]
fn a_list_that_was_read_must_not_have_changed() {
    let (mut store, one, two) = store();
    let t = store.start(one).unwrap();
    store.list_in(t, one, "/dir").unwrap();
    store.write(two, "/dir/y", "").unwrap();
    assert_eq!(store.commit(t, one), error("EAGAIN"));

    let t = store.start(one).unwrap();
    store.list_in(t, one, "/dir").unwrap();
    store.write(two, "/dir/y", "another value").unwrap();
    assert_eq!(store.commit(t, one), Ok(()));
}

#[test]
fn what_was_missing_must_be_missing_still() {
    let (mut store, one, two) = store();
    let t = store.start(one).unwrap();
    assert_eq!(store.read_in(t, one, "/deep/down/here"), error("ENOENT"));
    store.write(two, "/deep", "").unwrap();
    assert_eq!(store.commit(t, one), error("EAGAIN"));
}

#[test]
fn two_that_write_the_same_node_conflict() {
    let (mut store, one, two) = store();
    let (t, u) = (store.start(one).unwrap(), store.start(two).unwrap());
    store.write_in(t, one, "/a", "one").unwrap();
    store.write_in(u, two, "/a", "two").unwrap();
    assert_eq!(store.commit(t, one), Ok(()));
    assert_eq!(store.commit(u, two), error("EAGAIN"));
    assert_eq!(store.read(one, "/a").as_deref(), Ok("one"));
}

#[test]
fn two_that_cross_over_do_not_both_win() {
    let (mut store, one, two) = store();
    let (t, u) = (store.start(one).unwrap(), store.start(two).unwrap());
    store.read_in(t, one, "/a").unwrap();
    store.read_in(u, two, "/b").unwrap();
    store.write_in(t, one, "/b", "t").unwrap();
    store.write_in(u, two, "/a", "u").unwrap();
    assert_eq!(store.commit(t, one), Ok(()));
    assert_eq!(store.commit(u, two), error("EAGAIN"));
}

#[test]
fn a_removed_subtree_must_not_have_grown() {
    for path in ["/dir/new", "/dir/x/new", "/dir/x"] {
        let (mut store, one, two) = store();
        let t = store.start(one).unwrap();
        store.remove_in(t, one, "/dir").unwrap();
        store.write(two, path, "").unwrap();
        assert_eq!(store.commit(t, one), error("EAGAIN"), "{path}");
        assert_eq!(store.read(one, path).as_deref(), Ok(""));
    }
}

#[test]
fn a_node_can_be_removed_and_made_again() {
    let (mut store, one, _) = store();
    let t = store.start(one).unwrap();
    store.remove_in(t, one, "/dir").unwrap();
    store.write_in(t, one, "/dir/y/z", "new").unwrap();
    store.remove_in(t, one, "/a").unwrap();
    store.write_in(t, one, "/a", "again").unwrap();
    assert_eq!(store.commit(t, one), Ok(()));
    assert_eq!(store.list(one, "/dir").unwrap(), ["y"]);
    assert_eq!(store.read(one, "/dir/y/z").as_deref(), Ok("new"));
    assert_eq!(store.read(one, "/a").as_deref(), Ok("again"));
    assert_eq!(store.server.audit(), Ok(()));
}

#[test]
fn who_watches_is_told_at_the_end_and_once() {
    let (mut store, one, two) = store();
    store.watch(two, "/", "t").unwrap();
    store.watch(two, "/dir/x", "x").unwrap();
    store.events(two);
    let t = store.start(one).unwrap();
    store.write_in(t, one, "/a", "x").unwrap();
    store.write_in(t, one, "/a", "y").unwrap();
    store.write_in(t, one, "/new/node", "").unwrap();
    store.write_in(t, one, "/short", "").unwrap();
    store.remove_in(t, one, "/short").unwrap();
    store.remove_in(t, one, "/dir").unwrap();
    store.read_in(t, one, "/b").unwrap();
    assert_eq!(store.events(two), []);
    store.commit(t, one).unwrap();
    let events = store.events(two);
    let events: Vec<_> = events.iter().map(|(path, token)| (path.as_str(), token.as_str())).collect();
    assert_eq!(events, [("/a", "t"), ("/dir", "t"), ("/dir/x", "x"), ("/new/node", "t")]);
}

#[test]
fn a_conflict_tells_nobody() {
    let (mut store, one, two) = store();
    let t = store.start(one).unwrap();
    store.write_in(t, one, "/a", "x").unwrap();
    store.write(two, "/a", "y").unwrap();
    store.watch(two, "/", "t").unwrap();
    store.events(two);
    assert_eq!(store.commit(t, one), error("EAGAIN"));
    assert_eq!(store.events(two), []);
}

#[test]
fn transactions_have_numbers_of_their_own() {
    let (mut store, one, two) = store();
    let t = store.start(one).unwrap();
    assert_eq!(store.call_in(t, one, XS_TRANSACTION_START, b"\0"), error("EBUSY"));
    assert_eq!(store.read_in(t, two, "/a"), error("ENOENT"));
    assert_eq!(store.commit(t, two), error("ENOENT"));
    assert_eq!(store.commit(0, one), error("ENOENT"));
    assert_eq!(store.call_in(77, one, XS_TRANSACTION_START, b"\0"), error("ENOENT"));
    assert_ne!(store.start(one).unwrap(), t);
    assert_eq!(store.call_in(t, one, XS_TRANSACTION_END, b"maybe\0"), error("EINVAL"));
    assert_eq!(store.commit(t, one), Ok(()));
}

#[test]
fn a_watch_ignores_the_transaction() {
    let (mut store, one, _) = store();
    assert!(store.call_in(99, one, XS_WATCH, b"/a\0t\0").is_ok());
    assert!(store.call_in(99, one, XS_UNWATCH, b"/a\0t\0").is_ok());
}

#[test]
fn permissions_in_a_transaction() {
    let (mut store, one, _) = store();
    let guest = store.guest(3);
    let t = store.start(one).unwrap();
    store.call_in(t, one, XS_SET_PERMS, b"/a\0n0\0r3\0").unwrap();
    assert_eq!(store.read(guest, "/a"), error("EACCES"));
    assert_eq!(store.commit(t, one), Ok(()));
    assert_eq!(store.read(guest, "/a").as_deref(), Ok("1"));

    let t = store.start(guest).unwrap();
    assert_eq!(store.write_in(t, guest, "/a", ""), error("EACCES"));
    assert_eq!(store.write_in(t, guest, "mine", "x"), Ok(()));
    assert_eq!(store.commit(t, guest), Ok(()));
    assert_eq!(store.permissions(guest, "mine").unwrap(), ["n3"]);
    assert_eq!(store.server.audit(), Ok(()));
}

/// Changes `/busy` so often that the bases of open transactions move.
fn make_old(store: &mut Store, client: ConnectionId) {
    for number in 0..5000 {
        store.write(client, "/busy", &number.to_string()).unwrap();
    }
}

#[test]
fn an_old_transaction_still_succeeds_if_nothing_it_read_has_changed() {
    let (mut store, one, two) = store();
    let t = store.start(one).unwrap();
    store.read_in(t, one, "/b").unwrap();
    store.write_in(t, one, "/a", "mine").unwrap();
    store.write_in(t, one, "/dir/y", "mine").unwrap();
    store.remove_in(t, one, "/dir/x").unwrap();
    make_old(&mut store, two);
    assert_eq!(store.read_in(t, one, "/a").as_deref(), Ok("mine"));
    assert_eq!(store.list_in(t, one, "/dir").unwrap(), ["y"]);
    // Proof that the base has moved: what was not read yet is read as it is now, or nearly so.
    assert!(store.read_in(t, one, "/busy").is_ok());
    store.write(two, "/unrelated", "").unwrap();
    assert_eq!(store.commit(t, one), error("EAGAIN"));

    let t = store.start(one).unwrap();
    store.write_in(t, one, "/a", "mine").unwrap();
    make_old(&mut store, two);
    assert_eq!(store.commit(t, one), Ok(()));
    assert_eq!(store.read(two, "/a").as_deref(), Ok("mine"));
    assert_eq!(store.server.audit(), Ok(()));
}

#[test]
fn an_old_transaction_fails_at_the_end_and_not_before() {
    let (mut store, one, two) = store();
    let t = store.start(one).unwrap();
    store.read_in(t, one, "/b").unwrap();
    store.write_in(t, one, "/a", "mine").unwrap();
    store.write_in(t, one, "/dir/sub/y", "mine").unwrap();
    store.write(two, "/b", "changed").unwrap();
    store.remove(two, "/dir").unwrap();
    make_old(&mut store, two);
    make_old(&mut store, two);
    assert_eq!(store.read_in(t, one, "/a").as_deref(), Ok("mine"));
    assert_eq!(store.write_in(t, one, "/more", ""), Ok(()));
    assert_eq!(store.commit(t, one), error("EAGAIN"));
    assert_eq!(store.read(two, "/a").as_deref(), Ok("1"));
    assert_eq!(store.server.audit(), Ok(()));
}
