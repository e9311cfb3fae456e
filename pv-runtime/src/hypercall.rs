#![expect(unsafe_code, reason = "hypercalls: the hypervisor reads and writes this domain's memory")]
//! Hypercalls, one thin typed function each.
//!
//! A function is safe to call when no argument can make the hypervisor write over, unmap or hand out memory
//! that Rust holds; that is so for events, scheduling, time and texts. Everything that takes addresses or
//! frames is `unsafe`, and is meant to be wrapped by a module that owns what it names ([`crate::memory`],
//! [`crate::grant`], a toolstack).
//!
//! On a host every call fails with `ENOSYS`, so that code above compiles and can be tested around it.

mod operations;
mod raw;

use core::time::Duration;

use hypercall_abi::arch_x86::TrapInfo;
use hypercall_abi::sched::{SCHEDOP_BLOCK, SCHEDOP_SHUTDOWN, SCHEDOP_YIELD, SchedShutdown};
use hypercall_abi::vcpu::{VCPUOP_GET_RUNSTATE_INFO, VCPUOP_STOP_PERIODIC_TIMER, VcpuRunstateInfo};
use hypercall_abi::version::{FeatureInfo, XENVER_EXTRAVERSION, XENVER_GET_FEATURES, XENVER_VERSION};
use hypercall_abi::xen::*;
use hypercall_abi::{DomainId, Errno, VcpuId};

pub use operations::{
    EventChannelOperation, GrantTableOperation, PhysicalDeviceOperation, event_channel_op, grant_table_op,
    pci_device_remove, physdev_op, prepare_msix, release_msix,
};
use raw::{call_number, call1, call2, call3, call4};

/// What every call returns where there is no hypervisor.
#[cfg(not(target_os = "none"))]
const NO_HYPERVISOR: i64 = Errno::ENOSYS.to_return();

/// Hypercalls that the page has room for.
const HYPERCALLS: u64 = 128;

/// Turns what a hypercall returned into its result.
#[inline(always)]
fn result(value: i64) -> Result<u64, Errno> {
    Errno::from_return(value)
}

/// The same for a call whose only answer is success.
#[inline(always)]
fn done(value: i64) -> Result<(), Errno> {
    result(value).map(drop)
}

/// Makes any hypercall with any arguments and returns what it answered. For tests of the hypervisor.
///
/// A number of 128 or more has no entry in the hypercall page and is answered with `-ENOSYS` here.
///
/// # Safety
///
/// The call must not make the hypervisor change memory or mappings that the kernel uses.
pub unsafe fn raw(number: u64, arguments: [u64; 5]) -> i64 {
    if number >= HYPERCALLS {
        return Errno::ENOSYS.to_return();
    }
    // SAFETY: the number is in range; the rest is the caller's promise.
    unsafe { call_number(number, arguments) }
}

/// `set_trap_table`: takes the handlers up to the first with address zero.
///
/// # Safety
///
/// The handlers must be code made for it, and the list must end with a zero entry.
pub unsafe fn set_trap_table(table: &[TrapInfo]) -> Result<(), Errno> {
    // SAFETY: the hypervisor reads the table up to its end; the handlers are the caller's promise.
    done(unsafe { call1::<HYPERVISOR_SET_TRAP_TABLE>(table.as_ptr() as u64) })
}

/// `set_callbacks`: the entry points for events and for failed returns.
///
/// # Safety
///
/// Both must be code made for it.
pub unsafe fn set_callbacks(event: u64, failsafe: u64) -> Result<(), Errno> {
    // SAFETY: the call takes addresses only; what is there is the caller's promise.
    done(unsafe { call3::<HYPERVISOR_SET_CALLBACKS>(event, failsafe, 0) })
}

/// `mmu_update`: changes page-table entries. New entries map frames of `frames_of`.
/// Returns how many entries were changed.
///
/// # Errors
///
/// What the hypervisor found wrong with the first entry that it refused; those before it are changed.
///
/// # Safety
///
/// No mapping that Rust relies on may go away or change its meaning.
pub unsafe fn mmu_update(updates: &[MmuUpdate], frames_of: DomainId) -> Result<u64, Errno> {
    let mut changed = 0_u32;
    let owner = u64::from(foreign_domain(frames_of, None));
    let (list, count) = (updates.as_ptr() as u64, updates.len() as u64);
    // SAFETY: the list is readable and `changed` writable; the entries are the caller's promise.
    done(unsafe { call4::<HYPERVISOR_MMU_UPDATE>(list, count, &raw mut changed as u64, owner) })?;
    Ok(u64::from(changed))
}

