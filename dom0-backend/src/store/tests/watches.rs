//! Hearing of changes.

use super::*;

fn event(path: &str, token: &str) -> (String, String) {
    (path.to_owned(), token.to_owned())
}

#[test]
fn a_watch_fires_once_when_it_is_set() {
    let mut store = Store::new();
    let (dom0, guest) = (store.dom0(), store.guest(3));
    assert_eq!(store.watch(dom0, "/not/there", "token"), Ok(()));
    assert_eq!(store.events(dom0), [event("/not/there", "token")]);
    assert_eq!(store.watch(guest, "device", "a token with spaces"), Ok(()));
    assert_eq!(store.events(guest), [event("device", "a token with spaces")]);
    assert_eq!(store.watch(guest, "@anything", ""), Ok(()));
    assert_eq!(store.events(guest), [event("@anything", "")]);
}

#[test]
fn the_reply_to_a_watch_comes_before_its_first_event() {
    let mut store = Store::new();
    let dom0 = store.dom0();
    let request = encode(XS_WATCH, 1, 0, b"/a\0t\0");
    store.server.receive(dom0, &request).unwrap();
    assert_eq!(store.server.output(dom0), encode(XS_WATCH, 1, 0, b"OK\0"));
    store.server.sent(dom0, HEADER_LENGTH + 3);
    assert_eq!(store.server.output(dom0), encode(XS_WATCH_EVENT, 0, 0, b"/a\0t\0"));
}

#[test]
fn changes_at_and_below_are_told() {
    let mut store = Store::new();
    let (dom0, watcher) = (store.dom0(), store.dom0());
    store.watch(watcher, "/a", "t").unwrap();
    store.events(watcher);
    store.write(dom0, "/a/b/c", "").unwrap();
    store.write(dom0, "/a", "").unwrap();
    store.make_directory(dom0, "/a/d").unwrap();
    store.make_directory(dom0, "/a/d").unwrap();
    store.set_permissions(dom0, "/a/d", &["n0"]).unwrap();
    store.write(dom0, "/ab", "").unwrap();
    store.remove(dom0, "/a/b").unwrap();
    store.remove(dom0, "/a/b").unwrap();
    // The second change of /a/d finds its event waiting still.
    let expected = ["/a/b/c", "/a", "/a/d", "/a/b"];
    assert_eq!(store.event_paths(watcher), expected);
}

#[test]
fn a_relative_watch_is_told_in_relative_paths() {
    let mut store = Store::new();
    let guest = store.guest(3);
    store.watch(guest, "device/vif", "relative").unwrap();
    store.watch(guest, "/local/domain/3/device", "absolute").unwrap();
    store.events(guest);
    store.server.write("/local/domain/3/device/vif/0/state", "1").unwrap();
    let mut events = store.events(guest);
    events.sort();
    let expected =
        [event("/local/domain/3/device/vif/0/state", "absolute"), event("device/vif/0/state", "relative")];
    assert_eq!(events, expected);
}

#[test]
fn removal_is_told_to_watches_above_and_on_each_removed_node() {
    let mut store = Store::new();
    let (dom0, watcher) = (store.dom0(), store.dom0());
    store.write(dom0, "/a/b/c", "").unwrap();
    for path in ["/", "/a/b", "/a/b/c", "/a/b/missing"] {
        store.watch(watcher, path, path).unwrap();
    }
    store.events(watcher);
    store.remove(dom0, "/a").unwrap();
    let expected = [event("/a", "/"), event("/a/b", "/a/b"), event("/a/b/c", "/a/b/c")];
    assert_eq!(store.events(watcher), expected);
}

#[test]
fn only_who_may_read_is_told() {
    let mut store = Store::new();
    let (three, four) = (store.guest(3), store.guest(4));
    store.watch(four, "/local/domain/3", "t").unwrap();
    store.events(four);
    store.write(three, "x", "").unwrap();
    assert_eq!(store.events(four), []);

    // Gaining and losing the right to read are both told, and what happens in between.
    store.set_permissions(three, "x", &["n3", "r4"]).unwrap();
    assert_eq!(store.event_paths(four), ["/local/domain/3/x"]);
    store.write(three, "x", "1").unwrap();
    assert_eq!(store.event_paths(four), ["/local/domain/3/x"]);
    store.set_permissions(three, "x", &["n3"]).unwrap();
    assert_eq!(store.event_paths(four), ["/local/domain/3/x"]);
    store.write(three, "x", "2").unwrap();
    store.remove(three, "x").unwrap();
    assert_eq!(store.events(four), []);
}

