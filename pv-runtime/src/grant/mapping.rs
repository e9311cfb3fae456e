#![expect(unsafe_code, reason = "has the hypervisor map pages of other domains")]
//! Pages of other domains, mapped or made known to devices by their grants.

use alloc::vec::{Drain, Vec};
use core::mem;
use core::ptr::NonNull;
use core::slice;
use core::sync::atomic::AtomicU32;

use hypercall_abi::grant_table::*;
use hypercall_abi::{DomainId, Errno, GrantReference, PAGE_SIZE};

use super::counters::counted_op;
use super::{GrantAccess, GrantError};
use crate::memory::{AddressRange, SharedMemory};

/// The flag for an access.
const fn read_only_flag(access: GrantAccess) -> u32 {
    match access {
        GrantAccess::ReadOnly => GNTMAP_READONLY,
        GrantAccess::ReadWrite => 0,
    }
}

/// Maps a page that `domain` granted.
///
/// # Errors
///
/// [`GrantError::Refused`] if the grant does not allow it, [`GrantError::Failed`] if there is no room.
pub fn map(
    domain: DomainId,
    reference: GrantReference,
    access: GrantAccess,
) -> Result<GrantMapping, GrantError> {
    map_pages(domain, slice::from_ref(&reference), access)
}

/// Maps pages that `domain` granted at addresses that follow each other, as for a ring of several pages.
///
/// # Errors
///
/// As for [`map`]; then none of them stays mapped.
pub fn map_pages(
    domain: DomainId,
    references: &[GrantReference],
    access: GrantAccess,
) -> Result<GrantMapping, GrantError> {
    if references.is_empty() {
        return Err(GrantError::Failed(Errno::EINVAL));
    }
    let range = AddressRange::new(references.len())?;
    let flags = GNTMAP_HOST_MAP | read_only_flag(access);
    let mut operations: Vec<_> = range
        .addresses()
        .zip(references)
        .map(|(host_addr, reference)| map_operation(domain, *reference, flags, host_addr))
        .collect();
    // SAFETY: the addresses are those of the range, which maps nothing yet.
    let outcome = unsafe { counted_op(&mut operations) };
    let mut mapping = GrantMapping { range, handles: Vec::new(), writable: access == GrantAccess::ReadWrite };
    let mapped = operations.iter().filter(|operation| operation.status == GNTST_OKAY);
    mapping.handles.extend(mapped.map(|operation| (operation.host_addr, operation.handle)));
    outcome?;
    for operation in &operations {
        GrantError::check(operation.status)?;
    }
    Ok(mapping)
}

