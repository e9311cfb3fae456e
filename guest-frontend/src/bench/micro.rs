//! The figures of the hypervisor itself: hypercalls, events, memory.

use alloc::vec::Vec;

use hypercall_abi::{DomainId, Errno};
use pv_runtime::event_channel::EventChannel;
use pv_runtime::executor::yield_now;
use pv_runtime::hypercall::{sched_block, xen_version};
use pv_runtime::time::time_stamp_counter;
use pv_runtime::xenbus::Store;

use super::{ROUNDS, Table, memory, peer, upcall::TimedUpcalls};

/// Measures everything and prints a table.
///
/// # Errors
/// What the hypervisor says where it refuses what a guest may do.
pub async fn micro(store: Option<&Store>) -> Result<(), Errno> {
    let mut table = Table::new();
    let mut result = Ok(());
    table.measure("null hypercall (xen_version)", || result = xen_version().map(|_| ()));
    result?;
    events(&mut table).await?;
    memory::mappings(&mut table)?;
    memory::pinning(&mut table)?;
    memory::grants(&mut table)?;
    if let Some(store) = store {
        match peer::event_to_a_blocked_peer(&mut table, store).await {
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(errno) => return Err(errno),
        }
    }
    table.print();
    Ok(())
}

async fn events(table: &mut Table) -> Result<(), Errno> {
    let receiver = EventChannel::alloc_unbound(DomainId::SELF)?;
    let sender = EventChannel::bind_interdomain(DomainId::SELF, receiver.port())?;
    let mut result = Ok(());
    table.measure("send an event that is pending already", || result = sender.notify());
    result?;
    let timed = TimedUpcalls::start()?;
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        // Takes what is pending, so that the next event is a new one.
        yield_now().await;
        let start = time_stamp_counter();
        sender.notify()?;
        // The runtime runs with upcalls masked; blocking unmasks them, and the event that is there ends it at once.
        sched_block();
        rounds.push(table.between(start, timed.arrived()));
    }
    table.add_least("event to self, send and block until the upcall", &rounds);
    yield_now().await;
    Ok(())
}
