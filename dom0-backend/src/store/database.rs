//! The database: the tree as everybody sees it, and what has to change with it.
//!
//! Two things can be worked on: the [`Database`] itself, and a transaction's own copy of it. Both are edited
//! through [`Edit`], which keeps tree and books together, and the requests ([`super::operation`]) are written
//! once, against [`Workspace`]. An edit cannot fail: whoever asks for one has checked before that the node is
//! (or is not) there and that the quotas allow it.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::mem;

use hypercall_abi::DomainId;

use super::error::Error;
use super::holdings::Holdings;
use super::notice::{Notice, Reach};
use super::path::Path;
use super::permission::Permissions;
use super::quota::{Delta, Ledger, Usage};
use super::seedling::Seedling;
use super::tree::{Generation, Node, Tree};

/// A tree that can be changed, with the books that go with it.
pub(super) trait Edit {
    /// The tree.
    fn tree(&self) -> &Tree;

    /// The tree to change, and the generation for the change.
    fn tree_mut(&mut self) -> (&mut Tree, Generation);

    /// A node with these permissions at `path` came, went, or changed its size.
    fn account(&mut self, path: &Path, permissions: &Permissions, delta: Delta);

    /// Makes a node whose parent is there.
    fn create(&mut self, path: &Path, value: Rc<[u8]>, permissions: Permissions) {
        self.account(path, &permissions, Delta::node(weight(path, &value, &permissions)));
        let (tree, now) = self.tree_mut();
        tree.create(path, value, permissions, now);
    }

    /// Replaces a node's value.
    fn set_value(&mut self, path: &Path, value: Rc<[u8]>) {
        let Some(node) = self.tree().get(path) else { return };
        let delta = Delta::bytes(value.len() as isize - node.value().len() as isize);
        let permissions = node.permissions().clone();
        self.account(path, &permissions, delta);
        let (tree, now) = self.tree_mut();
        tree.set_value(path, value, now);
    }

    /// Replaces a node's permissions.
    fn set_permissions(&mut self, path: &Path, permissions: Permissions) {
        let Some(node) = self.tree().get(path) else { return };
        let (old, value) = (node.permissions().clone(), node.value().clone());
        self.account(path, &old, Delta::node(weight(path, &value, &old)).undone());
        self.account(path, &permissions, Delta::node(weight(path, &value, &permissions)));
        let (tree, now) = self.tree_mut();
        tree.set_permissions(path, permissions, now);
    }

    /// Removes a node and all below it.
    fn remove(&mut self, path: &Path) {
        let nodes: Vec<_> =
            self.tree().subtree(path).into_iter().map(|(path, node)| (path, node.clone())).collect();
        for (path, node) in &nodes {
            self.account(path, node.permissions(), Delta::node(node_weight(path, node)).undone());
        }
        let (tree, now) = self.tree_mut();
        tree.remove(path, now);
    }
}

/// A tree on which requests are carried out.
pub(super) trait Workspace: Edit {
    /// What `domain` holds, as seen from here.
    fn usage(&self, domain: DomainId) -> Usage;

    /// What follows depends on the node at `path`, or on its not being there.
    fn observe(&mut self, path: &Path) -> Result<(), Error>;

    /// What follows depends on which children the node at `path` has.
    fn observe_children(&mut self, path: &Path) -> Result<(), Error>;

    /// The observed node at `path` is about to change, and will have a value of so many bytes; or keep the
    /// one it has.
    fn touch(&mut self, path: &Path, value: Option<usize>);

    /// Tells whoever watches, once the change is final.
    fn announce(&mut self, notice: Notice);
}

/// The bytes for which the owner of a node is charged: its name, its value, and eight for each permission.
pub(super) fn weight(path: &Path, value: &[u8], permissions: &Permissions) -> usize {
    path.name().len() + value.len() + 8 * permissions.entries()
}

/// [`weight`] of a node that is there.
pub(super) fn node_weight(path: &Path, node: &Node) -> usize {
    weight(path, node.value(), node.permissions())
}

/// The tree as everybody sees it.
#[derive(Default)]
pub(super) struct Database {
    tree: Tree,
    generation: Generation,
    /// How often this tree was changed. Unlike the generation, this does not count what transactions do among
    /// themselves.
    changes: u64,
    /// What every domain holds, here and elsewhere in the store.
    pub ledger: Ledger,
    holdings: Holdings,
    notices: Vec<Notice>,
    /// Directories that were planted, of whose nodes no notice was given.
    planted: Vec<Path>,
}

