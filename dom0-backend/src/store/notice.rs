//! Notices: that a node changed, and who may know.
//!
//! A notice is taken down while the change is made, when the permissions before and after are both at hand,
//! and is turned into watch events once the change is final.

use super::path::Path;
use super::permission::{Caller, Permissions, Rights};
use super::tree::{Node, Tree};

/// Which watches a change concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// Those on the changed node and on any node above it.
    Above,
    /// Only those on the node itself: it came or went with a node above, and there the others hear of it.
    Exact,
}

/// A change of one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Notice {
    /// The node.
    pub path: Path,
    /// Which watches it concerns.
    pub reach: Reach,
    /// Its permissions before, if it was there.
    before: Option<Permissions>,
    /// Its permissions after, if it is there.
    after: Option<Permissions>,
    /// If the node came or went: the permissions of the parent, whose list of children changed by that.
    listing: Option<Permissions>,
}

impl Notice {
    /// The node at `path` got another value or other permissions.
    pub fn changed(path: &Path, before: &Permissions, after: &Permissions) -> Self {
        let (before, after) = (Some(before.clone()), Some(after.clone()));
        Self { path: path.clone(), reach: Reach::Above, before, after, listing: None }
    }

    /// A node came to be at `path`; `listing` are the permissions of the parent, if it was there before.
    pub fn came(path: &Path, reach: Reach, node: Permissions, listing: Option<Permissions>) -> Self {
        Self { path: path.clone(), reach, before: None, after: Some(node), listing }
    }

    /// Takes in what happened to the same node next, if it was there all the time; says whether it could.
    pub fn absorb(&mut self, next: &Self) -> bool {
        let is_same = self.path == next.path && self.after.is_some() && next.before.is_some();
        if is_same && next.after.is_some() {
            self.after.clone_from(&next.after);
        }
        is_same && next.after.is_some()
    }

    /// The node at `path`, below `parent`, is gone.
    pub fn went(path: &Path, reach: Reach, node: &Permissions, parent: Option<&Node>) -> Self {
        let listing = parent.map(|parent| parent.permissions().clone());
        Self { path: path.clone(), reach, before: Some(node.clone()), after: None, listing }
    }

    /// What became of the node at `path` from one tree to the next; nothing if it is in neither.
    pub fn between(old: &Tree, new: &Tree, path: &Path, reach: Reach) -> Option<Self> {
        match (old.get(path), new.get(path)) {
            (Some(before), Some(after)) => {
                Some(Self::changed(path, before.permissions(), after.permissions()))
            }
            (None, Some(node)) => {
                let listing = new.parent_of(path).map(|parent| parent.permissions().clone());
                Some(Self::came(path, Reach::Above, node.permissions().clone(), listing))
            }
            (Some(node), None) => Some(Self::went(path, reach, node.permissions(), old.parent_of(path))),
            (None, None) => None,
        }
    }

    /// Whether `caller` may hear of it: it could read the node before or can after, or it may list the
    /// children of the parent and this list changed.
    pub fn may_be_told_to(&self, caller: &Caller) -> bool {
        let all = [&self.before, &self.after, &self.listing];
        all.into_iter().flatten().any(|permissions| permissions.permit(caller, Rights::READ))
    }
}
