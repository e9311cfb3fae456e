//! Where things are: the machine's memory map, and the machine-to-pseudo-physical table.

use super::read;
use crate::lock::Mutex;
use crate::{
    arch, direct_map, guest_access,
    hypercall::{Caller, HypercallResult},
    machine::machine,
};
use hypercall_abi::{
    Errno,
    arch_x86::{MACH2PHYS_VIRT_END, MACH2PHYS_VIRT_START},
    memory::*,
};

/// Most ranges of a memory map: firmware gives a few dozen.
const MAX_RANGES: usize = 128;

/// The machine's memory map, as the firmware gave it.
pub struct MachineMemoryMap {
    ranges: Mutex<([E820Entry; MAX_RANGES], usize)>,
}

impl MachineMemoryMap {
    /// A map that says nothing.
    pub const fn new() -> Self {
        const NOTHING: E820Entry = zerocopy::transmute!([0u8; size_of::<E820Entry>()]);
        Self { ranges: Mutex::new(([NOTHING; MAX_RANGES], 0)) }
    }
}

impl Default for MachineMemoryMap {
    fn default() -> Self {
        Self::new()
    }
}

/// Sets the machine's memory map; at boot. What goes beyond its size is dropped.
pub fn set_machine_memory_map(map: impl Iterator<Item = E820Entry>) {
    let mut ranges = machine().memory_map.ranges.lock();
    let (entries, count) = &mut *ranges;
    *count = 0;
    for (slot, entry) in entries.iter_mut().zip(map) {
        *slot = entry;
        *count += 1;
    }
}

/// `XENMEM_machine_memory_map`, for the control domain.
pub(super) fn machine_memory_map(caller: &Caller<'_>, address: u64) -> HypercallResult {
    if !caller.domain.is_privileged {
        return Err(Errno::EPERM.into());
    }
    let mut argument: MemoryMap = read(address)?;
    let ranges = machine().memory_map.ranges.lock();
    let (entries, count) = &*ranges;
    let written = (*count).min(argument.nr_entries as usize);
    for (index, entry) in (0u64..).zip(&entries[..written]) {
        guest_access::write_element(argument.buffer, index, entry)?;
    }
    argument.nr_entries = written as u32;
    guest_access::write(address, &argument)?;
    Ok(0)
}

/// `XENMEM_machphys_mfn_list`: the first frame of each 2 MiB of the machine-to-physical table.
pub(super) fn machphys_mfn_list(address: u64) -> HypercallResult {
    let mut argument: MachphysMfnList = guest_access::read(address)?;
    let extents = (0..u64::from(argument.max_extents)).map_while(arch::machine_to_physical_extent);
    argument.nr_extents = 0;
    for (index, extent) in (0..).zip(extents) {
        guest_access::write_element(argument.extent_start, index, &extent)?;
        argument.nr_extents += 1;
    }
    guest_access::write(address, &argument)?;
    Ok(0)
}

/// `XENMEM_machphys_mapping`: where guests see the table, and how far it goes.
pub(super) fn machphys_mapping(address: u64) -> HypercallResult {
    let answer = MachphysMapping {
        v_start: MACH2PHYS_VIRT_START,
        v_end: MACH2PHYS_VIRT_END,
        max_mfn: direct_map::frame_count() - 1,
    };
    guest_access::write(address, &answer)?;
    Ok(0)
}
