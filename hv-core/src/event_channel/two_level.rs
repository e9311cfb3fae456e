//! The two-level form: a pending bit and a mask bit for each port in `shared_info`, and in each vCPU's
//! `vcpu_info` a selector with a bit for each word of pending bits worth looking at.
//!
//! The guest owns every one of these words and changes them at any time; the hypervisor only sets bits by
//! atomic operations and believes nothing it reads beyond "tell the vCPU or not".

use super::form::request_upcall;
use crate::{direct_map, domain::Domain, vcpu::Vcpu};
use core::{
    mem::offset_of,
    sync::atomic::{AtomicU64, Ordering},
};
use hypercall_abi::{Port, VcpuId, event_channel::EVTCHN_2L_NR_CHANNELS, xen::SharedInfo};

/// The word of an array at `offset` in `shared_info` that holds the port's bit.
#[inline]
fn word(domain: &Domain, offset: usize, port: Port) -> &'static AtomicU64 {
    direct_map::atomic::<u64>(domain.shared_info, offset + port.0 as usize / 64 * 8)
}

#[inline]
fn pending(domain: &Domain, port: Port) -> &'static AtomicU64 {
    word(domain, offset_of!(SharedInfo, evtchn_pending), port)
}

#[inline]
fn mask(domain: &Domain, port: Port) -> &'static AtomicU64 {
    word(domain, offset_of!(SharedInfo, evtchn_mask), port)
}

#[inline]
const fn bit(port: Port) -> u64 {
    1 << (port.0 % 64)
}

/// True when the guest has not yet taken the event at `port`; false for a number that no port can have.
pub(super) fn is_pending(domain: &Domain, port: Port) -> bool {
    port.0 < EVTCHN_2L_NR_CHANNELS && pending(domain, port).load(Ordering::SeqCst) & bit(port) != 0
}

/// Makes `port` pending and tells the vCPU `target`, unless the event was pending already or is masked. Says whether
/// the event is new.
#[inline]
pub(super) fn set_pending(domain: &Domain, port: Port, target: VcpuId) -> bool {
    // A port that only the other form has; its sender finds out that the form has changed.
    if port.0 >= EVTCHN_2L_NR_CHANNELS {
        return false;
    }
    if pending(domain, port).fetch_or(bit(port), Ordering::SeqCst) & bit(port) != 0 {
        return false;
    }
    if mask(domain, port).load(Ordering::SeqCst) & bit(port) == 0 {
        announce(domain, port, target);
    }
    true
}

/// Forgets an event, when its port goes away.
pub(super) fn clear_pending(domain: &Domain, port: Port) {
    if port.0 >= EVTCHN_2L_NR_CHANNELS {
        return;
    }
    pending(domain, port).fetch_and(!bit(port), Ordering::SeqCst);
}

/// Clears the mask bit and, if that uncovers an event, tells the vCPU `target`.
pub(super) fn unmask(domain: &Domain, port: Port, target: VcpuId) {
    if port.0 >= EVTCHN_2L_NR_CHANNELS {
        return;
    }
    let was_masked = mask(domain, port).fetch_and(!bit(port), Ordering::SeqCst) & bit(port) != 0;
    if was_masked && is_pending(domain, port) {
        announce(domain, port, target);
    }
}

/// Sets the port's word in the vCPU's selector, and asks for an upcall.
#[inline]
fn announce(domain: &Domain, port: Port, target: VcpuId) {
    let Some(vcpu) = domain.vcpu(target) else { return };
    let Some(info) = vcpu.info() else { return };
    let selector = 1 << (port.0 / 64);
    if info.pending_selector().fetch_or(selector, Ordering::SeqCst) & selector == 0 {
        request_upcall(vcpu);
    }
}

/// Makes the vCPU look at every word of pending bits. A vCPU that got a new `vcpu_info` needs this: what was
/// announced before was announced in the old one.
pub(super) fn announce_all(vcpu: &Vcpu) {
    let Some(info) = vcpu.info() else { return };
    info.pending_selector().store(u64::MAX, Ordering::SeqCst);
    request_upcall(vcpu);
}