/// `update_va_mapping`: sets the bottom-level entry for a virtual address. `flush` is of `UVMF_*`.
///
/// # Errors
///
/// `EINVAL` if there is no bottom-level table for the address, or the entry is refused.
///
/// # Safety
///
/// No mapping that Rust relies on may go away or change its meaning.
pub unsafe fn update_va_mapping(virtual_address: u64, entry: u64, flush: u64) -> Result<(), Errno> {
    // SAFETY: the call takes numbers only; the mapping is the caller's promise.
    done(unsafe { call3::<HYPERVISOR_UPDATE_VA_MAPPING>(virtual_address, entry, flush) })
}

/// `mmuext_op`: pins tables, flushes TLBs and the like, on frames of `frames_of`.
///
/// # Safety
///
/// No mapping that Rust relies on may go away, no page in use be cleared or copied over.
pub unsafe fn mmuext_op(operations: &[MmuextOp], frames_of: DomainId) -> Result<(), Errno> {
    let (list, count) = (operations.as_ptr() as u64, operations.len() as u64);
    // SAFETY: the list is readable, and a zero address for the count is allowed; what the operations do is
    // the caller's promise.
    done(unsafe { call4::<HYPERVISOR_MMUEXT_OP>(list, count, 0, u64::from(frames_of.0)) })
}

/// Flushes this virtual CPU's TLB.
pub fn flush_tlb() -> Result<(), Errno> {
    let flush = MmuextOp { cmd: MMUEXT_TLB_FLUSH_LOCAL, ..Default::default() };
    // SAFETY: a flush changes no mapping.
    unsafe { mmuext_op(&[flush], DomainId::SELF) }
}

/// `memory_op` on an argument of the command's structure. The meaning of the result depends on the command.
///
/// # Safety
///
/// `argument` must be the command's structure, every address in it valid for what the command reads and
/// writes there, and no memory that Rust holds may be given away.
pub unsafe fn memory_op<T>(command: u32, argument: &mut T) -> Result<u64, Errno> {
    // SAFETY: the argument is readable and writable; the rest is the caller's promise.
    result(unsafe { call2::<HYPERVISOR_MEMORY_OP>(u64::from(command), (&raw mut *argument) as u64) })
}

/// `domctl`: a control operation on a domain (`hypercall_abi::domctl::Domctl`).
///
/// # Safety
///
/// `operation` must be a `domctl` structure, and every address in it valid for what the command reads and
/// writes there.
pub unsafe fn domctl<T>(operation: &mut T) -> Result<u64, Errno> {
    // SAFETY: the operation is readable and writable; the rest is the caller's promise.
    result(unsafe { call1::<HYPERVISOR_DOMCTL>((&raw mut *operation) as u64) })
}

/// `sysctl`: a control operation on the system (`hypercall_abi::sysctl::Sysctl`).
///
/// # Safety
///
/// As for [`domctl`].
pub unsafe fn sysctl<T>(operation: &mut T) -> Result<u64, Errno> {
    // SAFETY: the operation is readable and writable; the rest is the caller's promise.
    result(unsafe { call1::<HYPERVISOR_SYSCTL>((&raw mut *operation) as u64) })
}

/// `platform_op`: an operation on the machine (`hypercall_abi::platform::PlatformOp`).
///
/// # Safety
///
/// As for [`domctl`].
pub unsafe fn platform_op<T>(operation: &mut T) -> Result<u64, Errno> {
    // SAFETY: the operation is readable and writable; the rest is the caller's promise.
    result(unsafe { call1::<HYPERVISOR_PLATFORM_OP>((&raw mut *operation) as u64) })
}

/// `multicall`: makes several hypercalls with one entry to the hypervisor. Results are in the entries.
///
/// # Safety
///
/// Each entry must be safe to make by itself, and in this order.
pub unsafe fn multicall(calls: &mut [MulticallEntry]) -> Result<(), Errno> {
    let (list, count) = (calls.as_mut_ptr() as u64, calls.len() as u64);
    // SAFETY: the list is readable and writable; the entries are the caller's promise.
    done(unsafe { call2::<HYPERVISOR_MULTICALL>(list, count) })
}

/// `sched_op` yield: lets other domains run.
pub fn sched_yield() {
    // SAFETY: the call takes no addresses. It cannot fail.
    let _ = unsafe { call2::<HYPERVISOR_SCHED_OP>(u64::from(SCHEDOP_YIELD), 0) };
}

/// `sched_op` block: unmasks events and waits until one is pending. The upcall masks them again before this
/// returns.
pub fn sched_block() {
    // SAFETY: the call takes no addresses; the upcall that follows touches no Rust data. It cannot fail.
    let _ = unsafe { call2::<HYPERVISOR_SCHED_OP>(u64::from(SCHEDOP_BLOCK), 0) };
}

