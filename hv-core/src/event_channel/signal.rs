//! Sending: what happens on an event's way, from whichever source to the bits the guest sees.

use super::{
    State,
    form::{self, set_pending},
    two_level,
};
use crate::{
    domain::{self, Domain},
    vcpu::Vcpu,
};
use core::sync::atomic::Ordering;
use hypercall_abi::{DomainId, Errno, Port};

/// Signals the other end of the channel at the domain's own `port` (`EVTCHNOP_send`). An event on a port whose
/// peer has not connected, or has gone, is lost.
///
/// # Errors
/// `EINVAL` when the port is none that the domain can signal.
#[inline]
pub fn send(domain: &Domain, port: Port) -> Result<(), Errno> {
    let channels = &domain.event_channels;
    let channel = channels.channel(port).ok_or(Errno::EINVAL)?;
    // Held to the end: the peer cannot be disconnected, and so cannot go away, before it is told.
    let state = channel.state.lock();
    match &*state {
        State::Interdomain { peer, port } => deliver_to_peer(peer, *port),
        State::InterProcessor => set_pending(domain, port, channel),
        State::Unbound { .. } => {}
        _ => return Err(Errno::EINVAL),
    }
    channels.counters.events_sent.fetch_add(1, Ordering::Relaxed);
    Ok(())
}

#[inline]
fn deliver_to_peer(peer: &Domain, port: Port) {
    let Some(channel) = peer.event_channels.channel(port) else { return };
    set_pending(peer, port, channel);
}

/// Signals virtual interrupt `virq` (`VIRQ_*`) to the vCPU, if it has bound it.
///
/// # Panics
/// If there is no such virtual interrupt.
pub fn notify_virq(vcpu: &Vcpu, virq: u32) {
    let port = Port(vcpu.virq_ports[virq as usize].load(Ordering::Acquire));
    if port == Port(0) {
        return;
    }
    let is_ours =
        |state: &State| matches!(state, State::VirtualInterrupt { virq: bound, .. } if *bound == virq);
    notify_if(vcpu.domain(), port, is_ours);
}

/// Signals a virtual interrupt that belongs to the machine as a whole: the control domain gets it.
///
/// # Panics
/// If there is no such virtual interrupt.
pub fn notify_global_virq(virq: u32) {
    let Some(control) = domain::find(DomainId::ZERO) else { return };
    if let Some(vcpu) = control.vcpus().next() {
        notify_virq(vcpu, virq);
    }
}

/// Signals the physical interrupt that `domain` bound to `port`.
pub fn notify_physical(domain: &Domain, port: Port) {
    notify_if(domain, port, |state| matches!(state, State::PhysicalInterrupt(_)));
}

/// Makes `port` pending if its state is (still) the expected one: it may have been closed and opened again
/// since the source learnt the number.
fn notify_if(domain: &Domain, port: Port, is_expected: impl FnOnce(&State) -> bool) {
    let Some(channel) = domain.event_channels.channel(port) else { return };
    let state = channel.state.lock();
    if is_expected(&state) {
        set_pending(domain, port, channel);
    }
}

/// Clears the port's mask bit and announces an event that waited behind it (`EVTCHNOP_unmask`).
///
/// # Errors
/// `EINVAL` for a number that is no port.
pub fn unmask(domain: &Domain, port: Port) -> Result<(), Errno> {
    let channel = domain.event_channels.channel(port).ok_or(Errno::EINVAL)?;
    let state = channel.state.lock();
    if !matches!(*state, State::Free) {
        form::unmask(domain, port, channel);
    }
    Ok(())
}

/// Tells a vCPU whose `vcpu_info` has just moved to look for events everywhere.
pub fn raise_all(vcpu: &Vcpu) {
    two_level::announce_all(vcpu);
}
