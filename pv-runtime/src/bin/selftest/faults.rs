#![expect(unsafe_code, reason = "provokes faults")]
//! Checks that what must fault does.

use alloc::format;

use hypercall_abi::PAGE_SIZE;
use pv_runtime::memory::{Page, Protection, SharedMemory, map_own_frames};
use pv_runtime::traps::{Fault, catch};

use crate::{Outcome, during, expect};

/// The number of page faults.
const PAGE_FAULT: u64 = 14;

/// Reads a byte where there may be none.
fn read_at(address: u64) -> Result<(), Fault> {
    /// # Safety
    ///
    /// To be called so that a fault is caught.
    unsafe extern "C" fn read(address: u64) {
        // SAFETY: a fault is caught; reading harms nothing else here.
        unsafe { (address as *const u8).read_volatile() };
    }
    // SAFETY: the function owns nothing.
    unsafe { catch(read, address) }
}

/// Writes a byte where that is not allowed.
///
/// # Safety
///
/// If it is allowed nevertheless, the byte must not matter.
unsafe fn write_at(address: u64) -> Result<(), Fault> {
    /// # Safety
    ///
    /// As for `write_at`; and to be called so that a fault is caught.
    unsafe extern "C" fn write(address: u64) {
        // SAFETY: a fault is caught; otherwise the byte does not matter.
        unsafe { (address as *mut u8).write_volatile(0) };
    }
    // SAFETY: the function owns nothing.
    unsafe { catch(write, address) }
}

fn is_page_fault(result: Result<(), Fault>) -> bool {
    matches!(result, Err(Fault { vector: PAGE_FAULT, .. }))
}

/// Addresses without memory fault; good ones do not.
pub async fn reads() -> Outcome {
    for address in [0, 0x1000, 0xffff_87ff_ffff_f000, 0xffff_8840_3fff_f000, 0xffff_ffff_8000_0000] {
        expect(is_page_fault(read_at(address)), format!("reading at {address:#x} did not fault"))?;
    }
    let page = during("a page", Page::new())?;
    expect(read_at(page.virtual_address() as u64).is_ok(), "reading a page faulted")
}

/// Code, constants and page tables are write-protected.
pub async fn writes() -> Outcome {
    static CONSTANT: u8 = 0;
    let targets = [
        ("code", (writes as fn() -> _) as usize as u64),
        ("a constant", (&raw const CONSTANT) as u64),
        ("the machine-to-physical table", 0xffff_8000_0000_0000),
    ];
    for (what, address) in targets {
        // SAFETY: zero is what the constant holds; the other two are lost anyway if they can be written.
        let result = unsafe { write_at(address) };
        expect(is_page_fault(result), format!("writing to {what} gave {result:?}"))?;
    }
    Ok(())
}

/// A mapping is gone when it is dropped, and read-only means it.
pub async fn after_unmap() -> Outcome {
    let page = during("a page", Page::new())?;
    let frames = [page.machine_frame()];
    // SAFETY: the page is reached as shared memory only.
    let mapping = during("mapping", unsafe { map_own_frames(&frames, Protection::ReadOnly) })?;
    let address = mapping.virtual_address() as u64;
    expect(read_at(address).is_ok(), "reading the mapping faulted")?;
    // SAFETY: the page is ours and holds nothing.
    expect(is_page_fault(unsafe { write_at(address + PAGE_SIZE as u64 - 1) }), "writing was allowed")?;
    drop(mapping);
    expect(is_page_fault(read_at(address)), "the mapping is still there")
}
