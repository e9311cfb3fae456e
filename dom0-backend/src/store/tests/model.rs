//! The store against a model of it.
//!
//! The model has no clever structure: all nodes in one map, and for each open transaction the requests it
//! made with the answers it got. When a transaction ends well, the model makes the same requests once more on
//! its own map *now*. If every answer is the same, the transaction had an effect as if nobody else had been
//! there, which is the promise; the model's map is then what the store must have. When it ends in a conflict,
//! there must have been something to conflict with.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// Nodes by path: value and permissions, the latter as on the wire.
type Map = BTreeMap<String, (String, Vec<String>)>;

/// A request about a node.
#[derive(Clone, Debug)]
enum Request {
    Read(String),
    List(String),
    Write(String, String),
    MakeDirectory(String),
    Remove(String),
    SetPermissions(String, Vec<String>),
}

type Reply = Answer<Vec<String>>;

/// An open transaction: who, its number, what it asked and got, and how often the map had changed at its
/// start.
struct Open {
    client: usize,
    number: u32,
    history: Vec<(Request, Reply)>,
    started: u64,
}

fn parent(path: &str) -> Option<&str> {
    match path.rfind('/')? {
        0 if path == "/" => None,
        0 => Some("/"),
        end => Some(&path[..end]),
    }
}

fn may(entries: &[String], domain: u16, right: char) -> bool {
    let (owner, others) = (entries[0][1..].to_owned(), &entries[0][..1]);
    if domain == 0 || owner == domain.to_string() {
        return true;
    }
    let named = entries[1..].iter().find(|entry| entry[1..] == domain.to_string());
    let letter = named.map_or(others, |entry| &entry[..1]);
    letter == "b" || letter.starts_with(right)
}

/// What the model answers, and what it does to the map.
fn answer(map: &mut Map, domain: u16, request: &Request) -> Reply {
    let right = if matches!(request, Request::Read(_) | Request::List(_)) { 'r' } else { 'w' };
    let (Request::Read(path)
    | Request::List(path)
    | Request::Write(path, _)
    | Request::MakeDirectory(path)
    | Request::Remove(path)
    | Request::SetPermissions(path, _)) = request;

    let mut nearest = path.as_str();
    while !map.contains_key(nearest) {
        nearest = parent(nearest).unwrap();
    }
    if !may(&map[nearest].1, domain, right) {
        return error("EACCES");
    }
    let exists = nearest == path;
    match request {
        Request::Write(_, value) => {
            create(map, domain, path);
            map.get_mut(path).unwrap().0.clone_from(value);
        }
        Request::MakeDirectory(_) => create(map, domain, path),
        Request::Remove(_) if path == "/" => return error("EINVAL"),
        Request::Remove(_) if !exists && nearest == parent(path).unwrap() => {}
        _ if !exists => return error("ENOENT"),
        Request::Remove(_) => {
            let below = format!("{path}/");
            map.retain(|other, _| other != path && !other.starts_with(&below));
        }
        Request::Read(_) => return Ok(vec![map[path].0.clone()]),
        Request::List(_) => {
            let children = map.keys().filter(|child| parent(child) == Some(path));
            return Ok(children.map(|child| child.rsplit('/').next().unwrap().to_owned()).collect());
        }
        Request::SetPermissions(_, entries) => {
            let owner = map[path].1[0][1..].to_owned();
            if domain != 0 && owner != domain.to_string() {
                return error("EACCES");
            }
            if domain != 0 && entries[0][1..] != owner {
                return error("EPERM");
            }
            map.get_mut(path).unwrap().1.clone_from(entries);
        }
    }
    Ok(vec![])
}

fn create(map: &mut Map, domain: u16, path: &str) {
    if map.contains_key(path) {
        return;
    }
    let above = parent(path).unwrap();
    create(map, domain, above);
    let mut entries = map[above].1.clone();
    if domain != 0 {
        entries[0] = format!("{}{domain}", &entries[0][..1]);
    }
    map.insert(path.to_owned(), (String::new(), entries));
}

fn changes(request: &Request) -> bool {
    !matches!(request, Request::Read(_) | Request::List(_))
}

/// What the store answers.
fn ask(store: &mut Store, transaction: u32, client: ConnectionId, request: &Request) -> Reply {
    let none = |()| vec![];
    match request {
        Request::Read(path) => store.read_in(transaction, client, path).map(|value| vec![value]),
        Request::List(path) => store.list_in(transaction, client, path),
        Request::Write(path, value) => store.write_in(transaction, client, path, value).map(none),
        Request::MakeDirectory(path) => {
            store.call_in(transaction, client, XS_MKDIR, &strings(&[path])).map(done).map(none)
        }
        Request::Remove(path) => store.remove_in(transaction, client, path).map(none),
        Request::SetPermissions(path, entries) => {
            let words: Vec<_> = std::iter::once(path).chain(entries).map(String::as_str).collect();
            store.call_in(transaction, client, XS_SET_PERMS, &strings(&words)).map(done).map(none)
        }
    }
}

