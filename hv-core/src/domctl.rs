//! `HYPERVISOR_domctl`: the control domain makes, watches and ends other domains.
//!
//! The subset of Xen 4.17's interface that a toolstack for paravirtual guests needs, with its numbers and layouts. A
//! caller of another version is refused, as Xen does, because the layouts would not agree.

use crate::{
    cpu_bitmap,
    domain::{self, Domain, DomainRef},
    grant_table::Version,
    guest_access,
    hypercall::{Arguments, Caller, HypercallError, HypercallResult},
    hypercall_page,
    io_rights::Resource,
    layout::PAGE_SIZE,
    lifecycle::{self, Configuration},
    machine::machine,
    scheduler, trap,
    vcpu::not_runnable,
    vcpu_context,
};
use core::{ops::RangeInclusive, sync::atomic::Ordering};
use hypercall_abi::{DomainId, Errno, MachineFrame, VcpuId, arch_x86::VcpuGuestContext, domctl::*};

/// `HYPERVISOR_domctl(call)`.
///
/// # Errors
/// `EPERM` except for the control domain, `EACCES` for another interface version, `ESRCH` for a domain that is not
/// there, `ENOSYS` for a command that is not there, and what the command says.
pub fn domctl(caller: &mut Caller<'_>, arguments: &Arguments) -> HypercallResult {
    if !caller.domain.is_privileged {
        return Err(Errno::EPERM.into());
    }
    let address = arguments[0];
    let mut call: Domctl = guest_access::read(address)?;
    if call.interface_version != XEN_DOMCTL_INTERFACE_VERSION {
        return Err(Errno::EACCES.into());
    }
    if call.cmd == XEN_DOMCTL_CREATEDOMAIN {
        call.domain = create(&call)?;
        guest_access::write(address, &call)?;
        return Ok(0);
    }
    let domain = if call.cmd == XEN_DOMCTL_GETDOMAININFO {
        machine().domains.next_from(call.domain).ok_or(Errno::ESRCH)?
    } else {
        domain::find(call.domain).ok_or(Errno::ESRCH)?
    };
    let answers = command(caller, &domain, &mut call)?;
    if answers {
        guest_access::write(address, &call)?;
    }
    Ok(0)
}

