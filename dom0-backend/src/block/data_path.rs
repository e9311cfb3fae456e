//! How a guest's pages come within reach of a device.
//!
//! The usual way is a device-only map: the hypervisor pins the granted page and tells its address; nothing is
//! copied and no page table changes. If the guest promises to use the same grants again, they stay mapped
//! ([`KeptGrants`]). Where a hypervisor cannot do that, data goes through pages of our own and is copied by the
//! hypervisor.

use alloc::boxed::Box;
use alloc::vec::Vec;

use hypercall_abi::{DomainId, Errno, GrantReference, MachineFrame};
use pv_runtime::grant::{self, CopyBatch, CopyEnd, DeviceBatch, GrantAccess, GrantError, map_device};
use pv_runtime::memory::Page;

use super::device::Segment;
use super::kept::{Budget, KeptGrants};
use super::request::{GrantedSegment, Rejection, Request};
use crate::backend::{GrantCopy, GrantMap};

/// Pages that are kept for reuse when data is copied.
const POOL_MAX: usize = 256;
/// Grants of data that are kept mapped of one ring at most: 96 requests of 11 pages.
const KEPT_MAX: u16 = 1056;
/// Grants of tables that are kept mapped of one ring at most.
const TABLES_MAX: u16 = 64;

/// A way for data between guests and devices.
pub trait DataPath {
    /// What keeps a guest's page within reach.
    type Lease;
    /// Copies between guests' pages and ours.
    type Copy: GrantCopy;

    /// Finds the segments of all requests: [`Request::segments`] as the device is to be told them. A request
    /// whose pages are not all granted as it needs them fails, and must be passed to [`detach`](Self::detach)
    /// like the others.
    fn attach(&mut self, guest: DomainId, requests: &mut [Box<Request<Self::Lease>>]);

    /// Lets go of the pages of all requests, which the device must be done with. What was read is in the
    /// guest's pages afterwards, or the request has failed.
    fn detach(&mut self, guest: DomainId, requests: &mut [Box<Request<Self::Lease>>]);

    /// Reads the beginning of a granted page, if it is one that is kept within reach. Otherwise it is to be copied.
    fn read_kept(&mut self, guest: DomainId, reference: GrantReference, into: &mut [u8]) -> bool;

    /// For copying other things than data.
    fn copies(&mut self) -> &mut Self::Copy;
}

fn access_needed(is_written: bool) -> GrantAccess {
    if is_written { GrantAccess::ReadWrite } else { GrantAccess::ReadOnly }
}

/// Devices reach the guest's own pages.
#[derive(Debug)]
pub struct DirectPath<C = CopyBatch, B: GrantMap = DeviceBatch> {
    copies: C,
    pages: B,
    /// Whether the guest promised to use the same grants again.
    keeps: bool,
    kept: KeptGrants<B::Device>,
    tables: KeptGrants<B::Page>,
    /// Segments whose pages are not mapped yet: which request's, and which of its segments.
    missing: Vec<(usize, usize)>,
}

impl DirectPath {
    /// Whether the hypervisor can do this: tries it with a page of our own, granted to ourselves.
    ///
    /// # Errors
    ///
    /// If not even the trial can be made.
    pub fn is_possible(own: DomainId) -> Result<bool, Errno> {
        let page = Page::new()?;
        let grant = grant::grant_access(own, page.machine_frame(), GrantAccess::ReadWrite)?;
        let mapping = map_device(own, grant.reference(), GrantAccess::ReadWrite);
        Ok(match &mapping {
            Ok(mapping) => mapping.bus_address() == page.machine_frame().physical_address(),
            Err(error) => {
                log::debug!("no device-only maps: {error}");
                false
            }
        })
    }
}

impl<C, B: GrantMap> DirectPath<C, B> {
    /// A path that copies with `copies` and maps with `pages`. If the guest `keeps` to the same grants they stay
    /// mapped, as far as the `budget` allows.
    pub fn new(copies: C, pages: B, keeps: bool, budget: &Budget) -> Self {
        let (data, tables) = if keeps { (KEPT_MAX, TABLES_MAX) } else { (0, 0) };
        Self {
            copies,
            pages,
            keeps,
            kept: KeptGrants::new(data, budget.clone()),
            tables: KeptGrants::new(tables, budget.clone()),
            missing: Vec::new(),
        }
    }

    /// Enters the segments of a request. Those whose pages are not mapped are noted, and have no address yet.
    #[inline]
    fn enter_segments(&mut self, guest: DomainId, number: usize, request: &mut Request<B::Device>) {
        // What is kept may be used for anything later.
        let is_written = self.keeps || request.is_read();
        let Self { pages, kept, missing, .. } = self;
        request.segments.extend(request.grants.iter().enumerate().map(|(index, granted)| {
            let GrantedSegment { reference, offset, length } = *granted;
            let address = kept.find(reference).map(B::bus_address).unwrap_or_else(|| {
                pages.push(guest, reference, access_needed(is_written));
                missing.push((number, index));
                0
            });
            Segment { address: address + u64::from(offset), length: length.into() }
        }));
    }