/// All that the store has, as dom0 sees it.
fn dump(store: &mut Store, dom0: ConnectionId) -> Map {
    let (mut map, mut pending) = (Map::new(), vec!["/".to_owned()]);
    while let Some(path) = pending.pop() {
        for name in store.list(dom0, &path).unwrap() {
            pending.push(format!("{}/{name}", path.trim_end_matches('/')));
        }
        let node = (store.read(dom0, &path).unwrap(), store.permissions(dom0, &path).unwrap());
        map.insert(path, node);
    }
    map
}

#[derive(Clone, Debug)]
enum Step {
    /// A client makes a request outside any transaction.
    Ask { client: usize, request: Request },
    /// A client starts a transaction.
    Start { client: usize },
    /// A request in an open transaction; which one is counted round.
    AskIn { transaction: usize, request: Request },
    /// The end of an open transaction.
    End { transaction: usize, commit: bool },
}

const DOMAINS: [u16; 3] = [0, 1, 2];

fn path() -> impl Strategy<Value = String> {
    let paths = ["/", "/a", "/a/b", "/a/b/c", "/a/d", "/e", "/e/f", "/local/domain/1", "/local/domain/1/x"];
    let more = ["/local/domain/1/x/y", "/local/domain/2", "/local/domain/2/x", "/local"];
    prop::sample::select([&paths[..], &more].concat()).prop_map(str::to_owned)
}

fn permissions() -> impl Strategy<Value = Vec<String>> {
    let entry = prop::sample::select(vec!["n0", "r0", "b0", "n1", "b1", "r1", "w1", "n2", "r2", "w2", "b2"]);
    prop::collection::vec(entry.prop_map(str::to_owned), 1..4)
}

fn request() -> impl Strategy<Value = Request> {
    let value = prop::sample::select(vec!["", "1", "22"]).prop_map(str::to_owned);
    prop_oneof![
        4 => path().prop_map(Request::Read),
        2 => path().prop_map(Request::List),
        6 => (path(), value).prop_map(|(path, value)| Request::Write(path, value)),
        2 => path().prop_map(Request::MakeDirectory),
        2 => path().prop_map(Request::Remove),
        2 => (path(), permissions()).prop_map(|(path, entries)| Request::SetPermissions(path, entries)),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0usize..3, request()).prop_map(|(client, request)| Step::Ask { client, request }),
        8 => (0usize..4, request()).prop_map(|(transaction, request)| Step::AskIn { transaction, request }),
        3 => (0usize..3).prop_map(|client| Step::Start { client }),
        3 => (0usize..4, prop::bool::weighted(0.9))
            .prop_map(|(transaction, commit)| Step::End { transaction, commit }),
    ]
}

struct Comparison {
    store: Store,
    clients: [ConnectionId; 3],
    map: Map,
    /// How often the map was changed.
    changes: u64,
    open: Vec<Open>,
}

impl Comparison {
    fn new(lag: u64) -> Self {
        let mut store = Store::with_limits(Limits { lag, ..Limits::default() });
        let clients = [store.dom0(), store.guest(1), store.guest(2)];
        let map = dump(&mut store, clients[0]);
        Self { store, clients, map, changes: 0, open: vec![] }
    }

    fn step(&mut self, step: Step) {
        let open = self.open.len();
        match step {
            Step::Start { client } if open < 4 => {
                let number = self.store.start(self.clients[client]).unwrap();
                self.open.push(Open { client, number, history: vec![], started: self.changes });
            }
            Step::End { transaction, commit } if open > 0 => {
                let open = self.open.remove(transaction % open);
                self.end(open, commit);
            }
            Step::AskIn { transaction, request } if open > 0 => {
                let open = &mut self.open[transaction % open];
                let reply = ask(&mut self.store, open.number, self.clients[open.client], &request);
                open.history.push((request, reply));
            }
            Step::Ask { client, request } => {
                let reply = ask(&mut self.store, 0, self.clients[client], &request);
                assert_eq!(reply, answer(&mut self.map, DOMAINS[client], &request), "{request:?}");
                self.changes += u64::from(changes(&request) && reply.is_ok());
            }
            Step::Start { .. } | Step::End { .. } | Step::AskIn { .. } => return,
        }
        assert_eq!(self.store.server.audit(), Ok(()));
    }

    fn end(&mut self, open: Open, commit: bool) {
        let result = self.store.end(open.number, self.clients[open.client], commit);
        match result.as_ref().map_err(String::as_str) {
            Ok(()) if commit => {
                for (request, reply) in &open.history {
                    let now = answer(&mut self.map, DOMAINS[open.client], request);
                    assert_eq!(&now, reply, "{request:?} is answered otherwise at the end");
                    self.changes += u64::from(changes(request) && reply.is_ok());
                }
            }
            Ok(()) => {}
            Err("EAGAIN") => assert!(self.changes > open.started, "a conflict with nothing"),
            Err(other) => panic!("{other}"),
        }
        assert_eq!(dump(&mut self.store, self.clients[0]), self.map);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// Requests outside transactions are answered as by the model; transactions as if alone, whether or not
    /// they grow old and are moved up.
    #[test]
    fn the_store_does_what_the_model_does(
        lag in prop::sample::select(vec![0, 3, u64::MAX]),
        steps in prop::collection::vec(step(), 1..120),
    ) {
        let mut comparison = Comparison::new(lag);
        for step in steps {
            comparison.step(step);
        }
        while let Some(open) = comparison.open.pop() {
            comparison.end(open, true);
        }
    }
}
