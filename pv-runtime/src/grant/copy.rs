#![expect(unsafe_code, reason = "has the hypervisor copy into this domain's pages")]
//! Copying by the hypervisor, between granted pages and pages of this domain.

use alloc::vec::Vec;

use hypercall_abi::grant_table::{
    GNTCOPY_DEST_GREF, GNTCOPY_SOURCE_GREF, GNTST_GENERAL_ERROR, GnttabCopy, GnttabCopyPtr,
};
use hypercall_abi::{DomainId, Errno, GrantReference, MachineFrame, PAGE_SIZE};

use super::GrantError;
use super::counters::{counted_op, note_bytes};
use crate::memory::{SharedMemory, machine_frame_of};

/// Where a copy starts or ends: a page and an offset in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyEnd {
    /// In a page that another domain granted.
    Granted {
        /// The domain that granted it.
        domain: DomainId,
        /// Its grant.
        reference: GrantReference,
        /// Bytes from the start of the page.
        offset: u16,
    },
    /// In a page of this domain. It must stay what it is until the copy is made: a page that becomes free
    /// meanwhile may be somebody else's when the bytes arrive.
    Own {
        /// The page's frame.
        frame: MachineFrame,
        /// Bytes from the start of the page.
        offset: u16,
    },
}

impl CopyEnd {
    /// The byte at `offset` of memory of this domain.
    ///
    /// # Errors
    ///
    /// `EINVAL` if the memory is not the domain's own, or does not reach that far.
    pub fn own(memory: &impl SharedMemory, offset: usize) -> Result<Self, Errno> {
        if offset >= memory.size() {
            return Err(Errno::EINVAL);
        }
        let frame = machine_frame_of(memory.virtual_address() + offset).ok_or(Errno::EINVAL)?;
        Ok(Self::Own { frame, offset: (offset % PAGE_SIZE) as u16 })
    }

    /// The end as the hypervisor takes it, and the flag if it is a grant.
    const fn encode(self, granted_flag: u16) -> (GnttabCopyPtr, u16) {
        match self {
            Self::Granted { domain, reference, offset } => {
                (GnttabCopyPtr::granted(domain, reference, offset), granted_flag)
            }
            Self::Own { frame, offset } => (GnttabCopyPtr::own(frame.0, offset), 0),
        }
    }
}

/// Copies to be made with one hypercall. The memory for them is kept from one batch to the next.
#[derive(Debug, Default)]
pub struct CopyBatch {
    operations: Vec<GnttabCopy>,
    submitted: usize,
    /// Bytes of the copies that were not submitted yet.
    bytes: u64,
}

impl CopyBatch {
    /// An empty batch.
    pub const fn new() -> Self {
        Self { operations: Vec::new(), submitted: 0, bytes: 0 }
    }

    /// Adds a copy of `length` bytes. Neither side may reach beyond its page. Returns its index.
    #[inline]
    pub fn push(&mut self, source: CopyEnd, destination: CopyEnd, length: u16) -> usize {
        self.bytes += u64::from(length);
        let (source, source_flag) = source.encode(GNTCOPY_SOURCE_GREF);
        let (dest, dest_flag) = destination.encode(GNTCOPY_DEST_GREF);
        self.operations.push(GnttabCopy {
            source,
            dest,
            len: length,
            flags: source_flag | dest_flag,
            // Stays if the hypervisor does not come to this copy.
            status: GNTST_GENERAL_ERROR,
            ..Default::default()
        });
        self.operations.len() - 1
    }

    /// How many copies the batch has.
    pub fn len(&self) -> usize {
        self.operations.len()
    }

    /// Whether the batch has none.
    pub fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }

    /// Makes all copies that were added since the last submission. Look at each one's [`status`](Self::status).
    pub fn submit(&mut self) {
        let new = &mut self.operations[self.submitted..];
        if new.is_empty() {
            return;
        }
        // SAFETY: only pages that the pushes named are written; whoever named them vouched for them.
        if let Err(errno) = unsafe { counted_op(new) } {
            log::error!("{} copies were not all made: {errno}", new.len());
        }
        note_bytes(core::mem::take(&mut self.bytes));
        self.submitted = self.operations.len();
    }

    /// How the copy `index` went.
    ///
    /// # Errors
    ///
    /// Why it was refused.
    ///
    /// # Panics
    ///
    /// If there is no such copy.
    #[inline]
    pub fn status(&self, index: usize) -> Result<(), GrantError> {
        GrantError::check(self.operations[index].status)
    }

    /// How each copy went, in order.
    pub fn statuses(&self) -> impl ExactSizeIterator<Item = Result<(), GrantError>> + '_ {
        self.operations.iter().map(|operation| GrantError::check(operation.status))
    }

    /// Forgets all copies.
    #[inline]
    pub fn clear(&mut self) {
        self.operations.clear();
        (self.submitted, self.bytes) = (0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::PageRun;

    #[test]
    fn ends_are_encoded_with_their_flags() {
        let mut batch = CopyBatch::new();
        let granted = CopyEnd::Granted { domain: DomainId(3), reference: GrantReference(9), offset: 16 };
        let own = CopyEnd::Own { frame: MachineFrame(0x77), offset: 0 };
        assert_eq!(batch.push(granted, own, 100), 0);
        assert_eq!(batch.push(own, granted, 4096), 1);
        let [first, second] = batch.operations[..] else { panic!("two copies") };
        assert_eq!((first.flags, second.flags), (GNTCOPY_SOURCE_GREF, GNTCOPY_DEST_GREF));
        assert_eq!((first.source.u, first.source.domid, first.source.offset), (9, DomainId(3), 16));
        assert_eq!((first.dest.u, first.dest.domid, first.len), (0x77, DomainId::SELF, 100));
    }

    #[test]
    fn a_copy_that_was_not_made_has_failed() {
        let mut batch = CopyBatch::new();
        let own = CopyEnd::Own { frame: MachineFrame(1), offset: 0 };
        batch.push(own, own, 1);
        batch.submit();
        assert!(batch.statuses().all(|status| status.is_err()));
        batch.clear();
        assert!(batch.is_empty());
    }

    #[test]
    fn own_memory_is_named_by_page_and_offset() {
        let run = PageRun::new(2).expect("the host has memory");
        let end = CopyEnd::own(&run, PAGE_SIZE + 5);
        assert_eq!(end, Ok(CopyEnd::Own { frame: run.machine_frame(1), offset: 5 }));
        assert_eq!(CopyEnd::own(&run, 2 * PAGE_SIZE), Err(Errno::EINVAL));
    }
}