    /// Maps what was noted, and keeps what there is room for.
    fn map_missing(&mut self, requests: &mut [Box<Request<B::Device>>]) {
        let Self { pages, kept, missing, .. } = self;
        kept.make_room(missing.len(), |mapping| pages.withdraw(mapping));
        pages.unmap();
        let mut results = pages.map();
        for (number, index) in missing.drain(..) {
            let request = &mut requests[number];
            match results.next().unwrap_or(Err(GrantError::Failed(Errno::EIO))) {
                Ok(mapping) => {
                    request.segments[index].address += B::bus_address(&mapping);
                    request.leases.extend(kept.keep(request.grants[index].reference, mapping).err());
                }
                Err(_) => request.fail(Rejection::NoGrant.status()),
            }
        }
    }
}

impl<C: GrantCopy, B: GrantMap> DataPath for DirectPath<C, B> {
    type Lease = B::Device;
    type Copy = C;

    fn attach(&mut self, guest: DomainId, requests: &mut [Box<Request<B::Device>>]) {
        let epoch = self.kept.begin(requests.len());
        for (number, request) in requests.iter_mut().enumerate() {
            request.epoch = Some(epoch);
            self.enter_segments(guest, number, request);
        }
        if !self.missing.is_empty() {
            self.map_missing(requests);
        }
    }

    fn detach(&mut self, _guest: DomainId, requests: &mut [Box<Request<B::Device>>]) {
        for request in requests {
            if let Some(epoch) = request.epoch.take() {
                self.kept.end(epoch);
            }
            while let Some(mapping) = request.leases.pop() {
                self.pages.withdraw(mapping);
            }
        }
        self.pages.unmap();
    }

    fn read_kept(&mut self, guest: DomainId, reference: GrantReference, into: &mut [u8]) -> bool {
        let Self { pages, tables, keeps, .. } = self;
        if !*keeps {
            return false;
        }
        tables.begin(0);
        if let Some(page) = tables.find(reference) {
            B::read_page(page, into);
            return true;
        }
        let Ok(page) = pages.map_page(guest, reference) else { return false };
        B::read_page(&page, into);
        tables.make_room(1, drop);
        // Without room it is unmapped again.
        drop(tables.keep(reference, page));
        true
    }

    fn copies(&mut self) -> &mut C {
        &mut self.copies
    }
}

impl<C, B: GrantMap> Drop for DirectPath<C, B> {
    /// Lets go of everything at once.
    fn drop(&mut self) {
        let Self { pages, kept, .. } = self;
        kept.give_up_all(|mapping| pages.withdraw(mapping));
        pages.unmap();
    }
}

/// Devices reach pages of ours, and the hypervisor copies.
#[derive(Debug, Default)]
pub struct CopyPath<C> {
    copies: C,
    pool: Vec<Page>,
}

impl<C: GrantCopy> CopyPath<C> {
    /// A path that copies with `copies`.
    pub fn new(copies: C) -> Self {
        Self { copies, pool: Vec::new() }
    }

    /// Lends a page to every segment; fails the request if there is none.
    fn lend_pages(&mut self, request: &mut Request<Page>) {
        for index in 0..request.grants.len() {
            let Some(page) = self.pool.pop().or_else(|| Page::new().ok()) else {
                return request.fail(Rejection::NoGrant.status());
            };
            let GrantedSegment { offset, length, .. } = request.grants[index];
            let address = page.machine_frame().physical_address() + u64::from(offset);
            request.segments.push(Segment { address, length: length.into() });
            request.leases.push(page);
        }
    }

    /// Copies all segments of those requests that are (not) reads, and fails those that cannot be copied.
    fn copy(&mut self, guest: DomainId, requests: &mut [Box<Request<Page>>], reads: bool) {
        let concerned = |request: &Request<Page>| request.is_read() == reads && request.status == 0;
        self.copies.clear();
        for request in requests.iter().filter(|request| concerned(request)) {
            for (segment, page) in request.grants.iter().zip(&request.leases) {
                let GrantedSegment { reference, offset, length } = *segment;
                let theirs = CopyEnd::Granted { domain: guest, reference, offset };
                let frame: MachineFrame = page.machine_frame();
                let ours = CopyEnd::Own { frame, offset };
                let (from, into) = if reads { (ours, theirs) } else { (theirs, ours) };
                self.copies.push(from, into, length);
            }
        }
        self.copies.submit();
        let mut index = 0;
        for request in requests.iter_mut().filter(|request| concerned(request)) {
            let copies = index..index + request.leases.len();
            index = copies.end;
            if copies.into_iter().any(|copy| self.copies.status(copy).is_err()) {
                request.fail(Rejection::NoGrant.status());
            }
        }
    }
}

impl<C: GrantCopy> DataPath for CopyPath<C> {
    type Lease = Page;
    type Copy = C;

    fn attach(&mut self, guest: DomainId, requests: &mut [Box<Request<Page>>]) {
        for request in &mut *requests {
            self.lend_pages(request);
        }
        self.copy(guest, requests, false);
    }

    fn detach(&mut self, guest: DomainId, requests: &mut [Box<Request<Page>>]) {
        self.copy(guest, requests, true);
        for request in requests {
            self.pool.append(&mut request.leases);
        }
        self.pool.truncate(POOL_MAX);
    }

    fn read_kept(&mut self, _guest: DomainId, _reference: GrantReference, _into: &mut [u8]) -> bool {
        false
    }

    fn copies(&mut self) -> &mut C {
        &mut self.copies
    }
}
