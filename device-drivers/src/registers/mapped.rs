//! Registers in the machine's memory.

use pv_runtime::memory::{Mapping, map_device_memory};

use super::Registers;
use crate::setup_error::SetupError;

/// A window of device registers, mapped.
#[derive(Debug)]
pub struct MappedRegisters {
    mapping: Mapping,
    /// Where the window starts in the mapping, which starts with a page.
    start: usize,
    length: usize,
}

impl MappedRegisters {
    /// Maps `length` bytes from a physical address on.
    ///
    /// # Errors
    ///
    /// [`SetupError::Hypervisor`] if the hypervisor refuses.
    pub fn map(address: u64, length: usize) -> Result<Self, SetupError> {
        let mapping = map_device_memory(address, length)?;
        Ok(Self { mapping, start: (address % hypercall_abi::PAGE_SIZE as u64) as usize, length })
    }
}

impl Registers for MappedRegisters {
    fn length(&self) -> usize {
        self.length
    }

    #[inline]
    fn read_u8(&self, offset: usize) -> u8 {
        self.mapping.read_u8(self.start + offset)
    }

    #[inline]
    fn read_u16(&self, offset: usize) -> u16 {
        self.mapping.read_u16(self.start + offset)
    }

    #[inline]
    fn read_u32(&self, offset: usize) -> u32 {
        self.mapping.read_u32(self.start + offset)
    }

    #[inline]
    fn write_u8(&self, offset: usize, value: u8) {
        self.mapping.write_u8(self.start + offset, value);
    }

    #[inline]
    fn write_u16(&self, offset: usize, value: u16) {
        self.mapping.write_u16(self.start + offset, value);
    }

    #[inline]
    fn write_u32(&self, offset: usize, value: u32) {
        self.mapping.write_u32(self.start + offset, value);
    }
}
