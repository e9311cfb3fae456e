//! The store from within dom0: plain functions instead of messages.
//!
//! The toolstack, the back ends and the admin commands run in the same address space as the store, and use it
//! through these. They act for dom0: rights and quotas do not apply. Relative paths start at dom0's home
//! directory. Whoever watches hears of these changes as of any other.

use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;

use super::connection::ConnectionId;
use super::database::{Database, Edit};
use super::error::Error;
use super::operation::{self, Session};
use super::path::Special;
use super::permission::{Caller, Permissions};
use super::quota::Quota;
use super::seedling::Seedling;
use super::server::{Server, resolve};
use super::wire::HEADER_LENGTH;

/// A watch event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchEvent {
    /// The changed node, or the watched one. Relative if the watch was.
    pub path: String,
    /// The token that the watch was set with.
    pub token: String,
}

/// The nodes, as dom0 may use them; in a transaction if they came from [`Server::transaction`].
pub struct Nodes<'a> {
    workspace: &'a mut Database,
    session: Session<'a>,
}

impl Nodes<'_> {
    /// A node's value.
    ///
    /// # Errors
    /// [`Error::NotFound`], or that `path` is none.
    pub fn read(&mut self, path: &str) -> Result<Rc<[u8]>, Error> {
        operation::read(
            self.workspace,
            self.session,
            &resolve(self.session, path.as_bytes(), Special::Refused)?,
        )
    }

    /// Sets a node's value, and makes the node and those above it if need be.
    ///
    /// # Errors
    /// That `path` is none, or too deep.
    pub fn write(&mut self, path: &str, value: impl AsRef<[u8]>) -> Result<(), Error> {
        let path = resolve(self.session, path.as_bytes(), Special::Refused)?;
        operation::write(self.workspace, self.session, &path, value.as_ref())
    }

    /// A directory that can be filled and then be [planted](Self::plant) at `path`.
    ///
    /// # Errors
    /// That `path` is none.
    pub fn seedling(&mut self, path: &str, permissions: &Permissions) -> Result<Seedling, Error> {
        let path = resolve(self.session, path.as_bytes(), Special::Refused)?;
        Ok(Seedling::new(path, permissions, self.workspace.next_generation()))
    }

    /// Puts a directory in its place, makes the nodes above it if need be, and removes what was there.
    ///
    /// # Errors
    /// [`Error::Root`], or that a node would lie too deep.
    pub fn plant(&mut self, seedling: Seedling) -> Result<(), Error> {
        Quota::PathDepth.check(seedling.depth(), self.session.limits.path_depth)?;
        let parent = seedling.path.parent().ok_or(Error::Root)?;
        if self.workspace.tree().get(&seedling.path).is_some() {
            operation::remove_subtree(self.workspace, &seedling.path)?;
        }
        operation::make_directory(self.workspace, self.session, &parent)?;
        self.workspace.plant(seedling);
        Ok(())
    }

    /// Makes a node, and those above it, if it is not there.
    ///
    /// # Errors
    /// That `path` is none, or too deep.
    pub fn make_directory(&mut self, path: &str) -> Result<(), Error> {
        let path = resolve(self.session, path.as_bytes(), Special::Refused)?;
        operation::make_directory(self.workspace, self.session, &path)
    }

    /// Removes a node and all below it. If it is not there, its parent must be.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Root`], or that `path` is none.
    pub fn remove(&mut self, path: &str) -> Result<(), Error> {
        let path = resolve(self.session, path.as_bytes(), Special::Refused)?;
        operation::remove(self.workspace, self.session, &path)
    }

    /// The names of a node's children, in order.
    ///
    /// # Errors
    /// [`Error::NotFound`], or that `path` is none.
    pub fn list(&mut self, path: &str) -> Result<Vec<String>, Error> {
        let path = resolve(self.session, path.as_bytes(), Special::Refused)?;
        operation::list(self.workspace, self.session, &path)
    }

    /// A node's permissions.
    ///
    /// # Errors
    /// [`Error::NotFound`], or that `path` is none.
    pub fn permissions(&mut self, path: &str) -> Result<Permissions, Error> {
        let path = resolve(self.session, path.as_bytes(), Special::Allowed)?;
        operation::permissions(self.workspace, self.session, &path)
    }

    /// Replaces a node's permissions.
    ///
    /// # Errors
    /// [`Error::NotFound`], or that `path` is none.
    pub fn set_permissions(&mut self, path: &str, permissions: &Permissions) -> Result<(), Error> {
        let path = resolve(self.session, path.as_bytes(), Special::Allowed)?;
        operation::set_permissions(self.workspace, self.session, &path, permissions)
    }
}

