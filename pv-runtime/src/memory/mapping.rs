#![expect(unsafe_code, reason = "maps frames that are not the domain's own")]
//! Mapping frames by their machine numbers: device memory, and frames of other domains.

use alloc::vec::Vec;
use core::cell::Cell;
use core::mem::size_of;
use core::ptr::{self, NonNull};
use core::sync::atomic::AtomicU32;

use hypercall_abi::{DomainId, Errno, MachineFrame, PAGE_SIZE};

use super::area::{self, AddressRange};
use super::frames;
use super::layout::*;
use super::shared::SharedMemory;
use super::updates::UpdateBatch;
use crate::hypercall;
use crate::kernel_local;

/// The machine address of the page-table entry for an address of the window or of a mapping: what
/// `mmu_update` takes. The entry itself is the hypervisor's to change.
pub fn page_table_entry_address(virtual_address: u64) -> Option<u64> {
    let table = match virtual_address {
        WINDOW..MAPPINGS => frames::window_table(window_table_index(virtual_address))?,
        MAPPINGS..MAPPINGS_END => area::table_of(virtual_address)?,
        _ => return None,
    };
    Some(entry_address(table, table_index(virtual_address, 1)))
}

/// How mapped frames may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protection {
    /// Memory, to be read.
    ReadOnly,
    /// Memory, to be read and written.
    ReadWrite,
    /// Device registers: read and written, not cached.
    Device,
}

impl Protection {
    const fn bits(self) -> u64 {
        match self {
            Self::ReadOnly => READ_ONLY,
            Self::ReadWrite => DATA,
            Self::Device => DATA | CACHE_DISABLE | WRITE_THROUGH,
        }
    }
}

kernel_local! {
    /// This domain's number, once it is known.
    static OWN_DOMAIN: Cell<DomainId> = Cell::new(DomainId::SELF);
}

/// Notes this domain's number.
pub(crate) fn set_own_domain(domain: DomainId) {
    OWN_DOMAIN.with(|own| own.set(domain));
}

/// Maps frames of `owner` at addresses that follow each other.
///
/// For device memory the owner is [`DomainId::IO`]; frames of another domain may be mapped only by a domain
/// with the right to, and only as long as the hypervisor grants it.
///
/// # Errors
///
/// `ENOMEM` if there is no room, `EINVAL` for no frames or for this domain's own, or why the hypervisor
/// refused a frame; then nothing stays mapped.
pub fn map_machine_frames(
    frames: &[MachineFrame],
    owner: DomainId,
    protection: Protection,
) -> Result<Mapping, Errno> {
    let own = [DomainId::SELF, OWN_DOMAIN.with(Cell::get)];
    if own.contains(&owner) {
        return Err(Errno::EINVAL);
    }
    // SAFETY: the hypervisor maps only frames of `owner`, and that is not this domain.
    unsafe { map_frames(frames, owner, protection) }
}

/// Maps frames of this domain a second time, or frames that the hypervisor shares with it.
///
/// # Errors
///
/// As for [`map_machine_frames`].
///
/// # Safety
///
/// What is in the frames must not be in Rust's hands otherwise than as [`SharedMemory`].
pub unsafe fn map_own_frames(frames: &[MachineFrame], protection: Protection) -> Result<Mapping, Errno> {
    // SAFETY: the caller's promise.
    unsafe { map_frames(frames, DomainId::SELF, protection) }
}

/// Maps frames, whoever owns them.
///
/// # Safety
///
/// As for [`map_own_frames`], if they are this domain's.
unsafe fn map_frames(
    frames: &[MachineFrame],
    owner: DomainId,
    protection: Protection,
) -> Result<Mapping, Errno> {
    if frames.is_empty() {
        return Err(Errno::EINVAL);
    }
    let writable = protection != Protection::ReadOnly;
    let mapping = Mapping { range: AddressRange::new(frames.len())?, writable };
    let mut updates = UpdateBatch::new(owner);
    for (address, frame) in mapping.range.addresses().zip(frames) {
        let place = page_table_entry_address(address).ok_or(Errno::ENOENT)?;
        // SAFETY: the range maps nothing yet and is reached only through `mapping`.
        unsafe { updates.push(place, entry(*frame, protection.bits()))? };
    }
    updates.finish()?;
    Ok(mapping)
}

/// Maps `size` bytes of device memory from a physical address on, not cached. Both may be unaligned; the
/// mapping starts with the page that holds the address.
///
/// # Errors
///
/// As for [`map_machine_frames`].
pub fn map_device_memory(physical_address: u64, size: usize) -> Result<Mapping, Errno> {
    let first = MachineFrame::containing(physical_address);
    let end = physical_address.checked_add(size as u64).ok_or(Errno::EINVAL)?;
    let frames: Vec<_> = (first.0..end.div_ceil(PAGE_SIZE as u64)).map(MachineFrame).collect();
    map_machine_frames(&frames, DomainId::IO, Protection::Device)
}

/// Frames that are mapped until this is dropped.
#[derive(Debug)]
pub struct Mapping {
    range: AddressRange,
    writable: bool,
}

macro_rules! register_access {
    ($($read:ident, $write:ident: $type:ty;)*) => {$(
        /// Reads a device register with one access.
        ///
        /// # Panics
        ///
        /// If `offset` is not aligned to the register's size or lies beyond the end.
        #[inline]
        pub fn $read(&self, offset: usize) -> $type {
            assert!(offset % size_of::<$type>() == 0, "unaligned register {offset:#x}");
            let place = self.span(offset, size_of::<$type>());
            // SAFETY: the place is mapped and aligned.
            unsafe { ptr::read_volatile(place.cast::<$type>().as_ptr()) }
        }

        /// Writes a device register with one access.
        ///
        /// # Panics
        ///
        /// If `offset` is not aligned to the register's size or lies beyond the end, or the mapping is
        /// read-only.
        #[inline]
        pub fn $write(&self, offset: usize, value: $type) {
            assert!(self.writable, "the mapping is read-only");
            assert!(offset % size_of::<$type>() == 0, "unaligned register {offset:#x}");
            let place = self.span(offset, size_of::<$type>());
            // SAFETY: the place is mapped writable and aligned.
            unsafe { ptr::write_volatile(place.cast::<$type>().as_ptr(), value) }
        }
    )*};
}

impl Mapping {
    register_access! {
        read_u8, write_u8: u8;
        read_u16, write_u16: u16;
        read_u32, write_u32: u32;
        read_u64, write_u64: u64;
    }

    /// The first byte.
    pub fn as_ptr(&self) -> *mut u8 {
        self.base().as_ptr()
    }

    fn unmap(&self) -> Result<(), Errno> {
        let mut updates = UpdateBatch::new(DomainId::SELF);
        for address in self.range.addresses() {
            let place = page_table_entry_address(address).ok_or(Errno::ENOENT)?;
            // SAFETY: only `self`, which is going away, is used to reach the frames.
            unsafe { updates.push(place, 0)? };
        }
        updates.finish()?;
        hypercall::flush_tlb()
    }
}

// SAFETY: the frames are mapped for as long as the mapping lives, at addresses that only it has.
unsafe impl SharedMemory for Mapping {
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

impl AsRef<[AtomicU32]> for Mapping {
    #[inline]
    fn as_ref(&self) -> &[AtomicU32] {
        self.words()
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if let Err(errno) = self.unmap() {
            log::error!("{} mapped pages cannot be unmapped: {errno}", self.range.pages());
            // The addresses still lead to the frames, so they must never be given out again.
            self.range.leak();
        }
    }
}
