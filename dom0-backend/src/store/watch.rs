//! Watches: who wants to hear of changes where.
//!
//! Watches are kept by the path they are on, so a change finds the ones it concerns by looking up each node
//! on the way from the changed one to the root: the cost is the depth of the path and the number of watches
//! that fit, not the number there are. The maps are ordered ones, because their keys are chosen by guests,
//! and a hash map's cost can be driven up by who knows the hash.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::rc::Rc;
use core::ops::Bound;

use hashbrown::HashMap;

use super::connection::ConnectionId;
use super::error::Error;
use super::notice::{Notice, Reach};
use super::path::Path;

/// A watcher's own name for a watch.
pub(super) type Token = Rc<[u8]>;

/// The watches of one connection on one path, by their tokens: how many bytes at the front of an event's path
/// the watcher does not want to see, because it gave a relative path.
pub(super) type Group = BTreeMap<Token, usize>;

/// All watches.
#[derive(Default)]
pub(super) struct Watches {
    by_path: BTreeMap<Path, BTreeMap<ConnectionId, Group>>,
    by_connection: HashMap<ConnectionId, BTreeSet<(Path, Token)>>,
}

impl Watches {
    /// Whether the connection has this watch.
    pub fn contains(&self, connection: ConnectionId, path: &Path, token: &[u8]) -> bool {
        self.group(connection, path).is_some_and(|group| group.contains_key(token))
    }

    /// Adds a watch that hides the first `hidden` bytes of a path.
    ///
    /// # Errors
    /// [`Error::AlreadyWatched`].
    pub fn add(
        &mut self,
        connection: ConnectionId,
        path: &Path,
        token: Token,
        hidden: usize,
    ) -> Result<(), Error> {
        if self.contains(connection, path, &token) {
            return Err(Error::AlreadyWatched);
        }
        self.by_connection.entry(connection).or_default().insert((path.clone(), token.clone()));
        self.by_path.entry(path.clone()).or_default().entry(connection).or_default().insert(token, hidden);
        Ok(())
    }

