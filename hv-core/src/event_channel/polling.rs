//! Waiting for ports without an upcall (`SCHEDOP_poll`).

use super::EventChannels;
use crate::{domain::Domain, scheduler, vcpu::Vcpu};
use core::sync::atomic::Ordering;
use hypercall_abi::{Port, VcpuId};

/// Enters the vCPU as waiting for `port`, or for any port, masked or not (`SCHEDOP_poll`). The caller first
/// marks the vCPU as not runnable, then calls this, then looks at the ports with [`super::is_pending`], and takes
/// both back if one is pending: in this order no event can slip between looking and sleeping.
pub fn start_polling(vcpu: &Vcpu, port: Option<Port>) {
    let channels = &vcpu.domain().event_channels;
    channels.polled_ports[vcpu.id.0 as usize].store(port.map_or(0, |port| port.0), Ordering::SeqCst);
    channels.pollers.fetch_or(1 << vcpu.id.0, Ordering::SeqCst);
}

/// The vCPU does not poll any more: an event was found, or time is up. Does nothing after an event woke it.
pub fn stop_polling(vcpu: &Vcpu) {
    vcpu.domain().event_channels.pollers.fetch_and(!(1 << vcpu.id.0), Ordering::SeqCst);
}

/// Wakes the vCPUs that poll for `port`. A poller enters itself before it looks at the ports, and we look for
/// pollers after we made one pending, so one of the two sees the other.
#[inline]
pub(super) fn wake_pollers(domain: &Domain, port: Port) {
    let channels = &domain.event_channels;
    let mut left = channels.pollers.load(Ordering::SeqCst);
    while left != 0 {
        let number = left.trailing_zeros();
        left &= left - 1;
        wake_poller(domain, channels, number, port);
    }
}

fn wake_poller(domain: &Domain, channels: &EventChannels, number: u32, port: Port) {
    let awaited = channels.polled_ports[number as usize].load(Ordering::SeqCst);
    if awaited != 0 && awaited != port.0 {
        return;
    }
    let was_polling = channels.pollers.fetch_and(!(1 << number), Ordering::SeqCst) & 1 << number != 0;
    if let Some(vcpu) = domain.vcpu(VcpuId(number)).filter(|_| was_polling) {
        scheduler::wake(vcpu);
    }
}
