//! The tree of nodes: values, permissions and generations, as one value that is cheap to copy.
//!
//! A [`Tree`] is a snapshot of itself. Cloning it costs a few reference counts, and the clone keeps reading
//! what was there then, whatever becomes of the original; that is all a transaction needs to start.
//!
//! Every change of a node gives it a [`Generation`] that was never used before, so two readings of a node are
//! of the same node unchanged exactly if the generations are equal, even if it was removed and made again in
//! between. The list of a node's children has a generation of its own: adding a child does not change the
//! value of the parent, and two domains that add different children do not disturb each other.
//!
//! The tree knows no rights and no quotas. Special nodes (`@releaseDomain`) hang beside the root.

use alloc::rc::Rc;
use alloc::vec::Vec;

use hypercall_abi::DomainId;

use super::directory::Directory;
use super::path::Path;
use super::permission::Permissions;

/// The special node whose watchers hear of new domains.
pub const INTRODUCE_DOMAIN: &str = "@introduceDomain";
/// The special node whose watchers hear of domains that shut down or are gone.
pub const RELEASE_DOMAIN: &str = "@releaseDomain";

/// A number that grows with every change of any node, in the tree or in a transaction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Generation(u64);

impl Generation {
    /// Moves on to the next generation and returns it. 2⁶⁴ of them do not run out.
    pub fn advance(&mut self) -> Self {
        self.0 = self.0.wrapping_add(1);
        *self
    }

    /// The bare number, for the wire.
    pub fn number(self) -> u64 {
        self.0
    }
}

/// One node.
#[derive(Clone)]
pub struct Node {
    value: Rc<[u8]>,
    permissions: Permissions,
    /// When value or permissions last changed.
    generation: Generation,
    /// When a child was last added or removed.
    children_generation: Generation,
    pub(super) children: Directory,
}

impl Node {
    pub(super) fn new(value: Rc<[u8]>, permissions: Permissions, generation: Generation) -> Self {
        let children = Directory::default();
        Self { value, permissions, generation, children_generation: generation, children }
    }

    /// What was written to the node.
    pub fn value(&self) -> &Rc<[u8]> {
        &self.value
    }

    /// Who owns the node and who may do what.
    pub fn permissions(&self) -> &Permissions {
        &self.permissions
    }

    /// When value or permissions last changed.
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// When a child was last added or removed.
    pub fn children_generation(&self) -> Generation {
        self.children_generation
    }

    /// The child `name`; a new one has no value and the permissions of this node.
    pub(super) fn child_or_new(&mut self, name: &str, now: Generation) -> Option<&mut Self> {
        let permissions = &self.permissions;
        self.children.get_or_insert(name, || Self::new(Rc::from([]), permissions.clone(), now))
    }

    /// Gives the child `name` a value and permissions; without any, a new one has those of this node.
    pub(super) fn set_child(
        &mut self,
        name: &str,
        value: &[u8],
        permissions: Option<&Permissions>,
        now: Generation,
    ) {
        let inherited = &self.permissions;
        let new = || Self::new(value.into(), permissions.unwrap_or(inherited).clone(), now);
        if let Some(there) = self.children.get_mut(name) {
            there.value = value.into();
            permissions.inspect(|permissions| there.permissions.clone_from(permissions));
        } else {
            self.children.insert(name, new());
        }
    }

    /// This node as the one at `path`, and every node below with its path, parents before children.
    pub(super) fn subtree(&self, path: &Path) -> Vec<(Path, &Self)> {
        let mut found = Vec::from([(path.clone(), self)]);
        let mut next = 0;
        while let Some((path, node)) = found.get(next) {
            let (path, node) = (path.clone(), *node);
            found.extend(node.children.iter().map(|(name, child)| (path.child(name), child)));
            next += 1;
        }
        found
    }

    /// The names of the children, in order.
    pub fn children(&self) -> impl Iterator<Item = &str> {
        self.children.iter().map(|(name, _)| name)
    }
}

/// All nodes, at one moment.
#[derive(Clone)]
pub struct Tree {
    root: Node,
    /// The special nodes by their whole path.
    special: Directory,
}