impl Server {
    /// Does several things with the nodes. Each takes effect at once; who watches is told at the end.
    pub fn nodes<R>(&mut self, work: impl FnOnce(&mut Nodes<'_>) -> R) -> R {
        let session = Session { caller: Caller::DOM0, limits: &self.limits };
        let result = work(&mut Nodes { workspace: &mut self.database, session });
        self.settle();
        result
    }

    /// Does several things with the nodes, all or nothing: if `work` fails, nothing has happened. Nobody else
    /// can come in between, so there are no conflicts.
    ///
    /// # Errors
    /// The error of `work`.
    pub fn transaction<R>(
        &mut self,
        work: impl FnOnce(&mut Nodes<'_>) -> Result<R, Error>,
    ) -> Result<R, Error> {
        let session = Session { caller: Caller::DOM0, limits: &self.limits };
        let mark = self.database.mark();
        let result = work(&mut Nodes { workspace: &mut self.database, session });
        if result.is_err() {
            self.database.go_back(mark);
        }
        self.settle();
        result
    }

    /// A node's value. For errors, here and below, see [`Nodes`].
    pub fn read(&mut self, path: &str) -> Result<Rc<[u8]>, Error> {
        self.nodes(|nodes| nodes.read(path))
    }

    /// Sets a node's value, and makes the node and those above it if need be.
    pub fn write(&mut self, path: &str, value: impl AsRef<[u8]>) -> Result<(), Error> {
        self.nodes(|nodes| nodes.write(path, value))
    }

    /// Makes a node, and those above it, if it is not there.
    pub fn make_directory(&mut self, path: &str) -> Result<(), Error> {
        self.nodes(|nodes| nodes.make_directory(path))
    }

    /// Removes a node and all below it. If it is not there, its parent must be.
    pub fn remove(&mut self, path: &str) -> Result<(), Error> {
        self.nodes(|nodes| nodes.remove(path))
    }

    /// The names of a node's children, in order.
    pub fn list(&mut self, path: &str) -> Result<Vec<String>, Error> {
        self.nodes(|nodes| nodes.list(path))
    }

    /// A node's permissions.
    pub fn permissions(&mut self, path: &str) -> Result<Permissions, Error> {
        self.nodes(|nodes| nodes.permissions(path))
    }

    /// Replaces a node's permissions.
    pub fn set_permissions(&mut self, path: &str, permissions: &Permissions) -> Result<(), Error> {
        self.nodes(|nodes| nodes.set_permissions(path, permissions))
    }

    /// Starts to tell `client`, a connection from [`Server::connect`], of changes at and below `path`. A
    /// first event comes at once.
    ///
    /// # Errors
    /// [`Error::AlreadyWatched`], [`Error::NotFound`] if there is no such connection, or that `path` is none.
    pub fn watch(&mut self, client: ConnectionId, path: &str, token: &str) -> Result<(), Error> {
        let caller = self.clients.caller(client).ok_or(Error::NotFound)?;
        self.set_watch(client, caller, path.as_bytes(), token.as_bytes())?;
        self.send_first_event(client, path.as_bytes(), token.as_bytes());
        Ok(())
    }

    /// Ends a watch. Events that wait already still come.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such watch, or that `path` is none.
    pub fn unwatch(&mut self, client: ConnectionId, path: &str, token: &str) -> Result<(), Error> {
        let caller = self.clients.caller(client).ok_or(Error::NotFound)?;
        self.end_watch(client, caller, path.as_bytes(), token.as_bytes())
    }

    /// The next watch event for `client`, if that is what waits next.
    pub fn next_event(&mut self, client: ConnectionId) -> Option<WatchEvent> {
        let message = self.clients.get_mut(client)?.take_event()?;
        let mut strings = message.get(HEADER_LENGTH..)?.split(|&byte| byte == 0).map(String::from_utf8_lossy);
        let (path, token) = (strings.next()?.into_owned(), strings.next()?.into_owned());
        Some(WatchEvent { path, token })
    }
}
