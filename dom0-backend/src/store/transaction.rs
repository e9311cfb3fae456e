//! Transactions: a domain's own copy of the tree, and what it must remember to merge it back.
//!
//! Starting one clones the tree, which costs next to nothing, and keeps the clone as the *base*: everything
//! the transaction reads is what was there when it started. Its own changes go to a second clone, the *copy*.
//! Beside them it remembers each path that it read or changed.
//!
//! ```text
//!                 start                              end
//!   database  ──────┬───── others' changes ──────┬────┬───────▶
//!                   │ base                       │    ▲ what the transaction changed,
//!                   └─ copy ── own changes ──────│────┘ if all it read still is as in base
//! ```
//!
//! At the end every remembered path is compared between base and database by generation. If one differs, the
//! transaction saw something that is no longer so and ends in a conflict. Otherwise carrying it out now would
//! give the very same results, so its changes are replayed on the database. Changes elsewhere do not matter.
//!
//! A base keeps old nodes alive. So that a transaction that is never ended cannot keep every node that ever
//! was, the base moves up when the database has gone a number of changes beyond it ([`Limits::lag`]): the end
//! is tried without telling anybody, and its outcome becomes the new copy. If the try fails so will the end,
//! which is remembered.
//!
//! [`Limits::lag`]: super::quota::Limits::lag

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::rc::Rc;
use alloc::vec::Vec;

use hashbrown::HashMap;
use hypercall_abi::DomainId;

use super::connection::ConnectionId;
use super::database::{Database, Edit, Workspace};
use super::error::Error;
use super::notice::{Notice, Reach};
use super::operation::Session;
use super::path::Path;
use super::permission::Permissions;
use super::quota::{Delta, Quota, Usage};
use super::tree::{Generation, Location, Tree};

/// What remembering one path costs beside its text, in bytes.
const ACCESS_OVERHEAD: usize = 64;

/// One open transaction.
pub(super) struct Transaction {
    domain: DomainId,
    base: Tree,
    copy: Tree,
    /// [`Database::changes`] when the base was taken.
    taken: u64,
    /// The paths that were read or changed, or found missing.
    accesses: BTreeMap<Path, Access>,
    /// What the changes in the copy mean for what domains hold.
    deltas: HashMap<DomainId, Delta>,
    /// Bytes that `domain` is charged for all this.
    held: usize,
    /// Whether the end is known to be a conflict.
    doomed: bool,
}

/// What a transaction did with one path.
#[derive(Clone, Copy, Default)]
struct Access {
    /// Whether the list of children was read too.
    children: bool,
    /// Whether the node was changed, made or removed.
    touched: bool,
    /// Which watches to tell at the end, if any.
    reach: Option<Reach>,
    /// Bytes of the value that the transaction gave it.
    value: usize,
}

impl Transaction {
    /// Starts a transaction of `domain`.
    pub fn start(database: &mut Database, domain: DomainId) -> Self {
        database.ledger.enter(domain, Delta::transaction());
        let (base, copy) = (database.tree().clone(), database.tree().clone());
        let taken = database.changes();
        let (accesses, deltas) = (BTreeMap::new(), HashMap::new());
        Self { domain, base, copy, taken, accesses, deltas, held: 0, doomed: false }
    }

    /// Ends the transaction without any effect.
    pub fn abandon(self, database: &mut Database) {
        let held = Delta::bytes(self.held as isize);
        database.ledger.enter(self.domain, Delta::transaction().and(held).undone());
    }

    /// Ends the transaction and makes its changes everybody's.
    ///
    /// # Errors
    /// [`Error::Conflict`] if what it read has changed, or the quota of nodes or memory that its domain would
    /// go over. It is over all the same, without effect.
    pub fn commit(self, database: &mut Database, session: Session<'_>) -> Result<(), Error> {
        let outcome = self.check(database, session);
        if outcome.is_ok() {
            self.replay(database);
            for notice in self.notices() {
                database.announce(notice);
            }
        }
        self.abandon(database);
        outcome
    }

