#![expect(unsafe_code, reason = "control calls hand the hypervisor addresses and change other domains")]
//! Control calls: what the toolstack may do to domains and ask of the machine, typed, a function each.
//!
//! All of them are about *other* domains, or only look. None changes memory or mappings of this domain, and the
//! addresses in them are those of the values right here.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use hypercall_abi::arch_x86::VcpuGuestContext;
use hypercall_abi::domctl::*;
use hypercall_abi::event_channel::EvtchnAllocUnbound;
use hypercall_abi::grant_table::GnttabSetupTable;
use hypercall_abi::memory::{
    E820_RAM, E820Entry, ForeignMemoryMap, MemoryMap, MemoryReservation, XENMEM_CLAIM_PAGES,
    XENMEM_POPULATE_PHYSMAP, XENMEM_SET_MEMORY_MAP,
};
use hypercall_abi::sysctl::*;
use hypercall_abi::xen::{MMUEXT_PIN_L4_TABLE, MmuextOp};
use hypercall_abi::{DomainId, Errno, MachineFrame, PhysicalIrq, Port, VcpuId};
use pv_runtime::hypercall;
use zerocopy::FromZeros;

use super::cpus::CpuSet;

/// Event channels of a guest: as many as the two-level form has, and enough in the other.
const MOST_PORTS: u32 = 4095;
/// Leaves a limit to the hypervisor.
const DEFAULT: i32 = -1;
/// Newest form of grant table entries that a guest may choose.
const GRANT_VERSION: u32 = 2;
/// Domains that are asked for at a time.
const LIST_PIECE: usize = 64;
/// Bytes of log that are asked for at a time.
const LOG_PIECE: usize = 16 * 1024;
/// The longest log that is taken: longer than any hypervisor's.
const LOG_LIMIT: usize = 4 << 20;

fn domctl(call: &mut Domctl) -> Result<(), Errno> {
    // SAFETY: a `Domctl`. The callers below put only addresses of their own values into it, with the sizes that
    // the command reads and writes there.
    unsafe { hypercall::domctl(call) }.map(drop)
}

fn sysctl(call: &mut Sysctl) -> Result<(), Errno> {
    // SAFETY: a `Sysctl`, and for addresses as with `domctl`.
    unsafe { hypercall::sysctl(call) }.map(drop)
}

/// I/O space that a domain may be let at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IoRange {
    /// Frames of memory: the first, and how many.
    Memory(u64, u64),
    /// Ports: the first, and how many.
    Ports(u16, u16),
}

/// Lets a domain at I/O space, or no longer.
///
/// # Errors
///
/// `EPERM` for what the hypervisor uses itself, `ENOSPC` for too many ranges, `ENOENT` for what was not given.
pub fn allow_io(domain: DomainId, range: &IoRange, is_allowed: bool) -> Result<(), Errno> {
    let allow_access = u8::from(is_allowed);
    domctl(&mut match *range {
        IoRange::Memory(first_mfn, nr_mfns) => {
            let right = DomctlIomemPermission { first_mfn, nr_mfns, allow_access, ..Default::default() };
            Domctl::new(XEN_DOMCTL_IOMEM_PERMISSION, domain).with_payload(&right)
        }
        IoRange::Ports(first, count) => {
            let right = DomctlIoportPermission {
                first_port: first.into(),
                nr_ports: count.into(),
                allow_access,
                ..Default::default()
            };
            Domctl::new(XEN_DOMCTL_IOPORT_PERMISSION, domain).with_payload(&right)
        }
    })
}

/// Lets a domain bind a physical interrupt, or no longer.
///
/// # Errors
///
/// As for [`allow_io`].
pub fn allow_interrupt(domain: DomainId, pirq: PhysicalIrq, is_allowed: bool) -> Result<(), Errno> {
    let right = DomctlIrqPermission { pirq, allow_access: u8::from(is_allowed), ..Default::default() };
    domctl(&mut Domctl::new(XEN_DOMCTL_IRQ_PERMISSION, domain).with_payload(&right))
}

/// Makes an empty, paused domain.
///
/// # Errors
///
/// `ENOMEM`, and what else the hypervisor finds.
pub fn create_domain(handle: DomainHandle, vcpus: u32) -> Result<DomainId, Errno> {
    let wanted = DomctlCreatedomain {
        handle,
        max_vcpus: vcpus,
        max_evtchn_port: MOST_PORTS,
        max_grant_frames: DEFAULT,
        max_maptrack_frames: DEFAULT,
        grant_opts: GRANT_VERSION,
        ..Default::default()
    };
    let mut call = Domctl::new(XEN_DOMCTL_CREATEDOMAIN, DomainId::ZERO).with_payload(&wanted);
    domctl(&mut call)?;
    Ok(call.domain)
}

