//! The two forms in which a guest can see its ports, and the way from one to the other.
//!
//! Every domain begins with two levels. The FIFO form begins when a vCPU gets its first control block, and ends
//! when all ports are reset. What is pending when it begins is taken over: a sender that does not see the new form
//! yet sets its bit first and looks at the form again, and the change looks at the bits after it is made, so one of
//! the two finds the event.

use super::{Channel, EventChannels, State, fifo::Fifo, polling::wake_pollers, two_level};
use crate::{domain::Domain, frame_object::FrameBox, lock::Mutex, scheduler, vcpu::Vcpu};
use core::sync::atomic::Ordering;
use hypercall_abi::{
    Errno, MachineFrame, Port, VcpuId,
    event_channel::{EVTCHN_2L_NR_CHANNELS, EVTCHN_FIFO_PRIORITY_MIN},
};

/// How a guest sees its ports.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum PortForm {
    /// Bits in `shared_info`.
    TwoLevel,
    /// Words in pages of the guest's, in queues.
    Fifo,
}

impl EventChannels {
    /// What the hypervisor keeps for the FIFO form, when that is the form.
    #[inline]
    pub(super) fn fifo(&self) -> Option<&Mutex<Fifo>> {
        if self.is_fifo.load(Ordering::SeqCst) { self.fifo.get().map(|fifo| &**fifo) } else { None }
    }

    /// True when the guest has not yet taken `port` out of a queue, so that the number should not be used anew.
    pub(super) fn is_queued(&self, port: Port) -> bool {
        self.fifo().is_some_and(|fifo| fifo.lock().is_queued(port))
    }
}

/// True when the guest has not yet taken the event at `port`; false for a number that no port can have.
pub fn is_pending(domain: &Domain, port: Port) -> bool {
    match domain.event_channels.fifo() {
        Some(fifo) => fifo.lock().is_pending(port),
        None => two_level::is_pending(domain, port),
    }
}

/// Makes `port` pending and tells its vCPU, unless the event was pending already or is masked.
#[inline]
pub(super) fn set_pending(domain: &Domain, port: Port, channel: &Channel) {
    let channels = &domain.event_channels;
    let is_new = match channels.fifo() {
        Some(fifo) => fifo.lock().set_pending(domain, port, channel),
        None => {
            let is_new = two_level::set_pending(domain, port, channel.vcpu_id());
            // The form may have changed since we looked.
            if let Some(fifo) = channels.fifo() {
                fifo.lock().set_pending(domain, port, channel);
            }
            is_new
        }
    };
    if is_new {
        channels.counters.events_received.fetch_add(1, Ordering::Relaxed);
        wake_pollers(domain, port);
    }
}

/// Forgets an event, when its port goes away.
pub(super) fn clear_pending(domain: &Domain, port: Port, channel: &Channel) {
    channel.awaits_word.store(false, Ordering::SeqCst);
    match domain.event_channels.fifo() {
        Some(fifo) => fifo.lock().clear_pending(port),
        None => two_level::clear_pending(domain, port),
    }
}

/// Clears the mask and, if that uncovers an event, tells the port's vCPU.
pub(super) fn unmask(domain: &Domain, port: Port, channel: &Channel) {
    match domain.event_channels.fifo() {
        Some(fifo) => fifo.lock().unmask(domain, port, channel),
        None => two_level::unmask(domain, port, channel.vcpu_id()),
    }
}

/// Asks for an upcall of the vCPU.
#[inline]
pub(super) fn request_upcall(vcpu: &Vcpu) {
    let Some(info) = vcpu.info() else { return };
    if info.upcall_pending().swap(1, Ordering::SeqCst) == 0 {
        scheduler::wake(vcpu);
    }
}

/// Gives vCPU `id` its control block at `offset` in a frame of the domain's (`EVTCHNOP_init_control`). With the first
/// one the FIFO form begins.
///
/// # Errors
/// `ENOENT` when there is no such vCPU; `EINVAL` when the block leaves its frame or is not aligned, the frame is not
/// the domain's to write, or the vCPU has one already; `ENOMEM`.
pub fn init_control(domain: &Domain, id: VcpuId, frame: MachineFrame, offset: u32) -> Result<(), Errno> {
    domain.vcpu(id).ok_or(Errno::ENOENT)?;
    let channels = &domain.event_channels;
    let fifo =
        channels.fifo.try_call_once(|| FrameBox::try_new(Mutex::new(Fifo::new())).ok_or(Errno::ENOMEM))?;
    let begins = {
        let mut fifo = fifo.lock();
        fifo.set_control_block(domain, id, frame, offset)?;
        !channels.is_fifo.swap(true, Ordering::SeqCst)
    };
    if begins {
        channels.ports.lock().set_form(PortForm::Fifo);
        take_over_pending(domain);
    }
    Ok(())
}

/// What is pending as a bit becomes pending as a word.
fn take_over_pending(domain: &Domain) {
    let channels = &domain.event_channels;
    for port in (1..EVTCHN_2L_NR_CHANNELS).map(Port).filter(|port| two_level::is_pending(domain, *port)) {
        two_level::clear_pending(domain, port);
        if let Some(channel) = channels.channel(port) {
            set_pending(domain, port, channel);
        }
    }
}

/// Adds a frame of the domain's with the next event words (`EVTCHNOP_expand_array`). Events that happened at its
/// ports before there were words are announced.
///
/// # Errors
/// `EOPNOTSUPP` in the two-level form, `EINVAL` when the frame is not the domain's to write, `ENOSPC` when all ports
/// have words.
pub fn expand_array(domain: &Domain, frame: MachineFrame) -> Result<(), Errno> {
    let channels = &domain.event_channels;
    let fifo = channels.fifo().ok_or(Errno::EOPNOTSUPP)?;
    let new_ports = fifo.lock().add_words(domain, frame)?;
    for port in new_ports.map(Port) {
        let Some(channel) = channels.channel(port) else { continue };
        if channel.awaits_word.swap(false, Ordering::SeqCst) {
            set_pending(domain, port, channel);
        }
    }
    Ok(())
}

/// Says how urgent a port is from its next event on (`EVTCHNOP_set_priority`).
///
/// # Errors
/// `ENOSYS` in the two-level form, `EINVAL` for a number that is no open port or no priority.
pub fn set_priority(domain: &Domain, port: Port, priority: u32) -> Result<(), Errno> {
    let channels = &domain.event_channels;
    channels.fifo().ok_or(Errno::ENOSYS)?;
    let channel = channels.channel(port).ok_or(Errno::EINVAL)?;
    let state = channel.state.lock();
    if priority > EVTCHN_FIFO_PRIORITY_MIN || matches!(*state, State::Free) {
        return Err(Errno::EINVAL);
    }
    channel.priority.store(priority as u8, Ordering::Relaxed);
    Ok(())
}

/// Back to two levels, when all ports are closed: lets go of the guest's frames.
pub fn end_fifo(domain: &Domain) {
    let channels = &domain.event_channels;
    let Some(fifo) = channels.fifo() else { return };
    channels.ports.lock().set_form(PortForm::TwoLevel);
    let mut fifo = fifo.lock();
    if channels.is_fifo.swap(false, Ordering::SeqCst) {
        fifo.let_go();
    }
}
