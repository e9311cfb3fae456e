//! A transport over registers in the machine's memory.

use super::layout::{Layout, Region};
use super::transport::Transport;
use crate::pci::{Address, COMMAND_BUS_MASTER, COMMAND_MEMORY, ConfigSpace, change_command};
use crate::registers::MappedRegisters;
use crate::setup_error::SetupError;

fn map(region: Region) -> Result<MappedRegisters, SetupError> {
    MappedRegisters::map(region.address, region.length as usize)
}

/// Resets a device that may not use the bus: afterwards it knows no memory of anybody's.
///
/// # Errors
///
/// As for [`connect`].
pub fn reset(config: &impl ConfigSpace, function: Address) -> Result<(), SetupError> {
    let layout = Layout::find(config, function)?;
    change_command(config, function, COMMAND_MEMORY, 0);
    let common = map(layout.common)?;
    let notify = map(layout.notify)?;
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
    let device = layout.device.map(map).transpose()?;
    let common = map(layout.common)?;
    let notify = map(layout.notify)?;
    Transport::begin(common, notify, layout.notify_multiplier, device)
}