/// Takes a domain apart.
///
/// # Errors
///
/// `EAGAIN` while somebody still uses its memory; `ESRCH` once it is gone.
pub fn destroy_domain(domain: DomainId) -> Result<(), Errno> {
    domctl(&mut Domctl::new(XEN_DOMCTL_DESTROYDOMAIN, domain))
}

/// Stops a domain; nests.
///
/// # Errors
///
/// `ESRCH`, `EINVAL` for a dying one.
pub fn pause_domain(domain: DomainId) -> Result<(), Errno> {
    domctl(&mut Domctl::new(XEN_DOMCTL_PAUSEDOMAIN, domain))
}

/// Undoes one pause.
///
/// # Errors
///
/// `ESRCH`, `EINVAL` for one that is not paused, `EBUSY` for a new one whose memory is still mapped here.
pub fn unpause_domain(domain: DomainId) -> Result<(), Errno> {
    domctl(&mut Domctl::new(XEN_DOMCTL_UNPAUSEDOMAIN, domain))
}

/// Gives a domain virtual CPUs.
///
/// # Errors
///
/// `ENOMEM`, `EINVAL`.
pub fn create_vcpus(domain: DomainId, count: u32) -> Result<(), Errno> {
    domctl(&mut Domctl::new(XEN_DOMCTL_MAX_VCPUS, domain).with_payload(&DomctlMaxVcpus { max: count }))
}

/// Limits a domain's memory.
///
/// # Errors
///
/// `ESRCH`.
pub fn limit_memory(domain: DomainId, kibibytes: u64) -> Result<(), Errno> {
    let limit = DomctlMaxMem { max_memkb: kibibytes };
    domctl(&mut Domctl::new(XEN_DOMCTL_MAX_MEM, domain).with_payload(&limit))
}

/// Tells a domain how far its memory may come to reach.
///
/// # Errors
///
/// `ESRCH`, `ENOMEM`.
pub fn tell_memory(domain: DomainId, kibibytes: u64) -> Result<(), Errno> {
    let range = E820Entry { addr: 0.into(), size: (kibibytes * 1024).into(), r#type: E820_RAM.into() };
    let map = MemoryMap { nr_entries: 1, buffer: core::ptr::from_ref(&range) as u64, ..Default::default() };
    let mut request = ForeignMemoryMap { domid: domain, map, ..Default::default() };
    // SAFETY: the command reads the one range that is at the address.
    unsafe { hypercall::memory_op(XENMEM_SET_MEMORY_MAP, &mut request) }.map(drop)
}

/// Writes the hypercall stubs into a frame of a domain.
///
/// # Errors
///
/// `EINVAL` if the frame is not the domain's.
pub fn fill_hypercall_page(domain: DomainId, frame: MachineFrame) -> Result<(), Errno> {
    let page = DomctlHypercallInit { gmfn: frame.0 };
    domctl(&mut Domctl::new(XEN_DOMCTL_HYPERCALL_INIT, domain).with_payload(&page))
}

/// Sets the registers of a paused virtual CPU.
///
/// # Errors
///
/// `EINVAL` for a state that no virtual CPU may have.
pub fn set_context(domain: DomainId, vcpu: VcpuId, context: &VcpuGuestContext) -> Result<(), Errno> {
    let place = DomctlVcpucontext { vcpu, _pad: 0, ctxt: core::ptr::from_ref(context) as u64 };
    domctl(&mut Domctl::new(XEN_DOMCTL_SETVCPUCONTEXT, domain).with_payload(&place))
}

/// A context with all fields zero, on the heap: it is larger than a page.
pub fn empty_context() -> Box<VcpuGuestContext> {
    Box::new(VcpuGuestContext::new_zeroed())
}

/// The state of a domain.
///
/// # Errors
///
/// `ESRCH`.
pub fn domain_info(domain: DomainId) -> Result<DomctlGetdomaininfo, Errno> {
    let mut call = Domctl::new(XEN_DOMCTL_GETDOMAININFO, domain);
    domctl(&mut call)?;
    let info: DomctlGetdomaininfo = call.payload_as();
    // The answer may be about the next domain if there is none of this number.
    if info.domain == domain { Ok(info) } else { Err(Errno::ESRCH) }
}

/// The state of a virtual CPU.
///
/// # Errors
///
/// `ESRCH` if there is none.
pub fn vcpu_info(domain: DomainId, vcpu: VcpuId) -> Result<DomctlGetvcpuinfo, Errno> {
    let wanted = DomctlGetvcpuinfo { vcpu, ..Default::default() };
    let mut call = Domctl::new(XEN_DOMCTL_GETVCPUINFO, domain).with_payload(&wanted);
    domctl(&mut call)?;
    Ok(call.payload_as())
}

/// Sends a virtual CPU a non-maskable interrupt.
///
/// # Errors
///
/// `ESRCH` if there is none.
pub fn send_nmi(domain: DomainId, vcpu: VcpuId) -> Result<(), Errno> {
    let trigger = DomctlSendtrigger { trigger: XEN_DOMCTL_SENDTRIGGER_NMI, vcpu };
    domctl(&mut Domctl::new(XEN_DOMCTL_SENDTRIGGER, domain).with_payload(&trigger))
}

/// A domain's share of the processors: as against others', and at most.
///
/// # Errors
///
/// `ESRCH`, `ENOSYS` from a hypervisor whose scheduler has no shares.
pub fn share(domain: DomainId) -> Result<DomctlSchedCredit2, Errno> {
    scheduling(domain, XEN_DOMCTL_SCHEDOP_GETINFO, DomctlSchedCredit2::default())
}

/// Sets a domain's share of the processors.
///
/// # Errors
///
/// As for [`share`], and `EINVAL` for a weight of zero.
pub fn set_share(domain: DomainId, share: DomctlSchedCredit2) -> Result<(), Errno> {
    scheduling(domain, XEN_DOMCTL_SCHEDOP_PUTINFO, share).map(drop)
}

fn scheduling(domain: DomainId, cmd: u32, credit2: DomctlSchedCredit2) -> Result<DomctlSchedCredit2, Errno> {
    let request = DomctlSchedulerOp { sched_id: XEN_SCHEDULER_CREDIT2, cmd, credit2, ..Default::default() };
    let mut call = Domctl::new(XEN_DOMCTL_SCHEDULER_OP, domain).with_payload(&request);
    domctl(&mut call)?;
    Ok(call.payload_as::<DomctlSchedulerOp>().credit2)
}

/// On which processors a virtual CPU may and should run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Affinity {
    /// It runs on no others.
    pub hard: CpuSet,
    /// It takes one of these if it is idle.
    pub soft: CpuSet,
    /// Nobody else runs on the only one in `hard`.
    pub is_dedicated: bool,
}

