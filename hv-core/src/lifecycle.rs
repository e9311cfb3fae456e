//! How domains begin, pause, and end.
//!
//! A domain is created empty and paused; its builder gives it memory and a vCPU context; the first unpause seals
//! it. It ends in one of two ways: it shuts down (it stops running and keeps everything until the control domain
//! destroys it), or it is destroyed, which takes it apart in bounded pieces.

use crate::{
    arch,
    domain::{self, Domain, DomainRef, stage},
    event_channel::{self, EventChannels},
    frame::{self, DomainMemory, Progress},
    frame_allocator,
    frame_object::FrameArc,
    grant_table::{GrantTable, Version},
    hypercall::HypercallError,
    interrupt,
    io_rights::IoRights,
    machine::machine,
    mmu, scheduler, time,
    vcpu::{Vcpu, not_runnable},
};
use core::sync::atomic::Ordering;
use hypercall_abi::{DomainId, Errno, VcpuId, sched::SHUTDOWN_CRASH, xen::VIRQ_DOM_EXC};

/// Table entries, frames, ports or grants that one piece of a destruction handles.
const PIECE: u32 = 1024;

/// What a new domain is to be like.
pub struct Configuration {
    /// Its number.
    pub id: DomainId,
    /// The control domain?
    pub is_privileged: bool,
    /// Chosen by the toolstack.
    pub handle: [u8; 16],
    /// The highest event channel it may use.
    pub highest_port: u32,
    /// Frames its grant table may have.
    pub grant_frames: u32,
    /// Frames its table of mapped grants may have.
    pub maptrack_frames: u32,
    /// The newest form of grant table entries it may choose.
    pub newest_grants: Version,
}

/// Makes an empty, paused domain without vCPUs and without memory beyond its shared page.
///
/// # Errors
/// `ENOMEM`; `EEXIST` when the number is taken.
pub fn create(configuration: &Configuration) -> Result<DomainRef, Errno> {
    let id = configuration.id;
    let shared_info = frame::share_new_for(id)?;
    let rights = if configuration.is_privileged { IoRights::control_domain() } else { IoRights::none() };
    let domain = Domain::new(domain::Parts {
        id,
        is_privileged: configuration.is_privileged,
        handle: configuration.handle,
        memory: DomainMemory::new(0),
        shared_info,
        event_channels: EventChannels::new(configuration.highest_port),
        grant_table: GrantTable::new(
            configuration.grant_frames,
            configuration.maptrack_frames,
            configuration.newest_grants,
        ),
        io_rights: rights,
    });
    let Some(domain) = FrameArc::try_new(domain) else {
        frame::take_back(shared_info);
        return Err(Errno::ENOMEM);
    };
    if let Err(errno) = machine().domains.insert(domain.clone()) {
        frame::take_back(shared_info);
        return Err(errno);
    }
    domain.memory.adopt_shared(shared_info);
    time::publish_wall_clock(&domain);
    Ok(domain)
}

/// Gives a domain vCPUs up to `count`, all offline.
///
/// # Errors
/// `EINVAL` for none or more than there is room for, `ENOMEM`; vCPUs made before the shortage stay.
pub fn create_vcpus(domain: &Domain, count: u32) -> Result<(), Errno> {
    if count == 0 || count as usize > domain::MAX_VCPUS {
        return Err(Errno::EINVAL);
    }
    let _control = domain.control.lock();
    for number in domain.vcpu_count()..count {
        scheduler::admit()?;
        let vcpu = domain.add_vcpu(VcpuId(number))?;
        if let Some(info) = vcpu.info() {
            time::publish_system_time(info);
        }
    }
    Ok(())
}

/// Stops all vCPUs of a domain; nests.
///
/// # Errors
/// `EINVAL` when it is dying.
pub fn pause(domain: &Domain) -> Result<(), Errno> {
    let _control = domain.control.lock();
    if domain.is_dying() {
        return Err(Errno::EINVAL);
    }
    domain.pause_count.fetch_add(1, Ordering::AcqRel);
    stop_vcpus(domain);
    Ok(())
}

/// Undoes one [`pause`]. The first time, it also ends the builder's right to the domain's memory.
///
/// # Errors
/// `EINVAL` when it is not paused or dying, `EBUSY` while the builder still maps its memory.
pub fn unpause(domain: &Domain) -> Result<(), Errno> {
    let _control = domain.control.lock();
    if domain.is_dying() || domain.pause_count.load(Ordering::Acquire) == 0 {
        return Err(Errno::EINVAL);
    }
    if domain.is_under_construction() {
        domain.memory.seal()?;
        domain.stage.store(stage::ALIVE, Ordering::Release);
    }
    if domain.pause_count.fetch_sub(1, Ordering::AcqRel) == 1 {
        domain.vcpus().for_each(|vcpu| scheduler::resume(vcpu, not_runnable::DOMAIN_PAUSED));
    }
    Ok(())
}

