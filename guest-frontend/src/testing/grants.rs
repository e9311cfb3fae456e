#![expect(unsafe_code, reason = "a fake back end reaches pages by frame number, as a real one does")]
//! A grant table and a back end's view of it, for tests on a host.
//!
//! On a host a page's machine frame is its address divided by the page size, so whoever knows the frame can get
//! at the page. [`FakeGrants`] stands for the hypervisor: it lets the back end at a page only through a grant
//! that allows it, and can pretend that the back end has hold of one.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ptr;
use std::rc::Rc;
use std::slice;
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};

use hypercall_abi::{DomainId, Errno, GrantReference, MachineFrame, PAGE_SIZE};

use crate::buffer::{BackEndMay, Grant, GrantTable};

#[derive(Clone, Copy)]
struct Entry {
    frame: MachineFrame,
    access: BackEndMay,
    held: bool,
}

#[derive(Default)]
struct Table {
    entries: HashMap<u32, Entry>,
    next: u32,
    most: Option<usize>,
}

/// A grant table that front end and fake back end share.
#[derive(Clone)]
pub(crate) struct FakeGrants {
    table: Rc<RefCell<Table>>,
    peer: DomainId,
}

impl Default for FakeGrants {
    /// A table for a back end in a domain of its own.
    fn default() -> Self {
        static NEXT_PEER: AtomicU16 = AtomicU16::new(1);
        Self { table: Rc::default(), peer: DomainId(NEXT_PEER.fetch_add(1, Ordering::Relaxed)) }
    }
}

/// A grant from a [`FakeGrants`].
pub(crate) struct FakeGrant {
    table: FakeGrants,
    reference: u32,
}

impl GrantTable for FakeGrants {
    type Grant = FakeGrant;

    fn peer(&self) -> DomainId {
        self.peer
    }

    fn grant(&self, frame: MachineFrame, access: BackEndMay) -> Result<FakeGrant, Errno> {
        let mut table = self.table.borrow_mut();
        if table.most.is_some_and(|most| table.entries.len() >= most) {
            return Err(Errno::ENOSPC);
        }
        let reference = table.next + 8;
        table.next += 1;
        table.entries.insert(reference, Entry { frame, access, held: false });
        Ok(FakeGrant { table: self.clone(), reference })
    }
}

impl Grant for FakeGrant {
    fn reference(&self) -> GrantReference {
        GrantReference(self.reference)
    }

    fn end(self) -> Result<(), Self> {
        if self.table.table.borrow().entries[&self.reference].held {
            return Err(self);
        }
        self.table.table.borrow_mut().entries.remove(&self.reference);
        Ok(())
    }
}

impl FakeGrants {
    /// Lets the table hold no more than `most` grants.
    pub(crate) fn limit(&self, most: usize) {
        self.table.borrow_mut().most = Some(most);
    }

    /// How many grants there are.
    pub(crate) fn count(&self) -> usize {
        self.table.borrow().entries.len()
    }

    /// As the back end: keeps hold of a page, or lets go.
    pub(crate) fn hold(&self, reference: GrantReference, held: bool) {
        self.table.borrow_mut().entries.get_mut(&reference.0).expect("no such grant").held = held;
    }

    /// As the back end: copies out of a granted page.
    pub(crate) fn read(&self, reference: GrantReference, offset: usize, length: usize) -> Vec<u8> {
        assert!(offset + length <= PAGE_SIZE);
        let mut bytes = vec![0; length];
        // SAFETY: the bytes lie in a page that is shared at present, so the front end has no slice of it; one
        // thread runs both ends.
        unsafe { ptr::copy_nonoverlapping(self.page(reference).add(offset), bytes.as_mut_ptr(), length) };
        bytes
    }

    /// As the back end: copies into a granted page.
    pub(crate) fn write(&self, reference: GrantReference, offset: usize, bytes: &[u8]) {
        assert!(offset + bytes.len() <= PAGE_SIZE);
        assert_eq!(self.entry(reference).access, BackEndMay::Write, "the grant is read-only");
        // SAFETY: as for `read`.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), self.page(reference).add(offset), bytes.len()) };
    }

    fn entry(&self, reference: GrantReference) -> Entry {
        *self.table.borrow().entries.get(&reference.0).expect("the back end uses a grant that does not exist")
    }

    /// The address of the page behind a grant.
    fn page(&self, reference: GrantReference) -> *mut u8 {
        (self.entry(reference).frame.0 as usize * PAGE_SIZE) as *mut u8
    }

    /// As the back end: the ring page behind a grant, to attach the other half to.
    pub(crate) fn ring_words(&self, reference: GrantReference) -> &'static [AtomicU32] {
        // SAFETY: atomics may be shared, and no test uses the words after it has dropped the front half.
        unsafe { slice::from_raw_parts(self.page(reference).cast(), PAGE_SIZE / size_of::<AtomicU32>()) }
    }
}
