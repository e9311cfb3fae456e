//! Ports that are not open, or other domains', and interrupts that are not a guest's.

use alloc::format;

use hypercall_abi::event_channel::*;
use hypercall_abi::xen::{HYPERVISOR_EVENT_CHANNEL_OP, NR_VIRQS, VIRQ_CONSOLE, VIRQ_DOM_EXC};
use hypercall_abi::{DomainId, Errno, PhysicalIrq, Port, VcpuId};
use pv_runtime::event_channel::EventChannel;

use crate::attacker::Attacker;
use crate::calls::Answer;
use crate::mapping::others_numbers;
use crate::report::{Outcome, accepted, cases, expect, refused};

cases!("events":
    ports_that_are_not_open, other_domains_ports, ports_for_others, physical_interrupts, virtual_interrupts,
    cpus_that_do_not_exist,
);

fn event_op<T>(attacker: &Attacker, command: u32, argument: &mut T) -> Answer {
    attacker.command(HYPERVISOR_EVENT_CHANNEL_OP, command, argument)
}

/// Numbers that no open port has: none, beyond what may be, beyond what can be.
const NO_PORTS: [u32; 9] = [0, 4094, 4095, 4096, 4097, 1 << 17, 1 << 20, 1 << 31, u32::MAX];

fn channel() -> Result<EventChannel, alloc::string::String> {
    EventChannel::alloc_unbound(DomainId::SELF).map_err(|errno| format!("no port can be had: {errno}"))
}

fn ports_that_are_not_open(attacker: &Attacker) -> Outcome {
    let open = channel()?;
    accepted(
        "sending on an open port",
        event_op(attacker, EVTCHNOP_SEND, &mut EvtchnSend { port: open.port() }),
    )?;
    for port in NO_PORTS.map(Port) {
        refused(
            format!("sending on port {port}"),
            event_op(attacker, EVTCHNOP_SEND, &mut EvtchnSend { port }),
        )?;
        refused(
            format!("closing port {port}"),
            event_op(attacker, EVTCHNOP_CLOSE, &mut EvtchnClose { port }),
        )?;
        let mut vcpu = EvtchnBindVcpu { port, vcpu: VcpuId(0) };
        refused(format!("moving port {port}"), event_op(attacker, EVTCHNOP_BIND_VCPU, &mut vcpu))?;
        let mut bind =
            EvtchnBindInterdomain { remote_dom: DomainId::SELF, remote_port: port, ..Default::default() };
        refused(
            format!("connecting to port {port}"),
            event_op(attacker, EVTCHNOP_BIND_INTERDOMAIN, &mut bind),
        )?;
        // A number near others may be unmasked or asked about without being open.
        let _ = event_op(attacker, EVTCHNOP_UNMASK, &mut EvtchnUnmask { port });
        let mut status = EvtchnStatus { dom: DomainId::SELF, port, ..Default::default() };
        if event_op(attacker, EVTCHNOP_STATUS, &mut status).is_ok() {
            expect(status.status == EVTCHNSTAT_CLOSED, format!("port {port} is open"))?;
        }
    }
    Ok(())
}

/// A port of another domain's connects only for the domain it waits for.
fn other_domains_ports(attacker: &Attacker) -> Outcome {
    let open = channel()?;
    let mut own =
        EvtchnBindInterdomain { remote_dom: DomainId::SELF, remote_port: open.port(), ..Default::default() };
    accepted("connecting to its own port", event_op(attacker, EVTCHNOP_BIND_INTERDOMAIN, &mut own))?;
    let mut close = EvtchnClose { port: own.local_port };
    accepted("closing it", event_op(attacker, EVTCHNOP_CLOSE, &mut close))?;
    for remote_dom in others_numbers(attacker) {
        for remote_port in (0..4100).chain([1 << 17, u32::MAX]).map(Port) {
            let mut bind = EvtchnBindInterdomain { remote_dom, remote_port, ..Default::default() };
            let answer = event_op(attacker, EVTCHNOP_BIND_INTERDOMAIN, &mut bind);
            refused(format!("connecting to port {remote_port} of domain {remote_dom}"), answer)?;
        }
    }
    Ok(())
}