/// Where a virtual CPU may and should run.
///
/// # Errors
///
/// `ESRCH` if there is none.
pub fn affinity(domain: DomainId, vcpu: VcpuId) -> Result<Affinity, Errno> {
    let nowhere = Affinity { hard: CpuSet(0), soft: CpuSet(0), is_dedicated: false };
    exchange_affinity(XEN_DOMCTL_GETVCPUAFFINITY, domain, vcpu, nowhere)
}

/// Says where a virtual CPU may and should run.
///
/// # Errors
///
/// `ESRCH` if there is none, `EINVAL` if that is nowhere, `EBUSY` if a processor is somebody else's.
pub fn set_affinity(domain: DomainId, vcpu: VcpuId, affinity: Affinity) -> Result<(), Errno> {
    exchange_affinity(XEN_DOMCTL_SETVCPUAFFINITY, domain, vcpu, affinity).map(drop)
}

fn exchange_affinity(cmd: u32, domain: DomainId, vcpu: VcpuId, value: Affinity) -> Result<Affinity, Errno> {
    let (mut hard, mut soft) = (value.hard.0, value.soft.0);
    let bitmap = |set: &mut u64| XenctlBitmap {
        bitmap: core::ptr::from_mut(set) as u64,
        nr_bits: u64::BITS,
        ..Default::default()
    };
    let dedicated = if value.is_dedicated { WEIR_VCPUAFFINITY_DEDICATED } else { 0 };
    let request = DomctlVcpuaffinity {
        vcpu,
        flags: XEN_VCPUAFFINITY_HARD | XEN_VCPUAFFINITY_SOFT | dedicated,
        cpumap_hard: bitmap(&mut hard),
        cpumap_soft: bitmap(&mut soft),
    };
    let mut call = Domctl::new(cmd, domain).with_payload(&request);
    domctl(&mut call)?;
    let is_dedicated = call.payload_as::<DomctlVcpuaffinity>().flags & WEIR_VCPUAFFINITY_DEDICATED != 0;
    Ok(Affinity { hard: CpuSet(hard), soft: CpuSet(soft), is_dedicated })
}

