//! Reading, writing, listing and removing.

use super::*;

#[test]
fn what_is_written_is_read() {
    let mut store = Store::new();
    let dom0 = store.dom0();
    assert_eq!(store.write(dom0, "/a/b/c", "x\0y"), Ok(()));
    assert_eq!(store.read(dom0, "/a/b/c").as_deref(), Ok("x\0y"));
    assert_eq!(store.read(dom0, "/a/b").as_deref(), Ok(""));
    assert_eq!(store.write(dom0, "/a/b/c", ""), Ok(()));
    assert_eq!(store.read(dom0, "/a/b/c").as_deref(), Ok(""));
    assert_eq!(store.read(dom0, "/a/x"), error("ENOENT"));
}

#[test]
fn a_relative_path_is_below_the_home_directory() {
    let mut store = Store::new();
    let (dom0, guest) = (store.dom0(), store.guest(5));
    store.write(guest, "data/x", "5").unwrap();
    assert_eq!(store.read(dom0, "/local/domain/5/data/x").as_deref(), Ok("5"));
    store.write(dom0, "data", "0").unwrap();
    assert_eq!(store.read(dom0, "/local/domain/0/data").as_deref(), Ok("0"));
}

#[test]
fn making_a_directory_leaves_what_is_there() {
    let mut store = Store::new();
    let dom0 = store.dom0();
    store.write(dom0, "/a", "value").unwrap();
    assert_eq!(store.make_directory(dom0, "/a/b/c"), Ok(()));
    assert_eq!(store.make_directory(dom0, "/a"), Ok(()));
    assert_eq!(store.read(dom0, "/a").as_deref(), Ok("value"));
    assert_eq!(store.list(dom0, "/a/b").unwrap(), ["c"]);
}

#[test]
fn a_directory_lists_its_children() {
    let mut store = Store::new();
    let dom0 = store.dom0();
    for path in ["/a/b", "/a/c", "/a/b/d"] {
        store.write(dom0, path, "").unwrap();
    }
    assert_eq!(store.list(dom0, "/a").unwrap(), ["b", "c"]);
    assert_eq!(store.list(dom0, "/a/c").unwrap(), [""; 0]);
    assert_eq!(store.list(dom0, "/"), Ok(vec!["a".to_owned()]));
    assert_eq!(store.list(dom0, "/x"), error("ENOENT"));
}

/// Fills `/a` with children whose list is longer than a message; the list.
fn long_directory(store: &mut Store) -> Vec<String> {
    let names: Vec<_> = (0..300).map(|number| format!("a-rather-long-name-{number:03}")).collect();
    for name in &names {
        store.server.write(&format!("/a/{name}"), "").unwrap();
    }
    names
}

#[test]
fn a_list_that_does_not_fit_comes_in_parts() {
    let mut store = Store::new();
    let (dom0, names) = (store.dom0(), long_directory(&mut store));
    assert_eq!(store.list(dom0, "/a"), error("E2BIG"));

    let (mut listing, mut generations, mut parts) = (vec![], vec![], 0);
    // An empty name, that is a second NUL in a row, ends the list.
    while !listing.ends_with(b"\0\0") {
        let payload = strings(&["/a", &listing.len().to_string()]);
        let part = store.call(dom0, XS_DIRECTORY_PART, &payload).unwrap();
        assert!(part.len() <= XENSTORE_PAYLOAD_MAX);
        let end = part.iter().position(|byte| *byte == 0).unwrap();
        generations.push(part[..end].to_vec());
        listing.extend_from_slice(&part[end + 1..]);
        parts += 1;
    }
    listing.pop();
    assert_eq!(split(listing), names);
    assert_eq!(parts, 2);
    generations.dedup();
    assert_eq!(generations.len(), 1);
}

