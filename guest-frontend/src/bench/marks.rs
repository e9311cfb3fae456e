//! Marks in time: dom0 counts what everybody does between two of them.
//!
//! A guest cannot see what its requests cost others. So it tells dom0 where a round begins and where it ends, and goes
//! on when dom0 has answered: dom0 sets the hypervisor's counters to zero at the first, and reads them at the second.

use hypercall_abi::Errno;
use pv_runtime::event_channel::EventChannel;
use pv_runtime::xenbus::Store;

use super::offer;

/// The connection to who counts.
pub(super) struct Marks(EventChannel);

impl Marks {
    /// Connects to dom0, which must have offered to count.
    ///
    /// # Errors
    ///
    /// `ENOENT` if it has not.
    pub(super) async fn connect(store: Option<&Store>) -> Result<Self, Errno> {
        let store = store.ok_or(Errno::ENOENT)?;
        Ok(Self(offer::channel(store, "marks").await?))
    }

    /// Begins or ends a round.
    ///
    /// # Errors
    ///
    /// What the hypervisor says.
    pub(super) async fn pass(&self) -> Result<(), Errno> {
        self.0.notify()?;
        self.0.wait().await;
        Ok(())
    }
}
