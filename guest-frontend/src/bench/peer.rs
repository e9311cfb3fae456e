//! An event from another domain: from before it is sent to the first instruction of this domain's upcall.
//!
//! dom0 is the sender: its `bench` command puts a port and a granted page into this domain's part of the store. For
//! each round this domain says that it is ready and blocks; dom0 waits until it must be asleep, writes the counter into
//! the page, and sends.

use alloc::format;
use hypercall_abi::{DomainId, Errno, GrantReference, Port};
use pv_runtime::event_channel::EventChannel;
use pv_runtime::grant::{GrantAccess, map};
use pv_runtime::hypercall::sched_block;
use pv_runtime::memory::SharedMemory;
use pv_runtime::xenbus::Store;

use super::{ROUNDS, Table, upcall::TimedUpcalls};

/// Where dom0 says how to reach it, below this domain's own directory.
const DIRECTORY: &str = "bench";

/// Measures it, if dom0 offers to.
///
/// # Errors
/// What the hypervisor or the store says; `ENOENT` when dom0 does not offer.
pub async fn event_to_a_blocked_peer(table: &mut Table, store: &Store) -> Result<(), Errno> {
    let number = async |name: &str| {
        let text = store.read(&format!("{DIRECTORY}/{name}")).await.map_err(|_| Errno::ENOENT)?;
        text.parse::<u32>().map_err(|_| Errno::EINVAL)
    };
    let channel = EventChannel::bind_interdomain(DomainId::ZERO, Port(number("port").await?))?;
    let page = map(DomainId::ZERO, GrantReference(number("reference").await?), GrantAccess::ReadOnly);
    let page = page.map_err(|_| Errno::EINVAL)?;
    let timed = TimedUpcalls::start()?;
    let mut least = u64::MAX;
    for round in 0..ROUNDS {
        channel.take_pending();
        channel.notify()?;
        while !channel.take_pending() {
            sched_block();
        }
        if round > 0 {
            least = least.min(table.between(page.read::<u64>(0), timed.arrived()));
        }
    }
    table.add("event to a blocked peer, until its upcall", least);
    Ok(())
}