/// Where the way to a path ends.
pub enum Location<'a> {
    /// The node is there.
    Found(&'a Node),
    /// It is not.
    Missing {
        /// The lowest node on the way that is there. For a special path this is the root.
        nearest: &'a Node,
        /// How many nodes of the way are not there, the last one included; at least one.
        missing: usize,
    },
}

impl Tree {
    /// A tree with nothing but the root and the two special nodes, all dom0's own.
    pub fn new() -> Self {
        let node = || Node::new(Rc::from([]), Permissions::private(DomainId::ZERO), Generation::default());
        let mut special = Directory::default();
        special.insert(INTRODUCE_DOMAIN, node());
        special.insert(RELEASE_DOMAIN, node());
        Self { root: node(), special }
    }

    /// Follows `path` as far as it goes.
    pub fn locate(&self, path: &Path) -> Location<'_> {
        let mut missing = path.depth();
        let Some(mut node) = self.top(path) else {
            return Location::Missing { nearest: &self.root, missing: missing + 1 };
        };
        for name in path.names_below_top() {
            let Some(child) = node.children.get(name) else {
                return Location::Missing { nearest: node, missing };
            };
            (node, missing) = (child, missing - 1);
        }
        Location::Found(node)
    }

    /// The node at `path`.
    pub fn get(&self, path: &Path) -> Option<&Node> {
        self.descend(path, path.depth())
    }

    /// The node above `path`, which exists if the one at `path` does and is not at the top.
    pub fn parent_of(&self, path: &Path) -> Option<&Node> {
        self.descend(path, path.depth().checked_sub(1)?)
    }

    /// Every node at or below `path` with its path, parents before children.
    pub fn subtree(&self, path: &Path) -> Vec<(Path, &Node)> {
        self.get(path).map(|node| node.subtree(path)).unwrap_or_default()
    }

    /// Every ordinary node, then the special ones.
    pub fn nodes(&self) -> Vec<(Path, &Node)> {
        let mut nodes = self.subtree(&Path::root());
        nodes.extend(self.special.iter().map(|(name, node)| (Path::special(name), node)));
        nodes
    }

    /// Adds a node. The parent must be there and the node must not.
    pub fn create(&mut self, path: &Path, value: Rc<[u8]>, permissions: Permissions, now: Generation) {
        self.insert(path, Node::new(value, permissions, now), now);
    }

    /// Adds a node with all that is below it. The parent must be there and the node must not.
    pub fn insert(&mut self, path: &Path, node: Node, now: Generation) {
        let Some(parent) = self.parent_mut(path) else {
            debug_assert!(false, "{path} has no parent");
            return;
        };
        debug_assert!(parent.children.get(path.name()).is_none(), "{path} is there already");
        parent.children.insert(path.name(), node);
        parent.children_generation = now;
    }

    /// Replaces the value of a node that must be there.
    pub fn set_value(&mut self, path: &Path, value: Rc<[u8]>, now: Generation) {
        let Some(node) = self.get_mut(path) else {
            debug_assert!(false, "{path} is not there");
            return;
        };
        (node.value, node.generation) = (value, now);
    }

    /// Replaces the permissions of a node that must be there.
    pub fn set_permissions(&mut self, path: &Path, permissions: Permissions, now: Generation) {
        let Some(node) = self.get_mut(path) else {
            debug_assert!(false, "{path} is not there");
            return;
        };
        (node.permissions, node.generation) = (permissions, now);
    }

    /// Removes a node, which must be there and have a parent, and all below it.
    pub fn remove(&mut self, path: &Path, now: Generation) {
        let Some(parent) = self.parent_mut(path) else {
            debug_assert!(false, "{path} has no parent");
            return;
        };
        parent.children.remove(path.name());
        parent.children_generation = now;
    }

    /// The node at which `path` starts.
    fn top(&self, path: &Path) -> Option<&Node> {
        if path.is_special() { self.special.get(path.top()) } else { Some(&self.root) }
    }

    /// The node on the way along `path` that is `levels` below the top.
    fn descend(&self, path: &Path, levels: usize) -> Option<&Node> {
        let mut names = path.names_below_top().take(levels);
        names.try_fold(self.top(path)?, |node, name| node.children.get(name))
    }

    /// As [`Self::descend`], to change the node. It must be there, or the way to it is copied in vain.
    fn descend_mut(&mut self, path: &Path, levels: usize) -> Option<&mut Node> {
        let top = if path.is_special() { self.special.get_mut(path.top())? } else { &mut self.root };
        let mut names = path.names_below_top().take(levels);
        names.try_fold(top, |node, name| node.children.get_mut(name))
    }

    fn get_mut(&mut self, path: &Path) -> Option<&mut Node> {
        self.descend_mut(path, path.depth())
    }

    fn parent_mut(&mut self, path: &Path) -> Option<&mut Node> {
        self.descend_mut(path, path.depth().checked_sub(1)?)
    }
}