/// Does one command on `domain`; says whether the call structure carries an answer.
fn command(caller: &Caller<'_>, domain: &DomainRef, call: &mut Domctl) -> Result<bool, HypercallError> {
    match call.cmd {
        XEN_DOMCTL_DESTROYDOMAIN => lifecycle::destroy(domain)?,
        XEN_DOMCTL_PAUSEDOMAIN => lifecycle::pause(not_self(caller, domain)?)?,
        XEN_DOMCTL_UNPAUSEDOMAIN => lifecycle::unpause(domain)?,
        XEN_DOMCTL_GETDOMAININFO => {
            call.domain = domain.id;
            call.set_payload(&info(domain));
            return Ok(true);
        }
        XEN_DOMCTL_MAX_MEM => {
            let limit: DomctlMaxMem = call.payload_as();
            domain.memory.set_maximum(limit.max_memkb / (PAGE_SIZE / 1024));
        }
        XEN_DOMCTL_MAX_VCPUS => lifecycle::create_vcpus(domain, call.payload_as::<DomctlMaxVcpus>().max)?,
        XEN_DOMCTL_SETVCPUCONTEXT => {
            set_context(not_self(caller, domain)?, call.payload_as())?;
        }
        XEN_DOMCTL_GETVCPUCONTEXT => {
            tell_context(not_self(caller, domain)?, call.payload_as())?;
        }
        XEN_DOMCTL_GETVCPUINFO => {
            let id = call.payload_as::<DomctlGetvcpuinfo>().vcpu;
            call.set_payload(&vcpu_info(domain, id)?);
            return Ok(true);
        }
        XEN_DOMCTL_SETVCPUAFFINITY => {
            let answer = set_affinity(domain, call.payload_as())?;
            call.set_payload(&answer);
            return Ok(true);
        }
        XEN_DOMCTL_GETVCPUAFFINITY => {
            let answer = tell_affinity(domain, call.payload_as())?;
            call.set_payload(&answer);
            return Ok(true);
        }
        XEN_DOMCTL_SCHEDULER_OP => {
            let answer = scheduling(domain, call.payload_as())?;
            call.set_payload(&answer);
            return Ok(true);
        }
        XEN_DOMCTL_SENDTRIGGER => send_trigger(domain, call.payload_as())?,
        XEN_DOMCTL_SETDOMAINHANDLE => {
            *domain.handle.lock() = call.payload_as::<DomctlSetdomainhandle>().handle
        }
        XEN_DOMCTL_HYPERCALL_INIT => {
            let frame = MachineFrame(call.payload_as::<DomctlHypercallInit>().gmfn);
            hypercall_page::write(domain, frame)?;
        }
        XEN_DOMCTL_IRQ_PERMISSION => {
            let right: DomctlIrqPermission = call.payload_as();
            let number = u64::from(right.pirq.0);
            permit(domain, Resource::Interrupt, number..=number, right.allow_access != 0)?;
        }
        XEN_DOMCTL_IOMEM_PERMISSION => {
            let right: DomctlIomemPermission = call.payload_as();
            let range = range(right.first_mfn, right.nr_mfns)?;
            permit(domain, Resource::Memory, range, right.allow_access != 0)?;
        }
        XEN_DOMCTL_IOPORT_PERMISSION => {
            let right: DomctlIoportPermission = call.payload_as();
            let range = range(u64::from(right.first_port), u64::from(right.nr_ports))?;
            if *range.end() > 0xffff {
                return Err(Errno::EINVAL.into());
            }
            permit(domain, Resource::Port, range, right.allow_access != 0)?;
        }
        _ => return Err(Errno::ENOSYS.into()),
    }
    Ok(false)
}

fn create(call: &Domctl) -> Result<DomainId, Errno> {
    let wanted: DomctlCreatedomain = call.payload_as();
    if wanted.flags & (XEN_DOMCTL_CDF_HVM | XEN_DOMCTL_CDF_HAP | XEN_DOMCTL_CDF_NESTED_VIRT) != 0 {
        return Err(Errno::EINVAL);
    }
    if wanted.max_vcpus == 0 || wanted.max_vcpus as usize > domain::MAX_VCPUS {
        return Err(Errno::EINVAL);
    }
    let id = match call.domain {
        DomainId::ZERO | DomainId::INVALID => machine().domains.free_id().ok_or(Errno::ENOMEM)?,
        id => id,
    };
    let domain = lifecycle::create(&Configuration {
        id,
        is_privileged: false,
        handle: wanted.handle,
        highest_port: wanted.max_evtchn_port,
        grant_frames: frames(wanted.max_grant_frames)?,
        maptrack_frames: frames(wanted.max_maptrack_frames)?,
        newest_grants: Version::from_number(wanted.grant_opts & XEN_DOMCTL_GRANT_VERSION_MASK)
            .ok_or(Errno::EINVAL)?,
    })?;
    Ok(domain.id)
}

/// The grant table limits of a domain whose toolstack leaves them to the hypervisor.
const DEFAULT_GRANT_FRAMES: u32 = 64;

fn frames(wanted: i32) -> Result<u32, Errno> {
    match wanted {
        -1 => Ok(DEFAULT_GRANT_FRAMES),
        _ => u32::try_from(wanted).map_err(|_| Errno::EINVAL),
    }
}

/// The caller's own vCPU cannot be paused or replaced under its feet.
fn not_self<'a>(caller: &Caller<'_>, domain: &'a DomainRef) -> Result<&'a Domain, Errno> {
    if domain.id == caller.domain.id { Err(Errno::EINVAL) } else { Ok(domain) }
}

fn range(first: u64, count: u64) -> Result<RangeInclusive<u64>, Errno> {
    let last = first.checked_add(count.checked_sub(1).ok_or(Errno::EINVAL)?).ok_or(Errno::EINVAL)?;
    Ok(first..=last)
}

