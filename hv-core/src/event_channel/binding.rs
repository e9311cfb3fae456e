//! Opening, connecting and closing ports.
//!
//! Every port is opened by [`EventChannels::open`], which holds the domain's `ports` lock until the port is in its
//! new state, and closed by [`close`], which gives the number back last. In between a port is never half a thing.

use super::{Channel, EventChannels, State, form};
use crate::lock::MutexGuard;
use crate::{
    domain::{self, Domain, DomainRef},
    interrupt,
};
use core::{mem, ptr, sync::atomic::Ordering};
use hypercall_abi::{
    DomainId, Errno, PhysicalIrq, Port, VcpuId,
    event_channel::{
        EVTCHNSTAT_CLOSED, EVTCHNSTAT_INTERDOMAIN, EVTCHNSTAT_IPI, EVTCHNSTAT_PIRQ, EVTCHNSTAT_UNBOUND,
        EVTCHNSTAT_VIRQ, EvtchnStatus, EvtchnStatusDetail,
    },
    xen::{NR_VIRQS, VIRQ_DEBUG, VIRQ_TIMER, VIRQ_XENOPROF, VIRQ_XENPMU},
};

/// The vCPU a port notifies unless somebody chooses.
const FIRST_VCPU: VcpuId = VcpuId(0);

/// Opens a port that `remote` may connect to (`EVTCHNOP_alloc_unbound`).
///
/// # Errors
/// `EINVAL` when the domain is dying, `ENOSPC` when it has all the ports it may have, `ENOMEM`.
pub fn alloc_unbound(domain: &Domain, remote: DomainId) -> Result<Port, Errno> {
    domain.event_channels.open(FIRST_VCPU, |_, channel| {
        *channel.state.lock() = State::Unbound { remote };
        Ok(())
    })
}

/// Opens a port connected to `remote_port` of `remote` (`EVTCHNOP_bind_interdomain`). The new port is pending
/// at once, because the peer may have sent events before anybody was connected.
///
/// # Errors
/// `EINVAL` when that port does not wait for this domain or the domain is dying; `ESRCH`, `ENOSPC`, `ENOMEM`.
pub fn bind_interdomain(domain: &Domain, remote: &DomainRef, remote_port: Port) -> Result<Port, Errno> {
    let local = domain::find(domain.id).ok_or(Errno::ESRCH)?;
    let port = domain.event_channels.open(FIRST_VCPU, |port, channel| {
        let other = remote.event_channels.channel(remote_port).ok_or(Errno::EINVAL)?;
        connect((channel, &local, port), (other, remote, remote_port))
    })?;
    // Through the lock: if the peer is closed this very moment, the port may already be something else.
    if let Some(channel) = domain.event_channels.channel(port) {
        let state = channel.state.lock();
        if matches!(*state, State::Interdomain { .. }) {
            form::set_pending(domain, port, channel);
        }
    }
    Ok(port)
}

type End<'a> = (&'a Channel, &'a DomainRef, Port);

/// Makes the two ends point at each other, if the far one waits for the near one's domain.
fn connect(near: End<'_>, far: End<'_>) -> Result<(), Errno> {
    if ptr::eq(near.0, far.0) {
        return Err(Errno::EINVAL);
    }
    let (mut near_state, mut far_state) = lock_pair(near.0, far.0);
    if !matches!(*far_state, State::Unbound { remote } if remote == near.1.id) {
        return Err(Errno::EINVAL);
    }
    *near_state = State::Interdomain { peer: far.1.clone(), port: far.2 };
    *far_state = State::Interdomain { peer: near.1.clone(), port: near.2 };
    Ok(())
}

/// Locks two different channels in the order of their addresses.
fn lock_pair<'a>(first: &'a Channel, second: &'a Channel) -> (MutexGuard<'a, State>, MutexGuard<'a, State>) {
    if ptr::from_ref(first) < ptr::from_ref(second) {
        let guard = first.state.lock();
        (guard, second.state.lock())
    } else {
        let guard = second.state.lock();
        (first.state.lock(), guard)
    }
}

/// True for virtual interrupts that are the machine's and not one vCPU's.
const fn is_global(virq: u32) -> bool {
    !matches!(virq, VIRQ_TIMER | VIRQ_DEBUG | VIRQ_XENOPROF | VIRQ_XENPMU)
}