    /// Removes a watch.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn remove(&mut self, connection: ConnectionId, path: &Path, token: &[u8]) -> Result<(), Error> {
        self.remove_from_path(connection, path, token)?;
        let key = (path.clone(), token.into());
        let Some(own) = self.by_connection.get_mut(&connection) else { return Ok(()) };
        own.remove(&key);
        if own.is_empty() {
            self.by_connection.remove(&connection);
        }
        Ok(())
    }

    /// Removes all watches of a connection and returns them.
    pub fn remove_all(&mut self, connection: ConnectionId) -> BTreeSet<(Path, Token)> {
        let own = self.by_connection.remove(&connection).unwrap_or_default();
        for (path, token) in &own {
            let removed = self.remove_from_path(connection, path, token);
            debug_assert!(removed.is_ok(), "{path} was watched");
        }
        own
    }

    /// The watches that a change concerns, by connection, with the path that they are on.
    pub fn concerned<'a>(
        &'a self,
        notice: &'a Notice,
    ) -> impl Iterator<Item = (&'a str, ConnectionId, &'a Group)> {
        let levels = if notice.reach == Reach::Exact { 1 } else { usize::MAX };
        let watched = notice.path.ancestors().take(levels);
        watched.filter_map(|path| Some((path, self.by_path.get(path)?))).flat_map(|(path, groups)| {
            groups.iter().map(move |(connection, group)| (path, *connection, group))
        })
    }

    /// Whether anything below a node is watched.
    pub fn any_below(&self, path: &Path) -> bool {
        let below = path.child("");
        let mut from = self.by_path.range::<str, _>((Bound::Included(below.as_str()), Bound::Unbounded));
        from.next().is_some_and(|(watched, _)| watched.as_str().starts_with(below.as_str()))
    }

    /// Every watch, as connection, path and token.
    pub fn iter(&self) -> impl Iterator<Item = (ConnectionId, &Path, &Token)> {
        self.by_connection
            .iter()
            .flat_map(|(connection, own)| own.iter().map(move |(path, token)| (*connection, path, token)))
    }

    /// How many watches there are when counted by path, to compare with [`Self::iter`].
    pub fn count_by_path(&self) -> usize {
        self.by_path.values().flat_map(BTreeMap::values).map(BTreeMap::len).sum()
    }

    fn group(&self, connection: ConnectionId, path: &Path) -> Option<&Group> {
        self.by_path.get(path)?.get(&connection)
    }

    fn remove_from_path(&mut self, connection: ConnectionId, path: &Path, token: &[u8]) -> Result<(), Error> {
        let groups = self.by_path.get_mut(path).ok_or(Error::NotFound)?;
        let group = groups.get_mut(&connection).ok_or(Error::NotFound)?;
        group.remove(token).ok_or(Error::NotFound)?;
        if group.is_empty() {
            groups.remove(&connection);
        }
        if groups.is_empty() {
            self.by_path.remove(path);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use hypercall_abi::DomainId;

    use super::*;
    use crate::store::path::Special;
    use crate::store::permission::Permissions;

    const ONE: ConnectionId = ConnectionId(1);
    const TWO: ConnectionId = ConnectionId(2);

    fn path(text: &str) -> Path {
        Path::resolve(text.as_bytes(), DomainId::ZERO, Special::Allowed).unwrap()
    }

    fn watches(all: &[(ConnectionId, &str, &[u8])]) -> Watches {
        let mut watches = Watches::default();
        for (connection, text, token) in all {
            watches.add(*connection, &path(text), Token::from(*token), 0).unwrap();
        }
        watches
    }

    fn concerned(watches: &Watches, reach: Reach, text: &str) -> Vec<(String, u64)> {
        let permissions = Permissions::private(DomainId::ZERO);
        let mut notice = Notice::changed(&path(text), &permissions, &permissions);
        notice.reach = reach;
        let all = watches.concerned(&notice);
        all.map(|(path, connection, _)| (path.to_owned(), connection.0)).collect()
    }

    #[test]
    fn a_change_concerns_watches_on_the_node_and_above() {
        let all = watches(&[(ONE, "/a/b", b"t"), (TWO, "/a", b"t"), (TWO, "/", b"t"), (ONE, "/ab", b"t")]);
        let expected = [("/a/b".to_owned(), 1), ("/a".to_owned(), 2), ("/".to_owned(), 2)];
        assert_eq!(concerned(&all, Reach::Above, "/a/b"), expected);
        assert_eq!(concerned(&all, Reach::Exact, "/a/b"), expected[..1]);
        assert_eq!(concerned(&all, Reach::Above, "/a"), expected[1..]);
        assert_eq!(concerned(&all, Reach::Above, "@a"), []);
    }

    #[test]
    fn what_is_watched_below_a_node_is_found() {
        let all = watches(&[(ONE, "/a-b/c", b"t"), (ONE, "/a/b/c", b"t"), (ONE, "/b", b"t")]);
        let found = ["/", "/a", "/a/b", "/a-b"].map(|text| all.any_below(&path(text)));
        assert_eq!(found, [true; 4]);
        let not_found = ["/a/b/c", "/a/bc", "/b", "/c"].map(|text| all.any_below(&path(text)));
        assert_eq!(not_found, [false; 4]);
    }

    #[test]
    fn a_watch_is_one_path_and_one_token() {
        let mut all = watches(&[(ONE, "/a", b"t"), (ONE, "/a", b"u"), (TWO, "/a", b"t")]);
        assert_eq!(all.add(ONE, &path("/a"), Token::from(&b"t"[..]), 0), Err(Error::AlreadyWatched));
        assert_eq!(all.remove(ONE, &path("/a"), b"x"), Err(Error::NotFound));
        assert_eq!(all.remove(ONE, &path("/b"), b"t"), Err(Error::NotFound));
        assert_eq!(all.remove(ONE, &path("/a"), b"t"), Ok(()));
        assert_eq!(all.remove(ONE, &path("/a"), b"t"), Err(Error::NotFound));
        assert_eq!((all.iter().count(), all.count_by_path()), (2, 2));
    }

    #[test]
    fn all_watches_of_a_connection_go_together() {
        let mut all = watches(&[(ONE, "/a", b"t"), (ONE, "/b", b"u"), (TWO, "/a", b"t")]);
        assert_eq!(all.remove_all(ONE).len(), 2);
        assert_eq!(all.remove_all(ONE).len(), 0);
        assert_eq!(concerned(&all, Reach::Above, "/a"), [("/a".to_owned(), 2)]);
        assert_eq!(all.remove_all(TWO).len(), 1);
        assert!(all.by_path.is_empty() && all.by_connection.is_empty());
    }
}
