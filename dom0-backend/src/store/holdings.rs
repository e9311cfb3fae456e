//! Where each domain is named: an index from a domain to the nodes that it owns or has rights to.
//!
//! When a domain goes away, its number may be given to another, which must not inherit anything. This index
//! finds the nodes concerned without a walk through the whole store. Dom0 never goes away and is left out.

use alloc::collections::BTreeSet;

use hashbrown::HashMap;
use hypercall_abi::DomainId;

use super::path::Path;
use super::permission::Permissions;

/// The paths of the nodes whose permissions name a domain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Holdings {
    /// Each with the length of its text, by which most are told apart at once: all of a domain's begin alike.
    paths: HashMap<DomainId, BTreeSet<(usize, Path)>>,
}

impl Holdings {
    /// The node at `path` now has these permissions.
    pub fn add(&mut self, path: &Path, permissions: &Permissions) {
        for domain in guests(permissions) {
            self.paths.entry(domain).or_default().insert(key(path));
        }
    }

    /// The node at `path`, which had these permissions, is gone or gets others.
    pub fn remove(&mut self, path: &Path, permissions: &Permissions) {
        for domain in guests(permissions) {
            let Some(paths) = self.paths.get_mut(&domain) else { continue };
            paths.remove(&key(path));
            if paths.is_empty() {
                self.paths.remove(&domain);
            }
        }
    }

    /// A node that names `domain`; none above it does.
    pub fn first(&self, domain: DomainId) -> Option<&Path> {
        self.paths.get(&domain)?.first().map(|(_, path)| path)
    }
}

fn key(path: &Path) -> (usize, Path) {
    (path.as_str().len(), path.clone())
}

/// The domains that are named and are not dom0.
fn guests(permissions: &Permissions) -> impl Iterator<Item = DomainId> {
    permissions.domains().filter(|&domain| domain != DomainId::ZERO)
}