impl Database {
    /// A database with only the root and the special nodes.
    pub fn new() -> Self {
        let mut database = Self::default();
        for (path, node) in database.tree.clone().nodes() {
            let delta = Delta::node(node_weight(&path, node));
            database.account(&path, node.permissions(), delta);
        }
        database
    }

    /// A generation for a change elsewhere.
    pub fn next_generation(&mut self) -> Generation {
        self.generation.advance()
    }

    /// How often the tree was changed.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// What the database is now, to be gone back to. No notice waits.
    pub fn mark(&self) -> Tree {
        debug_assert!(self.notices.is_empty(), "what happened before is told already");
        self.tree.clone()
    }

    /// Goes back to a mark, as if nothing had happened since. This is rare, so the books are simply made anew.
    pub fn go_back(&mut self, mark: Tree) {
        let undone = mem::replace(&mut self.tree, mark);
        for (path, node) in undone.nodes() {
            self.account(&path, node.permissions(), Delta::node(node_weight(&path, node)).undone());
        }
        for (path, node) in self.tree.clone().nodes() {
            self.account(&path, node.permissions(), Delta::node(node_weight(&path, node)));
        }
        self.notices.clear();
        self.planted.clear();
    }

    /// Hangs in a directory, whose parent is there and which itself is not.
    pub fn plant(&mut self, seedling: Seedling) {
        let Seedling { path, node, .. } = seedling;
        let listing = self.tree.parent_of(&path).map(|parent| parent.permissions().clone());
        self.notices.push(Notice::came(&path, Reach::Above, node.permissions().clone(), listing));
        for (below, planted) in node.subtree(&path) {
            self.account(&below, planted.permissions(), Delta::node(node_weight(&below, planted)));
        }
        self.planted.push(path.clone());
        let (tree, now) = self.tree_mut();
        tree.insert(&path, node, now);
    }

    /// Takes out the notices that came up since the last time.
    pub fn take_notices(&mut self) -> Vec<Notice> {
        mem::take(&mut self.notices)
    }

    /// Takes out the directories that were planted since the last time. Who watches from above has heard of them by a
    /// notice; who watches what is in them has not.
    pub fn take_planted(&mut self) -> Vec<Path> {
        mem::take(&mut self.planted)
    }

    /// Notices of all that is below a node, as if it had just come with that.
    pub fn arrivals_below(&self, path: &Path) -> Vec<Notice> {
        let came = |(path, node): (Path, &Node)| {
            let listing = self.tree.parent_of(&path).map(|parent| parent.permissions().clone());
            Notice::came(&path, Reach::Exact, node.permissions().clone(), listing)
        };
        self.tree.subtree(path).into_iter().skip(1).map(came).collect()
    }

    /// A node that names `domain` in its permissions.
    pub fn holding_of(&self, domain: DomainId) -> Option<Path> {
        self.holdings.first(domain).cloned()
    }

    /// The index of holdings, recounted from the tree.
    pub fn recount_holdings(&self) -> bool {
        let mut holdings = Holdings::default();
        for (path, node) in self.tree.nodes() {
            holdings.add(&path, node.permissions());
        }
        holdings == self.holdings
    }
}

impl Edit for Database {
    fn tree(&self) -> &Tree {
        &self.tree
    }

    fn tree_mut(&mut self) -> (&mut Tree, Generation) {
        self.changes += 1;
        (&mut self.tree, self.generation.advance())
    }

    fn account(&mut self, path: &Path, permissions: &Permissions, delta: Delta) {
        self.ledger.enter(permissions.owner(), delta);
        if delta.nodes > 0 {
            self.holdings.add(path, permissions);
        } else if delta.nodes < 0 {
            self.holdings.remove(path, permissions);
        }
    }
}

impl Workspace for Database {
    fn usage(&self, domain: DomainId) -> Usage {
        self.ledger.usage(domain)
    }

    fn observe(&mut self, _path: &Path) -> Result<(), Error> {
        Ok(())
    }

    fn observe_children(&mut self, _path: &Path) -> Result<(), Error> {
        Ok(())
    }

    fn touch(&mut self, _path: &Path, _value: Option<usize>) {}

    fn announce(&mut self, notice: Notice) {
        if !self.notices.last_mut().is_some_and(|last| last.absorb(&notice)) {
            self.notices.push(notice);
        }
    }
}
