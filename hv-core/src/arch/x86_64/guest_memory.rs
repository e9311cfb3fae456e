#![expect(unsafe_code, reason = "follows guest pointers, with a way out when they lead nowhere")]
//! Copying from and to the running guest's address space.
//!
//! The copy instruction may fault: its address is in a table together with where to go on, and the exception handler
//! looks there ([`fixup`]). Supervisor access to user pages is switched on for just these instructions where the
//! CPU has that switch (SMAP), so a stray pointer anywhere else in the hypervisor faults instead.

use core::{
    arch::asm,
    mem::MaybeUninit,
    sync::atomic::{AtomicBool, Ordering},
};
use hypercall_abi::Errno;

/// The CPU has SMAP and it is on.
static GUARDED: AtomicBool = AtomicBool::new(false);

/// Says that supervisor access to user pages is off unless asked for.
pub fn set_guarded() {
    GUARDED.store(true, Ordering::Relaxed);
}

/// A guest was interrupted: it may have switched supervisor access on for itself (EFLAGS.AC), which must not hold here.
#[inline]
pub fn guard() {
    if GUARDED.load(Ordering::Relaxed) {
        // SAFETY: SMAP exists.
        unsafe { asm!("clac", options(nostack)) };
    }
}

/// Copies from the guest.
///
/// # Errors
/// `EFAULT` when the guest could not read it.
#[inline]
pub fn read(address: u64, destination: &mut [u8]) -> Result<(), Errno> {
    // SAFETY: the destination is ours; the source is a guest address (the caller has checked the range), which may
    // fault but cannot be the hypervisor's memory.
    unsafe { copy(address as *const u8, destination.as_mut_ptr(), destination.len()) }
}

/// Copies from the guest to where nothing is yet.
///
/// # Errors
/// `EFAULT` when the guest could not read it.
#[inline]
pub fn read_uninit(address: u64, destination: &mut [MaybeUninit<u8>]) -> Result<&mut [u8], Errno> {
    // SAFETY: as in `read`.
    unsafe { copy(address as *const u8, destination.as_mut_ptr().cast(), destination.len())? };
    // SAFETY: all of it has been written.
    Ok(unsafe { destination.assume_init_mut() })
}

/// Copies to the guest.
///
/// # Errors
/// `EFAULT` when the guest could not write it.
#[inline]
pub fn write(address: u64, source: &[u8]) -> Result<(), Errno> {
    // SAFETY: as in `read`, the other way round; CR0.WP makes read-only pages fault here too.
    unsafe { copy(source.as_ptr(), address as *mut u8, source.len()) }
}

/// # Safety
/// Whichever side is not a guest address must be valid for `length` bytes.
#[inline]
unsafe fn copy(source: *const u8, destination: *mut u8, length: usize) -> Result<(), Errno> {
    let guarded = GUARDED.load(Ordering::Relaxed);
    if guarded {
        // SAFETY: SMAP exists; user pages may be reached until `clac`.
        unsafe { asm!("stac", options(nostack)) };
    }
    let failed: u64;
    // SAFETY: the caller vouches for the side that is ours; a fault on the guest's side continues at label 4 with
    // `failed` still set.
    unsafe {
        asm!(
            "2: rep movsq",
            "mov rcx, {tail}",
            "3: rep movsb",
            "xor {failed:e}, {failed:e}",
            "4:",
            ".pushsection .fixups, \"a\"",
            ".quad 2b, 4b",
            ".quad 3b, 4b",
            ".popsection",
            tail = in(reg) length & 7,
            failed = inout(reg) 1u64 => failed,
            inout("rcx") length / 8 => _,
            inout("rsi") source => _,
            inout("rdi") destination => _,
            options(nostack)
        );
    }
    if guarded {
        // SAFETY: as above.
        unsafe { asm!("clac", options(nostack)) };
    }
    if failed == 0 { Ok(()) } else { Err(Errno::EFAULT) }
}

unsafe extern "C" {
    static fixups_start: [u64; 2];
    static fixups_end: [u64; 2];
}

/// Where to go on after a fault at `address`, if a fault is expected there.
pub fn fixup(address: u64) -> Option<u64> {
    let start = &raw const fixups_start;
    let count = (&raw const fixups_end as usize - start as usize) / size_of::<[u64; 2]>();
    // SAFETY: the linker script puts the table between the two symbols.
    let table = unsafe { core::slice::from_raw_parts(start, count) };
    table.iter().find(|entry| entry[0] == address).map(|entry| entry[1])
}