#[inline]
fn map_operation(
    domain: DomainId,
    reference: GrantReference,
    flags: u32,
    host_addr: u64,
) -> GnttabMapGrantRef {
    // A status of failure, should the hypervisor not come to this operation.
    let status = GNTST_GENERAL_ERROR;
    GnttabMapGrantRef { host_addr, flags, r#ref: reference, dom: domain, status, ..Default::default() }
}

/// Granted pages that are mapped until this is dropped.
#[derive(Debug)]
pub struct GrantMapping {
    range: AddressRange,
    /// Address and handle of each page that is mapped.
    handles: Vec<(u64, GrantHandle)>,
    writable: bool,
}

// SAFETY: the pages are mapped for as long as the mapping lives, at addresses that only it has. A mapping of
// which only a part succeeded is dropped before anybody sees it.
unsafe impl SharedMemory for GrantMapping {
    fn base(&self) -> NonNull<u8> {
        self.range.base()
    }

    fn size(&self) -> usize {
        self.range.pages() * PAGE_SIZE
    }

    fn is_writable(&self) -> bool {
        self.writable
    }
}

impl AsRef<[AtomicU32]> for GrantMapping {
    #[inline]
    fn as_ref(&self) -> &[AtomicU32] {
        self.words()
    }
}

impl Drop for GrantMapping {
    fn drop(&mut self) {
        let unmap = |(host_addr, handle): (u64, GrantHandle)| GnttabUnmapGrantRef {
            host_addr,
            handle,
            status: GNTST_GENERAL_ERROR,
            ..Default::default()
        };
        let mut operations: Vec<_> = mem::take(&mut self.handles).into_iter().map(unmap).collect();
        if operations.is_empty() {
            return;
        }
        // SAFETY: only this mapping, which is going away, uses the addresses.
        let outcome = unsafe { counted_op(&mut operations) };
        if outcome.is_err() || operations.iter().any(|operation| operation.status != GNTST_OKAY) {
            log::error!("{} granted pages cannot be unmapped", operations.len());
            self.range.leak();
        }
    }
}

/// Makes a page that `domain` granted known to devices. The domain cannot end the grant meanwhile.
///
/// # Errors
///
/// [`GrantError::Refused`] if the grant does not allow it.
pub fn map_device(
    domain: DomainId,
    reference: GrantReference,
    access: GrantAccess,
) -> Result<DeviceMapping, GrantError> {
    let mut batch = DeviceBatch::new();
    batch.push(domain, reference, access);
    batch.map().next().unwrap_or(Err(GrantError::Failed(Errno::EINVAL)))
}

/// Pages to be made known to devices, or to be withdrawn from them, with one hypercall. The memory for that is kept
/// from one batch to the next.
#[derive(Debug, Default)]
pub struct DeviceBatch {
    maps: Vec<GnttabMapGrantRef>,
    unmaps: Vec<GnttabUnmapGrantRef>,
}

impl DeviceBatch {
    /// An empty batch.
    pub const fn new() -> Self {
        Self { maps: Vec::new(), unmaps: Vec::new() }
    }

    /// Adds a page that `domain` granted.
    #[inline]
    pub fn push(&mut self, domain: DomainId, reference: GrantReference, access: GrantAccess) {
        self.maps.push(map_operation(domain, reference, GNTMAP_DEVICE_MAP | read_only_flag(access), 0));
    }

    /// Makes all pages that were added known to devices. The results are in the same order.
    pub fn map(&mut self) -> impl Iterator<Item = Result<DeviceMapping, GrantError>> + use<'_> {
        if !self.maps.is_empty() {
            // SAFETY: nothing is mapped at any address.
            if let Err(errno) = unsafe { counted_op(&mut self.maps) } {
                log::error!("{} granted pages were not all made known to devices: {errno}", self.maps.len());
            }
        }
        Mapped(self.maps.drain(..))
    }

    /// Adds a page to be withdrawn from devices, which must be done with it.
    #[inline]
    pub fn withdraw(&mut self, mapping: DeviceMapping) {
        self.unmaps.push(mapping.unmap_operation());
        mem::forget(mapping);
    }

    /// Withdraws all pages that were added for that.
    pub fn unmap(&mut self) {
        finish_device_unmap(&mut self.unmaps);
        self.unmaps.clear();
    }
}

impl Drop for DeviceBatch {
    fn drop(&mut self) {
        self.unmap();
    }
}

/// What became of pages that were mapped; those that nobody takes are withdrawn again.
struct Mapped<'a>(Drain<'a, GnttabMapGrantRef>);

impl Iterator for Mapped<'_> {
    type Item = Result<DeviceMapping, GrantError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let operation = self.0.next()?;
        let mapping = |()| DeviceMapping { bus_address: operation.dev_bus_addr, handle: operation.handle };
        Some(GrantError::check(operation.status).map(mapping))
    }
}

impl Drop for Mapped<'_> {
    fn drop(&mut self) {
        self.for_each(drop);
    }
}

fn finish_device_unmap(operations: &mut [GnttabUnmapGrantRef]) {
    if operations.is_empty() {
        return;
    }
    // SAFETY: the operations name no addresses of this domain.
    let outcome = unsafe { counted_op(operations) };
    if outcome.is_err() || operations.iter().any(|operation| operation.status != GNTST_OKAY) {
        log::error!("a granted page cannot be withdrawn from devices");
    }
}

/// A granted page that devices may use until this is dropped.
#[derive(Debug)]
pub struct DeviceMapping {
    bus_address: u64,
    handle: GrantHandle,
}

impl DeviceMapping {
    /// The address by which a device reaches the page.
    #[inline]
    pub fn bus_address(&self) -> u64 {
        self.bus_address
    }

    #[inline]
    fn unmap_operation(&self) -> GnttabUnmapGrantRef {
        GnttabUnmapGrantRef {
            dev_bus_addr: self.bus_address,
            handle: self.handle,
            status: GNTST_GENERAL_ERROR,
            ..Default::default()
        }
    }
}

impl Drop for DeviceMapping {
    fn drop(&mut self) {
        finish_device_unmap(slice::from_mut(&mut self.unmap_operation()));
    }
}