fn ports_for_others(attacker: &Attacker) -> Outcome {
    for dom in others_numbers(attacker) {
        for remote_dom in [DomainId::SELF, attacker.own_id, dom] {
            let mut allocate = EvtchnAllocUnbound { dom, remote_dom, ..Default::default() };
            let answer = event_op(attacker, EVTCHNOP_ALLOC_UNBOUND, &mut allocate);
            refused(format!("a port for domain {dom}"), answer)?;
        }
        refused(
            format!("resetting domain {dom}"),
            event_op(attacker, EVTCHNOP_RESET, &mut EvtchnReset { dom }),
        )?;
        for port in (1..64).map(Port) {
            let mut status = EvtchnStatus { dom, port, ..Default::default() };
            let answer = event_op(attacker, EVTCHNOP_STATUS, &mut status);
            refused(format!("port {port} of domain {dom}"), answer)?;
        }
    }
    Ok(())
}

fn physical_interrupts(attacker: &Attacker) -> Outcome {
    for pirq in (0..260).chain([1 << 16, 1 << 31, u32::MAX]).map(PhysicalIrq) {
        for flags in [0, BIND_PIRQ__WILL_SHARE, u32::MAX] {
            let mut bind = EvtchnBindPirq { pirq, flags, ..Default::default() };
            refused(format!("interrupt {pirq}"), event_op(attacker, EVTCHNOP_BIND_PIRQ, &mut bind))?;
        }
    }
    Ok(())
}

/// Those of the machine may be bound, but never come to a guest; each at most once, and on the first virtual CPU.
fn virtual_interrupts(attacker: &Attacker) -> Outcome {
    let bind = |virq: u32, vcpu: u32| {
        let mut operation = EvtchnBindVirq { virq, vcpu: VcpuId(vcpu), ..Default::default() };
        event_op(attacker, EVTCHNOP_BIND_VIRQ, &mut operation).map(|_| operation.port)
    };
    for virq in [NR_VIRQS, NR_VIRQS + 1, 100, 1 << 31, u32::MAX] {
        refused(format!("interrupt {virq}"), bind(virq, 0))?;
    }
    for virq in 0..NR_VIRQS {
        for vcpu in [1, 32, 1 << 31, u32::MAX] {
            refused(format!("interrupt {virq} of virtual CPU {vcpu}"), bind(virq, vcpu))?;
        }
    }
    for virq in [VIRQ_CONSOLE, VIRQ_DOM_EXC] {
        let Ok(port) = bind(virq, 0) else { continue };
        let again = bind(virq, 0);
        expect(again == Err(Errno::EEXIST), format!("interrupt {virq} a second time gave {again:?}"))?;
        refused("sending a virtual interrupt", event_op(attacker, EVTCHNOP_SEND, &mut EvtchnSend { port }))?;
        accepted("closing it", event_op(attacker, EVTCHNOP_CLOSE, &mut EvtchnClose { port }))?;
    }
    Ok(())
}

fn cpus_that_do_not_exist(attacker: &Attacker) -> Outcome {
    let open = channel()?;
    let mut move_to = EvtchnBindVcpu { port: open.port(), vcpu: VcpuId(0) };
    accepted("moving to the first", event_op(attacker, EVTCHNOP_BIND_VCPU, &mut move_to))?;
    for vcpu in [1, 31, 32, 255, 256, 1 << 16, 1 << 31, u32::MAX].map(VcpuId) {
        move_to.vcpu = vcpu;
        refused(format!("moving to {vcpu}"), event_op(attacker, EVTCHNOP_BIND_VCPU, &mut move_to))?;
        let mut bind = EvtchnBindIpi { vcpu, ..Default::default() };
        refused(format!("signals for {vcpu}"), event_op(attacker, EVTCHNOP_BIND_IPI, &mut bind))?;
    }
    Ok(())
}
