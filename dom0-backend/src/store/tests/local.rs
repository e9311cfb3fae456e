//! The store as dom0's own code uses it.

use super::*;

#[test]
fn the_functions_do_what_the_requests_do() {
    let mut server = Server::new(Limits::default());
    server.write("/a/b", "value").unwrap();
    assert_eq!(&*server.read("/a/b").unwrap(), b"value");
    assert_eq!(server.list("/a").unwrap(), ["b"]);
    server.make_directory("/a/c").unwrap();
    let permissions = Permissions::new(
        DomainId(3),
        Rights::empty(),
        &[Grant { domain: DomainId(4), rights: Rights::READ }],
    );
    server.set_permissions("/a/c", &permissions).unwrap();
    assert_eq!(server.permissions("/a/c").unwrap(), permissions);
    server.remove("/a").unwrap();
    assert_eq!(server.read("/a/b"), Err(Error::NotFound));
    assert_eq!(server.read("/a b"), Err(Error::Path(PathError::Character { byte: b' ' })));
    assert_eq!(server.audit(), Ok(()));
}

#[test]
fn a_failed_transaction_undoes_everything() {
    let mut server = Server::new(Limits::default());
    server.write("/a", "1").unwrap();
    let failed: Result<(), _> = server.transaction(|nodes| {
        nodes.write("/a", "2")?;
        nodes.write("/b", "2")?;
        nodes.read("/missing").map(drop)
    });
    assert_eq!(failed, Err(Error::NotFound));
    assert_eq!(&*server.read("/a").unwrap(), b"1");
    assert_eq!(server.read("/b"), Err(Error::NotFound));

    let list = server.transaction(|nodes| {
        nodes.write("/dir/x", "")?;
        nodes.list("/dir")
    });
    assert_eq!(list.unwrap(), ["x"]);
    assert_eq!(server.list("/dir").unwrap(), ["x"]);
    assert_eq!(server.audit(), Ok(()));
}

#[test]
fn events_come_as_values() {
    let mut server = Server::new(Limits::default());
    let client = server.connect();
    server.watch(client, "/a", "token").unwrap();
    assert_eq!(server.watch(client, "/a", "token"), Err(Error::AlreadyWatched));
    assert_eq!(server.next_ready(), Some(client));
    server.transaction(|nodes| nodes.write("/a/b", "")).unwrap();
    let event = |path: &str| Some(WatchEvent { path: path.to_owned(), token: "token".to_owned() });
    assert_eq!(server.next_event(client), event("/a"));
    assert_eq!(server.next_event(client), event("/a/b"));
    assert_eq!(server.next_event(client), None);
    server.unwatch(client, "/a", "token").unwrap();
    server.write("/a", "").unwrap();
    assert_eq!(server.next_event(client), None);
    server.disconnect(client);
    assert_eq!(server.watch(client, "/a", "token"), Err(Error::NotFound));
    assert_eq!(server.audit(), Ok(()));
}

#[test]
fn a_disconnected_client_leaves_no_watch_behind() {
    let mut store = Store::new();
    let dom0 = store.dom0();
    store.watch(dom0, "/a", "t").unwrap();
    store.start(dom0).unwrap();
    store.server.disconnect(dom0);
    let usage = store.server.usage(DomainId::ZERO);
    assert_eq!((usage.watches, usage.transactions), (0, 0));
    assert_eq!(store.server.audit(), Ok(()));
    // A domain's connection does not end this way.
    let guest = store.guest(3);
    store.server.disconnect(guest);
    assert_eq!(store.write(guest, "x", ""), Ok(()));
}
