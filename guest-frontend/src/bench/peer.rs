//! An event from another domain: from before it is sent to the first instruction of this domain's upcall.
//!
//! dom0 is the sender: its `bench` command puts a port and a granted page into this domain's part of the store. For
//! each round this domain says that it is ready and blocks; dom0 waits until it must be asleep, writes the counter into
//! the page, and sends.

use alloc::vec::Vec;

use hypercall_abi::{DomainId, Errno, GrantReference};
use pv_runtime::grant::{GrantAccess, map};
use pv_runtime::memory::SharedMemory;
use pv_runtime::xenbus::Store;

use super::{ROUNDS, Table, offer, upcall::TimedUpcalls};

/// Measures it, if dom0 offers to.
///
/// # Errors
/// What the hypervisor or the store says; `ENOENT` when dom0 does not offer.
pub async fn event_to_a_blocked_peer(table: &mut Table, store: &Store) -> Result<(), Errno> {
    let channel = offer::channel(store, "port").await?;
    let reference = GrantReference(offer::number(store, "reference").await?);
    let page = map(DomainId::ZERO, reference, GrantAccess::ReadOnly).map_err(|_| Errno::EINVAL)?;
    let timed = TimedUpcalls::start()?;
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        channel.notify()?;
        // Nothing else is going on, so the executor blocks at once and the event's upcall is the next one.
        channel.wait().await;
        rounds.push(table.between(page.read::<u64>(0), timed.arrived()));
    }
    table.add_least("event to a blocked peer, until its upcall", &rounds);
    Ok(())
}
