//! Commands to the store itself, and the audit that one of them runs.
//!
//! Of the commands that Xen's store has, these are the ones that mean something here: `check`, `help` and
//! `quota`. The others write files or restart daemons.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use hypercall_abi::DomainId;

use super::database::{Edit, node_weight};
use super::error::Error;
use super::path::Path;
use super::quota::{Delta, Excess, Ledger, Limits, Usage};
use super::server::{Server, watch_charge};
use super::tree::Node;
use super::wire::{decimal, terminated};

/// What a domain has of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// The domain.
    pub domain: DomainId,
    /// What it is called.
    pub name: String,
    /// What it has.
    pub usage: Usage,
    /// What it was refused: how often, and how it was the last time.
    pub refused: Vec<(u64, Excess)>,
}

/// What an audit found wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Imbalance {
    /// The ledger has a domain hold something else than it does.
    Ledger {
        /// The domain.
        domain: DomainId,
        /// According to the ledger.
        entered: Usage,
        /// According to a count.
        counted: Usage,
    },
    /// The index of where domains are named does not fit the tree.
    Holdings,
    /// Watches by path and watches by connection are not the same ones.
    Watches,
}

impl Server {
    /// Recounts what every domain holds, and compares with what the store goes by. This walks through
    /// everything there is.
    ///
    /// # Errors
    /// The first thing that does not fit. Then there is a bug in the store.
    pub fn audit(&self) -> Result<(), Imbalance> {
        let counted = self.recount();
        let known = self.database.ledger.iter().chain(counted.iter()).map(|(domain, _)| domain);
        for domain in known {
            let (entered, counted) = (self.database.ledger.usage(domain), counted.usage(domain));
            if entered != counted {
                return Err(Imbalance::Ledger { domain, entered, counted });
            }
        }
        if !self.database.recount_holdings() {
            return Err(Imbalance::Holdings);
        }
        if self.watches.iter().count() != self.watches.count_by_path() {
            return Err(Imbalance::Watches);
        }
        Ok(())
    }

    fn recount(&self) -> Ledger {
        let mut ledger = Ledger::default();
        for (path, node) in self.database.tree().nodes() {
            ledger.enter(node.permissions().owner(), Delta::node(node_weight(&path, node)));
        }
        for (connection, path, token) in self.watches.iter() {
            if let Some(connection) = self.clients.get(connection) {
                ledger.enter(connection.peer.domain(), watch_charge(path, token));
            }
        }
        for (domain, delta) in self.transactions.recount() {
            ledger.enter(domain, delta);
        }
        ledger
    }

    /// Carries out a command; the payload of the reply.
    pub(super) fn control(&mut self, command: &[u8], arguments: &[&[u8]]) -> Result<Vec<u8>, Error> {
        match (command, arguments) {
            (b"help", _) => Ok(terminated("check\nhelp\nquota\n")),
            (b"check", _) => Ok(terminated(match self.audit() {
                Ok(()) => String::from("OK"),
                Err(imbalance) => {
                    log::error!("store: the books do not balance: {imbalance:?}");
                    format!("{imbalance:?}")
                }
            })),
            (b"quota", []) => Ok(terminated(self.describe_limits())),
            (b"quota", [domain]) => Ok(terminated(self.describe_usage(DomainId(decimal(domain)?)))),
            _ => Err(Error::UnknownCommand),
        }
    }

    /// What every domain has of the store, and what it was refused.
    pub fn accounts(&self) -> Vec<Account> {
        let mut accounts: Vec<_> =
            self.database.ledger.iter().map(|(domain, usage)| self.account(domain, usage)).collect();
        accounts.sort_by_key(|account| account.domain);
        accounts
    }

    fn account(&self, domain: DomainId, usage: Usage) -> Account {
        Account { domain, name: self.name_of(domain), usage, refused: self.refusals.of(domain) }
    }

    /// What any domain but dom0 may have.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// A domain's name, which only dom0 can have written.
    pub(super) fn name_of(&self, domain: DomainId) -> String {
        let name = self.database.tree().get(&Path::home(domain).child("name")).map(Node::value);
        name.map(|name| String::from_utf8_lossy(name).into_owned()).unwrap_or_default()
    }

    fn describe_limits(&self) -> String {
        let limits = &self.limits;
        [
            ("nodes", limits.nodes),
            ("node-size", limits.node_size),
            ("node-permissions", limits.permissions),
            ("path-depth", limits.path_depth),
            ("path-length", limits.path_length),
            ("watches", limits.watches),
            ("transactions", limits.transactions),
            ("transaction-nodes", limits.transaction_nodes),
            ("memory", limits.memory),
            ("outstanding", limits.replies),
            ("event-bytes", limits.event_bytes),
        ]
        .map(|(name, limit)| format!("{name:<18}{limit:>9}\n"))
        .concat()
    }

    fn describe_usage(&self, domain: DomainId) -> String {
        let Usage { nodes, watches, transactions, bytes } = self.usage(domain);
        [("nodes", nodes), ("watches", watches), ("transactions", transactions), ("memory", bytes)]
            .map(|(name, used)| format!("{name:<18}{used:>9}\n"))
            .concat()
    }
}