fn permit(domain: &Domain, resource: Resource, range: RangeInclusive<u64>, allow: bool) -> Result<(), Errno> {
    if allow { domain.io_rights.give(resource, range) } else { domain.io_rights.take(resource, range) }
}

/// What `XEN_DOMCTL_getdomaininfo` and `XEN_SYSCTL_getdomaininfolist` tell of a domain.
pub fn info(domain: &Domain) -> DomctlGetdomaininfo {
    let online = |vcpu: &&crate::vcpu::Vcpu| vcpu.paused.load(Ordering::Relaxed) & not_runnable::OFFLINE == 0;
    DomctlGetdomaininfo {
        domain: domain.id,
        flags: state_flags(domain),
        tot_pages: domain.memory.total(),
        max_pages: domain.memory.maximum(),
        shared_info_frame: domain.shared_info.0,
        cpu_time: domain.vcpus().map(scheduler::running_time_of).sum(),
        nr_online_vcpus: domain.vcpus().filter(online).count() as u32,
        max_vcpu_id: domain.vcpu_count().checked_sub(1).unwrap_or(XEN_INVALID_MAX_VCPU_ID),
        handle: *domain.handle.lock(),
        ..Default::default()
    }
}

fn state_flags(domain: &Domain) -> u32 {
    let mut flags = 0;
    if domain.is_dying() {
        flags |= XEN_DOMINF_DYING;
    }
    if domain.is_shut_down.load(Ordering::Acquire) {
        let reason = domain.shutdown_reason.load(Ordering::Relaxed) & XEN_DOMINF_SHUTDOWNMASK;
        flags |= XEN_DOMINF_SHUTDOWN | reason << XEN_DOMINF_SHUTDOWNSHIFT;
    }
    if domain.pause_count.load(Ordering::Acquire) != 0 {
        flags |= XEN_DOMINF_PAUSED;
    }
    if domain.vcpus().any(|vcpu| vcpu.running.load(Ordering::Relaxed)) {
        flags |= XEN_DOMINF_RUNNING;
    } else if domain.vcpus().all(|vcpu| vcpu.paused.load(Ordering::Relaxed) != 0) {
        flags |= XEN_DOMINF_BLOCKED;
    }
    flags
}

/// A domain's share of the processors, set or asked for; all its vCPUs have the same.
fn scheduling(domain: &Domain, mut request: DomctlSchedulerOp) -> Result<DomctlSchedulerOp, Errno> {
    if request.sched_id != XEN_SCHEDULER_CREDIT2 {
        return Err(Errno::EINVAL);
    }
    match request.cmd {
        XEN_DOMCTL_SCHEDOP_PUTINFO if request.credit2.weight == 0 => return Err(Errno::EINVAL),
        XEN_DOMCTL_SCHEDOP_PUTINFO => {
            scheduler::set_weight(domain, request.credit2.weight.into());
            scheduler::set_cap(domain, request.credit2.cap.into());
        }
        XEN_DOMCTL_SCHEDOP_GETINFO => {
            let weight = domain.vcpus().next().map(|vcpu| vcpu.schedule.weight());
            let weight = weight.unwrap_or(scheduler::DEFAULT_WEIGHT);
            let cap = domain.budget.cap();
            request.credit2 = DomctlSchedCredit2 {
                weight: weight.try_into().unwrap_or(u16::MAX),
                cap: cap.try_into().unwrap_or(u16::MAX),
            };
        }
        _ => return Err(Errno::EINVAL),
    }
    Ok(request)
}

/// `XEN_DOMCTL_setvcpucontext`. By itself, as [`tell_context`]: a context takes more room on the stack than all else.
#[inline(never)]
fn set_context(domain: &Domain, place: DomctlVcpucontext) -> Result<(), HypercallError> {
    let state: VcpuGuestContext = guest_access::read(place.ctxt)?;
    let vcpu = domain.vcpu(place.vcpu).ok_or(Errno::ESRCH)?;
    vcpu_context::set(domain, vcpu, &state)
}

