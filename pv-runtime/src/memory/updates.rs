#![expect(unsafe_code, reason = "page-table updates by hypercall")]
//! Page-table updates, gathered so that one hypercall makes many.

use hypercall_abi::xen::{MMU_NORMAL_PT_UPDATE, MmuUpdate};
use hypercall_abi::{DomainId, Errno};

use crate::hypercall;

/// Updates made with one hypercall. At this number the entry to the hypervisor no longer matters.
const BATCH: usize = 128;

/// Updates not yet made. [`finish`](Self::finish) makes the rest of them.
pub(super) struct UpdateBatch {
    frames_of: DomainId,
    updates: [MmuUpdate; BATCH],
    length: usize,
}

impl UpdateBatch {
    /// An empty batch; its entries will map frames of `frames_of`.
    pub(super) const fn new(frames_of: DomainId) -> Self {
        Self { frames_of, updates: [MmuUpdate { ptr: 0, val: 0 }; BATCH], length: 0 }
    }

    /// Adds the update of the entry at a machine address, and makes the updates if the batch is full.
    ///
    /// # Safety
    ///
    /// As for [`hypercall::mmu_update`], at any time until the batch is finished.
    pub(super) unsafe fn push(&mut self, entry_address: u64, entry: u64) -> Result<(), Errno> {
        self.updates[self.length] = MmuUpdate { ptr: entry_address | MMU_NORMAL_PT_UPDATE, val: entry };
        self.length += 1;
        if self.length == BATCH { self.flush() } else { Ok(()) }
    }

    /// Makes what is left.
    pub(super) fn finish(mut self) -> Result<(), Errno> {
        if self.length == 0 { Ok(()) } else { self.flush() }
    }

    fn flush(&mut self) -> Result<(), Errno> {
        let updates = &self.updates[..self.length];
        self.length = 0;
        // SAFETY: whoever pushed the updates vouched for them.
        unsafe { hypercall::mmu_update(updates, self.frames_of) }.map(drop)
    }
}
