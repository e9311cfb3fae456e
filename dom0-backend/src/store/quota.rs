//! Quotas: how much of the store one domain may use, and the book that is kept of it.
//!
//! The [`Ledger`] counts what each domain holds at this moment; whoever adds or removes something says so
//! there, and an audit can recount it. Checks come before changes: an operation that would go over a limit
//! ends with an [`Excess`] and has changed nothing. Dom0 is counted too, but never refused.
//!
//! A domain that keeps running into a limit must not fill the log with it, so [`Refusals`] tells of the
//! first, second, fourth, eighth... time only.

use alloc::vec::Vec;
use core::fmt;

use hashbrown::HashMap;
use hypercall_abi::io::xs_wire::XENSTORE_REL_PATH_MAX;
use hypercall_abi::{DomainId, Errno};

/// What is limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Quota {
    /// Nodes that the domain owns.
    Nodes,
    /// Bytes in the value of one node.
    NodeSize,
    /// Entries in the permissions of one node.
    Permissions,
    /// Levels below the root at which a node is made.
    PathDepth,
    /// Bytes in a path, not counting the home directory.
    PathLength,
    /// Watches that the domain has set.
    Watches,
    /// Transactions that the domain has open.
    Transactions,
    /// Nodes that one transaction reads or writes.
    TransactionNodes,
    /// Bytes that the store keeps for the domain: nodes, watches, and what open transactions remember.
    Memory,
}

/// How much of each the store lets a domain have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// See [`Quota::Nodes`].
    pub nodes: usize,
    /// See [`Quota::NodeSize`].
    pub node_size: usize,
    /// See [`Quota::Permissions`].
    pub permissions: usize,
    /// See [`Quota::PathDepth`]. Holds for dom0 too: it bounds how deep the tree is.
    pub path_depth: usize,
    /// See [`Quota::PathLength`].
    pub path_length: usize,
    /// See [`Quota::Watches`].
    pub watches: usize,
    /// See [`Quota::Transactions`].
    pub transactions: usize,
    /// See [`Quota::TransactionNodes`].
    pub transaction_nodes: usize,
    /// See [`Quota::Memory`].
    pub memory: usize,
    /// Replies that wait for a domain to take them. With that many waiting, no request is taken.
    pub replies: usize,
    /// Bytes of watch events that wait. With that many waiting, an event names the watched path and not the
    /// changed one, and at most one such event waits for each watch.
    pub event_bytes: usize,
    /// How many changes the store may go through before an open transaction is moved up to it.
    pub lag: u64,
}

impl Default for Limits {
    /// What Xen's own store allows a guest, and for what it does not limit, something well above need.
    fn default() -> Self {
        Self {
            nodes: 1000,
            node_size: 2048,
            permissions: 5,
            path_depth: 64,
            path_length: XENSTORE_REL_PATH_MAX,
            watches: 128,
            transactions: 10,
            transaction_nodes: 1024,
            memory: 2_621_440,
            replies: 20,
            event_bytes: 65_536,
            lag: 4096,
        }
    }
}

/// A limit that an operation would have gone over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Excess {
    /// What is limited.
    pub quota: Quota,
    /// How much there would have been.
    pub wanted: usize,
    /// How much there may be.
    pub limit: usize,
}

impl Quota {
    /// The error on the wire, as Xen's store has it.
    pub fn errno(self) -> Errno {
        match self {
            Self::Watches => Errno::E2BIG,
            Self::Memory => Errno::ENOMEM,
            Self::PathLength => Errno::EINVAL,
            _ => Errno::ENOSPC,
        }
    }

    /// Refuses `wanted` if it is more than `limit`.
    pub(super) fn check(self, wanted: usize, limit: usize) -> Result<(), Excess> {
        if wanted > limit { Err(Excess { quota: self, wanted, limit }) } else { Ok(()) }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Nodes => "nodes",
            Self::NodeSize => "bytes in a value",
            Self::Permissions => "permissions of a node",
            Self::PathDepth => "levels of a path",
            Self::PathLength => "bytes in a path",
            Self::Watches => "watches",
            Self::Transactions => "open transactions",
            Self::TransactionNodes => "nodes in a transaction",
            Self::Memory => "bytes of memory",
        }
    }
}

impl fmt::Display for Excess {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {}, {} asked for", self.limit, self.quota.name(), self.wanted)
    }
}

/// What one domain holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Nodes owned.
    pub nodes: usize,
    /// Watches set.
    pub watches: usize,
    /// Transactions open.
    pub transactions: usize,
    /// Bytes in all of these.
    pub bytes: usize,
}

/// A change of what a domain holds, or a sum of such changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delta {
    /// Nodes gained, or lost if negative.
    pub nodes: isize,
    /// Likewise watches.
    pub watches: isize,
    /// Likewise transactions.
    pub transactions: isize,
    /// Likewise bytes.
    pub bytes: isize,
}

impl Delta {
    /// A node of so many bytes more.
    pub(super) fn node(bytes: usize) -> Self {
        Self { nodes: 1, bytes: signed(bytes), ..Self::default() }
    }

    /// A watch of so many bytes more.
    pub(super) fn watch(bytes: usize) -> Self {
        Self { watches: 1, bytes: signed(bytes), ..Self::default() }
    }

    /// A transaction more.
    pub(super) fn transaction() -> Self {
        Self { transactions: 1, ..Self::default() }
    }

