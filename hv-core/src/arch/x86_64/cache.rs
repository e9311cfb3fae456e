#![expect(unsafe_code, reason = "cache instructions")]
//! Writing caches back, for devices that do not look into them.

use crate::direct_map;
use core::arch::asm;
use hypercall_abi::MachineFrame;

/// Bytes in a line; smaller than on any processor that has larger ones.
const LINE: usize = 64;

/// Writes back and forgets the cached lines of a part of a frame.
pub fn flush(frame: MachineFrame, offset: usize, length: usize) {
    let start = direct_map::pointer(frame).wrapping_add(offset / LINE * LINE);
    for line in (0..offset % LINE + length).step_by(LINE) {
        // SAFETY: changes no memory; the address is in the direct map.
        unsafe { asm!("clflush [{}]", in(reg) start.wrapping_add(line), options(nostack, preserves_flags)) };
    }
}

/// Writes back and forgets all cached lines.
pub fn flush_all() {
    // SAFETY: changes no memory.
    unsafe { asm!("wbinvd", options(nostack, preserves_flags)) };
}
