//! What is offered to a guest that is measured: a peer that sends it events, and one that counts between marks.
//!
//! Both are told to the guest in its part of the store:
//!
//! | node | meaning |
//! | --- | --- |
//! | `bench/port` | a port; each event to it is answered by one, after the guest has fallen asleep |
//! | `bench/reference` | a grant: the page in which the time stamp counter stands as it was just before that answer |
//! | `bench/marks` | a port; a first event begins a round, the next one ends it, and so on; each is answered |
//!
//! What the two marks themselves cost is in each round. It is always the same, so that a guest that passes two marks
//! and does nothing between them shows how much it is.

use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::time::Duration;

use hypercall_abi::{DomainId, Errno};
use pv_runtime::event_channel::EventChannel;
use pv_runtime::executor::{JoinHandle, sleep, spawn};
use pv_runtime::grant::{Grant, GrantAccess, grant_access};
use pv_runtime::hypercall::sched_block;
use pv_runtime::memory::{Page, SharedMemory};
use pv_runtime::time::time_stamp_counter;

use super::counts::Counts;
use super::subject::BenchError;
use crate::store_service::StoreService;
use crate::toolstack::control;

/// How long it takes at most until a guest that waits for an event is asleep.
const FALLING_ASLEEP: Duration = Duration::from_millis(1);

type Rounds = Rc<RefCell<Vec<Counts>>>;

/// The offer, for as long as this lives.
pub struct Service {
    store: Rc<StoreService>,
    directory: String,
    tasks: Vec<JoinHandle<()>>,
    rounds: Rounds,
    page: Rc<Page>,
    grant: Option<Grant>,
}

impl Service {
    /// Offers everything to a guest.
    ///
    /// # Errors
    ///
    /// What hypervisor or store say.
    pub fn start(store: &Rc<StoreService>, guest: DomainId) -> Result<Self, BenchError> {
        let page = Rc::new(Page::new()?);
        let grant = grant_access(guest, page.machine_frame(), GrantAccess::ReadOnly)?;
        let (port, marks) = (EventChannel::alloc_unbound(guest)?, EventChannel::alloc_unbound(guest)?);
        let directory = format!("/local/domain/{guest}/bench");
        let nodes = [("port", port.port().0), ("reference", grant.reference().0), ("marks", marks.port().0)];
        for (name, number) in nodes {
            store.with(|server| server.write(&format!("{directory}/{name}"), format!("{number}")))?;
        }
        let rounds = Rounds::default();
        let tasks = Vec::from([
            spawn(send_events(port, Rc::clone(&page))),
            spawn(note_failure(count(marks, Rc::clone(&rounds)))),
        ]);
        Ok(Self { store: Rc::clone(store), directory, tasks, rounds, page, grant: Some(grant) })
    }

    /// The rounds that were counted since the last time.
    pub fn take_rounds(&self) -> Vec<Counts> {
        self.rounds.take()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.tasks.drain(..).for_each(JoinHandle::cancel);
        // The whole directory may be gone with its guest.
        let _ = self.store.with(|server| server.remove(&self.directory));
        if let Some(grant) = self.grant.take() {
            let page = Rc::clone(&self.page);
            spawn(async move {
                grant.end_when_unused().await;
                drop(page);
            });
        }
    }
}

/// Answers each event with one, once the guest is asleep.
async fn send_events(channel: EventChannel, page: Rc<Page>) {
    loop {
        channel.wait().await;
        sleep(FALLING_ASLEEP).await;
        page.write(0, &time_stamp_counter());
        // Fails only if the guest closed its end, and then it misses nothing.
        let _ = channel.notify();
        // At once, rather than when no other task has anything to do: that is no part of what is measured.
        sched_block();
    }
}

/// Counts what happens between two marks.
async fn count(marks: EventChannel, rounds: Rounds) -> Result<(), Errno> {
    loop {
        marks.wait().await;
        control::reset_performance_counters()?;
        marks.notify()?;
        marks.wait().await;
        let counts = Counts::of(&control::performance_counters()?);
        rounds.borrow_mut().push(counts);
        marks.notify()?;
    }
}

async fn note_failure(work: impl Future<Output = Result<(), Errno>>) {
    if let Err(errno) = work.await {
        log::error!("nothing more is counted: {errno}");
    }
}
