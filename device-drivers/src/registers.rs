//! A window of device registers.

#[cfg(target_os = "none")]
mod mapped;

#[cfg(target_os = "none")]
pub use mapped::MappedRegisters;

/// Registers, addressed by their byte offset in the window. Each access is one access of that width, in
/// program order.
///
/// Offsets are the driver's own constants, or were checked against the window's length.
pub trait Registers {
    /// Bytes in the window.
    fn length(&self) -> usize;
    /// Reads eight bits.
    fn read_u8(&self, offset: usize) -> u8;
    /// Reads sixteen bits.
    fn read_u16(&self, offset: usize) -> u16;
    /// Reads thirty-two bits.
    fn read_u32(&self, offset: usize) -> u32;
    /// Writes eight bits.
    fn write_u8(&self, offset: usize, value: u8);
    /// Writes sixteen bits.
    fn write_u16(&self, offset: usize, value: u16);
    /// Writes thirty-two bits.
    fn write_u32(&self, offset: usize, value: u32);

    /// Reads sixty-four bits as two halves, the lower first.
    fn read_u64(&self, offset: usize) -> u64 {
        u64::from(self.read_u32(offset)) | u64::from(self.read_u32(offset + 4)) << 32
    }

    /// Writes sixty-four bits as two halves, the lower first, as virtio and NVMe have it for their 64-bit registers.
    fn write_u64(&self, offset: usize, value: u64) {
        self.write_u32(offset, value as u32);
        self.write_u32(offset + 4, (value >> 32) as u32);
    }
}
