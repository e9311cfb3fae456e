#![expect(unsafe_code, reason = "the page that the hypervisor shares with the domain")]
//! The shared info page: pending events, their masks, and the clock.
//!
//! The page takes the place of a page of the kernel's data at start-up, so that its fields are at addresses
//! known to the linker. The hypervisor changes them at any time; they are reached as atomics only.

use core::cell::UnsafeCell;
use core::mem::{offset_of, size_of};
use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64};

use hypercall_abi::PAGE_SIZE;
use hypercall_abi::xen::{ArchVcpuInfo, SharedInfo, VcpuInfo, VcpuTimeInfo};

use crate::event_channel::PendingEvents;

/// A page whose content the hypervisor changes.
#[repr(C, align(4096))]
struct SharedPage(UnsafeCell<[u8; PAGE_SIZE]>);

// SAFETY: the content is only reached as atomics, by the functions below.
unsafe impl Sync for SharedPage {}

static PAGE: SharedPage = SharedPage(UnsafeCell::new([0; PAGE_SIZE]));

const _: () = assert!(size_of::<SharedInfo>() <= PAGE_SIZE);

/// Offset of virtual CPU 0's part: the only one this kernel has.
const VCPU: usize = offset_of!(SharedInfo, vcpu_info);
/// Offset of its clock.
const TIME: usize = VCPU + offset_of!(VcpuInfo, time);

/// The field of an atomic type at an offset of the page.
#[inline(always)]
fn field<T>(offset: usize) -> &'static T {
    const { assert!(size_of::<T>() <= 512) };
    debug_assert!(offset + size_of::<T>() <= PAGE_SIZE && offset.is_multiple_of(align_of::<T>()));
    // SAFETY: the offset is that of a field of `SharedInfo`, which lies in the page and is aligned; every
    // caller names an atomic type of the field's size or an array of them.
    unsafe { &*PAGE.0.get().cast::<u8>().add(offset).cast::<T>() }
}

/// Where the page is, to be mapped at start-up.
#[cfg(target_os = "none")]
pub(crate) fn address() -> u64 {
    PAGE.0.get() as u64
}

/// The event bitmap, and this virtual CPU's way into it.
#[inline(always)]
pub(crate) fn events() -> PendingEvents<'static> {
    PendingEvents {
        flag: field::<AtomicU8>(VCPU + offset_of!(VcpuInfo, evtchn_upcall_pending)),
        selector: field::<AtomicU64>(VCPU + offset_of!(VcpuInfo, evtchn_pending_sel)),
        pending: field::<[AtomicU64; 64]>(offset_of!(SharedInfo, evtchn_pending)),
        mask: field::<[AtomicU64; 64]>(offset_of!(SharedInfo, evtchn_mask)),
    }
}

/// The address that the last page fault was about.
pub(crate) fn fault_address() -> &'static AtomicU64 {
    field(VCPU + offset_of!(VcpuInfo, arch) + offset_of!(ArchVcpuInfo, cr2))
}

/// The fields of the clock.
pub(crate) struct ClockFields {
    pub(crate) version: &'static AtomicU32,
    pub(crate) tsc_timestamp: &'static AtomicU64,
    pub(crate) system_time: &'static AtomicU64,
    pub(crate) multiplier: &'static AtomicU32,
    pub(crate) shift: &'static AtomicU8,
}

/// The monotonic clock of this virtual CPU.
#[inline(always)]
pub(crate) fn clock() -> ClockFields {
    ClockFields {
        version: field(TIME + offset_of!(VcpuTimeInfo, version)),
        tsc_timestamp: field(TIME + offset_of!(VcpuTimeInfo, tsc_timestamp)),
        system_time: field(TIME + offset_of!(VcpuTimeInfo, system_time)),
        multiplier: field(TIME + offset_of!(VcpuTimeInfo, tsc_to_system_mul)),
        shift: field(TIME + offset_of!(VcpuTimeInfo, tsc_shift)),
    }
}

/// The fields of the wall clock: version, seconds, nanoseconds, high half of the seconds.
pub(crate) fn wall_clock() -> [&'static AtomicU32; 4] {
    [
        field(offset_of!(SharedInfo, wc_version)),
        field(offset_of!(SharedInfo, wc_sec)),
        field(offset_of!(SharedInfo, wc_nsec)),
        field(offset_of!(SharedInfo, wc_sec_hi)),
    ]
}
