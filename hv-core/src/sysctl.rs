//! `HYPERVISOR_sysctl`: the control domain looks at the machine.

use crate::{
    arch::clock,
    console::{self, LOG_SIZE},
    counters, domctl, frame_allocator, guest_access,
    hypercall::{Arguments, Caller, HypercallError, HypercallResult},
    layout::PAGE_SIZE,
    machine::machine,
};
use hypercall_abi::{
    DomainId, Errno,
    domctl::XEN_SCHEDULER_CREDIT2,
    sysctl::{
        Sysctl, SysctlAvailheap, SysctlGetdomaininfolist, SysctlPerfcDesc, SysctlPerfcOp, SysctlPhysinfo,
        SysctlReadconsole, SysctlSchedId, XEN_SYSCTL_AVAILHEAP, XEN_SYSCTL_GETDOMAININFOLIST,
        XEN_SYSCTL_INTERFACE_VERSION, XEN_SYSCTL_PERFC_OP, XEN_SYSCTL_PERFCOP_QUERY,
        XEN_SYSCTL_PERFCOP_RESET, XEN_SYSCTL_PHYSCAP_GNTTAB_V1, XEN_SYSCTL_PHYSCAP_PV, XEN_SYSCTL_PHYSINFO,
        XEN_SYSCTL_READCONSOLE, XEN_SYSCTL_SCHED_ID,
    },
};

/// Domains told of in one piece of a list.
const LIST_PIECE: u32 = 64;
/// Bytes of log copied at a time.
const LOG_PIECE: usize = 256;

/// `HYPERVISOR_sysctl(call)`.
///
/// # Errors
/// `EPERM` except for the control domain, `EACCES` for another interface version, `ENOSYS`, `EFAULT`.
pub fn sysctl(caller: &mut Caller<'_>, arguments: &Arguments) -> HypercallResult {
    if !caller.domain.is_privileged {
        return Err(Errno::EPERM.into());
    }
    let mut call: Sysctl = guest_access::read(arguments[0])?;
    if call.interface_version != XEN_SYSCTL_INTERFACE_VERSION {
        return Err(Errno::EACCES.into());
    }
    command(&mut call)?;
    guest_access::write(arguments[0], &call)?;
    Ok(0)
}

fn command(call: &mut Sysctl) -> Result<(), HypercallError> {
    match call.cmd {
        XEN_SYSCTL_READCONSOLE => call.set_payload(&read_console(call.payload_as())?),
        XEN_SYSCTL_PHYSINFO => call.set_payload(&physical_info()),
        XEN_SYSCTL_SCHED_ID => call.set_payload(&SysctlSchedId { sched_id: XEN_SCHEDULER_CREDIT2 }),
        XEN_SYSCTL_GETDOMAININFOLIST => call.set_payload(&list_domains(call.payload_as())?),
        XEN_SYSCTL_AVAILHEAP => {
            let heap = SysctlAvailheap {
                avail_bytes: frame_allocator::free_frames() * PAGE_SIZE,
                ..call.payload_as()
            };
            call.set_payload(&heap);
        }
        XEN_SYSCTL_PERFC_OP => call.set_payload(&performance_counters(call.payload_as())?),
        _ => return Err(Errno::ENOSYS.into()),
    }
    Ok(())
}

/// Copies the log out. With `incremental` the caller goes on at `index`, and gets the next one back.
fn read_console(mut request: SysctlReadconsole) -> Result<SysctlReadconsole, Errno> {
    let mut piece = [0; LOG_PIECE];
    let wanted = (request.count as usize).min(LOG_SIZE);
    let mut position = if request.incremental != 0 { u64::from(request.index) } else { 0 };
    let mut copied = 0;
    while copied < wanted {
        let length = LOG_PIECE.min(wanted - copied);
        let (start, count) = console::LOG.lock().read(position, &mut piece[..length]);
        position = start + count as u64;
        if count == 0 {
            break;
        }
        let address = request.buffer.checked_add(copied as u64).ok_or(Errno::EFAULT)?;
        guest_access::write_bytes(address, &piece[..count])?;
        copied += count;
    }
    if request.clear != 0 {
        console::LOG.lock().clear();
    }
    request.count = copied as u32;
    request.index = position as u32;
    Ok(request)
}

fn physical_info() -> SysctlPhysinfo {
    let cpus = crate::arch::cpu::all().count() as u32;
    SysctlPhysinfo {
        threads_per_core: 1,
        cores_per_socket: cpus,
        nr_cpus: cpus,
        max_cpu_id: cpus - 1,
        nr_nodes: 1,
        cpu_khz: (clock::frequency() / 1000) as u32,
        capabilities: XEN_SYSCTL_PHYSCAP_PV | XEN_SYSCTL_PHYSCAP_GNTTAB_V1,
        total_pages: frame_allocator::total_frames(),
        free_pages: frame_allocator::free_frames(),
        outstanding_pages: frame_allocator::claimed_frames(),
        max_mfn: crate::direct_map::frame_count() - 1,
        ..Default::default()
    }
}

/// Tells of at most [`LIST_PIECE`] domains from `first_domain` on; a caller that wants more asks again.
fn list_domains(mut request: SysctlGetdomaininfolist) -> Result<SysctlGetdomaininfolist, Errno> {
    let mut next = request.first_domain;
    let mut count = 0;
    while count < request.max_domains.min(LIST_PIECE)
        && let Some(domain) = machine().domains.next_from(next)
    {
        guest_access::write_element(request.buffer, u64::from(count), &domctl::info(&domain))?;
        next = DomainId(domain.id.0 + 1);
        count += 1;
    }
    request.num_domains = count;
    Ok(request)
}

/// Most counters told of in one call.
const MOST_COUNTERS: u32 = 1024;

/// The hypervisor's counters by name (see [`counters`]). A reset also begins to account ticks.
fn performance_counters(mut request: SysctlPerfcOp) -> Result<SysctlPerfcOp, Errno> {
    match request.cmd {
        XEN_SYSCTL_PERFCOP_QUERY => {}
        XEN_SYSCTL_PERFCOP_RESET => counters::start(),
        _ => return Err(Errno::EINVAL),
    }
    let wanted = if request.desc == 0 || request.val == 0 { 0 } else { request.nr_counters };
    let mut count = 0;
    let mut result = Ok(());
    counters::visit(|description, value| {
        if count < wanted {
            result = write_counter(&request, count, &description, value);
        }
        count += 1;
        result.is_ok() && count < MOST_COUNTERS
    });
    result?;
    request.nr_counters = count;
    request.nr_vals = 2 * count;
    Ok(request)
}

/// Tells a counter. Never inlined, so that a profiler finds it in the program.
#[inline(never)]
fn write_counter(
    request: &SysctlPerfcOp,
    index: u32,
    description: &SysctlPerfcDesc,
    value: u64,
) -> Result<(), Errno> {
    guest_access::write_element(request.desc, u64::from(index), description)?;
    // The layout has 32 bits a value: each counter is two, the low half first.
    guest_access::write_element(request.val, u64::from(index), &value)
}