/// The state of every domain, in the order of their numbers.
///
/// # Errors
///
/// What the hypervisor answers.
pub fn list_domains() -> Result<Vec<DomctlGetdomaininfo>, Errno> {
    let mut list = Vec::new();
    let mut first_domain = DomainId::ZERO;
    loop {
        let mut piece = [DomctlGetdomaininfo::default(); LIST_PIECE];
        let request = SysctlGetdomaininfolist {
            first_domain,
            max_domains: LIST_PIECE as u32,
            buffer: piece.as_mut_ptr() as u64,
            ..Default::default()
        };
        let mut call = Sysctl::new(XEN_SYSCTL_GETDOMAININFOLIST).with_payload(&request);
        sysctl(&mut call)?;
        let count = call.payload_as::<SysctlGetdomaininfolist>().num_domains as usize;
        list.extend_from_slice(&piece[..count.min(LIST_PIECE)]);
        match list.last() {
            Some(last) if count >= LIST_PIECE => first_domain = DomainId(last.domain.0 + 1),
            _ => return Ok(list),
        }
    }
}

/// What the machine has.
///
/// # Errors
///
/// What the hypervisor answers.
pub fn physical_info() -> Result<SysctlPhysinfo, Errno> {
    let mut call = Sysctl::new(XEN_SYSCTL_PHYSINFO);
    sysctl(&mut call)?;
    Ok(call.payload_as())
}

/// Empties the hypervisor's log.
///
/// # Errors
///
/// What the hypervisor answers.
pub fn clear_log() -> Result<(), Errno> {
    let request = SysctlReadconsole { clear: 1, ..Default::default() };
    sysctl(&mut Sysctl::new(XEN_SYSCTL_READCONSOLE).with_payload(&request))
}

/// The hypervisor's log.
///
/// # Errors
///
/// What the hypervisor answers.
pub fn read_log() -> Result<Vec<u8>, Errno> {
    let mut log = Vec::new();
    let mut index = 0;
    while log.len() < LOG_LIMIT {
        let mut piece = vec![0_u8; LOG_PIECE];
        let request = SysctlReadconsole {
            incremental: 1,
            index,
            buffer: piece.as_mut_ptr() as u64,
            count: LOG_PIECE as u32,
            ..Default::default()
        };
        let mut call = Sysctl::new(XEN_SYSCTL_READCONSOLE).with_payload(&request);
        sysctl(&mut call)?;
        let answer: SysctlReadconsole = call.payload_as();
        let count = (answer.count as usize).min(LOG_PIECE);
        if count == 0 {
            break;
        }
        log.extend_from_slice(&piece[..count]);
        index = answer.index;
    }
    Ok(log)
}

/// A counter of the hypervisor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counter {
    /// Its name.
    pub name: String,
    /// Its values; most have one.
    pub values: Vec<u32>,
}

impl Counter {
    /// The value: two words are one, the low one first; otherwise the first counts.
    pub fn value(&self) -> u64 {
        match *self.values {
            [low, high] => u64::from(high) << 32 | u64::from(low),
            [first, ..] => first.into(),
            [] => 0,
        }
    }
}

/// Sets the hypervisor's counters to zero, and has it account ticks from now on.
///
/// # Errors
///
/// `ENOSYS` from a hypervisor that was built without.
pub fn reset_performance_counters() -> Result<(), Errno> {
    let request = SysctlPerfcOp { cmd: XEN_SYSCTL_PERFCOP_RESET, ..Default::default() };
    sysctl(&mut Sysctl::new(XEN_SYSCTL_PERFC_OP).with_payload(&request))
}

/// The hypervisor's counters.
///
/// # Errors
///
/// `ENOSYS` from a hypervisor that was built without.
pub fn performance_counters() -> Result<Vec<Counter>, Errno> {
    let sizes = query_counters(&mut [], &mut [])?;
    let mut names = vec![SysctlPerfcDesc::new_zeroed(); sizes.nr_counters as usize];
    let mut values = vec![0_u32; sizes.nr_vals as usize];
    query_counters(&mut names, &mut values)?;
    Ok(pair_counters(&names, &values))
}

/// Fills names and values if there is room for them; says how many there are.
fn query_counters(names: &mut [SysctlPerfcDesc], values: &mut [u32]) -> Result<SysctlPerfcOp, Errno> {
    let wanted = !names.is_empty();
    let request = SysctlPerfcOp {
        cmd: XEN_SYSCTL_PERFCOP_QUERY,
        nr_counters: names.len() as u32,
        nr_vals: values.len() as u32,
        desc: if wanted { names.as_mut_ptr() as u64 } else { 0 },
        val: if wanted { values.as_mut_ptr() as u64 } else { 0 },
        ..Default::default()
    };
    let mut call = Sysctl::new(XEN_SYSCTL_PERFC_OP).with_payload(&request);
    sysctl(&mut call)?;
    Ok(call.payload_as())
}