fn stop_vcpus(domain: &Domain) {
    for vcpu in domain.vcpus() {
        scheduler::suspend(vcpu, not_runnable::DOMAIN_PAUSED);
    }
    // A vCPU on another CPU leaves it at the interrupt that `suspend` sent; the caller's own stops when it returns. None
    // of them waits for the control lock, which the caller holds.
    for vcpu in domain.vcpus().filter(|vcpu| !arch::cpu::runs_here(vcpu)) {
        while vcpu.is_on_cpu() {
            arch::cpu::wait_politely();
        }
    }
}

/// A domain stops running for the `SHUTDOWN_*` reason. The control domain is told; if it is the control domain
/// itself that stops, so does the machine.
pub fn shut_down(domain: &Domain, reason: u32) {
    if domain.is_privileged {
        arch::power::control_domain_stopped(reason);
    }
    if domain.is_shut_down.swap(true, Ordering::AcqRel) {
        return;
    }
    let earlier = domain.shutdown_reason.load(Ordering::Relaxed);
    if earlier == domain::NO_REASON {
        domain.shutdown_reason.store(reason, Ordering::Relaxed);
    }
    domain.vcpus().for_each(|vcpu| scheduler::suspend(vcpu, not_runnable::DOMAIN_SHUT_DOWN));
    event_channel::notify_global_virq(VIRQ_DOM_EXC);
}

/// A domain did something it cannot go on after; `why` completes the sentence "it crashed because".
pub fn crash(domain: &Domain, why: &str) {
    if crate::console::guest_message_allowed() || domain.is_privileged {
        log::warn!("domain {} crashed because {why}", domain.id);
    }
    shut_down(domain, SHUTDOWN_CRASH);
}

/// Takes a domain apart; called again with the same domain until it says so no more.
///
/// # Errors
/// `EBUSY` for the caller's own domain or the control domain, `Restart` while pieces remain, `EAGAIN` when only
/// memory that other domains still use is left.
pub fn destroy(domain: &DomainRef) -> Result<(), HypercallError> {
    if domain.is_privileged {
        return Err(Errno::EBUSY.into());
    }
    {
        let _control = domain.control.lock();
        if !domain.is_dying() {
            domain.stage.store(stage::DYING, Ordering::Release);
            frame_allocator::drop_claim(domain);
            stop_vcpus(domain);
        }
    }
    release_channels(domain)?;
    release_vcpus(domain)?;
    match frame::release_some(domain, PIECE) {
        Progress::More => Err(HypercallError::Restart),
        Progress::Waiting => Err(Errno::EAGAIN.into()),
        Progress::Done => {
            domain.stage.store(stage::DEAD, Ordering::Release);
            machine().domains.remove(domain.id);
            event_channel::notify_global_virq(VIRQ_DOM_EXC);
            Ok(())
        }
    }
}

fn release_channels(domain: &Domain) -> Result<(), HypercallError> {
    if !event_channel::close_all(domain, PIECE) || !crate::grant_table::release_all(domain, PIECE) {
        return Err(HypercallError::Restart);
    }
    event_channel::end_fifo(domain);
    interrupt::release_all(domain);
    Ok(())
}

/// The vCPUs leave every queue and let go of their page and descriptor tables.
fn release_vcpus(domain: &Domain) -> Result<(), HypercallError> {
    let _control = domain.control.lock();
    for vcpu in domain.vcpus() {
        if !vcpu.retired.swap(true, Ordering::AcqRel) {
            scheduler::retire(vcpu);
            arch::forget(vcpu);
            release_info(vcpu);
        }
        mmu::release_vcpu(domain, vcpu.paused_context()?)?;
    }
    if !domain.shared_info_released.swap(true, Ordering::AcqRel) {
        frame::unshare(domain, domain.shared_info);
    }
    Ok(())
}

/// Lets go of the frame that the guest chose for a vCPU's `vcpu_info`.
fn release_info(vcpu: &Vcpu) {
    let frame = vcpu.forget_info();
    if vcpu.own_info.swap(false, Ordering::AcqRel)
        && let Some(frame) = frame
    {
        frame::put_writable(frame);
    }
}
