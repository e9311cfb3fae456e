//! `memory_op`: how much memory a domain has, which frames, and the maps of it.
//!
//! A call over many extents does some, says how many in the upper part of its command, and is executed again; in
//! the end it returns how many extents it managed, which may be fewer than were asked for.

mod exchange;
mod map;
mod reservation;

pub use map::{MachineMemoryMap, MemoryMap, set_machine_memory_map};

use crate::{
    direct_map,
    domain::Domain,
    frame_allocator, guest_access,
    hypercall::{Arguments, Caller, HypercallError, HypercallResult},
};
use core::{mem::offset_of, sync::atomic::Ordering};
use hypercall_abi::{
    Errno,
    memory::*,
    xen::{ArchSharedInfo, SharedInfo},
};
use zerocopy::{FromBytes, IntoBytes};

/// Where the number of completed extents starts in a command.
const PROGRESS_SHIFT: u32 = 6;
/// The bits below say what to do.
const COMMAND: u64 = (1 << PROGRESS_SHIFT) - 1;

/// Frames that one call works on before it lets interrupts in.
const FRAMES_AT_ONCE: u64 = 512;

/// `HYPERVISOR_memory_op(command, argument)`.
///
/// # Errors
/// `ENOSYS` for commands that do not exist here, and what each command says.
pub fn memory_op(caller: &mut Caller<'_>, arguments: &Arguments) -> HypercallResult {
    let [command, address, ..] = *arguments;
    let done = command >> PROGRESS_SHIFT;
    match (command & COMMAND) as u32 {
        XENMEM_INCREASE_RESERVATION => reservation::increase(caller, address, done),
        XENMEM_DECREASE_RESERVATION => reservation::decrease(caller, address, done),
        XENMEM_POPULATE_PHYSMAP => reservation::populate(caller, address, done),
        XENMEM_EXCHANGE => exchange::exchange(caller, address),
        XENMEM_CURRENT_RESERVATION => about(caller, address, |domain| domain.memory.total()),
        XENMEM_MAXIMUM_RESERVATION => about(caller, address, |domain| domain.memory.maximum()),
        XENMEM_MAXIMUM_GPFN => about(caller, address, last_place),
        XENMEM_GET_POD_TARGET => pages_on_demand(caller, address),
        XENMEM_CLAIM_PAGES => claim(caller, address),
        XENMEM_MAXIMUM_RAM_PAGE => Ok(crate::direct_map::frame_count() - 1),
        XENMEM_MACHPHYS_MFN_LIST => map::machphys_mfn_list(address),
        XENMEM_MACHPHYS_MAPPING => map::machphys_mapping(address),
        XENMEM_MEMORY_MAP => map::memory_map(caller, address),
        XENMEM_SET_MEMORY_MAP => map::set_memory_map(caller, address),
        XENMEM_MACHINE_MEMORY_MAP => map::machine_memory_map(caller, address),
        // These are about the memory of domains whose frame numbers are translated for them.
        XENMEM_ADD_TO_PHYSMAP | XENMEM_REMOVE_FROM_PHYSMAP => Err(Errno::EACCES.into()),
        _ => Err(Errno::ENOSYS.into()),
    }
}

fn about(caller: &Caller<'_>, address: u64, number: impl Fn(&Domain) -> u64) -> HypercallResult {
    let argument: MemoryDomain = guest_access::read(address)?;
    Ok(number(&*caller.target(argument.domid)?))
}

/// The last pseudo-physical place that a domain says it has, in its shared page.
fn last_place(domain: &Domain) -> u64 {
    let offset = offset_of!(SharedInfo, arch) + offset_of!(ArchSharedInfo, max_pfn);
    direct_map::atomic::<u64>(domain.shared_info, offset).load(Ordering::Relaxed).saturating_sub(1)
}

/// `XENMEM_get_pod_target`: the memory of these domains is all there, none of it on demand.
fn pages_on_demand(caller: &Caller<'_>, address: u64) -> HypercallResult {
    if !caller.domain.is_privileged {
        return Err(Errno::EPERM.into());
    }
    let mut answer: PodTarget = read(address)?;
    let domain = caller.target(answer.domid)?;
    answer.tot_pages = domain.memory.total();
    (answer.pod_cache_pages, answer.pod_entries) = (0, 0);
    guest_access::write(address, &answer)?;
    Ok(0)
}

fn claim(caller: &Caller<'_>, address: u64) -> HypercallResult {
    if !caller.domain.is_privileged {
        return Err(Errno::EPERM.into());
    }
    let argument: MemoryReservation = guest_access::read(address)?;
    if argument.extent_order != 0 || argument.mem_flags != 0 || argument.extent_start != 0 {
        return Err(Errno::EINVAL.into());
    }
    let domain = crate::domain::find(argument.domid).ok_or(Errno::ESRCH)?;
    frame_allocator::claim(&domain, argument.nr_extents)?;
    Ok(0)
}

/// Moves the call on to where it is to continue.
fn restart<T>(caller: &mut Caller<'_>, command: u32, done: u64) -> Result<T, HypercallError> {
    caller.set_argument(0, u64::from(command) | done << PROGRESS_SHIFT);
    Err(HypercallError::Restart)
}

/// Reads a command's argument.
fn read<T: FromBytes + IntoBytes>(address: u64) -> Result<T, Errno> {
    guest_access::read(address)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::{Guest, errno, machine_of};
    use core::slice;
    use hypercall_abi::DomainId;

    fn ask<T: FromBytes + IntoBytes + zerocopy::Immutable>(
        guest: &Guest,
        command: u32,
        argument: &mut T,
    ) -> HypercallResult {
        guest.call(memory_op, command, slice::from_mut(argument))
    }

    #[test]
    fn the_control_domain_asks_what_a_domain_has_and_how_far_it_reaches() {
        let _machine = machine_of(256);
        let (control, guest) = (Guest::new(0), Guest::new(1));
        let mut pages = PodTarget { domid: DomainId(1), pod_entries: 7, ..Default::default() };
        assert_eq!(ask(&control, XENMEM_GET_POD_TARGET, &mut pages), Ok(0));
        assert_eq!((pages.tot_pages, pages.pod_entries), (guest.domain().memory.total(), 0));
        assert_eq!(errno(ask(&guest, XENMEM_GET_POD_TARGET, &mut pages)), Errno::EPERM);
        let mut whose = MemoryDomain { domid: DomainId(1) };
        assert_eq!(ask(&control, XENMEM_MAXIMUM_GPFN, &mut whose), Ok(0), "it has said nothing");
        let offset = offset_of!(SharedInfo, arch) + offset_of!(ArchSharedInfo, max_pfn);
        direct_map::atomic::<u64>(guest.domain().shared_info, offset).store(0x4000, Ordering::Relaxed);
        assert_eq!(ask(&control, XENMEM_MAXIMUM_GPFN, &mut whose), Ok(0x3fff));
        assert_eq!(ask(&guest, XENMEM_MAXIMUM_GPFN, &mut whose), Ok(0x3fff));
        whose.domid = DomainId::ZERO;
        assert_eq!(errno(ask(&guest, XENMEM_MAXIMUM_GPFN, &mut whose)), Errno::EPERM);
    }
}
