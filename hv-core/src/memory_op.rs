//! `memory_op`: how much memory a domain has, which frames, and the maps of it.
//!
//! A call over many extents does some, says how many in the upper part of its command, and is executed again; in
//! the end it returns how many extents it managed, which may be fewer than were asked for.

mod exchange;
mod map;
mod reservation;

pub use map::{MachineMemoryMap, MemoryMap, set_machine_memory_map};

use crate::{
    domain::Domain,
    frame_allocator, guest_access,
    hypercall::{Arguments, Caller, HypercallError, HypercallResult},
};
use hypercall_abi::{Errno, memory::*};
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
