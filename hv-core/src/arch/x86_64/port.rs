#![expect(unsafe_code, reason = "port I/O")]
//! I/O ports, one access at a time.

use x86::io::{inb, inl, inw, outb, outl, outw};

/// Reads 1, 2 or 4 bytes (`width`) from `port`.
///
/// Which ports a domain may read is decided before; a port read cannot break memory safety.
pub fn read(port: u16, width: u8) -> u32 {
    // SAFETY: a port read has no effect on memory.
    unsafe {
        match width {
            1 => u32::from(inb(port)),
            2 => u32::from(inw(port)),
            _ => inl(port),
        }
    }
}

/// Writes 1, 2 or 4 bytes (`width`) to `port`.
pub fn write(port: u16, width: u8, value: u32) {
    // SAFETY: a device can be told by a port to reach memory, which is why only the control domain and the
    // hypervisor use ports, and the control domain is trusted with devices' DMA as long as there is no IOMMU.
    unsafe {
        match width {
            1 => outb(port, value as u8),
            2 => outw(port, value as u16),
            _ => outl(port, value),
        }
    }
}
