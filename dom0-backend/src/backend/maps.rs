//! Mapping guests' pages, as the back ends see it: so that they can be tested without a hypervisor.

use hypercall_abi::{DomainId, GrantReference};
use pv_runtime::grant::{DeviceBatch, DeviceMapping, GrantAccess, GrantError, GrantMapping, map};
use pv_runtime::memory::SharedMemory;

/// Pages that are made known to devices, or withdrawn from them, together.
pub trait GrantMap {
    /// A page that devices know.
    type Device;
    /// A page that this domain sees itself.
    type Page;

    /// Adds a page that `domain` granted.
    fn push(&mut self, domain: DomainId, reference: GrantReference, access: GrantAccess);
    /// Makes all pages that were added known to devices. The results are in the same order.
    fn map(&mut self) -> impl Iterator<Item = Result<Self::Device, GrantError>>;
    /// The address by which a device reaches a page.
    fn bus_address(mapping: &Self::Device) -> u64;
    /// Adds a page to be withdrawn from devices, which must be done with it.
    fn withdraw(&mut self, mapping: Self::Device);
    /// Withdraws all pages that were added for that.
    fn unmap(&mut self);
    /// Maps a page that `domain` granted, for reading.
    ///
    /// # Errors
    ///
    /// Why that was refused.
    fn map_page(&self, domain: DomainId, reference: GrantReference) -> Result<Self::Page, GrantError>;
    /// Copies the beginning of such a page out, at most all of it.
    fn read_page(page: &Self::Page, into: &mut [u8]);
}

impl GrantMap for DeviceBatch {
    type Device = DeviceMapping;
    type Page = GrantMapping;

    #[inline]
    fn push(&mut self, domain: DomainId, reference: GrantReference, access: GrantAccess) {
        Self::push(self, domain, reference, access);
    }

    fn map(&mut self) -> impl Iterator<Item = Result<DeviceMapping, GrantError>> {
        Self::map(self)
    }

    #[inline]
    fn bus_address(mapping: &DeviceMapping) -> u64 {
        mapping.bus_address()
    }

    #[inline]
    fn withdraw(&mut self, mapping: DeviceMapping) {
        Self::withdraw(self, mapping);
    }

    fn unmap(&mut self) {
        Self::unmap(self);
    }

    fn map_page(&self, domain: DomainId, reference: GrantReference) -> Result<GrantMapping, GrantError> {
        map(domain, reference, GrantAccess::ReadOnly)
    }

    #[inline]
    fn read_page(page: &GrantMapping, into: &mut [u8]) {
        page.copy_out(0, into);
    }
}
