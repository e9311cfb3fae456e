//! The interfaces of the control domain.

use alloc::format;

use hypercall_abi::domctl::{Domctl, XEN_DOMCTL_INTERFACE_VERSION};
use hypercall_abi::memory::*;
use hypercall_abi::physdev::*;
use hypercall_abi::platform::{PlatformOp, XENPF_INTERFACE_VERSION, XENPF_SETTIME64};
use hypercall_abi::sched::*;
use hypercall_abi::sysctl::{Sysctl, XEN_SYSCTL_INTERFACE_VERSION};
use hypercall_abi::version::{XEN_COMMANDLINE_LEN, XENVER_COMMANDLINE};
use hypercall_abi::xen::*;
use hypercall_abi::{DomainId, Errno, PhysicalIrq};

use crate::attacker::Attacker;
use crate::mapping::others_numbers;
use crate::report::{Outcome, accepted, cases, expect, refused, refused_as};

cases!("privileged":
    control_of_domains, control_of_the_system, control_of_the_platform, the_hypervisors_console, devices,
    shutting_others_down, memory_of_the_machine, the_hypervisors_command_line, other_interfaces,
);

fn control_of_domains(attacker: &Attacker) -> Outcome {
    for command in 0..90 {
        for domain in [DomainId::ZERO, attacker.own_id, DomainId::SELF, DomainId(attacker.own_id.0 + 1)] {
            let mut call = Domctl::new(command, domain);
            let answer = attacker.call(HYPERVISOR_DOMCTL, &[crate::attacker::address_of(&mut call)]);
            refused_as(format!("command {command} on domain {domain}"), &[Errno::EPERM], answer)?;
        }
    }
    let mut call = Domctl::new(1, DomainId::ZERO);
    call.interface_version = XEN_DOMCTL_INTERFACE_VERSION + 1;
    let answer = attacker.call(HYPERVISOR_DOMCTL, &[crate::attacker::address_of(&mut call)]);
    refused_as("a call of another version", &[Errno::EPERM, Errno::EACCES], answer)
}

fn control_of_the_system(attacker: &Attacker) -> Outcome {
    for command in 0..40 {
        let mut call = Sysctl::new(command);
        expect(call.interface_version == XEN_SYSCTL_INTERFACE_VERSION, "the version is another one")?;
        let answer = attacker.call(HYPERVISOR_SYSCTL, &[crate::attacker::address_of(&mut call)]);
        refused_as(format!("command {command}"), &[Errno::EPERM], answer)?;
    }
    Ok(())
}

fn control_of_the_platform(attacker: &Attacker) -> Outcome {
    for command in (0..70).chain([XENPF_SETTIME64]) {
        let mut call = PlatformOp::new(command);
        expect(call.interface_version == XENPF_INTERFACE_VERSION, "the version is another one")?;
        let answer = attacker.call(HYPERVISOR_PLATFORM_OP, &[crate::attacker::address_of(&mut call)]);
        refused_as(format!("command {command}"), &[Errno::EPERM], answer)?;
    }
    Ok(())
}

fn the_hypervisors_console(attacker: &Attacker) -> Outcome {
    let mut text = *b"hostile: this must not be seen\n";
    for command in [CONSOLEIO_WRITE, CONSOLEIO_READ, 2, u32::MAX] {
        let arguments = [u64::from(command), text.len() as u64, text.as_mut_ptr() as u64];
        refused(format!("command {command}"), attacker.call(HYPERVISOR_CONSOLE_IO, &arguments))?;
    }
    Ok(())
}

