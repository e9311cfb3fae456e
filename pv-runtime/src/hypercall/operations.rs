#![expect(unsafe_code, reason = "hypercalls: the hypervisor reads and writes the operation's structure")]
//! The hypercalls that are families: a command number and the command's own structure.
//!
//! A trait ties each structure to its command, so the two cannot be mixed up.

use hypercall_abi::Errno;
use hypercall_abi::event_channel::*;
use hypercall_abi::grant_table::*;
use hypercall_abi::physdev::*;
use hypercall_abi::xen::{HYPERVISOR_EVENT_CHANNEL_OP, HYPERVISOR_GRANT_TABLE_OP, HYPERVISOR_PHYSDEV_OP};
use zerocopy::{FromBytes, IntoBytes};

use super::done;
use super::raw::{call2, call3};

/// Declares a family's trait and its structures.
macro_rules! family {
    ($(#[$attribute:meta])* $trait:ident: $($structure:ident = $command:ident),* $(,)?) => {
        $(#[$attribute])*
        pub trait $trait: FromBytes + IntoBytes + sealed::Sealed {
            /// The command's number.
            const COMMAND: u32;
        }
        $(
            impl sealed::Sealed for $structure {}
            impl $trait for $structure {
                const COMMAND: u32 = $command;
            }
        )*
    };
}

/// Keeps the families closed: only structures named here are matched with commands.
mod sealed {
    pub trait Sealed {}
}

family! {
    /// A structure that `event_channel_op` takes. Those that hand memory to the hypervisor are not among them.
    EventChannelOperation:
    EvtchnBindInterdomain = EVTCHNOP_BIND_INTERDOMAIN,
    EvtchnBindVirq = EVTCHNOP_BIND_VIRQ,
    EvtchnBindPirq = EVTCHNOP_BIND_PIRQ,
    EvtchnBindIpi = EVTCHNOP_BIND_IPI,
    EvtchnClose = EVTCHNOP_CLOSE,
    EvtchnSend = EVTCHNOP_SEND,
    EvtchnStatus = EVTCHNOP_STATUS,
    EvtchnAllocUnbound = EVTCHNOP_ALLOC_UNBOUND,
    EvtchnBindVcpu = EVTCHNOP_BIND_VCPU,
    EvtchnUnmask = EVTCHNOP_UNMASK,
    EvtchnReset = EVTCHNOP_RESET,
    EvtchnSetPriority = EVTCHNOP_SET_PRIORITY,
}

family! {
    /// A structure that `grant_table_op` takes.
    GrantTableOperation:
    GnttabMapGrantRef = GNTTABOP_MAP_GRANT_REF,
    GnttabUnmapGrantRef = GNTTABOP_UNMAP_GRANT_REF,
    GnttabSetupTable = GNTTABOP_SETUP_TABLE,
    GnttabCopy = GNTTABOP_COPY,
    GnttabQuerySize = GNTTABOP_QUERY_SIZE,
    GnttabSetVersion = GNTTABOP_SET_VERSION,
    GnttabGetVersion = GNTTABOP_GET_VERSION,
}

family! {
    /// A structure that `physdev_op` takes. Those with addresses in them are not among them.
    PhysicalDeviceOperation:
    PhysdevEoi = PHYSDEVOP_EOI,
    PhysdevIrqStatusQuery = PHYSDEVOP_IRQ_STATUS_QUERY,
    PhysdevSetIopl = PHYSDEVOP_SET_IOPL,
    PhysdevMapPirq = PHYSDEVOP_MAP_PIRQ,
    PhysdevUnmapPirq = PHYSDEVOP_UNMAP_PIRQ,
    PhysdevSetupGsi = PHYSDEVOP_SETUP_GSI,
    PhysdevGetFreePirq = PHYSDEVOP_GET_FREE_PIRQ,
    PhysdevPciMmcfgReserved = PHYSDEVOP_PCI_MMCFG_RESERVED,
    PhysdevPciDeviceAdd = PHYSDEVOP_PCI_DEVICE_ADD,
}

/// `event_channel_op`. Results are in the operation.
#[inline]
pub fn event_channel_op<O: EventChannelOperation>(operation: &mut O) -> Result<(), Errno> {
    let argument = (&raw mut *operation) as u64;
    // SAFETY: the structure is that of the command and holds no addresses.
    done(unsafe { call2::<HYPERVISOR_EVENT_CHANNEL_OP>(u64::from(O::COMMAND), argument) })
}

/// `grant_table_op` on a list of operations of one kind. Each operation holds its own status.
///
/// # Safety
///
/// Addresses and frames in the operations must be valid for what the command reads, writes, maps or unmaps
/// there.
#[inline]
pub unsafe fn grant_table_op<O: GrantTableOperation>(operations: &mut [O]) -> Result<(), Errno> {
    let (list, count) = (operations.as_mut_ptr() as u64, operations.len() as u64);
    // SAFETY: the list is of the command's structures; what they name is the caller's promise.
    done(unsafe { call3::<HYPERVISOR_GRANT_TABLE_OP>(u64::from(O::COMMAND), list, count) })
}

/// Three commands share a structure, so those have functions of their own; the rest go by the trait.
fn physdev_call<O: IntoBytes + FromBytes>(command: u32, operation: &mut O) -> Result<(), Errno> {
    let argument = (&raw mut *operation) as u64;
    // SAFETY: the callers match structure and command, and the structures hold no addresses.
    done(unsafe { call2::<HYPERVISOR_PHYSDEV_OP>(u64::from(command), argument) })
}

/// `physdev_op`. Results are in the operation.
#[inline]
pub fn physdev_op<O: PhysicalDeviceOperation>(operation: &mut O) -> Result<(), Errno> {
    physdev_call(O::COMMAND, operation)
}

/// `physdev_op`: a PCI device is gone.
pub fn pci_device_remove(device: &mut PhysdevPciDevice) -> Result<(), Errno> {
    physdev_call(PHYSDEVOP_PCI_DEVICE_REMOVE, device)
}

/// `physdev_op`: have the hypervisor take over a device's MSI-X table.
pub fn prepare_msix(device: &mut PhysdevPciDevice) -> Result<(), Errno> {
    physdev_call(PHYSDEVOP_PREPARE_MSIX, device)
}

/// `physdev_op`: undo [`prepare_msix`].
pub fn release_msix(device: &mut PhysdevPciDevice) -> Result<(), Errno> {
    physdev_call(PHYSDEVOP_RELEASE_MSIX, device)
}