/// `sched_op` shutdown: ends this domain for a reason of `SHUTDOWN_*`. Returns only if that is refused.
pub fn sched_shutdown(reason: u32) -> Result<(), Errno> {
    let argument = SchedShutdown { reason };
    // SAFETY: the hypervisor reads the argument.
    done(unsafe { call2::<HYPERVISOR_SCHED_OP>(u64::from(SCHEDOP_SHUTDOWN), &raw const argument as u64) })
}

/// `set_timer_op`: raises the timer's virtual interrupt at this time of the monotonic clock, in place of one
/// asked for before. Zero asks for none.
pub fn set_timer_op(deadline: Duration) -> Result<(), Errno> {
    let nanoseconds = u64::try_from(deadline.as_nanos()).unwrap_or(u64::MAX);
    // SAFETY: the call takes a number only.
    done(unsafe { call1::<HYPERVISOR_SET_TIMER_OP>(nanoseconds) })
}

/// `vcpu_op` stop periodic timer: no regular ticks for this virtual CPU.
pub fn stop_periodic_timer(vcpu: VcpuId) -> Result<(), Errno> {
    // SAFETY: the call takes numbers only.
    done(unsafe { call3::<HYPERVISOR_VCPU_OP>(u64::from(VCPUOP_STOP_PERIODIC_TIMER), u64::from(vcpu.0), 0) })
}

/// `vcpu_op` get runstate info: how this virtual CPU's time was spent.
pub fn vcpu_runstate(vcpu: VcpuId) -> Result<VcpuRunstateInfo, Errno> {
    let mut info = VcpuRunstateInfo::default();
    let (command, address) = (u64::from(VCPUOP_GET_RUNSTATE_INFO), &raw mut info as u64);
    // SAFETY: the hypervisor writes one record to the address.
    done(unsafe { call3::<HYPERVISOR_VCPU_OP>(command, u64::from(vcpu.0), address) })?;
    Ok(info)
}

/// `console_io` write: prints on the hypervisor's console.
pub fn console_write(text: &[u8]) -> Result<(), Errno> {
    let (bytes, count) = (text.as_ptr() as u64, text.len() as u64);
    // SAFETY: the hypervisor reads the text.
    done(unsafe { call3::<HYPERVISOR_CONSOLE_IO>(u64::from(CONSOLEIO_WRITE), count, bytes) })
}

/// `console_io` read: takes what was typed at the hypervisor's console. Returns the number of bytes.
pub fn console_read(buffer: &mut [u8]) -> Result<usize, Errno> {
    let (bytes, count) = (buffer.as_mut_ptr() as u64, buffer.len() as u64);
    // SAFETY: the hypervisor writes no more than `count` bytes into the buffer.
    let read = result(unsafe { call3::<HYPERVISOR_CONSOLE_IO>(u64::from(CONSOLEIO_READ), count, bytes) })?;
    Ok((read as usize).min(buffer.len()))
}

/// `xen_version`: the hypervisor's version, major and minor.
pub fn xen_version() -> Result<(u16, u16), Errno> {
    // SAFETY: this command takes no argument.
    let version = result(unsafe { call2::<HYPERVISOR_XEN_VERSION>(u64::from(XENVER_VERSION), 0) })?;
    Ok(((version >> 16) as u16, version as u16))
}

/// `xen_version`: what follows the version's numbers, padded with zeroes.
pub fn xen_extra_version() -> Result<[u8; 16], Errno> {
    let mut text = [0; 16];
    // SAFETY: this command writes 16 bytes.
    done(unsafe {
        call2::<HYPERVISOR_XEN_VERSION>(u64::from(XENVER_EXTRAVERSION), text.as_mut_ptr() as u64)
    })?;
    Ok(text)
}

/// `xen_version`: the optional features, a bit each of `hypercall_abi::features::XENFEAT_*`.
pub fn xen_features() -> Result<u32, Errno> {
    let mut info = FeatureInfo { submap_idx: 0, submap: 0 };
    // SAFETY: this command reads and writes a `FeatureInfo`.
    done(unsafe { call2::<HYPERVISOR_XEN_VERSION>(u64::from(XENVER_GET_FEATURES), &raw mut info as u64) })?;
    Ok(info.submap)
}

/// `vm_assist`: switches a deviation from real hardware on or off (`VMASST_CMD_*`, `VMASST_TYPE_*`).
///
/// # Safety
///
/// The kernel must be prepared for what the assistance changes.
pub unsafe fn vm_assist(command: u32, kind: u32) -> Result<(), Errno> {
    // SAFETY: the call takes numbers only; the effect is the caller's promise.
    done(unsafe { call2::<HYPERVISOR_VM_ASSIST>(u64::from(command), u64::from(kind)) })
}
