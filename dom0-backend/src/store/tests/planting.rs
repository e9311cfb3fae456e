//! Directories that are planted as a whole.

use super::*;

const OWNER: DomainId = DomainId(5);

fn readable() -> Permissions {
    Permissions::new(DomainId::ZERO, Rights::empty(), &[Grant { domain: OWNER, rights: Rights::READ }])
}

/// Plants `/top/home` with these keys and values; the last key is the owner's.
fn plant(server: &mut Server, nodes: &[(&str, &str)], own: &str) -> Result<(), Error> {
    server.transaction(|all| {
        let mut seedling = all.seedling("/top/home", &readable())?;
        nodes.iter().try_for_each(|(key, value)| seedling.write(key, value))?;
        seedling.put(own, "mine", &Permissions::private(OWNER))?;
        all.plant(seedling)
    })
}

/// Every node with its value and permissions.
fn contents(server: &mut Server, path: &str) -> Vec<(String, Vec<u8>, Permissions)> {
    let node = (path.to_owned(), server.read(path).unwrap().to_vec(), server.permissions(path).unwrap());
    let above = path.trim_end_matches('/');
    let below = server.list(path).unwrap();
    [node]
        .into_iter()
        .chain(below.iter().flat_map(|name| contents(server, &format!("{above}/{name}"))))
        .collect()
}

#[test]
fn what_is_planted_is_what_would_have_been_written() {
    let keys = [("name", "web"), ("memory/target", "1"), ("memory/static-max", "2"), ("name", "db")];
    let mut planted = Server::new(Limits::default());
    plant(&mut planted, &keys, "control/shutdown").unwrap();
    let mut written = Server::new(Limits::default());
    written.make_directory("/top/home").unwrap();
    written.set_permissions("/top/home", &readable()).unwrap();
    for (key, value) in keys {
        written.write(&format!("/top/home/{key}"), value).unwrap();
    }
    written.write("/top/home/control/shutdown", "mine").unwrap();
    written.set_permissions("/top/home/control/shutdown", &Permissions::private(OWNER)).unwrap();
    assert_eq!(contents(&mut planted, "/"), contents(&mut written, "/"));
    for domain in [DomainId::ZERO, OWNER] {
        assert_eq!(planted.usage(domain), written.usage(domain));
    }
    assert_eq!(planted.audit(), Ok(()));
}

#[test]
fn who_watches_hears_of_the_directory_from_above_and_of_nodes_inside() {
    let mut server = Server::new(Limits::default());
    let client = server.connect();
    for path in ["/", "/top/home/name", "/top/home/other"] {
        server.watch(client, path, path).unwrap();
    }
    while server.next_event(client).is_some() {}
    plant(&mut server, &[("name", "web"), ("memory/target", "1")], "data").unwrap();
    let mut heard = Vec::new();
    while let Some(event) = server.next_event(client) {
        heard.push((event.path, event.token));
    }
    let expected = [("/top", "/"), ("/top/home", "/"), ("/top/home/name", "/top/home/name")];
    assert_eq!(heard, expected.map(|(path, token)| (path.to_owned(), token.to_owned())));
}

#[test]
fn what_was_there_makes_room() {
    let mut server = Server::new(Limits::default());
    server.write("/top/home/old/node", "x").unwrap();
    plant(&mut server, &[("name", "web")], "data").unwrap();
    assert_eq!(server.list("/top/home").unwrap(), ["data", "name"]);
    assert_eq!(server.audit(), Ok(()));
}

#[test]
fn a_domain_that_goes_leaves_nothing_in_what_was_planted() {
    let mut server = Server::new(Limits::default());
    plant(&mut server, &[("name", "web")], "data").unwrap();
    server.introduce(OWNER, MachineFrame(500), Port(7)).unwrap();
    server.release(OWNER).unwrap();
    assert_eq!(server.list("/top/home").unwrap(), ["name"]);
    assert_eq!(server.permissions("/top/home").unwrap(), Permissions::private(DomainId::ZERO));
    assert_eq!(server.audit(), Ok(()));
}

#[test]
fn what_cannot_grow_there_is_refused_and_changes_nothing() {
    let mut server = Server::new(Limits::default());
    let refused = |server: &mut Server, key: &str| plant(server, &[(key, "")], "data").unwrap_err();
    assert_eq!(refused(&mut server, "/name"), Error::Path(PathError::Special));
    assert_eq!(refused(&mut server, "a//b"), Error::Path(PathError::DoubledSlash));
    assert_eq!(refused(&mut server, ""), Error::Path(PathError::Empty));
    assert!(matches!(refused(&mut server, &["a"; 70].join("/")), Error::Quota(_)));
    let root = server.transaction(|all| {
        let seedling = all.seedling("/", &readable())?;
        all.plant(seedling)
    });
    assert_eq!(root, Err(Error::Root));
    assert_eq!(server.list("/").unwrap(), [] as [&str; 0]);
    assert_eq!(server.audit(), Ok(()));
}