    /// Whether the changes can become everybody's.
    fn check(&self, database: &Database, session: Session<'_>) -> Result<(), Error> {
        if self.doomed || self.conflicts_with(database.tree()) {
            return Err(Error::Conflict);
        }
        let delta = self.deltas.get(&session.caller.domain).copied().unwrap_or_default();
        let delta = delta.and(Delta::bytes(-(self.held as isize)));
        let usage = database.usage(session.caller.domain).about(delta);
        if delta.nodes > 0 {
            session.check(Quota::Nodes, usage.nodes, session.limits.nodes)?;
        }
        if delta.bytes > 0 {
            session.check(Quota::Memory, usage.bytes, session.limits.memory)?;
        }
        Ok(())
    }

    /// Whether anything that was read, or found missing, is no longer so in `tree`.
    fn conflicts_with(&self, tree: &Tree) -> bool {
        self.accesses.iter().any(|(path, access)| {
            let state = |tree: &Tree| {
                tree.get(path)
                    .map(|node| (node.generation(), access.children.then_some(node.children_generation())))
            };
            state(&self.base) != state(tree)
        })
    }

    /// Makes the touched nodes on another tree what they are in the copy. Parents come before children. What
    /// cannot be done because the other tree conflicts is left out.
    fn replay(&self, onto: &mut dyn Edit) {
        for (path, _) in self.accesses.iter().filter(|(_, access)| access.touched) {
            let old = onto.tree().get(path).map(|node| (node.value().clone(), node.permissions().clone()));
            match (self.copy.get(path), old) {
                (None, None) => {}
                (None, Some(_)) => onto.remove(path),
                (Some(node), None) if onto.tree().parent_of(path).is_some() => {
                    onto.create(path, node.value().clone(), node.permissions().clone());
                }
                (Some(_), None) => {}
                (Some(node), Some((value, permissions))) => {
                    if !Rc::ptr_eq(node.value(), &value) {
                        onto.set_value(path, node.value().clone());
                    }
                    if *node.permissions() != permissions {
                        onto.set_permissions(path, node.permissions().clone());
                    }
                }
            }
        }
    }

    /// What there is to tell once the changes are everybody's.
    fn notices(&self) -> Vec<Notice> {
        let told = self.accesses.iter().filter_map(|(path, access)| Some((path, access.reach?)));
        told.filter_map(|(path, reach)| Notice::between(&self.base, &self.copy, path, reach)).collect()
    }

    /// Moves the base up to what the database is now.
    fn rebase(&mut self, database: &mut Database) {
        self.doomed |= self.conflicts_with(database.tree());
        let mut moved = Rebase { tree: database.tree().clone(), database };
        self.replay(&mut moved);
        self.copy = moved.tree;
        self.base = database.tree().clone();
        self.taken = database.changes();
    }
}

/// A tree on which changes are replayed without consequences.
struct Rebase<'a> {
    tree: Tree,
    database: &'a mut Database,
}

impl Edit for Rebase<'_> {
    fn tree(&self) -> &Tree {
        &self.tree
    }

    fn tree_mut(&mut self) -> (&mut Tree, Generation) {
        (&mut self.tree, self.database.next_generation())
    }

    fn account(&mut self, _path: &Path, _permissions: &Permissions, _delta: Delta) {}
}

/// A transaction at work: reads come from its copy, changes go there.
pub(super) struct Draft<'a> {
    pub transaction: &'a mut Transaction,
    pub database: &'a mut Database,
    pub session: Session<'a>,
}

impl Draft<'_> {
    /// Remembers that `path` matters, and finds or makes the record of what was done with it.
    fn access(&mut self, path: &Path) -> Result<&mut Access, Error> {
        let Self { transaction, database, session } = self;
        if !transaction.accesses.contains_key(path) {
            let limits = session.limits;
            let nodes = transaction.accesses.len() + 1;
            session.check(Quota::TransactionNodes, nodes, limits.transaction_nodes)?;
            let bytes = path.as_str().len() + ACCESS_OVERHEAD;
            let wanted = database.usage(transaction.domain).bytes + bytes;
            session.check(Quota::Memory, wanted, limits.memory)?;
            database.ledger.enter(transaction.domain, Delta::bytes(bytes as isize));
            transaction.held += bytes;
        }
        Ok(transaction.accesses.entry(path.clone()).or_default())
    }
}

impl Edit for Draft<'_> {
    fn tree(&self) -> &Tree {
        &self.transaction.copy
    }

    fn tree_mut(&mut self) -> (&mut Tree, Generation) {
        (&mut self.transaction.copy, self.database.next_generation())
    }

    fn account(&mut self, _path: &Path, permissions: &Permissions, delta: Delta) {
        let sum = self.transaction.deltas.entry(permissions.owner()).or_default();
        *sum = sum.and(delta);
    }
}

