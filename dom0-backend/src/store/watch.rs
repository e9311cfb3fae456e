//! Watches: who wants to hear of changes where.
//!
//! Watches are kept by the path they are on, so a change finds the ones it concerns by looking up each node
//! on the way from the changed one to the root: the cost is the depth of the path and the number of watches
//! that fit, not the number there are. The maps are ordered ones, because their keys are chosen by guests,
//! and a hash map's cost can be driven up by who knows the hash.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::rc::Rc;

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