fn devices(attacker: &Attacker) -> Outcome {
    let mut query = PhysdevIrqStatusQuery { irq: PhysicalIrq(9), flags: 0 };
    accepted(
        "an interrupt's status",
        attacker.command(HYPERVISOR_PHYSDEV_OP, PHYSDEVOP_IRQ_STATUS_QUERY, &mut query),
    )?;
    for irq in [4, 9, 16, 48, 191, 192, 255, 256, u32::MAX] {
        let mut line = PhysdevSetupGsi { gsi: irq as i32, triggering: 1, polarity: 1, ..Default::default() };
        refused(
            format!("line {irq}"),
            attacker.command(HYPERVISOR_PHYSDEV_OP, PHYSDEVOP_SETUP_GSI, &mut line),
        )?;
        let mut end = PhysdevEoi { irq: PhysicalIrq(irq) };
        refused(
            format!("the end of interrupt {irq}"),
            attacker.command(HYPERVISOR_PHYSDEV_OP, PHYSDEVOP_EOI, &mut end),
        )?;
        // Any number may be asked for; the answer is a flag.
        query.irq = PhysicalIrq(irq);
        let _ = attacker.command(HYPERVISOR_PHYSDEV_OP, PHYSDEVOP_IRQ_STATUS_QUERY, &mut query);
    }
    for kind in -1..6 {
        for domid in [DomainId::SELF, attacker.own_id, DomainId::ZERO] {
            let mut map = PhysdevMapPirq { domid, r#type: kind, index: 9, pirq: -1, ..Default::default() };
            let answer = attacker.command(HYPERVISOR_PHYSDEV_OP, PHYSDEVOP_MAP_PIRQ, &mut map);
            refused(format!("an interrupt of kind {kind} for domain {domid}"), answer)?;
        }
    }
    for pirq in [48, 191, 192, i32::MAX, -1, i32::MIN] {
        let mut unmap = PhysdevUnmapPirq { domid: DomainId::SELF, pirq, ..Default::default() };
        let answer = attacker.command(HYPERVISOR_PHYSDEV_OP, PHYSDEVOP_UNMAP_PIRQ, &mut unmap);
        refused(format!("taking interrupt {pirq} away"), answer)?;
    }
    let mut device = PhysdevPciDeviceAdd::default();
    for command in [
        PHYSDEVOP_PCI_DEVICE_ADD,
        PHYSDEVOP_PCI_DEVICE_REMOVE,
        PHYSDEVOP_PREPARE_MSIX,
        PHYSDEVOP_RELEASE_MSIX,
    ] {
        refused(
            format!("command {command} on a device"),
            attacker.command(HYPERVISOR_PHYSDEV_OP, command, &mut device),
        )?;
    }
    // A level that the guest is told; it opens no port (see `instructions`).
    for iopl in [4, 100, u32::MAX] {
        let mut level = PhysdevSetIopl { iopl };
        refused(
            format!("level {iopl}"),
            attacker.command(HYPERVISOR_PHYSDEV_OP, PHYSDEVOP_SET_IOPL, &mut level),
        )?;
    }
    Ok(())
}

fn shutting_others_down(attacker: &Attacker) -> Outcome {
    for domain_id in others_numbers(attacker).chain([DomainId::SELF, attacker.own_id]) {
        let mut shutdown = SchedRemoteShutdown { domain_id, reason: SHUTDOWN_CRASH, ..Default::default() };
        let answer = attacker.command(HYPERVISOR_SCHED_OP, SCHEDOP_REMOTE_SHUTDOWN, &mut shutdown);
        refused(format!("shutting down domain {domain_id}"), answer)?;
    }
    Ok(())
}

fn memory_of_the_machine(attacker: &Attacker) -> Outcome {
    let mut entries = [0u8; 20 * 32];
    let mut map = MemoryMap { nr_entries: 32, buffer: entries.as_mut_ptr() as u64, ..Default::default() };
    refused("the machine's memory map", attacker.memory_op(XENMEM_MACHINE_MEMORY_MAP, &mut map))?;
    let mut claim = MemoryReservation { nr_extents: 100, domid: DomainId::SELF, ..Default::default() };
    refused("a claim on memory", attacker.memory_op(XENMEM_CLAIM_PAGES, &mut claim))?;
    let mut map = ForeignMemoryMap { domid: DomainId::ZERO, ..Default::default() };
    refused("another domain's memory map", attacker.memory_op(XENMEM_SET_MEMORY_MAP, &mut map))
}

fn the_hypervisors_command_line(attacker: &Attacker) -> Outcome {
    let mut line = [0u8; XEN_COMMANDLINE_LEN];
    if attacker.command(HYPERVISOR_XEN_VERSION, XENVER_COMMANDLINE, &mut line).is_ok() {
        let end = line.iter().position(|byte| *byte == 0).unwrap_or(line.len());
        expect(&line[..end] == b"<denied>", "it can be read")?;
    }
    Ok(())
}

/// What other hypervisors let a control domain do: it is not there, or not for this domain.
fn other_interfaces(attacker: &Attacker) -> Outcome {
    let mut page = [0u64; 64];
    for number in
        [HYPERVISOR_XSM_OP, HYPERVISOR_KEXEC_OP, HYPERVISOR_XENPMU_OP, HYPERVISOR_DM_OP, HYPERVISOR_HYPFS_OP]
    {
        for command in 0..32 {
            let answer = attacker.command(number, command, &mut page);
            refused(format!("command {command} of hypercall {number}"), answer)?;
        }
    }
    Ok(())
}
