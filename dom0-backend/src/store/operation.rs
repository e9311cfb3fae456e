//! What the requests about nodes do, on the database or within a transaction alike.
//!
//! Each function asks for leave, checks the quotas, and only then changes anything; once the first change is
//! made, nothing can go wrong any more. A caller that may not use a node learns nothing about it: where the
//! lowest existing node above a missing one does not grant the right either, the answer is "denied", not
//! "not found".

use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;

use hypercall_abi::io::xs_wire::XENSTORE_PAYLOAD_MAX;

use super::database::{Workspace, weight};
use super::error::Error;
use super::notice::{Notice, Reach};
use super::path::Path;
use super::permission::{Caller, Permissions, Rights};
use super::quota::{Excess, Limits, Quota};
use super::tree::{Location, Node};
use super::wire::terminated;

/// Who asks, and what it may have.
#[derive(Clone, Copy)]
pub(super) struct Session<'a> {
    pub caller: Caller,
    pub limits: &'a Limits,
}

impl Session<'_> {
    /// Refuses `wanted` of something, unless the caller is above quotas.
    pub fn check(&self, quota: Quota, wanted: usize, limit: usize) -> Result<(), Excess> {
        if self.caller.privileged { Ok(()) } else { quota.check(wanted, limit) }
    }
}

/// A node's value.
pub(super) fn read(
    workspace: &mut dyn Workspace,
    session: Session<'_>,
    path: &Path,
) -> Result<Rc<[u8]>, Error> {
    find(workspace, session, path, Rights::READ).map(|node| node.value().clone())
}

/// A node's permissions.
pub(super) fn permissions(
    workspace: &mut dyn Workspace,
    session: Session<'_>,
    path: &Path,
) -> Result<Permissions, Error> {
    find(workspace, session, path, Rights::READ).map(|node| node.permissions().clone())
}

/// The names of a node's children.
pub(super) fn list(
    workspace: &mut dyn Workspace,
    session: Session<'_>,
    path: &Path,
) -> Result<Vec<String>, Error> {
    Ok(find_directory(workspace, session, path)?.children().map(String::from).collect())
}

/// The names of a node's children, each with a NUL behind it.
pub(super) fn directory(
    workspace: &mut dyn Workspace,
    session: Session<'_>,
    path: &Path,
) -> Result<Vec<u8>, Error> {
    let node = find_directory(workspace, session, path)?;
    let mut listing = Vec::new();
    for name in node.children() {
        listing.extend_from_slice(name.as_bytes());
        listing.push(0);
        if listing.len() > XENSTORE_PAYLOAD_MAX {
            return Err(Error::ReplyTooLong);
        }
    }
    Ok(listing)
}

/// As much of the list of children as fits, from a byte offset on: first the list's generation, then whole
/// names, then an empty name if the list ends there.
pub(super) fn directory_part(
    workspace: &mut dyn Workspace,
    session: Session<'_>,
    path: &Path,
    offset: usize,
) -> Result<Vec<u8>, Error> {
    let node = find_directory(workspace, session, path)?;
    let mut part = terminated(node.children_generation().number());
    let mut skip = offset;
    for name in node.children() {
        let Some(name) = name.as_bytes().get(skip..) else {
            skip -= name.len() + 1;
            continue;
        };
        // One byte stays free for the end of the list.
        if part.len() + name.len() + 1 >= XENSTORE_PAYLOAD_MAX {
            return Ok(part);
        }
        part.extend_from_slice(name);
        part.push(0);
        skip = 0;
    }
    part.push(0);
    Ok(part)
}

/// Sets a node's value; the node and those above it are made if they are not there.
pub(super) fn write(
    workspace: &mut dyn Workspace,
    session: Session<'_>,
    path: &Path,
    value: &[u8],
) -> Result<(), Error> {
    session.check(Quota::NodeSize, value.len(), session.limits.node_size)?;
    let (permissions, old) = match find(workspace, session, path, Rights::WRITE) {
        Ok(node) => (node.permissions().clone(), node.value().len()),
        Err(Error::NotFound) => return create(workspace, session, path, value),
        Err(error) => return Err(error),
    };
    check_memory(workspace, session, value.len().saturating_sub(old))?;
    workspace.touch(path, Some(value.len()));
    workspace.set_value(path, value.into());
    workspace.announce(Notice::changed(path, &permissions, &permissions));
    Ok(())
}

/// Makes a node, and those above it, if it is not there.
pub(super) fn make_directory(
    workspace: &mut dyn Workspace,
    session: Session<'_>,
    path: &Path,
) -> Result<(), Error> {
    match find(workspace, session, path, Rights::WRITE) {
        Ok(_) => Ok(()),
        Err(Error::NotFound) => create(workspace, session, path, &[]),
        Err(error) => Err(error),
    }
}

