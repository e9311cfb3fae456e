//! A ring in a granted page on which anything can be written.

use core::mem::offset_of;

use hypercall_abi::io::ring::{SRING_HEADER_SIZE, SringHeader, XEN_PAGE_SIZE, ring_size};
use hypercall_abi::{DomainId, GrantReference};
use pv_runtime::grant::{Grant, GrantAccess, grant_access};
use pv_runtime::memory::{Page, SharedMemory};
use zerocopy::{Immutable, IntoBytes};

use crate::during;

/// A ring of one page.
pub struct Ring {
    page: Page,
    grant: Grant,
    slot_size: usize,
}

impl Ring {
    /// An empty ring that a domain may use.
    pub fn new(peer: DomainId, slot_size: usize) -> Result<Self, alloc::string::String> {
        let page = during("a page for the ring", Page::new())?;
        page.write(0, &SringHeader::INITIAL);
        let grant = during("a grant", grant_access(peer, page.machine_frame(), GrantAccess::ReadWrite))?;
        Ok(Self { page, grant, slot_size })
    }

    /// The reference to publish.
    pub fn reference(&self) -> GrantReference {
        self.grant.reference()
    }

    /// How many requests it holds.
    pub fn slots(&self) -> u32 {
        ring_size(XEN_PAGE_SIZE, self.slot_size)
    }

    /// Writes a request into the slot of an index.
    pub fn put(&self, index: u32, request: &(impl IntoBytes + Immutable)) {
        let slot = (index % self.slots()) as usize;
        self.page.write(SRING_HEADER_SIZE + slot * self.slot_size, request);
    }

    /// Says that requests up to an index are there, true or not.
    pub fn publish(&self, producer: u32) {
        self.page.write(offset_of!(SringHeader, req_prod), &producer);
    }

    /// The index up to which the back end has answered; asks to be told of the next answer.
    pub fn answered(&self) -> u32 {
        let answered: u32 = self.page.read(offset_of!(SringHeader, rsp_prod));
        self.page.write(offset_of!(SringHeader, rsp_event), &answered.wrapping_add(1));
        self.page.read(offset_of!(SringHeader, rsp_prod))
    }

    /// The bytes of the answer at an index.
    pub fn answer<const N: usize>(&self, index: u32) -> [u8; N] {
        let slot = (index % self.slots()) as usize;
        let mut bytes = [0; N];
        self.page.copy_out(SRING_HEADER_SIZE + slot * self.slot_size, &mut bytes);
        bytes
    }
}
