//! How a guest's pages come within reach of a device.
//!
//! The usual way is a device-only map: the hypervisor pins the granted page and tells its address; nothing is
//! copied and no page table changes. Where a hypervisor cannot do that, data goes through pages of our own and
//! is copied by the hypervisor.

use alloc::boxed::Box;
use alloc::vec::Vec;

use hypercall_abi::{DomainId, Errno, MachineFrame};
use pv_runtime::grant::{
    self, CopyBatch, CopyEnd, DeviceBatch, DeviceMapping, GrantAccess, GrantError, map_device,
};
use pv_runtime::memory::Page;

use super::device::Segment;
use super::request::{GrantedSegment, Rejection, Request};
use crate::backend::GrantCopy;

/// Pages that are kept for reuse when data is copied.
const POOL_MAX: usize = 256;

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

    /// For copying other things than data.
    fn copies(&mut self) -> &mut Self::Copy;
}

fn access_needed<L>(request: &Request<L>) -> GrantAccess {
    if request.is_read() { GrantAccess::ReadWrite } else { GrantAccess::ReadOnly }
}

/// Devices reach the guest's own pages.
#[derive(Debug, Default)]
pub struct DirectPath {
    copies: CopyBatch,
    pages: DeviceBatch,
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

impl DataPath for DirectPath {
    type Lease = DeviceMapping;
    type Copy = CopyBatch;

    fn attach(&mut self, guest: DomainId, requests: &mut [Box<Request<DeviceMapping>>]) {
        for request in &*requests {
            let access = access_needed(request);
            for segment in &request.grants {
                self.pages.push(guest, segment.reference, access);
            }
        }
        let mut results = self.pages.map();
        for request in requests {
            for index in 0..request.grants.len() {
                let result = results.next().unwrap_or(Err(GrantError::Failed(Errno::EIO)));
                take_mapping(request, index, result);
            }
        }
    }

    fn detach(&mut self, _guest: DomainId, requests: &mut [Box<Request<DeviceMapping>>]) {
        for request in requests {
            while let Some(mapping) = request.leases.pop() {
                self.pages.withdraw(mapping);
            }
        }
        self.pages.unmap();
    }

    fn copies(&mut self) -> &mut CopyBatch {
        &mut self.copies
    }
}

#[inline]
fn take_mapping(
    request: &mut Request<DeviceMapping>,
    index: usize,
    result: Result<DeviceMapping, GrantError>,
) {
    let GrantedSegment { offset, length, .. } = request.grants[index];
    match result {
        Ok(mapping) => {
            let address = mapping.bus_address() + u64::from(offset);
            request.segments.push(Segment { address, length: length.into() });
            request.leases.push(mapping);
        }
        Err(_) => request.fail(Rejection::NoGrant.status()),
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

    fn copies(&mut self) -> &mut C {
        &mut self.copies
    }
}
