//! Guests for tests: pages that they granted, and a hypervisor that copies.
//!
//! On a host a page's machine frame is its address, so any page can be found by its frame.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

use hashbrown::HashMap;
use hypercall_abi::grant_table::{GNTST_BAD_COPY_ARG, GNTST_BAD_GNTREF, GNTST_GENERAL_ERROR};
use hypercall_abi::{DomainId, GrantReference, MachineFrame, PAGE_SIZE};
use pv_runtime::grant::{CopyEnd, GrantAccess, GrantError};
use pv_runtime::memory::{BuilderPage, Page, SharedMemory};

use super::copy::GrantCopy;
use super::maps::GrantMap;

/// What all guests granted.
#[derive(Default)]
pub struct FakeHypervisor {
    grants: RefCell<HashMap<(DomainId, GrantReference), (MachineFrame, GrantAccess)>>,
    next: Cell<u32>,
    /// Hypercalls that copied.
    pub copy_calls: Cell<usize>,
    /// Copies made.
    pub copies: Cell<usize>,
    /// Hypercalls that map for devices, or unmap.
    pub map_calls: Cell<usize>,
    /// Grants that are mapped for devices at present.
    pub device_maps: Cell<usize>,
    /// Grants that were ever mapped for devices.
    pub device_maps_made: Cell<usize>,
    /// Pages that are mapped for the back end at present.
    pub page_maps: Cell<usize>,
}

impl FakeHypervisor {
    pub fn new() -> Rc<Self> {
        let fresh = Self::default();
        fresh.next.set(8);
        Rc::new(fresh)
    }

    /// Grants a page.
    pub fn grant(&self, domain: DomainId, page: &Page, access: GrantAccess) -> GrantReference {
        let reference = GrantReference(self.next.get());
        self.next.set(reference.0 + 1);
        self.grants.borrow_mut().insert((domain, reference), (page.machine_frame(), access));
        reference
    }

    /// Gives a reference another page, as a guest can that breaks its promises.
    pub fn replace(&self, domain: DomainId, reference: GrantReference, page: &Page) {
        let granted = (page.machine_frame(), GrantAccess::ReadWrite);
        self.grants.borrow_mut().insert((domain, reference), granted);
    }

    /// Takes back all grants of a page.
    pub fn revoke_page(&self, frame: MachineFrame) {
        self.grants.borrow_mut().retain(|_, granted| granted.0 != frame);
    }

    /// The frame that a grant gives this access to.
    pub fn resolve(
        &self,
        domain: DomainId,
        reference: GrantReference,
        access: GrantAccess,
    ) -> Result<MachineFrame, GrantError> {
        let grants = self.grants.borrow();
        match grants.get(&(domain, reference)) {
            Some((frame, given)) if access == GrantAccess::ReadOnly || *given == access => Ok(*frame),
            Some(_) => Err(GrantError::Refused(GNTST_GENERAL_ERROR)),
            None => Err(GrantError::Refused(GNTST_BAD_GNTREF)),
        }
    }

    fn end(
        &self,
        end: CopyEnd,
        access: GrantAccess,
        length: u16,
    ) -> Result<(BuilderPage, usize), GrantError> {
        let (frame, offset) = match end {
            CopyEnd::Own { frame, offset } => (frame, offset),
            CopyEnd::Granted { domain, reference, offset } => {
                (self.resolve(domain, reference, access)?, offset)
            }
        };
        if usize::from(offset) + usize::from(length) > PAGE_SIZE {
            return Err(GrantError::Refused(GNTST_BAD_COPY_ARG));
        }
        Ok((BuilderPage::find(frame).expect("every frame is found on a host"), offset.into()))
    }

    fn copy(&self, source: CopyEnd, destination: CopyEnd, length: u16) -> Result<(), GrantError> {
        self.copies.set(self.copies.get() + 1);
        let (from, from_offset) = self.end(source, GrantAccess::ReadOnly, length)?;
        let (into, into_offset) = self.end(destination, GrantAccess::ReadWrite, length)?;
        let mut bytes = alloc::vec![0; usize::from(length)];
        from.copy_out(from_offset, &mut bytes);
        into.copy_in(into_offset, &bytes);
        Ok(())
    }
}

/// A batch of copies, made by the fake hypervisor.
pub struct FakeCopy {
    hypervisor: Rc<FakeHypervisor>,
    copies: Vec<(CopyEnd, CopyEnd, u16)>,
    statuses: Vec<Result<(), GrantError>>,
}

