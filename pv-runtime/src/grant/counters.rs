#![expect(unsafe_code, reason = "passes operations on to the hypervisor")]
//! What this kernel had the hypervisor do with grants: counted at the one door to the hypercall, once for each batch, so
//! that a difference of two readings says what something cost in between.

use core::cell::Cell;

use hypercall_abi::Errno;
use hypercall_abi::grant_table::{GNTTABOP_COPY, GNTTABOP_MAP_GRANT_REF, GNTTABOP_UNMAP_GRANT_REF};

use crate::hypercall::{GrantTableOperation, grant_table_op};
use crate::kernel_local;
use crate::time::time_stamp_counter;

kernel_local! {
    static COUNTERS: Cell<GrantCounters> = Cell::new(GrantCounters::NONE);
}

/// What was asked of the hypervisor since start-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GrantCounters {
    /// Hypercalls.
    pub calls: u64,
    /// Pages to be mapped, or made known to devices.
    pub maps: u64,
    /// Pages to be unmapped, or withdrawn from devices.
    pub unmaps: u64,
    /// Copies.
    pub copies: u64,
    /// Bytes to be copied.
    pub bytes_copied: u64,
    /// Ticks of the time stamp counter that the hypercalls took.
    pub ticks: u64,
}

impl GrantCounters {
    const NONE: Self = Self { calls: 0, maps: 0, unmaps: 0, copies: 0, bytes_copied: 0, ticks: 0 };

    /// Counts a batch of operations of a command.
    #[inline]
    fn note(&mut self, command: u32, operations: u64, ticks: u64) {
        self.calls += 1;
        self.ticks = self.ticks.wrapping_add(ticks);
        match command {
            GNTTABOP_MAP_GRANT_REF => self.maps += operations,
            GNTTABOP_UNMAP_GRANT_REF => self.unmaps += operations,
            GNTTABOP_COPY => self.copies += operations,
            _ => {}
        }
    }
}

/// The counters' present values.
#[inline]
pub fn grant_counters() -> GrantCounters {
    COUNTERS.with(Cell::get)
}

/// [`grant_table_op`], counted.
///
/// # Safety
///
/// As for [`grant_table_op`].
#[inline]
pub(super) unsafe fn counted_op<O: GrantTableOperation>(operations: &mut [O]) -> Result<(), Errno> {
    let start = time_stamp_counter();
    // SAFETY: the caller's promise.
    let outcome = unsafe { grant_table_op(operations) };
    let ticks = time_stamp_counter().wrapping_sub(start);
    change(|counters| counters.note(O::COMMAND, operations.len() as u64, ticks));
    outcome
}

/// Counts bytes that were to be copied.
#[inline]
pub(super) fn note_bytes(bytes: u64) {
    change(|counters| counters.bytes_copied += bytes);
}

#[inline]
fn change(change: impl FnOnce(&mut GrantCounters)) {
    COUNTERS.with(|cell| {
        let mut counters = cell.get();
        change(&mut counters);
        cell.set(counters);
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grant::{CopyBatch, CopyEnd, DeviceBatch, GrantAccess};
    use hypercall_abi::{DomainId, GrantReference, MachineFrame};

    #[test]
    fn batches_are_counted_once_and_operations_one_by_one() {
        let before = grant_counters();
        let mut batch = CopyBatch::new();
        let own = CopyEnd::Own { frame: MachineFrame(1), offset: 0 };
        for length in [100, 28] {
            batch.push(own, own, length);
        }
        batch.submit();
        batch.submit();
        let mut pages = DeviceBatch::new();
        for reference in 8..11 {
            pages.push(DomainId(3), GrantReference(reference), GrantAccess::ReadOnly);
        }
        drop(pages.map());
        let after = grant_counters();
        assert_eq!((after.calls - before.calls, after.copies - before.copies), (2, 2));
        assert_eq!((after.bytes_copied - before.bytes_copied, after.maps - before.maps), (128, 3));
        assert_eq!(after.unmaps, before.unmaps, "nothing was mapped where there is no hypervisor");
    }
}
