//! Where things are: memory maps, and the machine-to-pseudo-physical table.

use super::read;
use crate::lock::Mutex;
use crate::{
    arch, direct_map,
    frame_object::FrameBox,
    guest_access,
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

/// A memory map: the machine's, or what a domain is told about its own memory.
pub struct MemoryMap {
    ranges: [E820Entry; MAX_RANGES],
    count: usize,
}

impl MemoryMap {
    /// A map that says nothing.
    const fn new() -> Self {
        const NOTHING: E820Entry = zerocopy::transmute!([0u8; size_of::<E820Entry>()]);
        Self { ranges: [NOTHING; MAX_RANGES], count: 0 }
    }

    /// The map in a guest's list; `EINVAL` when that is too long.
    fn read(list: &hypercall_abi::memory::MemoryMap) -> Result<Self, Errno> {
        let mut map = Self::new();
        map.count = list.nr_entries as usize;
        let ranges = map.ranges.get_mut(..map.count).ok_or(Errno::EINVAL)?;
        for (index, range) in (0u64..).zip(ranges) {
            *range = guest_access::read_element(list.buffer, index)?;
        }
        Ok(map)
    }

    /// Writes as much of the map as there is room for into a guest's list.
    fn write(&self, address: u64) -> Result<(), Errno> {
        let mut argument: hypercall_abi::memory::MemoryMap = read(address)?;
        let written = self.count.min(argument.nr_entries as usize);
        for (index, range) in (0u64..).zip(&self.ranges[..written]) {
            guest_access::write_element(argument.buffer, index, range)?;
        }
        argument.nr_entries = written as u32;
        guest_access::write(address, &argument)
    }
}

/// The machine's memory map, as the firmware gave it.
pub struct MachineMemoryMap(Mutex<MemoryMap>);

impl MachineMemoryMap {
    /// A map that says nothing.
    pub const fn new() -> Self {
        Self(Mutex::new(MemoryMap::new()))
    }
}

impl Default for MachineMemoryMap {
    fn default() -> Self {
        Self::new()
    }
}

/// Sets the machine's memory map; at boot. What goes beyond its size is dropped.
pub fn set_machine_memory_map(map: impl Iterator<Item = E820Entry>) {
    let mut machine_map = machine().memory_map.0.lock();
    machine_map.count = 0;
    for (index, entry) in map.take(MAX_RANGES).enumerate() {
        machine_map.ranges[index] = entry;
        machine_map.count += 1;
    }
}

/// `XENMEM_machine_memory_map`, for the control domain.
pub(super) fn machine_memory_map(caller: &Caller<'_>, address: u64) -> HypercallResult {
    if !caller.domain.is_privileged {
        return Err(Errno::EPERM.into());
    }
    machine().memory_map.0.lock().write(address)?;
    Ok(0)
}

/// `XENMEM_memory_map`: what the caller has been told to make of its memory; `ENOSYS` when that is nothing, and then it
/// goes by its size.
pub(super) fn memory_map(caller: &Caller<'_>, address: u64) -> HypercallResult {
    let map = caller.domain.memory_map.lock();
    map.as_ref().ok_or(Errno::ENOSYS)?.write(address)?;
    Ok(0)
}

/// `XENMEM_set_memory_map`, for the control domain: what a domain is to make of its memory.
pub(super) fn set_memory_map(caller: &Caller<'_>, address: u64) -> HypercallResult {
    if !caller.domain.is_privileged {
        return Err(Errno::EPERM.into());
    }
    let argument: ForeignMemoryMap = read(address)?;
    let domain = caller.target(argument.domid)?;
    let map = FrameBox::try_new(MemoryMap::read(&argument.map)?).ok_or(Errno::ENOMEM)?;
    let old = domain.memory_map.lock().replace(map);
    drop(old);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        memory_op::memory_op,
        test_support::{ARGUMENTS, Guest, errno, machine_of},
    };
    use hypercall_abi::DomainId;

    /// Where lists of ranges are: in the second page of arguments.
    const LIST: u64 = ARGUMENTS + 4096;

    fn list(count: u32) -> hypercall_abi::memory::MemoryMap {
        hypercall_abi::memory::MemoryMap { nr_entries: count, buffer: LIST, ..Default::default() }
    }

    /// Has a domain tell another of the first `count` ranges in its list.
    fn tell(teller: &Guest, domid: DomainId, count: u32) -> HypercallResult {
        let argument = ForeignMemoryMap { domid, map: list(count), ..Default::default() };
        teller.write_arguments(&[argument]);
        teller.execute(memory_op, [u64::from(XENMEM_SET_MEMORY_MAP), ARGUMENTS, 0]).0
    }

    /// Has a domain ask, with room for `room` ranges; says how many it got.
    fn ask(guest: &Guest, room: u32) -> Result<u32, Errno> {
        guest.write_arguments(&[list(room)]);
        match guest.execute(memory_op, [u64::from(XENMEM_MEMORY_MAP), ARGUMENTS, 0]).0 {
            Ok(_) => {
                let mut answer = [list(0)];
                guest.read_arguments(&mut answer);
                Ok(answer[0].nr_entries)
            }
            refused => Err(errno(refused)),
        }
    }

    #[test]
    fn a_guest_is_told_of_its_memory_what_its_builder_says() {
        let _machine = machine_of(256);
        let (control, guest) = (Guest::new(0), Guest::new(1));
        assert_eq!(ask(&guest, 8), Err(Errno::ENOSYS), "nothing has been said");
        let range =
            |start: u64| E820Entry { addr: start.into(), size: 0x1000.into(), r#type: E820_RAM.into() };
        let map = [range(0), range(0x8000)];
        control.as_caller(|_| guest_access::write(LIST, &map)).unwrap();
        assert_eq!(tell(&control, DomainId(1), 2), Ok(0));
        assert_eq!(ask(&guest, 8), Ok(2));
        let told: [E820Entry; 2] = guest.as_caller(|_| guest_access::read(LIST)).unwrap();
        assert_eq!(told, map);
        assert_eq!(ask(&guest, 1), Ok(1), "as much as there is room for");
        assert_eq!(errno(tell(&control, DomainId(1), MAX_RANGES as u32 + 1)), Errno::EINVAL);
        assert_eq!(errno(tell(&control, DomainId(1), u32::MAX)), Errno::EINVAL);
        assert_eq!(errno(tell(&control, DomainId(77), 1)), Errno::ESRCH);
        assert_eq!(errno(tell(&guest, DomainId(1), 1)), Errno::EPERM, "not even of itself");
        assert_eq!(ask(&guest, 8), Ok(2));
    }
}
