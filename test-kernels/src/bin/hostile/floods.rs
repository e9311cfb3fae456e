//! The same thing very often: it must neither wear anything out nor keep others from running.

use alloc::format;

use hypercall_abi::event_channel::*;
use hypercall_abi::sched::SCHEDOP_YIELD;
use hypercall_abi::xen::{
    CONSOLEIO_WRITE, HYPERVISOR_CONSOLE_IO, HYPERVISOR_EVENT_CHANNEL_OP, HYPERVISOR_SCHED_OP,
};
use hypercall_abi::{DomainId, Port};
use pv_runtime::event_channel::EventChannel;
use pv_runtime::time::nanoseconds;

use crate::attacker::{Attacker, address_of};
use crate::entry::*;
use crate::report::{Outcome, accepted, cases, expect};
use crate::slot::Slot;
use crate::timers::poll;

cases!("floods": events_to_itself, console_writes, ports_opened_and_closed, mappings_changed, yields);

fn events_to_itself(attacker: &Attacker) -> Outcome {
    let failed = |errno| format!("no port can be had: {errno}");
    let first = EventChannel::alloc_unbound(DomainId::SELF).map_err(failed)?;
    let second = EventChannel::bind_interdomain(DomainId::SELF, first.port()).map_err(failed)?;
    for _ in 0..100_000 {
        let mut send = EvtchnSend { port: second.port() };
        accepted("sending", attacker.command(HYPERVISOR_EVENT_CHANNEL_OP, EVTCHNOP_SEND, &mut send))?;
    }
    // The port is pending, so a poll does not wait until its deadline.
    let mut port = first.port().0;
    let start = nanoseconds();
    accepted("waiting for the events", poll(attacker, address_of(&mut port), 1, start + 5_000_000_000))?;
    expect(nanoseconds() < start + 1_000_000_000, "no event has arrived")
}

fn console_writes(attacker: &Attacker) -> Outcome {
    let mut text = *b"hostile: flood\n";
    for _ in 0..10_000 {
        let arguments = [u64::from(CONSOLEIO_WRITE), text.len() as u64, text.as_mut_ptr() as u64];
        expect(
            attacker.call(HYPERVISOR_CONSOLE_IO, &arguments).is_err(),
            "the hypervisor's console takes text",
        )?;
    }
    Ok(())
}

fn ports_opened_and_closed(attacker: &Attacker) -> Outcome {
    let mut before = Port(0);
    for round in 0..20_000 {
        let mut open =
            EvtchnAllocUnbound { dom: DomainId::SELF, remote_dom: DomainId::ZERO, ..Default::default() };
        accepted(
            "opening",
            attacker.command(HYPERVISOR_EVENT_CHANNEL_OP, EVTCHNOP_ALLOC_UNBOUND, &mut open),
        )?;
        expect(round == 0 || open.port == before, format!("port {} is not given back", before.0))?;
        before = open.port;
        let mut close = EvtchnClose { port: open.port };
        accepted("closing", attacker.command(HYPERVISOR_EVENT_CHANNEL_OP, EVTCHNOP_CLOSE, &mut close))?;
    }
    Ok(())
}

fn mappings_changed(attacker: &Attacker) -> Outcome {
    let slot = Slot::new(attacker)?;
    for _ in 0..10_000 {
        accepted("read-only", slot.map_by_address(entry(slot.frame(), READ)))?;
        accepted("writable", slot.map(entry(slot.frame(), WRITE)))?;
        accepted("nothing", slot.map(0))?;
    }
    accepted("its page back", slot.restore()).map(drop)
}

fn yields(attacker: &Attacker) -> Outcome {
    for _ in 0..20_000 {
        accepted("yielding", attacker.call(HYPERVISOR_SCHED_OP, &[u64::from(SCHEDOP_YIELD), 0]))?;
    }
    Ok(())
}
