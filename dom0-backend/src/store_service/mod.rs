//! The store at work: the logic of [`crate::store`] connected to guests' rings and to this domain's own clients.
//!
//! Whoever changes something in the store *settles* it afterwards: what the store wants done outside is done,
//! and every client that has something waiting is told. Clients within dom0 get whole packets through a queue;
//! a guest's ring has a task of its own, which moves bytes both ways and gives way to others after each turn.
//!
//! ```text
//!   back ends, toolstack ── Store ── LocalTransport ──┐
//!   toolstack, admin ─────────────── with(|server|) ──┼── Server ── settle ──► tasks, queues
//!   guest ══ ring ══ guest's task ────────────────────┘
//! ```

mod guest;
mod local;

use alloc::rc::Rc;
use core::cell::RefCell;

use hashbrown::HashMap;
use hypercall_abi::{DomainId, Port};
use pv_runtime::executor::{JoinHandle, Notify, spawn};
use pv_runtime::xenbus::Store;

use crate::store::{Action, ConnectionId, Limits, Server};
use guest::GuestRing;
use local::{LocalTransport, PacketQueue};

/// The other end of a connection, as the service reaches it.
enum Client {
    /// In this domain: packets are put into its queue.
    Local(Rc<PacketQueue>),
    /// A guest: its task is woken.
    Guest {
        /// Rung when the store has something for it.
        wake: Rc<Notify>,
        /// Moves the bytes; `None` if its ring could not be had.
        task: JoinHandle<()>,
    },
}

/// The store and its clients.
pub struct StoreService {
    server: RefCell<Server>,
    clients: RefCell<HashMap<ConnectionId, Client>>,
}

impl StoreService {
    /// A store with nothing in it and nobody connected.
    pub fn new() -> Rc<Self> {
        Rc::new(Self { server: RefCell::new(Server::new(Limits::default())), clients: RefCell::default() })
    }

    /// A connection for a part of this domain.
    pub fn connect(self: &Rc<Self>) -> Store {
        let connection = self.server.borrow_mut().connect();
        let queue = Rc::<PacketQueue>::default();
        self.clients.borrow_mut().insert(connection, Client::Local(Rc::clone(&queue)));
        Store::connect(LocalTransport::new(Rc::clone(self), connection, queue))
    }

    /// Lets `work` at the store, and settles what it changed.
    pub fn with<R>(self: &Rc<Self>, work: impl FnOnce(&mut Server) -> R) -> R {
        let result = work(&mut self.server.borrow_mut());
        self.settle();
        result
    }

    /// Does what the store wants done, and hands out what it has for its clients.
    fn settle(self: &Rc<Self>) {
        while let Some(action) = self.next_action() {
            match action {
                Action::Attach { connection, domain, port, .. } => self.attach(connection, domain, port),
                Action::Detach { connection, .. } => self.detach(connection),
            }
        }
        while let Some(connection) = self.next_ready() {
            self.hand_out(connection);
        }
    }

    fn next_action(&self) -> Option<Action> {
        self.server.borrow_mut().next_action()
    }

    fn next_ready(&self) -> Option<ConnectionId> {
        self.server.borrow_mut().next_ready()
    }

    fn hand_out(&self, connection: ConnectionId) {
        match self.clients.borrow().get(&connection) {
            Some(Client::Local(queue)) => local::fetch(&mut self.server.borrow_mut(), connection, queue),
            Some(Client::Guest { wake, .. }) => wake.ring(),
            None => {}
        }
    }

    /// Takes up the ring of a guest. The frame that the store was told is not looked at: this domain has no right
    /// to a guest's frames but the grant that its builder entered.
    fn attach(self: &Rc<Self>, connection: ConnectionId, domain: DomainId, port: Port) {
        self.detach(connection);
        match GuestRing::open(domain, port) {
            Ok(ring) => {
                let wake = Rc::<Notify>::default();
                let task = spawn(ring.serve(Rc::downgrade(self), connection, Rc::clone(&wake)));
                self.clients.borrow_mut().insert(connection, Client::Guest { wake, task });
            }
            Err(error) => {
                log::error!("store: domain {domain}: {error}");
                // Known to the store a moment ago. The release asks for a detach, which finds nothing.
                let _ = self.server.borrow_mut().release(domain);
            }
        }
    }