/// Each name with its share of the values.
fn pair_counters(names: &[SysctlPerfcDesc], values: &[u32]) -> Vec<Counter> {
    let mut rest = values;
    let pair = |name: &SysctlPerfcDesc| {
        let (own, others) = rest.split_at(rest.len().min(name.nr_vals as usize));
        rest = others;
        let text = name.name.split(|byte| *byte == 0).next().unwrap_or_default();
        Counter { name: String::from_utf8_lossy(text).into_owned(), values: own.to_vec() }
    };
    names.iter().map(pair).collect()
}

/// Gives a domain extents of `2^order` frames from a place in its memory on; the first frame of each extent that
/// could be had, which may be fewer than were asked for.
///
/// # Errors
///
/// If not even that can be said.
pub fn populate(
    domain: DomainId,
    first: u64,
    extents: usize,
    order: u32,
) -> Result<Vec<MachineFrame>, Errno> {
    let mut frames: Vec<_> =
        (0..extents as u64).map(|index| MachineFrame(first + (index << order))).collect();
    let mut request = MemoryReservation {
        extent_start: frames.as_mut_ptr() as u64,
        nr_extents: extents as u64,
        extent_order: order,
        domid: domain,
        ..Default::default()
    };
    // SAFETY: the list has a readable and writable word for each extent, and the memory is another domain's.
    let count = unsafe { hypercall::memory_op(XENMEM_POPULATE_PHYSMAP, &mut request)? };
    frames.truncate(usize::try_from(count).unwrap_or(usize::MAX));
    Ok(frames)
}

/// Sets memory aside until a domain has `pages` frames.
///
/// # Errors
///
/// `ENOMEM` if there is not so much, `EINVAL` if it is more than the domain may have.
pub fn claim_memory(domain: DomainId, pages: u64) -> Result<(), Errno> {
    let mut claim = MemoryReservation { nr_extents: pages, domid: domain, ..Default::default() };
    // SAFETY: the call names no memory at all; it changes how much others may take.
    unsafe { hypercall::memory_op(XENMEM_CLAIM_PAGES, &mut claim) }.map(drop)
}

/// Has the hypervisor check the page tables of a domain under construction, from the fourth-level table down.
///
/// # Errors
///
/// `EINVAL` if anything in them is not allowed.
pub fn pin_root(domain: DomainId, root: MachineFrame) -> Result<(), Errno> {
    let pin = MmuextOp { cmd: MMUEXT_PIN_L4_TABLE, arg1: root.0, ..Default::default() };
    // SAFETY: the tables are the other domain's; nothing of this one changes.
    unsafe { hypercall::mmuext_op(&[pin], domain) }
}

/// The first frame of a domain's grant table.
///
/// # Errors
///
/// `EIO` if the hypervisor refuses.
pub fn grant_table_frame(domain: DomainId) -> Result<MachineFrame, Errno> {
    let mut frame = 0_u64;
    let frame_list = &raw mut frame as u64;
    let mut setup = [GnttabSetupTable { dom: domain, nr_frames: 1, frame_list, ..Default::default() }];
    // SAFETY: the list has room for the one frame that is asked for.
    unsafe { hypercall::grant_table_op(&mut setup)? };
    if setup[0].status == 0 { Ok(MachineFrame(frame)) } else { Err(Errno::EIO) }
}

/// Opens a port in another domain that this one may connect to.
///
/// # Errors
///
/// `ENOSPC` if the domain has no more ports.
pub fn open_port_in(domain: DomainId) -> Result<Port, Errno> {
    let mut open = EvtchnAllocUnbound { dom: domain, remote_dom: DomainId::ZERO, ..Default::default() };
    hypercall::event_channel_op(&mut open)?;
    Ok(open.port)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn description(name: &str, nr_vals: u32) -> SysctlPerfcDesc {
        let mut description = SysctlPerfcDesc { name: [0; 80], nr_vals };
        description.name[..name.len()].copy_from_slice(name.as_bytes());
        description
    }

    #[test]
    fn counters_get_their_values_in_order() {
        let names = [description("one", 1), description("two", 2), description("late", 3)];
        let counters = pair_counters(&names, &[7, 8, 9, 10]);
        assert_eq!(counters[0], Counter { name: "one".into(), values: vec![7] });
        assert_eq!(counters[1].values, [8, 9]);
        assert_eq!(counters[0].value(), 7);
        assert_eq!(counters[1].value(), 9 << 32 | 8);
        assert_eq!(counters[2].values, [10], "fewer values than announced are no harm");
    }
}
