//! Domains that come and go.

use super::*;

#[test]
fn introducing_a_domain_asks_for_its_ring() {
    let mut store = Store::new();
    let dom0 = store.dom0();
    assert_eq!(store.call(dom0, XS_IS_DOMAIN_INTRODUCED, b"5\0").unwrap(), b"F\0");
    assert!(store.call(dom0, XS_INTRODUCE, b"5\x00123\x009\0").is_ok());
    assert_eq!(store.call(dom0, XS_IS_DOMAIN_INTRODUCED, b"5\0").unwrap(), b"T\0");
    let connection = store.server.connection_of(DomainId(5)).unwrap();
    let (domain, frame, port) = (DomainId(5), MachineFrame(123), Port(9));
    assert_eq!(store.server.next_action(), Some(Action::Attach { connection, domain, frame, port }));
    assert_eq!(store.server.next_action(), None);

    assert!(store.call(dom0, XS_RELEASE, b"5\0").is_ok());
    assert_eq!(store.server.next_action(), Some(Action::Detach { connection, domain }));
    assert_eq!(store.call(dom0, XS_IS_DOMAIN_INTRODUCED, b"5\0").unwrap(), b"F\0");
    assert_eq!(store.server.receive(connection, b"x"), Err(ConnectionError::Gone));
}

#[test]
fn introducing_again_starts_the_connection_anew() {
    let mut store = Store::new();
    let (dom0, guest) = (store.dom0(), store.guest(5));
    store.watch(guest, "x", "t").unwrap();
    let transaction = store.start(guest).unwrap();
    store.events(guest);
    store.write(dom0, "/local/domain/5/x", "not fetched").unwrap();
    store.server.receive(guest, b"half a head").unwrap();
    store.watch(dom0, "@introduceDomain", "t").unwrap();
    store.events(dom0);

    let again = store.server.introduce(DomainId(5), MachineFrame(1), Port(2)).unwrap();
    assert_eq!(again, guest);
    assert_eq!(store.events(guest), []);
    assert_eq!(store.read_in(transaction, guest, "x"), error("ENOENT"));
    assert_eq!(store.watch(guest, "x", "t"), Ok(()));
    assert_eq!(store.events(dom0), []);
    assert_eq!(store.server.audit(), Ok(()));
}

#[test]
fn only_dom0_manages_domains() {
    let mut store = Store::new();
    let guest = store.guest(3);
    for (kind, payload) in [
        (XS_INTRODUCE, &b"5\x001\x002\0"[..]),
        (XS_RELEASE, b"3\0"),
        (XS_RESUME, b"3\0"),
        (XS_SET_TARGET, b"3\x003\0"),
        (XS_IS_DOMAIN_INTRODUCED, b"3\0"),
        (XS_CONTROL, b"help\0"),
    ] {
        assert_eq!(store.call(guest, kind, payload), error("EACCES"), "{kind}");
    }
    assert_eq!(store.call(guest, XS_GET_DOMAIN_PATH, b"77\0").unwrap(), b"/local/domain/77\0");
}

#[test]
fn what_is_no_ordinary_domain_is_not_introduced() {
    let mut store = Store::new();
    let dom0 = store.dom0();
    for domain in ["0", "32752", "65535"] {
        let payload = strings(&[domain, "1", "2"]);
        assert_eq!(store.call(dom0, XS_INTRODUCE, &payload), error("EINVAL"), "{domain}");
    }
    for kind in [XS_RELEASE, XS_RESUME] {
        assert_eq!(store.call(dom0, kind, b"9\0"), error("ENOENT"));
    }
    assert_eq!(store.call(dom0, XS_IS_DOMAIN_INTRODUCED, b"0\0").unwrap(), b"T\0");
}