#[test]
fn who_may_list_a_directory_is_told_when_the_list_changes() {
    let mut store = Store::new();
    let (three, four) = (store.guest(3), store.guest(4));
    store.make_directory(three, "dir").unwrap();
    store.set_permissions(three, "dir", &["n3", "r4"]).unwrap();
    store.watch(four, "/local/domain/3/dir", "t").unwrap();
    store.events(four);
    store.write(three, "dir/x", "").unwrap();
    assert_eq!(store.event_paths(four).len(), 1);
    store.set_permissions(three, "dir/x", &["n3"]).unwrap();
    store.events(four);
    store.write(three, "dir/x", "secret").unwrap();
    assert_eq!(store.events(four), []);
    store.remove(three, "dir/x").unwrap();
    assert_eq!(store.event_paths(four), ["/local/domain/3/dir/x"]);
}

#[test]
fn a_watch_is_set_once_and_ended_once() {
    let mut store = Store::new();
    let dom0 = store.dom0();
    assert_eq!(store.watch(dom0, "/a", "t"), Ok(()));
    assert_eq!(store.watch(dom0, "/a", "t"), error("EEXIST"));
    assert_eq!(store.watch(dom0, "/a", "u"), Ok(()));
    store.events(dom0);
    assert_eq!(store.unwatch(dom0, "/a", "t"), Ok(()));
    assert_eq!(store.unwatch(dom0, "/a", "t"), error("ENOENT"));
    store.write(dom0, "/a", "").unwrap();
    assert_eq!(store.events(dom0), [event("/a", "u")]);
}

#[test]
fn one_path_named_in_two_ways_is_one_watch() {
    let mut store = Store::new();
    let guest = store.guest(3);
    assert_eq!(store.watch(guest, "x", "t"), Ok(()));
    assert_eq!(store.watch(guest, "/local/domain/3/x", "t"), error("EEXIST"));
    assert_eq!(store.unwatch(guest, "/local/domain/3/x", "t"), Ok(()));
    assert_eq!(store.server.audit(), Ok(()));
}

#[test]
fn resetting_ends_watches_and_transactions() {
    let mut store = Store::new();
    let guest = store.guest(3);
    store.watch(guest, "x", "t").unwrap();
    let transaction = store.start(guest).unwrap();
    store.events(guest);
    assert!(store.call(guest, XS_RESET_WATCHES, b"\0").is_ok());
    store.write(guest, "x", "").unwrap();
    assert_eq!(store.events(guest), []);
    assert_eq!(store.read_in(transaction, guest, "x"), error("ENOENT"));
    let usage = store.server.usage(DomainId(3));
    assert_eq!((usage.watches, usage.transactions), (0, 0));
    assert_eq!(store.server.audit(), Ok(()));
}

#[test]
fn the_special_watches_are_for_those_who_were_let_in() {
    let mut store = Store::new();
    let (dom0, guest) = (store.dom0(), store.guest(3));
    for client in [dom0, guest] {
        store.watch(client, "@introduceDomain", "in").unwrap();
        store.watch(client, "@releaseDomain", "out").unwrap();
        store.events(client);
    }
    store.guest(4);
    store.server.release(DomainId(4)).unwrap();
    assert_eq!(store.events(dom0), [event("@introduceDomain", "in"), event("@releaseDomain", "out")]);
    assert_eq!(store.events(guest), []);

    assert_eq!(store.set_permissions(guest, "@releaseDomain", &["n3"]), error("EACCES"));
    store.set_permissions(dom0, "@releaseDomain", &["n0", "r3"]).unwrap();
    store.events(guest);
    store.guest(4);
    store.server.release(DomainId(4)).unwrap();
    assert_eq!(store.events(guest), [event("@releaseDomain", "out")]);
}

#[test]
fn a_client_that_does_not_listen_costs_a_bounded_amount() {
    let mut store = Store::with_limits(Limits { event_bytes: 10 * 22, ..Limits::default() });
    let guest = store.guest(3);
    store.watch(guest, "x", "t").unwrap();
    store.events(guest);
    for number in 0..1000 {
        store.server.write(&format!("/local/domain/3/x/{number}"), "").unwrap();
    }
    let events = store.events(guest);
    assert_eq!(events.len(), 11);
    // The last one says: look at everything below what you watch.
    assert_eq!(events[10], event("x", "t"));
}

#[test]
fn connections_with_something_to_send_are_named_once() {
    let mut store = Store::new();
    let (dom0, one, two) = (store.dom0(), store.dom0(), store.dom0());
    for client in [one, two] {
        store.watch(client, "/a", "t").unwrap();
        store.events(client);
    }
    while store.server.next_ready().is_some() {}
    store.write(dom0, "/a", "1").unwrap();
    store.write(dom0, "/a/b", "2").unwrap();
    let mut ready: Vec<_> = std::iter::from_fn(|| store.server.next_ready()).collect();
    ready.sort();
    assert_eq!(ready, [one, two]);
    store.write(dom0, "/a/c", "3").unwrap();
    assert_eq!(store.server.next_ready(), Some(one));
}