impl FakeCopy {
    pub fn new(hypervisor: &Rc<FakeHypervisor>) -> Self {
        Self { hypervisor: Rc::clone(hypervisor), copies: Vec::new(), statuses: Vec::new() }
    }
}

impl GrantCopy for FakeCopy {
    fn push(&mut self, source: CopyEnd, destination: CopyEnd, length: u16) -> usize {
        self.copies.push((source, destination, length));
        self.copies.len() - 1
    }

    fn submit(&mut self) {
        let new = &self.copies[self.statuses.len()..];
        if new.is_empty() {
            return;
        }
        self.hypervisor.copy_calls.set(self.hypervisor.copy_calls.get() + 1);
        let made: Vec<_> =
            new.iter().map(|(from, into, length)| self.hypervisor.copy(*from, *into, *length)).collect();
        self.statuses.extend(made);
    }

    fn status(&self, index: usize) -> Result<(), GrantError> {
        self.statuses[index]
    }

    fn clear(&mut self) {
        self.copies.clear();
        self.statuses.clear();
    }

    fn len(&self) -> usize {
        self.copies.len()
    }
}

/// A page that devices know until this is dropped.
pub struct FakeDevice {
    hypervisor: Rc<FakeHypervisor>,
    frame: MachineFrame,
}

impl Drop for FakeDevice {
    fn drop(&mut self) {
        self.hypervisor.device_maps.set(self.hypervisor.device_maps.get() - 1);
    }
}

/// A guest's page as the back end sees it until this is dropped.
pub struct FakePage {
    hypervisor: Rc<FakeHypervisor>,
    page: BuilderPage,
}

impl Drop for FakePage {
    fn drop(&mut self) {
        self.hypervisor.page_maps.set(self.hypervisor.page_maps.get() - 1);
    }
}

/// Maps of the fake hypervisor.
pub struct FakeMaps {
    hypervisor: Rc<FakeHypervisor>,
    wanted: Vec<(DomainId, GrantReference, GrantAccess)>,
    withdrawn: Vec<FakeDevice>,
}

impl FakeMaps {
    pub fn new(hypervisor: &Rc<FakeHypervisor>) -> Self {
        Self { hypervisor: Rc::clone(hypervisor), wanted: Vec::new(), withdrawn: Vec::new() }
    }

    fn count_call(&self, is_made: bool) {
        self.hypervisor.map_calls.set(self.hypervisor.map_calls.get() + usize::from(is_made));
    }

    fn map_one(
        &self,
        (domain, reference, access): (DomainId, GrantReference, GrantAccess),
    ) -> Result<FakeDevice, GrantError> {
        let hypervisor = Rc::clone(&self.hypervisor);
        let frame = hypervisor.resolve(domain, reference, access)?;
        hypervisor.device_maps.set(hypervisor.device_maps.get() + 1);
        hypervisor.device_maps_made.set(hypervisor.device_maps_made.get() + 1);
        Ok(FakeDevice { hypervisor, frame })
    }
}

impl GrantMap for FakeMaps {
    type Device = FakeDevice;
    type Page = FakePage;

    fn push(&mut self, domain: DomainId, reference: GrantReference, access: GrantAccess) {
        self.wanted.push((domain, reference, access));
    }

    fn map(&mut self) -> impl Iterator<Item = Result<FakeDevice, GrantError>> {
        let wanted = core::mem::take(&mut self.wanted);
        self.count_call(!wanted.is_empty());
        wanted.into_iter().map(|one| self.map_one(one))
    }

    fn bus_address(mapping: &FakeDevice) -> u64 {
        mapping.frame.physical_address()
    }

    fn withdraw(&mut self, mapping: FakeDevice) {
        self.withdrawn.push(mapping);
    }

    fn unmap(&mut self) {
        self.count_call(!self.withdrawn.is_empty());
        self.withdrawn.clear();
    }

    fn map_page(&self, domain: DomainId, reference: GrantReference) -> Result<FakePage, GrantError> {
        let hypervisor = Rc::clone(&self.hypervisor);
        let frame = hypervisor.resolve(domain, reference, GrantAccess::ReadOnly)?;
        hypervisor.page_maps.set(hypervisor.page_maps.get() + 1);
        let page = BuilderPage::find(frame).expect("every frame is found on a host");
        Ok(FakePage { hypervisor, page })
    }

    fn read_page(page: &FakePage, into: &mut [u8]) {
        page.page.copy_out(0, into);
    }
}