/// Removes a node and all below it. If it is not there, its parent must be.
pub(super) fn remove(workspace: &mut dyn Workspace, session: Session<'_>, path: &Path) -> Result<(), Error> {
    match find(workspace, session, path, Rights::WRITE).map(|_| ()) {
        Ok(()) if path.depth() == 0 => Err(Error::Root),
        Ok(()) => remove_subtree(workspace, path),
        Err(Error::NotFound) if workspace.tree().parent_of(path).is_some() => Ok(()),
        Err(error) => Err(error),
    }
}

/// Replaces a node's permissions, which only its owner may; and only dom0 may change the owner.
pub(super) fn set_permissions(
    workspace: &mut dyn Workspace,
    session: Session<'_>,
    path: &Path,
    permissions: &Permissions,
) -> Result<(), Error> {
    session.check(Quota::Permissions, permissions.entries(), session.limits.permissions)?;
    let old = find(workspace, session, path, Rights::WRITE)?.permissions().clone();
    if !old.are_owned_by(&session.caller) {
        return Err(Error::Denied);
    }
    if !session.caller.privileged && old.owner() != permissions.owner() {
        return Err(Error::NotYoursToGive);
    }
    workspace.touch(path, None);
    workspace.set_permissions(path, permissions.clone());
    workspace.announce(Notice::changed(path, &old, permissions));
    Ok(())
}

/// Removes a node that is there and all below it, whoever owns them.
pub(super) fn remove_subtree(workspace: &mut dyn Workspace, path: &Path) -> Result<(), Error> {
    let paths: Vec<_> = workspace.tree().subtree(path).into_iter().map(|(path, _)| path).collect();
    for below in &paths {
        workspace.observe(below)?;
        workspace.observe_children(below)?;
    }
    for below in &paths {
        let tree = workspace.tree();
        let Some(node) = tree.get(below) else { continue };
        let reach = if below == path { Reach::Above } else { Reach::Exact };
        let notice = Notice::went(below, reach, node.permissions(), tree.parent_of(below));
        workspace.touch(below, Some(0));
        workspace.announce(notice);
    }
    workspace.remove(path);
    Ok(())
}

/// The node at `path`, if the caller has `rights` to it.
fn find<'w>(
    workspace: &'w mut dyn Workspace,
    session: Session<'_>,
    path: &Path,
    rights: Rights,
) -> Result<&'w Node, Error> {
    workspace.observe(path)?;
    let permitted = |node: &Node| node.permissions().permit(&session.caller, rights);
    match workspace.tree().locate(path) {
        Location::Found(node) if permitted(node) => Ok(node),
        Location::Missing { nearest, .. } if permitted(nearest) => Err(Error::NotFound),
        _ => Err(Error::Denied),
    }
}

/// The node at `path`, to list its children.
fn find_directory<'w>(
    workspace: &'w mut dyn Workspace,
    session: Session<'_>,
    path: &Path,
) -> Result<&'w Node, Error> {
    find(workspace, session, path, Rights::READ)?;
    workspace.observe_children(path)?;
    workspace.tree().get(path).ok_or(Error::NotFound)
}

/// Makes the node at `path`, which the caller may and which is not there, and those above it. They inherit their
/// permissions from the lowest node that is there.
fn create(
    workspace: &mut dyn Workspace,
    session: Session<'_>,
    path: &Path,
    value: &[u8],
) -> Result<(), Error> {
    let Location::Missing { nearest, missing } = workspace.tree().locate(path) else { return Ok(()) };
    let above = nearest.permissions();
    let inherited = above.inherited_by(&session.caller);
    let listing = if missing == 1 { above.clone() } else { inherited.clone() };
    let Session { caller, limits } = session;
    Quota::PathDepth.check(path.depth(), limits.path_depth)?;
    session.check(Quota::Nodes, workspace.usage(caller.domain).nodes + missing, limits.nodes)?;
    let new: Vec<_> = path.up(missing).collect();
    let empty = |path: &Path| weight(path, &[], &inherited);
    check_memory(workspace, session, value.len() + new.iter().map(empty).sum::<usize>())?;
    for ancestor in new.iter().rev().take(missing - 1) {
        workspace.touch(ancestor, Some(0));
        workspace.create(ancestor, Rc::from([]), inherited.clone());
    }
    workspace.touch(path, Some(value.len()));
    workspace.create(path, value.into(), inherited.clone());
    workspace.announce(Notice::came(path, Reach::Above, inherited, Some(listing)));
    Ok(())
}

/// Checks that the caller may have so many bytes more.
fn check_memory(workspace: &dyn Workspace, session: Session<'_>, growth: usize) -> Result<(), Excess> {
    let wanted = workspace.usage(session.caller.domain).bytes + growth;
    session.check(Quota::Memory, wanted, session.limits.memory)
}