/// Opens a port for virtual interrupt `virq` of vCPU `id` (`EVTCHNOP_bind_virq`).
///
/// # Errors
/// `EINVAL` for an unknown interrupt or a global one on another vCPU than 0, `ENOENT` when there is no such
/// vCPU, `EEXIST` when it is bound already, and those of [`alloc_unbound`].
pub fn bind_virq(domain: &Domain, virq: u32, id: VcpuId) -> Result<Port, Errno> {
    if virq >= NR_VIRQS || (is_global(virq) && id != FIRST_VCPU) {
        return Err(Errno::EINVAL);
    }
    let slot = &domain.vcpu(id).ok_or(Errno::ENOENT)?.virq_ports[virq as usize];
    domain.event_channels.open(id, |port, channel| {
        if slot.load(Ordering::Relaxed) != 0 {
            return Err(Errno::EEXIST);
        }
        *channel.state.lock() = State::VirtualInterrupt { virq, bound_on: id };
        slot.store(port.0, Ordering::Release);
        Ok(())
    })
}

/// Opens a port on which the domain signals its own vCPU `id` (`EVTCHNOP_bind_ipi`).
///
/// # Errors
/// `ENOENT` when there is no such vCPU, and those of [`alloc_unbound`].
pub fn bind_ipi(domain: &Domain, id: VcpuId) -> Result<Port, Errno> {
    domain.vcpu(id).ok_or(Errno::ENOENT)?;
    domain.event_channels.open(id, |_, channel| {
        *channel.state.lock() = State::InterProcessor;
        Ok(())
    })
}

/// Opens a port for physical interrupt `irq` (`EVTCHNOP_bind_pirq`); `flags` are `BIND_PIRQ__*`.
///
/// # Errors
/// Those of [`interrupt::bind`], which decides whether the domain may, and of [`alloc_unbound`].
pub fn bind_pirq(domain: &Domain, irq: PhysicalIrq, flags: u32) -> Result<Port, Errno> {
    domain.event_channels.open(FIRST_VCPU, |port, channel| {
        // Ready before the first interrupt can come.
        *channel.state.lock() = State::PhysicalInterrupt(irq);
        interrupt::bind(domain, irq, port, flags).inspect_err(|_| *channel.state.lock() = State::Free)
    })
}

/// Chooses the vCPU that a port notifies (`EVTCHNOP_bind_vcpu`). An event that is pending already has been
/// announced to the old one.
///
/// # Errors
/// `ENOENT` when there is no such vCPU, `EINVAL` for a port that is closed or tied to its vCPU.
pub fn bind_vcpu(domain: &Domain, port: Port, id: VcpuId) -> Result<(), Errno> {
    domain.vcpu(id).ok_or(Errno::ENOENT)?;
    let channel = domain.event_channels.channel(port).ok_or(Errno::EINVAL)?;
    let state = channel.state.lock();
    let may_move = match *state {
        State::Unbound { .. } | State::Interdomain { .. } | State::PhysicalInterrupt(_) => true,
        State::VirtualInterrupt { virq, .. } => is_global(virq),
        State::Free | State::InterProcessor => false,
    };
    if !may_move {
        return Err(Errno::EINVAL);
    }
    channel.set_vcpu(id);
    Ok(())
}

/// Closes a port (`EVTCHNOP_close`). The other end of a connected one waits again, for this domain.
///
/// # Errors
/// `EINVAL` when the port is not open.
pub fn close(domain: &Domain, port: Port) -> Result<(), Errno> {
    let channels = &domain.event_channels;
    let channel = channels.channel(port).ok_or(Errno::EINVAL)?;
    let old = disconnect(domain, port, channel)?;
    if let State::PhysicalInterrupt(irq) = old {
        interrupt::unbind(domain, irq);
    }
    // Nobody makes a free port pending, so a later user of the number starts clean.
    form::clear_pending(domain, port, channel);
    channels.ports.lock().release(&channels.directory, port);
    Ok(())
}

