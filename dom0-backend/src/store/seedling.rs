//! Directories that are made as a whole: put together apart from the tree, then planted in it.
//!
//! A node that is made by itself costs several ways through the tree and through the text of its path. What dom0 says
//! of a new guest is some sixty nodes in four directories, of which nobody may see the first before the last is there.
//! So they grow where nobody looks, and the tree takes each directory with one change.

use alloc::rc::Rc;

use super::error::Error;
use super::path::{self, Path};
use super::permission::Permissions;
use super::tree::{Generation, Node};

/// A directory that is not in the tree yet, with all below it.
pub struct Seedling {
    pub(super) path: Path,
    pub(super) node: Node,
    /// That of every node: one that nothing else has or will have.
    generation: Generation,
    /// Levels of nodes below the directory.
    levels: usize,
}

impl Seedling {
    /// An empty directory that is to be at `path`, made in a new generation.
    pub(super) fn new(path: Path, permissions: &Permissions, generation: Generation) -> Self {
        let node = Node::new(Rc::from([]), permissions.clone(), generation);
        Self { path, node, generation, levels: 0 }
    }

    /// How many levels below the top its lowest node will be.
    pub(super) fn depth(&self) -> usize {
        self.path.depth() + self.levels
    }

    /// Sets the value of the node at `key`, a path that starts at the directory. A new node gets the permissions of the
    /// one above it.
    ///
    /// # Errors
    /// [`Error::Path`] if `key` is no relative path.
    pub fn write(&mut self, key: &str, value: impl AsRef<[u8]>) -> Result<(), Error> {
        self.set(key, value.as_ref(), None)
    }

    /// Sets value and permissions of the node at `key`.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub fn put(
        &mut self,
        key: &str,
        value: impl AsRef<[u8]>,
        permissions: &Permissions,
    ) -> Result<(), Error> {
        self.set(key, value.as_ref(), Some(permissions))
    }

    fn set(&mut self, key: &str, value: &[u8], permissions: Option<&Permissions>) -> Result<(), Error> {
        let key = path::check_relative(key)?;
        let (mut node, mut levels) = (&mut self.node, 1);
        let mut names = path::names(key).peekable();
        while let Some(name) = names.next() {
            if names.peek().is_none() {
                node.set_child(name, value, permissions, self.generation);
                break;
            }
            node = node.child_or_new(name, self.generation).ok_or(Error::NotFound)?;
            levels += 1;
        }
        self.levels = self.levels.max(levels);
        Ok(())
    }
}