/// `XEN_DOMCTL_getvcpucontext`.
#[inline(never)]
fn tell_context(domain: &Domain, place: DomctlVcpucontext) -> Result<(), Errno> {
    let vcpu = domain.vcpu(place.vcpu).ok_or(Errno::ESRCH)?;
    guest_access::write(place.ctxt, &vcpu_context::get(domain, vcpu)?)
}

/// Says where a vCPU may (hard) and should (soft) run, and tells what has come of it.
fn set_affinity(domain: &Domain, request: DomctlVcpuaffinity) -> Result<DomctlVcpuaffinity, Errno> {
    let vcpu = domain.vcpu(request.vcpu).ok_or(Errno::ESRCH)?;
    let (hard, soft) = (XEN_VCPUAFFINITY_HARD, XEN_VCPUAFFINITY_SOFT);
    let is_known = request.flags & !(hard | soft | WEIR_VCPUAFFINITY_DEDICATED) == 0;
    if !is_known || request.flags & (hard | soft) == 0 {
        return Err(Errno::EINVAL);
    }
    let mut affinity = scheduler::affinity_of(vcpu);
    if request.flags & hard != 0 {
        affinity.hard = cpu_bitmap::read(&request.cpumap_hard)?;
        affinity.is_dedicated = request.flags & WEIR_VCPUAFFINITY_DEDICATED != 0;
    }
    if request.flags & soft != 0 {
        affinity.soft = cpu_bitmap::read(&request.cpumap_soft)?;
    }
    scheduler::set_affinity(vcpu, affinity)?;
    tell_affinity(domain, request)
}

/// Tells where a vCPU may and should run.
fn tell_affinity(domain: &Domain, request: DomctlVcpuaffinity) -> Result<DomctlVcpuaffinity, Errno> {
    let affinity = scheduler::affinity_of(domain.vcpu(request.vcpu).ok_or(Errno::ESRCH)?);
    if request.flags & XEN_VCPUAFFINITY_HARD != 0 {
        cpu_bitmap::write(&request.cpumap_hard, affinity.hard)?;
    }
    if request.flags & XEN_VCPUAFFINITY_SOFT != 0 {
        cpu_bitmap::write(&request.cpumap_soft, affinity.soft)?;
    }
    let asked = request.flags & (XEN_VCPUAFFINITY_HARD | XEN_VCPUAFFINITY_SOFT);
    let own = if affinity.is_dedicated { WEIR_VCPUAFFINITY_DEDICATED } else { 0 };
    Ok(DomctlVcpuaffinity { flags: asked | own, ..request })
}

/// Presses a button. Power and sleep are those of machines that a paravirtual domain is not like.
fn send_trigger(domain: &Domain, request: DomctlSendtrigger) -> Result<(), Errno> {
    let vcpu = domain.vcpu(request.vcpu).ok_or(Errno::ESRCH)?;
    match request.trigger {
        XEN_DOMCTL_SENDTRIGGER_NMI => trap::request_nmi(vcpu),
        XEN_DOMCTL_SENDTRIGGER_POWER | XEN_DOMCTL_SENDTRIGGER_SLEEP => return Err(Errno::EINVAL),
        _ => return Err(Errno::ENOSYS),
    }
    Ok(())
}

fn vcpu_info(domain: &Domain, id: VcpuId) -> Result<DomctlGetvcpuinfo, Errno> {
    let vcpu = domain.vcpu(id).ok_or(Errno::ESRCH)?;
    let paused = vcpu.paused.load(Ordering::Relaxed);
    Ok(DomctlGetvcpuinfo {
        vcpu: id,
        online: u8::from(paused & not_runnable::OFFLINE == 0),
        blocked: u8::from(paused & (not_runnable::BLOCKED | not_runnable::POLLING) != 0),
        running: u8::from(vcpu.running.load(Ordering::Relaxed)),
        cpu_time: scheduler::running_time_of(vcpu),
        cpu: u32::from(vcpu.processor.load(Ordering::Relaxed)),
        ..Default::default()
    })
}
