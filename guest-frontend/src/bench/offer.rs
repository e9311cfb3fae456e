//! What dom0 offers a guest that is to be measured, in the guest's part of the store.

use alloc::format;

use hypercall_abi::{DomainId, Errno, Port};
use pv_runtime::event_channel::EventChannel;
use pv_runtime::xenbus::Store;

/// Where dom0 says how to reach it, below this domain's own directory.
const DIRECTORY: &str = "bench";

/// A number that dom0 put there.
///
/// # Errors
///
/// `ENOENT` when dom0 does not offer this.
pub(super) async fn number(store: &Store, name: &str) -> Result<u32, Errno> {
    let text = store.read(&format!("{DIRECTORY}/{name}")).await.map_err(|_| Errno::ENOENT)?;
    text.parse().map_err(|_| Errno::EINVAL)
}

/// Connects to a port that dom0 holds out.
///
/// # Errors
///
/// As for [`number`], and what the hypervisor says.
pub(super) async fn channel(store: &Store, name: &str) -> Result<EventChannel, Errno> {
    let channel = EventChannel::bind_interdomain(DomainId::ZERO, Port(number(store, name).await?))?;
    // The event that comes with a new connection means nothing.
    channel.take_pending();
    Ok(channel)
}
