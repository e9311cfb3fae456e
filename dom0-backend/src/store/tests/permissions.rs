//! Who may do what.

use super::*;

/// A store with two guests, of which the first has a node `/local/domain/3/x`.
fn two_guests() -> (Store, ConnectionId, ConnectionId) {
    let mut store = Store::new();
    let (three, four) = (store.guest(3), store.guest(4));
    store.write(three, "x", "secret").unwrap();
    (store, three, four)
}

const X: &str = "/local/domain/3/x";

#[test]
fn a_guest_has_its_home_to_itself() {
    let (mut store, three, four) = two_guests();
    assert_eq!(store.permissions(three, "x").unwrap(), ["n3"]);
    assert_eq!(store.read(four, X), error("EACCES"));
    assert_eq!(store.write(four, X, ""), error("EACCES"));
    assert_eq!(store.list(four, "/local/domain/3"), error("EACCES"));
    assert_eq!(store.remove(four, X), error("EACCES"));
    assert_eq!(store.make_directory(four, "/local/domain/3/y"), error("EACCES"));
    assert_eq!(store.permissions(four, X), error("EACCES"));
    assert_eq!(store.set_permissions(four, X, &["n4"]), error("EACCES"));
    assert_eq!(store.read(three, X).as_deref(), Ok("secret"));
}

#[test]
fn what_is_missing_looks_like_what_is_forbidden() {
    let (mut store, _, four) = two_guests();
    assert_eq!(store.read(four, "/local/domain/3/missing"), error("EACCES"));
    assert_eq!(store.read(four, "/local/domain/3/a/b/c"), error("EACCES"));
    assert_eq!(store.remove(four, "/local/domain/3/missing"), error("EACCES"));
    assert_eq!(store.read(four, "/nowhere"), error("EACCES"));
    assert_eq!(store.write(four, "/new", ""), error("EACCES"));
}

#[test]
fn rights_can_be_given_one_by_one() {
    let (mut store, three, four) = two_guests();
    store.set_permissions(three, "x", &["n3", "r4"]).unwrap();
    assert_eq!(store.read(four, X).as_deref(), Ok("secret"));
    assert_eq!(store.write(four, X, ""), error("EACCES"));

    store.set_permissions(three, "x", &["n3", "w4"]).unwrap();
    assert_eq!(store.read(four, X), error("EACCES"));
    assert_eq!(store.write(four, X, "changed"), Ok(()));

    store.set_permissions(three, "x", &["b3"]).unwrap();
    assert_eq!(store.read(four, X).as_deref(), Ok("changed"));
    assert_eq!(store.permissions(four, X).unwrap(), ["b3"]);
    assert_eq!(store.set_permissions(four, X, &["b3"]), error("EACCES"));
}

#[test]
fn nodes_inherit_permissions_and_their_maker_owns_them() {
    let (mut store, three, four) = two_guests();
    store.set_permissions(three, "x", &["r3", "b4"]).unwrap();
    assert_eq!(store.write(four, &format!("{X}/y/z"), ""), Ok(()));
    assert_eq!(store.permissions(four, &format!("{X}/y")).unwrap(), ["r4", "b4"]);
    assert_eq!(store.permissions(four, &format!("{X}/y/z")).unwrap(), ["r4", "b4"]);
    store.server.write(&format!("{X}/by-dom0"), "").unwrap();
    assert_eq!(store.permissions(three, "x/by-dom0").unwrap(), ["r3", "b4"]);
}

#[test]
fn only_dom0_can_change_an_owner() {
    let (mut store, three, four) = two_guests();
    let dom0 = store.dom0();
    assert_eq!(store.set_permissions(three, "x", &["n4"]), error("EPERM"));
    assert_eq!(store.set_permissions(dom0, X, &["n4"]), Ok(()));
    assert_eq!(store.read(three, "x"), error("EACCES"));
    assert_eq!(store.read(four, X).as_deref(), Ok("secret"));
    assert_eq!(store.server.audit(), Ok(()));
}

#[test]
fn malformed_permissions_change_nothing() {
    let (mut store, three, _) = two_guests();
    for entries in [&["q3"][..], &["n3", "r"], &["3"], &["n3", ""], &["n70000"], &[]] {
        assert_eq!(store.set_permissions(three, "x", entries), error("EINVAL"), "{entries:?}");
    }
    assert_eq!(store.permissions(three, "x").unwrap(), ["n3"]);
    assert_eq!(store.set_permissions(three, "missing", &["n3"]), error("ENOENT"));
}

#[test]
fn who_acts_for_a_domain_has_its_rights() {
    let (mut store, three, four) = two_guests();
    let dom0 = store.dom0();
    assert_eq!(store.call(three, XS_SET_TARGET, b"4\x003\0"), error("EACCES"));
    assert_eq!(store.call(dom0, XS_SET_TARGET, b"4\x009\0"), error("ENOENT"));
    assert!(store.call(dom0, XS_SET_TARGET, b"4\x003\0").is_ok());
    assert_eq!(store.read(four, X).as_deref(), Ok("secret"));
    assert_eq!(store.set_permissions(four, X, &["n3", "r7"]), Ok(()));

    // The right is to the domain as it is now, not to whatever gets its number.
    store.server.release(DomainId(3)).unwrap();
    let three = store.guest(3);
    store.write(three, "x", "new").unwrap();
    assert_eq!(store.read(four, X), error("EACCES"));
}

#[test]
fn dom0_may_do_everything() {
    let (mut store, three, _) = two_guests();
    let dom0 = store.dom0();
    assert_eq!(store.read(dom0, X).as_deref(), Ok("secret"));
    assert_eq!(store.write(dom0, X, "changed"), Ok(()));
    assert_eq!(store.remove(dom0, X), Ok(()));
    assert_eq!(store.read(three, "x"), error("ENOENT"));
}