#[test]
fn a_part_tells_when_the_list_has_changed() {
    let mut store = Store::new();
    let dom0 = store.dom0();
    long_directory(&mut store);
    let generation = |store: &mut Store| {
        let part = store.call(dom0, XS_DIRECTORY_PART, &strings(&["/a", "4000"])).unwrap();
        split(part).remove(0)
    };
    let first = generation(&mut store);
    store.server.write("/a", "a value").unwrap();
    assert_eq!(generation(&mut store), first);
    store.server.write("/a/another", "").unwrap();
    assert_ne!(generation(&mut store), first);
}

#[test]
fn a_part_may_start_anywhere() {
    let mut store = Store::new();
    let dom0 = store.dom0();
    for path in ["/a/one", "/a/two"] {
        store.server.write(path, "").unwrap();
    }
    let mut part = |offset: &str| {
        let part = store.call(dom0, XS_DIRECTORY_PART, &strings(&["/a", offset])).unwrap();
        part.splitn(2, |byte| *byte == 0).nth(1).unwrap().to_vec()
    };
    assert_eq!(part("0"), b"one\0two\0\0");
    assert_eq!(part("2"), b"e\0two\0\0");
    assert_eq!(part("3"), b"\0two\0\0");
    assert_eq!(part("4"), b"two\0\0");
    assert_eq!(part("8"), b"\0");
    assert_eq!(part("99999999"), b"\0");
}

#[test]
fn removing_takes_all_below() {
    let mut store = Store::new();
    let dom0 = store.dom0();
    for path in ["/a/b/c", "/a/b/d/e", "/a/f"] {
        store.write(dom0, path, "").unwrap();
    }
    assert_eq!(store.remove(dom0, "/a/b"), Ok(()));
    assert_eq!(store.list(dom0, "/a").unwrap(), ["f"]);
    assert_eq!(store.read(dom0, "/a/b/d/e"), error("ENOENT"));
}

#[test]
fn removing_what_is_not_there_needs_a_parent() {
    let mut store = Store::new();
    let dom0 = store.dom0();
    store.write(dom0, "/a", "").unwrap();
    assert_eq!(store.remove(dom0, "/a/x"), Ok(()));
    assert_eq!(store.remove(dom0, "/a/x/y"), error("ENOENT"));
    assert_eq!(store.remove(dom0, "/"), error("EINVAL"));
    assert_eq!(store.server.audit(), Ok(()));
}

#[test]
fn special_nodes_are_not_ordinary_ones() {
    let mut store = Store::new();
    let dom0 = store.dom0();
    assert_eq!(store.read(dom0, "@releaseDomain"), error("EINVAL"));
    assert_eq!(store.write(dom0, "@releaseDomain", ""), error("EINVAL"));
    assert_eq!(store.remove(dom0, "@releaseDomain"), error("EINVAL"));
    assert_eq!(store.permissions(dom0, "@releaseDomain").unwrap(), ["n0"]);
    assert_eq!(store.permissions(dom0, "@else"), error("ENOENT"));
    assert_eq!(store.list(dom0, "/").unwrap(), [""; 0]);
}

#[test]
fn bad_paths_are_refused_by_every_request() {
    let mut store = Store::new();
    let dom0 = store.dom0();
    for path in ["", "//", "/a/", "/a b", "/a.b"] {
        for kind in [XS_READ, XS_WRITE, XS_MKDIR, XS_RM, XS_DIRECTORY, XS_GET_PERMS] {
            assert_eq!(store.call(dom0, kind, &strings(&[path])), error("EINVAL"), "{kind} {path:?}");
        }
        assert_eq!(store.set_permissions(dom0, path, &["n0"]), error("EINVAL"));
        assert_eq!(store.watch(dom0, path, "t"), error("EINVAL"));
        assert_eq!(store.unwatch(dom0, path, "t"), error("EINVAL"));
    }
}

#[test]
fn the_longest_value_fits_a_message_both_ways() {
    let mut store = Store::new();
    let dom0 = store.dom0();
    let value = "x".repeat(XENSTORE_PAYLOAD_MAX - 3);
    assert_eq!(store.write(dom0, "/a", &value), Ok(()));
    assert_eq!(store.read(dom0, "/a"), Ok(value));
}
