//! A node's children: an ordered map that remembers.
//!
//! Cloning a [`Directory`] is one reference count, and changing the clone leaves the original as it was: only
//! the entries on the way to the change are copied, and only if someone else still holds them. This is what
//! makes the start of a transaction free. The map is a balanced (AVL) tree, so `/local/domain` may hold a
//! thousand domains and a change there still copies only ten entries.
//!
//! ```text
//!   before:   d            after adding e to a clone:   d'    d
//!           /   \                                     /    \ / \
//!          b     f                                   |  f'  X   f      b is shared by both
//!                                                    | e    b
//! ```

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cmp::Ordering;
use core::mem;

use super::tree::Node;

/// Children by name.
#[derive(Clone, Default)]
pub(super) struct Directory {
    root: Link,
}

/// A subtree, or none.
type Link = Option<Rc<Entry>>;

/// One child, and the entries that sort before and after it.
#[derive(Clone)]
struct Entry {
    name: Rc<str>,
    node: Node,
    /// Longest way down to a leaf, in entries, this one included. Two siblings differ by at most one.
    height: u8,
    before: Link,
    after: Link,
}

impl Directory {
    /// The child `name`.
    pub fn get(&self, name: &str) -> Option<&Node> {
        let mut link = &self.root;
        while let Some(entry) = link {
            link = match order(name, &entry.name) {
                Ordering::Equal => return Some(&entry.node),
                Ordering::Less => &entry.before,
                Ordering::Greater => &entry.after,
            };
        }
        None
    }

    /// The child `name`, to be changed. Whoever else holds this directory will not see the change.
    pub fn get_mut(&mut self, name: &str) -> Option<&mut Node> {
        let mut link = &mut self.root;
        while let Some(entry) = link {
            let entry = Rc::make_mut(entry);
            link = match order(name, &entry.name) {
                Ordering::Equal => return Some(&mut entry.node),
                Ordering::Less => &mut entry.before,
                Ordering::Greater => &mut entry.after,
            };
        }
        None
    }

    /// Puts `node` under `name`; an older one there is dropped.
    pub fn insert(&mut self, name: &str, node: Node) {
        insert(&mut self.root, name, node);
    }

    /// The child `name`, to be changed; `make` makes it if it is not there, so that it always is.
    pub fn get_or_insert(&mut self, name: &str, make: impl FnOnce() -> Node) -> Option<&mut Node> {
        if self.get(name).is_none() {
            self.insert(name, make());
        }
        self.get_mut(name)
    }

    /// Takes the child `name` out.
    pub fn remove(&mut self, name: &str) -> Option<Node> {
        remove(&mut self.root, name)
    }

    /// The children in the order of their names.
    pub fn iter(&self) -> Iter<'_> {
        let mut iter = Iter { pending: Vec::new() };
        iter.descend(&self.root);
        iter
    }
}

/// Iterator over the children of a [`Directory`], in the order of their names.
pub(super) struct Iter<'a> {
    /// Entries not yet given out whose earlier subtrees are done, the next one last.
    pending: Vec<&'a Entry>,
}

impl<'a> Iter<'a> {
    /// Makes the first entry of `link` the next one.
    fn descend(&mut self, mut link: &'a Link) {
        while let Some(entry) = link {
            self.pending.push(entry);
            link = &entry.before;
        }
    }
}

impl<'a> Iterator for Iter<'a> {
    type Item = (&'a str, &'a Node);

    fn next(&mut self) -> Option<Self::Item> {
        let entry = self.pending.pop()?;
        self.descend(&entry.after);
        Some((&entry.name, &entry.node))
    }
}

/// Dropping a directory drops what lies below it, level after level, without recursion: how deep the store
/// is must not decide how much stack is needed.
impl Drop for Directory {
    fn drop(&mut self) {
        let mut pending: Vec<Rc<Entry>> = self.root.take().into_iter().collect();
        while let Some(entry) = pending.pop() {
            let Ok(mut entry) = Rc::try_unwrap(entry) else { continue };
            pending.extend(entry.before.take());
            pending.extend(entry.after.take());
            pending.extend(entry.node.children.root.take());
        }
    }
}

impl Entry {
    /// Sets the height from those of the subtrees.
    fn update_height(&mut self) {
        self.height = 1 + height(&self.before).max(height(&self.after));
    }
}

/// The height of a subtree.
fn height(link: &Link) -> u8 {
    link.as_ref().map_or(0, |entry| entry.height)
}