    /// So many bytes more, or fewer.
    pub(super) fn bytes(bytes: isize) -> Self {
        Self { bytes, ..Self::default() }
    }

    /// The opposite.
    pub(super) fn undone(self) -> Self {
        let Self { nodes, watches, transactions, bytes } = self;
        Self { nodes: -nodes, watches: -watches, transactions: -transactions, bytes: -bytes }
    }

    /// Both, one after the other.
    pub(super) fn and(self, other: Self) -> Self {
        Self {
            nodes: self.nodes + other.nodes,
            watches: self.watches + other.watches,
            transactions: self.transactions + other.transactions,
            bytes: self.bytes + other.bytes,
        }
    }
}

/// A length as a change. No object has more than `isize::MAX` bytes.
fn signed(bytes: usize) -> isize {
    isize::try_from(bytes).unwrap_or(isize::MAX)
}

impl Usage {
    /// What would be held after `delta`. A transaction's delta may take away what is gone already (and it
    /// will end in a conflict); that counts as nothing held.
    pub(super) fn about(self, delta: Delta) -> Self {
        Self {
            nodes: self.nodes.saturating_add_signed(delta.nodes),
            watches: self.watches.saturating_add_signed(delta.watches),
            transactions: self.transactions.saturating_add_signed(delta.transactions),
            bytes: self.bytes.saturating_add_signed(delta.bytes),
        }
    }

    /// What is held after `delta`, unless that takes away more than there is.
    fn after(self, delta: Delta) -> Option<Self> {
        Some(Self {
            nodes: self.nodes.checked_add_signed(delta.nodes)?,
            watches: self.watches.checked_add_signed(delta.watches)?,
            transactions: self.transactions.checked_add_signed(delta.transactions)?,
            bytes: self.bytes.checked_add_signed(delta.bytes)?,
        })
    }
}

/// What every domain holds. A domain that holds nothing takes no room.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    usages: HashMap<DomainId, Usage>,
}

impl Ledger {
    /// What `domain` holds.
    pub fn usage(&self, domain: DomainId) -> Usage {
        self.usages.get(&domain).copied().unwrap_or_default()
    }

    /// Every domain that holds something, with what it holds.
    pub fn iter(&self) -> impl Iterator<Item = (DomainId, Usage)> {
        self.usages.iter().map(|(&domain, &usage)| (domain, usage))
    }

    /// Enters a change. It takes away only what is there.
    pub(super) fn enter(&mut self, domain: DomainId, delta: Delta) {
        let held = self.usages.entry(domain).or_default();
        debug_assert!(held.after(delta).is_some(), "domain {domain} holds {held:?} and loses {delta:?}");
        *held = held.about(delta);
        if *held == Usage::default() {
            self.usages.remove(&domain);
        }
    }
}

/// How often each domain was refused what, and how it was the last time.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    counts: HashMap<DomainId, HashMap<Quota, (u64, Excess)>>,
}

impl Refusals {
    /// Remembers a refusal; how often it happened so far if it is time to say so, and zero otherwise.
    pub fn note(&mut self, domain: DomainId, excess: Excess) -> u64 {
        let (count, last) = self.counts.entry(domain).or_default().entry(excess.quota).or_insert((0, excess));
        (*count, *last) = (*count + 1, excess);
        if count.is_power_of_two() { *count } else { 0 }
    }

    /// What a domain was refused: how often, and how it was the last time.
    pub fn of(&self, domain: DomainId) -> Vec<(u64, Excess)> {
        let counts = self.counts.get(&domain).into_iter().flat_map(HashMap::values);
        let mut counts: Vec<_> = counts.copied().collect();
        counts.sort_by_key(|(_, excess)| excess.quota.name());
        counts
    }

    /// Forgets a domain that is gone.
    pub fn forget(&mut self, domain: DomainId) {
        self.counts.remove(&domain);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_may_be_reached_and_not_passed() {
        assert_eq!(Quota::Nodes.check(10, 10), Ok(()));
        let excess = Excess { quota: Quota::Nodes, wanted: 11, limit: 10 };
        assert_eq!(Quota::Nodes.check(11, 10), Err(excess));
        assert_eq!(alloc::format!("{excess}"), "10 nodes, 11 asked for");
    }

    #[test]
    fn what_is_given_back_leaves_no_trace() {
        let (mut ledger, domain) = (Ledger::default(), DomainId(3));
        let change = Delta::node(100).and(Delta::watch(20)).and(Delta::transaction());
        ledger.enter(domain, change);
        let usage = Usage { nodes: 1, watches: 1, transactions: 1, bytes: 120 };
        assert_eq!(ledger.usage(domain), usage);
        ledger.enter(domain, change.undone());
        assert_eq!(ledger, Ledger::default());
    }

    #[test]
    fn refusals_are_counted_by_domain_and_forgotten_with_it() {
        let mut refusals = Refusals::default();
        let excess = Excess { quota: Quota::Nodes, wanted: 2, limit: 1 };
        let said = [3, 3, 4, 3, 3].map(|domain| refusals.note(DomainId(domain), excess));
        assert_eq!(said, [1, 2, 1, 0, 4], "the first, the second, the fourth time");
        assert_eq!(refusals.of(DomainId(3)), [(4, excess)]);
        assert_eq!(refusals.of(DomainId(5)), []);
        refusals.forget(DomainId(3));
        assert_eq!(refusals.counts.len(), 1);
    }
}
