//! `HYPERVISOR_physdev_op`: the control domain and the machine's devices.
//!
//! Devices are driven by domains; the hypervisor only routes their interrupts. A line or a message becomes a
//! physical interrupt here, and `EVTCHNOP_bind_pirq` connects it to an event channel.

use crate::{
    arch::msi::Message,
    guest_access,
    hypercall::{Arguments, Caller, HypercallResult},
    interrupt,
    pci_config::Function,
    vcpu::PortBitmap,
};
use hypercall_abi::{
    Errno, PhysicalIrq,
    physdev::{
        MAP_PIRQ_TYPE_GSI, MAP_PIRQ_TYPE_MSI, MAP_PIRQ_TYPE_MSI_SEG, PHYSDEVOP_EOI,
        PHYSDEVOP_IRQ_STATUS_QUERY, PHYSDEVOP_MAP_PIRQ, PHYSDEVOP_PCI_DEVICE_ADD,
        PHYSDEVOP_PCI_DEVICE_REMOVE, PHYSDEVOP_SET_IOBITMAP, PHYSDEVOP_SET_IOPL, PHYSDEVOP_SETUP_GSI,
        PHYSDEVOP_UNMAP_PIRQ, PhysdevEoi, PhysdevIrqStatusQuery, PhysdevMapPirq, PhysdevPciDevice,
        PhysdevPciDeviceAdd, PhysdevSetIobitmap, PhysdevSetIopl, PhysdevSetupGsi, PhysdevUnmapPirq,
        XENIRQSTAT_NEEDS_EOI,
    },
};

/// I/O ports there are.
const MOST_PORTS: u32 = 1 << 16;

/// `HYPERVISOR_physdev_op(command, argument)`.
///
/// # Errors
/// `ENOSYS` for a command that is not there, `EPERM` for what only the control domain may do, and what it says.
pub fn physdev_op(caller: &mut Caller<'_>, arguments: &Arguments) -> HypercallResult {
    let argument = arguments[1];
    match arguments[0] as u32 {
        PHYSDEVOP_EOI => {
            let end: PhysdevEoi = guest_access::read(argument)?;
            interrupt::end(caller.domain, end.irq)?;
        }
        PHYSDEVOP_IRQ_STATUS_QUERY => status(argument)?,
        PHYSDEVOP_SET_IOPL => set_privilege_level(caller, guest_access::read(argument)?)?,
        PHYSDEVOP_SET_IOBITMAP => set_port_bitmap(caller, guest_access::read(argument)?)?,
        PHYSDEVOP_SETUP_GSI => set_up_line(caller, guest_access::read(argument)?)?,
        PHYSDEVOP_MAP_PIRQ => {
            let mut map: PhysdevMapPirq = guest_access::read(argument)?;
            map.pirq = map_interrupt(caller, &map)?.0 as i32;
            guest_access::write(argument, &map)?;
        }
        PHYSDEVOP_UNMAP_PIRQ => {
            let unmap: PhysdevUnmapPirq = guest_access::read(argument)?;
            let domain = caller.target(unmap.domid)?;
            interrupt::remove(domain.id, PhysicalIrq(unmap.pirq as u32))?;
        }
        PHYSDEVOP_PCI_DEVICE_ADD => add_device(caller, guest_access::read(argument)?)?,
        PHYSDEVOP_PCI_DEVICE_REMOVE => remove_device(caller, guest_access::read(argument)?)?,
        _ => return Err(Errno::ENOSYS.into()),
    }
    Ok(0)
}

fn control_only(caller: &Caller<'_>) -> Result<(), Errno> {
    if caller.domain.is_privileged { Ok(()) } else { Err(Errno::EPERM) }
}

fn status(argument: u64) -> Result<(), Errno> {
    let mut query: PhysdevIrqStatusQuery = guest_access::read(argument)?;
    query.flags = if interrupt::needs_end_of_interrupt(query.irq) { XENIRQSTAT_NEEDS_EOI } else { 0 };
    guest_access::write(argument, &query)
}

/// The guest's idea of its I/O privilege level; port access is decided by right, not by it.
fn set_privilege_level(caller: &mut Caller<'_>, level: PhysdevSetIopl) -> Result<(), Errno> {
    if level.iopl > 3 {
        return Err(Errno::EINVAL);
    }
    caller.context.io_privilege_level = level.iopl as u8;
    Ok(())
}

/// Which ports the guest's user mode may try. The bitmap is read when it does; only its place is looked at here.
fn set_port_bitmap(caller: &mut Caller<'_>, bitmap: PhysdevSetIobitmap) -> Result<(), Errno> {
    if bitmap.nr_ports > MOST_PORTS {
        return Err(Errno::EINVAL);
    }
    caller.context.port_bitmap = PortBitmap { address: bitmap.bitmap, ports: bitmap.nr_ports };
    Ok(())
}

fn set_up_line(caller: &Caller<'_>, line: PhysdevSetupGsi) -> Result<(), Errno> {
    control_only(caller)?;
    let number = u32::try_from(line.gsi).map_err(|_| Errno::EINVAL)?;
    interrupt::configure_line(PhysicalIrq(number), line.triggering != 0, line.polarity != 0)
}

fn map_interrupt(caller: &Caller<'_>, map: &PhysdevMapPirq) -> Result<PhysicalIrq, Errno> {
    control_only(caller)?;
    let domain = caller.target(map.domid)?;
    match map.r#type {
        MAP_PIRQ_TYPE_GSI => line_number(map.index),
        MAP_PIRQ_TYPE_MSI | MAP_PIRQ_TYPE_MSI_SEG => {
            let message = Message::of(function(map)?, map.table_base != 0, map.entry_nr)?;
            interrupt::add_message(domain.id, message)
        }
        _ => Err(Errno::EOPNOTSUPP),
    }
}

fn line_number(index: i32) -> Result<PhysicalIrq, Errno> {
    let number = u32::try_from(index).map_err(|_| Errno::EINVAL)?;
    if number >= interrupt::FIRST_MESSAGE || !crate::arch::io_apic::has_line(number) {
        return Err(Errno::EINVAL);
    }
    Ok(PhysicalIrq(number))
}

/// The PCI function a request names; only segment 0 is reached by configuration ports.
fn function(map: &PhysdevMapPirq) -> Result<Function, Errno> {
    let segment = if map.r#type == MAP_PIRQ_TYPE_MSI_SEG { map.bus >> 16 } else { 0 };
    if segment != 0 {
        return Err(Errno::ENODEV);
    }
    existing(Function { bus: map.bus as u8, devfn: map.devfn as u8 })
}

/// A function that answers.
fn existing(function: Function) -> Result<Function, Errno> {
    const NOBODY: u32 = 0xffff;
    if function.read(0) & 0xffff == NOBODY { Err(Errno::ENODEV) } else { Ok(function) }
}

fn add_device(caller: &Caller<'_>, device: PhysdevPciDeviceAdd) -> Result<(), Errno> {
    control_only(caller)?;
    if device.seg != 0 {
        return Err(Errno::ENODEV);
    }
    existing(Function { bus: device.bus, devfn: device.devfn }).map(|_| ())
}

fn remove_device(caller: &Caller<'_>, device: PhysdevPciDevice) -> Result<(), Errno> {
    control_only(caller)?;
    if device.seg != 0 {
        return Err(Errno::ENODEV);
    }
    interrupt::remove_messages_of(Function { bus: device.bus, devfn: device.devfn });
    Ok(())
}