impl Default for Tree {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::path::Special;

    fn path(text: &str) -> Path {
        Path::resolve(text.as_bytes(), DomainId::ZERO, Special::Allowed).unwrap()
    }

    /// A tree and the generation that its latest change had.
    fn tree_of(paths: &[&str]) -> (Tree, Generation) {
        let (mut tree, mut now) = (Tree::new(), Generation::default());
        for text in paths {
            tree.create(&path(text), Rc::from([]), Permissions::private(DomainId::ZERO), now.advance());
        }
        (tree, now)
    }

    #[test]
    fn a_fresh_tree_has_the_root_and_the_special_nodes() {
        let paths: Vec<_> =
            Tree::new().nodes().into_iter().map(|(path, _)| path.as_str().to_owned()).collect();
        assert_eq!(paths, ["/", INTRODUCE_DOMAIN, RELEASE_DOMAIN]);
        assert!(Tree::new().get(&path("@other")).is_none());
    }

    #[test]
    fn locating_tells_how_far_one_gets() {
        let (tree, _) = tree_of(&["/a", "/a/b"]);
        assert!(matches!(tree.locate(&path("/a/b")), Location::Found(_)));
        let missing = |text: &str| match tree.locate(&path(text)) {
            Location::Missing { nearest, missing } => (nearest.generation().number(), missing),
            Location::Found(_) => panic!("{text} is there"),
        };
        assert_eq!(missing("/a/b/c/d"), (2, 2));
        assert_eq!(missing("/a/x"), (1, 1));
        assert_eq!(missing("/x"), (0, 1));
        assert_eq!(missing("@x"), (0, 1));
        assert_eq!(missing("@releaseDomain/5"), (0, 1));
    }

    #[test]
    fn the_list_of_children_has_a_generation_of_its_own() {
        let (mut tree, mut now) = tree_of(&["/a", "/a/b"]);
        let (a, b) = (path("/a"), path("/a/b"));
        let generations = |tree: &Tree| {
            let node = tree.get(&a).unwrap();
            (node.generation().number(), node.children_generation().number())
        };
        assert_eq!(generations(&tree), (1, 2));
        tree.set_value(&b, Rc::from([1]), now.advance());
        assert_eq!(generations(&tree), (1, 2));
        tree.set_value(&a, Rc::from([1]), now.advance());
        assert_eq!(generations(&tree), (4, 2));
        tree.remove(&b, now.advance());
        assert_eq!(generations(&tree), (4, 5));
    }

    #[test]
    fn a_clone_stays_as_it_was() {
        let (mut tree, mut now) = tree_of(&["/a", "/a/b"]);
        let snapshot = tree.clone();
        tree.remove(&path("/a"), now.advance());
        tree.set_permissions(&path("@releaseDomain"), Permissions::private(DomainId(5)), now.advance());
        assert!(tree.get(&path("/a")).is_none());
        assert!(snapshot.get(&path("/a/b")).is_some());
        assert_eq!(snapshot.get(&path("@releaseDomain")).unwrap().permissions().owner(), DomainId::ZERO);
    }

    #[test]
    fn a_subtree_names_parents_first() {
        let (tree, _) = tree_of(&["/a", "/a/b", "/a/b/c", "/a/d", "/e"]);
        let paths: Vec<_> = tree.subtree(&path("/a")).into_iter().map(|(path, _)| path).collect();
        assert_eq!(paths, ["/a", "/a/b", "/a/d", "/a/b/c"].map(path));
        assert!(tree.subtree(&path("/x")).is_empty());
    }
}
