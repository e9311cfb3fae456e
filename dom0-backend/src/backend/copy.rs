//! Copying between guests' pages and ours, as the back ends see it: so that they can be tested without a
//! hypervisor.

use pv_runtime::grant::{CopyBatch, CopyEnd, GrantError};

/// Copies that are made together.
pub trait GrantCopy {
    /// Adds a copy; neither side may reach beyond its page. Returns its index, from 0 on.
    fn push(&mut self, source: CopyEnd, destination: CopyEnd, length: u16) -> usize;
    /// Makes all copies that were added since the last time.
    fn submit(&mut self);
    /// How a copy went.
    ///
    /// # Errors
    ///
    /// Why it was refused.
    fn status(&self, index: usize) -> Result<(), GrantError>;
    /// Forgets all copies.
    fn clear(&mut self);
    /// How many copies there are.
    fn len(&self) -> usize;
    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl GrantCopy for CopyBatch {
    #[inline]
    fn push(&mut self, source: CopyEnd, destination: CopyEnd, length: u16) -> usize {
        Self::push(self, source, destination, length)
    }

    fn submit(&mut self) {
        Self::submit(self);
    }

    #[inline]
    fn status(&self, index: usize) -> Result<(), GrantError> {
        Self::status(self, index)
    }

    fn clear(&mut self) {
        Self::clear(self);
    }

    fn len(&self) -> usize {
        Self::len(self)
    }
}
