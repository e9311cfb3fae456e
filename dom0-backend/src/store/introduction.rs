//! Domains as the store knows them: how they come, shut down, go on and go away.
//!
//! When a domain goes, everything that its number stands for goes with it: its connection with watches and
//! transactions, the nodes it owns, and its rights to the nodes of others. The next domain with that number
//! starts with nothing.

use hypercall_abi::{DomainId, MachineFrame, Port};

use super::connection::{ConnectionId, Peer};
use super::database::{Edit, Workspace};
use super::error::Error;
use super::notice::Notice;
use super::operation;
use super::path::Path;
use super::permission::Permissions;
use super::server::{Action, Server};
use super::tree::{INTRODUCE_DOMAIN, RELEASE_DOMAIN};

impl Server {
    /// Takes up the connection to a domain whose store page is `frame` and whose event channel is `port`,
    /// and tells who watches `@introduceDomain`. A domain that is known already starts its connection anew.
    ///
    /// # Errors
    /// [`Error::NotADomain`].
    pub fn introduce(
        &mut self,
        domain: DomainId,
        frame: MachineFrame,
        port: Port,
    ) -> Result<ConnectionId, Error> {
        if domain == DomainId::ZERO || !domain.is_ordinary() {
            return Err(Error::NotADomain);
        }
        let known = self.clients.domain(domain).map(|domain| domain.connection);
        let connection = known.unwrap_or_else(|| self.clients.connect(Peer::Ring(domain)));
        self.actions.push_back(Action::Attach { connection, domain, frame, port });
        match known {
            Some(connection) => self.reset(connection),
            None => self.announce_special(INTRODUCE_DOMAIN),
        }
        Ok(connection)
    }

    /// Forgets a domain and all that is its own, and tells who watches `@releaseDomain`.
    ///
    /// # Errors
    /// [`Error::NotFound`] if the domain was not introduced.
    pub fn release(&mut self, domain: DomainId) -> Result<(), Error> {
        let connection = self.clients.domain(domain).ok_or(Error::NotFound)?.connection;
        self.drop_state(connection);
        self.clients.disconnect(connection);
        self.give_up_holdings(domain);
        self.refusals.forget(domain);
        self.actions.push_back(Action::Detach { connection, domain });
        self.announce_special(RELEASE_DOMAIN);
        Ok(())
    }

    /// The domain has shut down or crashed. Who watches `@releaseDomain` is told, once until the domain
    /// resumes.
    ///
    /// # Errors
    /// [`Error::NotFound`] if the domain was not introduced.
    pub fn shut_down(&mut self, domain: DomainId) -> Result<(), Error> {
        let known = self.clients.domain_mut(domain).ok_or(Error::NotFound)?;
        if !core::mem::replace(&mut known.shut_down, true) {
            self.announce_special(RELEASE_DOMAIN);
        }
        Ok(())
    }

    /// The domain runs again after it had shut down.
    ///
    /// # Errors
    /// [`Error::NotFound`] if the domain was not introduced.
    pub fn resume(&mut self, domain: DomainId) -> Result<(), Error> {
        self.clients.domain_mut(domain).ok_or(Error::NotFound)?.shut_down = false;
        Ok(())
    }

    /// Gives `domain` all rights that `target` has, until either is gone.
    ///
    /// # Errors
    /// [`Error::NotFound`] if one of them was not introduced.
    pub fn set_target(&mut self, domain: DomainId, target: DomainId) -> Result<(), Error> {
        let target = self.clients.domain(target).ok_or(Error::NotFound)?.connection;
        self.clients.domain_mut(domain).ok_or(Error::NotFound)?.target = Some(target);
        Ok(())
    }

    /// Whether the store talks to the domain. To dom0 it always does.
    pub fn is_introduced(&self, domain: DomainId) -> bool {
        matches!(domain, DomainId::ZERO | DomainId::SELF) || self.clients.domain(domain).is_some()
    }

    /// The connection of an introduced domain.
    pub fn connection_of(&self, domain: DomainId) -> Option<ConnectionId> {
        self.clients.domain(domain).map(|domain| domain.connection)
    }

    /// Removes the nodes that a domain owns and its rights to others. The nodes that cannot be removed become
    /// dom0's.
    fn give_up_holdings(&mut self, domain: DomainId) {
        while let Some(path) = self.database.holding_of(domain) {
            let Some(node) = self.database.tree().get(&path) else { return };
            let permissions = node.permissions().clone();
            if permissions.owner() != domain {
                self.database.set_permissions(&path, permissions.without(domain));
            } else if path.depth() == 0 {
                self.database.set_permissions(&path, Permissions::private(DomainId::ZERO));
            } else if operation::remove_subtree(&mut self.database, &path).is_err() {
                return;
            }
        }
    }

    fn announce_special(&mut self, name: &str) {
        let path = Path::special(name);
        if let Some(node) = self.database.tree().get(&path) {
            let permissions = node.permissions().clone();
            self.database.announce(Notice::changed(&path, &permissions, &permissions));
        }
        self.settle();
    }
}
