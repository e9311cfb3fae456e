//! Registers in the machine's memory, and a transport over them.

use pv_runtime::memory::{Mapping, map_device_memory};

use super::error::SetupError;
use super::layout::{Layout, Region};
use super::registers::Registers;
use super::transport::Transport;
use crate::pci::{Address, COMMAND_BUS_MASTER, COMMAND_MEMORY, ConfigSpace, change_command};

/// A region of device registers, mapped.
#[derive(Debug)]
pub struct MappedRegisters {
    mapping: Mapping,
    /// Where the region starts in the mapping, which starts with a page.
    start: usize,
    length: usize,
}

impl MappedRegisters {
    fn map(region: Region) -> Result<Self, SetupError> {
        let length = region.length as usize;
        let mapping = map_device_memory(region.address, length)?;
        Ok(Self { mapping, start: (region.address % hypercall_abi::PAGE_SIZE as u64) as usize, length })
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

/// Resets a device that may not use the bus: afterwards it knows no memory of anybody's.
///
/// # Errors
///
/// As for [`connect`].
pub fn reset(config: &impl ConfigSpace, function: Address) -> Result<(), SetupError> {
    let layout = Layout::find(config, function)?;
    change_command(config, function, COMMAND_MEMORY, 0);
    let common = MappedRegisters::map(layout.common)?;
    let notify = MappedRegisters::map(layout.notify)?;
    Transport::begin(common, notify, layout.notify_multiplier, None)?.reset()
}

/// Finds and maps a device's registers, lets it use the bus, and resets it.
///
/// # Errors
///
/// [`SetupError`], if this is no modern virtio device or the hypervisor refuses its memory.
pub fn connect(
    config: &impl ConfigSpace,
    function: Address,
) -> Result<Transport<MappedRegisters>, SetupError> {
    let layout = Layout::find(config, function)?;
    change_command(config, function, COMMAND_MEMORY | COMMAND_BUS_MASTER, 0);
    let device = layout.device.map(MappedRegisters::map).transpose()?;
    let common = MappedRegisters::map(layout.common)?;
    let notify = MappedRegisters::map(layout.notify)?;
    Transport::begin(common, notify, layout.notify_multiplier, device)
}