/// Makes the channel free and returns what it was; `EINVAL` when it was free already.
fn disconnect(domain: &Domain, port: Port, channel: &Channel) -> Result<State, Errno> {
    loop {
        let (peer, peer_port) = {
            let mut state = channel.state.lock();
            match &*state {
                State::Free => return Err(Errno::EINVAL),
                State::Interdomain { peer, port } => (peer.clone(), *port),
                _ => {
                    forget_virq(domain, &state, port);
                    return Ok(mem::replace(&mut *state, State::Free));
                }
            }
        };
        // Both ends must be locked in order, so our own had to be let go. If somebody changed it meanwhile,
        // that one has made progress, and we look again.
        if let Some(old) = part(domain, port, channel, &peer, peer_port) {
            return Ok(old);
        }
    }
}

/// The vCPU's virtual interrupt has no port any more. Under the channel's lock.
fn forget_virq(domain: &Domain, state: &State, port: Port) {
    let State::VirtualInterrupt { virq, bound_on } = *state else { return };
    if let Some(vcpu) = domain.vcpu(bound_on) {
        // Only `port` can stand there; the exchange says so instead of hoping.
        let slot = &vcpu.virq_ports[virq as usize];
        let _ = slot.compare_exchange(port.0, 0, Ordering::Release, Ordering::Relaxed);
    }
}

/// Frees the near end and lets the far one wait, if they are still connected with each other.
fn part(domain: &Domain, port: Port, near: &Channel, peer: &DomainRef, peer_port: Port) -> Option<State> {
    let far = peer.event_channels.channel(peer_port)?;
    let (near_old, far_old) = {
        let (mut near_state, mut far_state) = lock_pair(near, far);
        let is_connected = matches!(
            &*near_state, State::Interdomain { peer: now, port } if now.is(peer) && *port == peer_port
        );
        if !is_connected {
            return None;
        }
        let far_old = mem::replace(&mut *far_state, State::Unbound { remote: domain.id });
        (mem::replace(&mut *near_state, State::Free), far_old)
    };
    debug_assert!(matches!(&far_old, State::Interdomain { port: back, .. } if *back == port));
    // The far end's reference to us goes only now that nothing is locked.
    drop(far_old);
    Some(near_old)
}

/// Closes the ports of a domain, at most `budget` of them, and says whether all are closed. When the domain
/// is dying it also gets no new ones.
pub fn close_all(domain: &Domain, budget: u32) -> bool {
    let channels = &domain.event_channels;
    let mut from = Port(1);
    for _ in 0..budget {
        let Some(port) = next_to_close(domain, channels, from) else { return true };
        // Closed by somebody else since we looked: as good.
        let _ = close(domain, port);
        from = Port(port.0 + 1);
    }
    next_to_close(domain, channels, Port(1)).is_none()
}

fn next_to_close(domain: &Domain, channels: &EventChannels, from: Port) -> Option<Port> {
    let mut ports = channels.ports.lock();
    ports.is_closed |= domain.is_dying();
    ports.first_taken(&channels.directory, from)
}

/// What a port is (`EVTCHNOP_status`).
///
/// # Errors
/// `EINVAL` for a number that is no port.
pub fn status(domain: &Domain, port: Port) -> Result<EvtchnStatus, Errno> {
    let channel = domain.event_channels.channel(port).ok_or(Errno::EINVAL)?;
    let state = channel.state.lock();
    let (status, u) = match &*state {
        State::Free => (EVTCHNSTAT_CLOSED, EvtchnStatusDetail::default()),
        State::Unbound { remote } => (EVTCHNSTAT_UNBOUND, EvtchnStatusDetail::unbound(*remote)),
        State::Interdomain { peer, port } => {
            (EVTCHNSTAT_INTERDOMAIN, EvtchnStatusDetail::interdomain(peer.id, *port))
        }
        State::PhysicalInterrupt(irq) => (EVTCHNSTAT_PIRQ, EvtchnStatusDetail::interrupt(irq.0)),
        State::VirtualInterrupt { virq, .. } => (EVTCHNSTAT_VIRQ, EvtchnStatusDetail::interrupt(*virq)),
        State::InterProcessor => (EVTCHNSTAT_IPI, EvtchnStatusDetail::default()),
    };
    let vcpu = channel.vcpu_id();
    Ok(EvtchnStatus { dom: domain.id, port, status, vcpu, u, ..EvtchnStatus::default() })
}