#[test]
fn a_released_domain_leaves_nothing_to_its_successor() {
    let mut store = Store::new();
    let (three, four) = (store.guest(3), store.guest(4));
    let dom0 = store.dom0();
    store.watch(three, "x", "t").unwrap();
    store.start(three).unwrap();
    store.write(three, "x/y", "mine").unwrap();
    store.write(four, "shared", "four's").unwrap();
    store.set_permissions(four, "shared", &["n4", "b3"]).unwrap();
    store.server.write("/vm/3/name", "three").unwrap();
    store.set_permissions(dom0, "/vm/3/name", &["n0", "r3", "r4"]).unwrap();
    store.set_permissions(dom0, "@releaseDomain", &["n3", "r4"]).unwrap();

    store.server.release(DomainId(3)).unwrap();
    assert_eq!(store.server.usage(DomainId(3)), Usage::default());
    assert_eq!(store.read(dom0, "/local/domain/3"), error("ENOENT"));
    assert_eq!(store.permissions(dom0, "/local/domain/4/shared").unwrap(), ["n4"]);
    assert_eq!(store.permissions(dom0, "/vm/3/name").unwrap(), ["n0", "r4"]);
    assert_eq!(store.permissions(dom0, "@releaseDomain").unwrap(), ["n0"]);
    assert_eq!(store.server.audit(), Ok(()));

    let three = store.guest(3);
    assert_eq!(store.read(three, "/local/domain/4/shared"), error("EACCES"));
    assert_eq!(store.read(three, "/vm/3/name"), error("EACCES"));
}

#[test]
fn a_root_that_belonged_to_a_released_domain_is_dom0s_again() {
    let mut store = Store::new();
    let dom0 = store.dom0();
    store.guest(3);
    store.set_permissions(dom0, "/", &["b3"]).unwrap();
    store.server.release(DomainId(3)).unwrap();
    assert_eq!(store.permissions(dom0, "/").unwrap(), ["n0"]);
    assert_eq!(store.server.audit(), Ok(()));
}

#[test]
fn who_watches_hears_of_what_a_released_domain_had() {
    let mut store = Store::new();
    let (dom0, three) = (store.dom0(), store.guest(3));
    store.write(three, "x", "").unwrap();
    for path in ["/local/domain/3/x", "@releaseDomain"] {
        store.watch(dom0, path, "t").unwrap();
    }
    store.events(dom0);
    store.server.release(DomainId(3)).unwrap();
    assert_eq!(store.event_paths(dom0), ["/local/domain/3/x", "@releaseDomain"]);
}

#[test]
fn a_shutdown_is_told_once_until_the_domain_resumes() {
    let mut store = Store::new();
    let dom0 = store.dom0();
    store.guest(3);
    store.watch(dom0, "@releaseDomain", "t").unwrap();
    store.events(dom0);
    store.server.shut_down(DomainId(3)).unwrap();
    assert_eq!(store.events(dom0).len(), 1);
    store.server.shut_down(DomainId(3)).unwrap();
    assert_eq!(store.events(dom0).len(), 0);
    assert!(store.call(dom0, XS_RESUME, b"3\0").is_ok());
    store.server.shut_down(DomainId(3)).unwrap();
    assert_eq!(store.events(dom0).len(), 1);
    assert_eq!(store.server.shut_down(DomainId(4)), Err(Error::NotFound));
}

#[test]
fn a_transaction_that_read_a_released_domains_nodes_conflicts() {
    let mut store = Store::new();
    let (dom0, three) = (store.dom0(), store.guest(3));
    store.write(three, "x", "1").unwrap();
    let t = store.start(dom0).unwrap();
    store.read_in(t, dom0, "/local/domain/3/x").unwrap();
    store.server.release(DomainId(3)).unwrap();
    assert_eq!(store.commit(t, dom0), error("EAGAIN"));
}

#[test]
fn commands_to_the_store() {
    let mut store = Store::new();
    let dom0 = store.dom0();
    store.guest(3);
    let mut command = |words: &[&str]| store.call(dom0, XS_CONTROL, &strings(words)).map(text);
    assert_eq!(command(&["check"]).as_deref(), Ok("OK\0"));
    assert!(command(&["help"]).unwrap().contains("quota"));
    assert!(command(&["quota"]).unwrap().contains("nodes"));
    assert!(command(&["quota", "3"]).unwrap().starts_with("nodes                     1\n"));
    assert_eq!(command(&["quota", "x"]), error("EINVAL"));
    assert_eq!(command(&["live-update"]), error("EINVAL"));
}