/// Puts a child into a subtree and keeps it balanced.
fn insert(link: &mut Link, name: &str, node: Node) {
    let Some(entry) = link else {
        *link = Some(Rc::new(Entry { name: name.into(), node, height: 1, before: None, after: None }));
        return;
    };
    let entry = Rc::make_mut(entry);
    match order(name, &entry.name) {
        Ordering::Equal => entry.node = node,
        Ordering::Less => insert(&mut entry.before, name, node),
        Ordering::Greater => insert(&mut entry.after, name, node),
    }
    rebalance(link);
}

/// Takes a child out of a subtree and keeps it balanced.
fn remove(link: &mut Link, name: &str) -> Option<Node> {
    let entry = Rc::make_mut(link.as_mut()?);
    let node = match order(name, &entry.name) {
        Ordering::Less => remove(&mut entry.before, name),
        Ordering::Greater => remove(&mut entry.after, name),
        Ordering::Equal => return take_top(link),
    };
    rebalance(link);
    node
}

/// Takes the topmost entry out of a subtree.
fn take_top(link: &mut Link) -> Option<Node> {
    let mut top = link.take()?;
    let entry = Rc::make_mut(&mut top);
    *link = match (entry.before.take(), entry.after.take()) {
        (None, only) | (only, None) => only,
        (before, mut after) => {
            let mut successor = take_first(&mut after)?;
            let entry = Rc::make_mut(&mut successor);
            (entry.before, entry.after) = (before, after);
            Some(successor)
        }
    };
    rebalance(link);
    Some(Rc::unwrap_or_clone(top).node)
}

/// Takes the first entry out of a subtree. Its own subtrees stay behind.
fn take_first(link: &mut Link) -> Link {
    let entry = Rc::make_mut(link.as_mut()?);
    if entry.before.is_some() {
        let first = take_first(&mut entry.before);
        rebalance(link);
        return first;
    }
    let after = entry.after.take();
    mem::replace(link, after)
}

/// Makes the two sides of a subtree's top differ by at most one in height, where they differ by two at most.
fn rebalance(link: &mut Link) {
    let Some(top) = link else { return };
    let top = Rc::make_mut(top);
    let (before, after) = (height(&top.before), height(&top.after));
    if before > after + 1 {
        if top.before.as_ref().is_some_and(|side| height(&side.after) > height(&side.before)) {
            rotate(&mut top.before, Turn::Left);
        }
        rotate(link, Turn::Right);
    } else if after > before + 1 {
        if top.after.as_ref().is_some_and(|side| height(&side.before) > height(&side.after)) {
            rotate(&mut top.after, Turn::Right);
        }
        rotate(link, Turn::Left);
    } else {
        top.update_height();
    }
}

/// Which way the top of a subtree moves.
#[derive(Clone, Copy)]
enum Turn {
    /// The top goes down to the left and the entry after it comes up.
    Left,
    /// The top goes down to the right and the entry before it comes up.
    Right,
}

impl Entry {
    /// The side that comes up.
    fn rising(&mut self, turn: Turn) -> &mut Link {
        match turn {
            Turn::Left => &mut self.after,
            Turn::Right => &mut self.before,
        }
    }

    /// The side that goes down, where the risen entry takes the old top.
    fn falling(&mut self, turn: Turn) -> &mut Link {
        match turn {
            Turn::Left => &mut self.before,
            Turn::Right => &mut self.after,
        }
    }
}

/// Turns a subtree about its top, which must have an entry on the side that comes up.
fn rotate(link: &mut Link, turn: Turn) {
    let Some(mut top) = link.take() else { return };
    let old = Rc::make_mut(&mut top);
    let Some(mut risen) = old.rising(turn).take() else {
        *link = Some(top);
        return;
    };
    let new = Rc::make_mut(&mut risen);
    *old.rising(turn) = new.falling(turn).take();
    old.update_height();
    *new.falling(turn) = Some(top);
    new.update_height();
    *link = Some(risen);
}