impl Workspace for Draft<'_> {
    /// What the database says, which knows what this transaction remembers, and the nodes made or removed.
    fn usage(&self, domain: DomainId) -> Usage {
        let delta = self.transaction.deltas.get(&domain).copied().unwrap_or_default();
        self.database.usage(domain).about(Delta { bytes: 0, ..delta })
    }

    /// A missing node also depends on every node above it that is missing, and on the lowest that is there.
    fn observe(&mut self, path: &Path) -> Result<(), Error> {
        let levels = match self.transaction.copy.locate(path) {
            Location::Found(_) => 1,
            Location::Missing { missing, .. } => missing + 1,
        };
        for above in path.up(levels) {
            self.access(&above)?;
        }
        Ok(())
    }

    fn observe_children(&mut self, path: &Path) -> Result<(), Error> {
        self.access(path)?.children = true;
        Ok(())
    }

    fn touch(&mut self, path: &Path, value: Option<usize>) {
        let Some(access) = self.transaction.accesses.get_mut(path) else { return };
        let value = value.unwrap_or(access.value);
        let growth = value as isize - access.value as isize;
        (access.touched, access.value) = (true, value);
        self.transaction.held = self.transaction.held.saturating_add_signed(growth);
        self.database.ledger.enter(self.transaction.domain, Delta::bytes(growth));
    }

    fn announce(&mut self, notice: Notice) {
        let Some(access) = self.transaction.accesses.get_mut(&notice.path) else { return };
        if access.reach != Some(Reach::Above) {
            access.reach = Some(notice.reach);
        }
    }
}

/// A transaction as its client names it: the connection, and a number within it.
type Key = (ConnectionId, u32);

/// All open transactions.
#[derive(Default)]
pub(super) struct Transactions {
    open: BTreeMap<Key, Transaction>,
    /// The same by the age of their bases.
    by_age: BTreeSet<(u64, Key)>,
}

impl Transactions {
    /// Starts a transaction of `domain` under a number that is free; `last` is where to start looking.
    pub fn start(
        &mut self,
        connection: ConnectionId,
        last: u32,
        database: &mut Database,
        domain: DomainId,
    ) -> u32 {
        let mut number = last.wrapping_add(1);
        while number == 0 || self.open.contains_key(&(connection, number)) {
            number = number.wrapping_add(1);
        }
        let transaction = Transaction::start(database, domain);
        self.by_age.insert((transaction.taken, (connection, number)));
        self.open.insert((connection, number), transaction);
        number
    }

    /// An open transaction.
    pub fn get_mut(&mut self, connection: ConnectionId, number: u32) -> Option<&mut Transaction> {
        self.open.get_mut(&(connection, number))
    }

    /// Takes a transaction out, to be ended.
    pub fn take(&mut self, connection: ConnectionId, number: u32) -> Option<Transaction> {
        let transaction = self.open.remove(&(connection, number))?;
        self.by_age.remove(&(transaction.taken, (connection, number)));
        Some(transaction)
    }

    /// Abandons all transactions of a connection.
    pub fn abandon_all(&mut self, connection: ConnectionId, database: &mut Database) {
        let all = (connection, 0)..=(connection, u32::MAX);
        let numbers: Vec<_> = self.open.range(all).map(|((_, number), _)| *number).collect();
        for number in numbers {
            if let Some(transaction) = self.take(connection, number) {
                transaction.abandon(database);
            }
        }
    }

    /// Moves the oldest base up if it is more than `lag` changes behind. One at a time is enough, as the next
    /// will have its turn with the next request.
    pub fn refresh(&mut self, database: &mut Database, lag: u64) {
        let Some(&(taken, key)) = self.by_age.first() else { return };
        if database.changes() - taken <= lag {
            return;
        }
        self.by_age.remove(&(taken, key));
        let Some(transaction) = self.open.get_mut(&key) else { return };
        transaction.rebase(database);
        self.by_age.insert((transaction.taken, key));
    }

    /// How many transactions each domain has open, and what it is charged for them.
    pub fn recount(&self) -> impl Iterator<Item = (DomainId, Delta)> {
        self.open.values().map(|transaction| {
            let held = Delta::bytes(transaction.held as isize);
            (transaction.domain, Delta::transaction().and(held))
        })
    }
}