    /// Gives a guest's ring up.
    fn detach(&self, connection: ConnectionId) {
        let gone = self.clients.borrow_mut().remove(&connection);
        if let Some(Client::Guest { task, .. }) = gone {
            task.cancel();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;
    use alloc::string::String;
    use alloc::vec::Vec;
    use pv_runtime::executor::{testing, yield_now};
    use pv_runtime::xenbus::StoreError;

    #[test]
    fn two_clients_of_this_domain_see_each_others_changes() {
        testing::run(async {
            let service = StoreService::new();
            let (one, two) = (service.connect(), service.connect());
            let watch = one.watch("/shared").await.unwrap();
            assert_eq!(watch.next().await, "/shared");
            two.write("/shared/a", "1").await.unwrap();
            assert_eq!(watch.next().await, "/shared/a");
            assert_eq!(one.read("/shared/a").await.unwrap(), "1");
            assert!(one.read("/shared/b").await.unwrap_err().is_not_found());
        });
    }

    #[test]
    fn changes_from_within_are_told_too() {
        testing::run(async {
            let service = StoreService::new();
            let store = service.connect();
            let watch = store.watch("/x").await.unwrap();
            watch.next().await;
            service.with(|server| server.write("/x/y", "now")).unwrap();
            assert_eq!(watch.next().await, "/x/y");
        });
    }

    #[test]
    fn many_requests_at_once_are_all_answered() {
        testing::run(async {
            let service = StoreService::new();
            let store = service.connect();
            let writes: Vec<_> = (0..200)
                .map(|number| {
                    let store = store.clone();
                    spawn(async move { store.write(&format!("/n/{number}"), "v").await })
                })
                .collect();
            for write in writes {
                write.join().await.unwrap();
            }
            assert_eq!(store.directory("/n").await.unwrap().len(), 200);
            service.with(|server| server.audit()).unwrap();
        });
    }

    #[test]
    fn transactions_conflict_and_are_tried_again() {
        testing::run(async {
            let service = StoreService::new();
            let store = service.connect();
            store.write("/count", "0").await.unwrap();
            let add = |store: Store| async move {
                store
                    .transaction(async |transaction| {
                        let count: u32 = transaction.read("/count").await?.parse().unwrap();
                        yield_now().await;
                        transaction.write("/count", format!("{}", count + 1)).await
                    })
                    .await
            };
            let tasks: Vec<_> = (0..5).map(|_| spawn(add(service.connect()))).collect();
            for task in tasks {
                task.join().await.unwrap();
            }
            assert_eq!(store.read("/count").await.unwrap(), "5");
        });
    }

    #[test]
    fn a_guest_whose_ring_cannot_be_had_is_not_introduced() {
        testing::run(async {
            let service = StoreService::new();
            let guest = DomainId(3);
            service.with(|server| server.introduce(guest, hypercall_abi::MachineFrame(1), Port(1))).unwrap();
            assert!(!service.with(|server| server.is_introduced(guest)), "no hypercalls on a host");
        });
    }

    #[test]
    fn long_lists_come_in_parts() {
        testing::run(async {
            let service = StoreService::new();
            let store = service.connect();
            let names: Vec<String> = (0..500).map(|number| format!("name-{number:04}")).collect();
            service
                .with(|server| names.iter().try_for_each(|name| server.write(&format!("/l/{name}"), "")))
                .unwrap();
            assert_eq!(store.directory("/l").await, Ok(names));
            assert!(matches!(store.read("relative//bad").await, Err(StoreError::Refused(_))));
        });
    }
}