/// As [`str::cmp`]. Most names that are compared differ in their first byte, and then nothing needs to be called.
fn order(name: &str, other: &str) -> Ordering {
    match name.as_bytes().first().cmp(&other.as_bytes().first()) {
        Ordering::Equal => name.cmp(other),
        different => different,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use hypercall_abi::DomainId;
    use proptest::prelude::*;

    use super::*;
    use crate::store::permission::Permissions;
    use crate::store::tree::Generation;

    /// A node that can be told from others by its value.
    fn node(value: u8) -> Node {
        Node::new(Rc::from([value]), Permissions::private(DomainId::ZERO), Generation::default())
    }

    fn contents(directory: &Directory) -> Vec<(String, u8)> {
        directory.iter().map(|(name, node)| (name.to_owned(), node.value()[0])).collect()
    }

    /// Checks order, balance and heights; the height.
    fn check(link: &Link) -> u8 {
        let Some(entry) = link else { return 0 };
        let (before, after) = (check(&entry.before), check(&entry.after));
        assert!(before.abs_diff(after) <= 1, "{before} and {after} below {}", entry.name);
        assert!(entry.before.as_ref().is_none_or(|before| before.name < entry.name));
        assert!(entry.after.as_ref().is_none_or(|after| after.name > entry.name));
        assert_eq!(entry.height, 1 + before.max(after));
        entry.height
    }

    #[derive(Clone, Debug)]
    enum Action {
        Insert(u8, u8),
        Remove(u8),
        Change(u8, u8),
        Snapshot,
    }

    fn action() -> impl Strategy<Value = Action> {
        prop_oneof![
            6 => any::<(u8, u8)>().prop_map(|(key, value)| Action::Insert(key, value)),
            4 => any::<u8>().prop_map(Action::Remove),
            2 => any::<(u8, u8)>().prop_map(|(key, value)| Action::Change(key, value)),
            1 => Just(Action::Snapshot),
        ]
    }

    proptest! {
        /// Whatever is done, a directory has what a plain map has, and every snapshot what it had then.
        #[test]
        fn it_is_a_map_that_remembers(actions in prop::collection::vec(action(), 0..400)) {
            let (mut directory, mut model) = (Directory::default(), BTreeMap::new());
            let mut snapshots = vec![];
            for action in actions {
                match action {
                    Action::Insert(key, value) => {
                        directory.insert(&key.to_string(), node(value));
                        model.insert(key.to_string(), value);
                    }
                    Action::Remove(key) => {
                        let removed = directory.remove(&key.to_string()).map(|node| node.value()[0]);
                        prop_assert_eq!(removed, model.remove(&key.to_string()));
                    }
                    Action::Change(key, value) => {
                        let there = directory.get_mut(&key.to_string()).map(|old| *old = node(value));
                        prop_assert_eq!(there.is_some(), model.contains_key(&key.to_string()));
                        model.entry(key.to_string()).and_modify(|old| *old = value);
                    }
                    Action::Snapshot => snapshots.push((directory.clone(), model.clone())),
                }
                check(&directory.root);
            }
            snapshots.push((directory, model));
            for (directory, model) in snapshots {
                prop_assert_eq!(contents(&directory), model.clone().into_iter().collect::<Vec<_>>());
                for key in 0..=u8::MAX {
                    let name = key.to_string();
                    let found = directory.get(&name).map(|node| node.value()[0]);
                    prop_assert_eq!(found, model.get(&name).copied());
                }
            }
        }
    }

    #[test]
    fn a_change_copies_the_way_and_shares_the_rest() {
        let mut directory = Directory::default();
        for number in 0..1000 {
            directory.insert(&format!("{number:03}"), node(0));
        }
        let original = directory.clone();
        directory.insert("500x", node(1));
        let shared = |link: &Link| link.as_ref().map_or(0, Rc::strong_count);
        let entry = directory.root.as_ref().unwrap();
        // Only one side of the new root was copied.
        assert_eq!(
            [shared(&entry.before), shared(&entry.after)].iter().filter(|count| **count == 2).count(),
            1
        );
        assert_eq!(original.get("500x").map(|node| node.value()[0]), None);
    }

    #[test]
    fn a_very_deep_tree_is_dropped_without_a_deep_stack() {
        let mut bottom = node(0);
        for _ in 0..200_000 {
            let mut above = node(0);
            above.children.insert("x", bottom);
            bottom = above;
        }
        drop(bottom);
    }

    #[test]
    fn names_are_ordered_as_texts_are() {
        let names = ["", "a", "ab", "b", "ba", "\u{e4}"];
        for (one, other) in names.iter().flat_map(|one| names.map(|other| (*one, other))) {
            assert_eq!(order(one, other), one.cmp(other), "{one} {other}");
        }
    }
}
