//! Control of domains, for the toolstack in dom0 (`domctl.h` of Xen 4.17).
//!
//! Unlike the guest interface this one is not stable: a caller states the version it speaks, and a
//! hypervisor of another version refuses. Only the commands with a use for paravirtual domains are here.
//!
//! ```
//! use hypercall_abi::DomainId;
//! use hypercall_abi::domctl::{Domctl, DomctlMaxMem, XEN_DOMCTL_MAX_MEM};
//!
//! let call = Domctl::new(XEN_DOMCTL_MAX_MEM, DomainId(1)).with_payload(&DomctlMaxMem { max_memkb: 65536 });
//! assert_eq!(call.payload_as::<DomctlMaxMem>().max_memkb, 65536);
//! ```

mod payload;

pub use payload::*;

use crate::DomainId;
use crate::payload::PAYLOAD_WORDS;

/// The version described here.
pub const XEN_DOMCTL_INTERFACE_VERSION: u32 = 0x15;

/// Create a domain: [`DomctlCreatedomain`]. The number asked for is in the header, 0 for any; the number
/// given is written back there.
pub const XEN_DOMCTL_CREATEDOMAIN: u32 = 1;
/// Destroy a domain. No payload.
pub const XEN_DOMCTL_DESTROYDOMAIN: u32 = 2;
/// Stop all virtual CPUs of a domain; nests. No payload.
pub const XEN_DOMCTL_PAUSEDOMAIN: u32 = 3;
/// Undo one pause. No payload.
pub const XEN_DOMCTL_UNPAUSEDOMAIN: u32 = 4;
/// State of a domain: [`DomctlGetdomaininfo`].
pub const XEN_DOMCTL_GETDOMAININFO: u32 = 5;
/// Choose where a virtual CPU may run: [`DomctlVcpuaffinity`].
pub const XEN_DOMCTL_SETVCPUAFFINITY: u32 = 9;
/// Limit a domain's memory: [`DomctlMaxMem`].
pub const XEN_DOMCTL_MAX_MEM: u32 = 11;
/// Set a virtual CPU's registers: [`DomctlVcpucontext`].
pub const XEN_DOMCTL_SETVCPUCONTEXT: u32 = 12;
/// Read a virtual CPU's registers: [`DomctlVcpucontext`].
pub const XEN_DOMCTL_GETVCPUCONTEXT: u32 = 13;
/// State of a virtual CPU: [`DomctlGetvcpuinfo`].
pub const XEN_DOMCTL_GETVCPUINFO: u32 = 14;
/// Create a domain's virtual CPUs: [`DomctlMaxVcpus`].
pub const XEN_DOMCTL_MAX_VCPUS: u32 = 15;
/// Scheduling parameters: [`DomctlSchedulerOp`] or [`DomctlSchedulerOpVcpus`].
pub const XEN_DOMCTL_SCHEDULER_OP: u32 = 16;
/// Set a domain's handle: [`DomctlSetdomainhandle`].
pub const XEN_DOMCTL_SETDOMAINHANDLE: u32 = 17;
/// Let a debugger at a domain: [`DomctlSetdebugging`].
pub const XEN_DOMCTL_SETDEBUGGING: u32 = 18;
/// Allow or forbid an interrupt: [`DomctlIrqPermission`].
pub const XEN_DOMCTL_IRQ_PERMISSION: u32 = 19;
/// Allow or forbid device memory: [`DomctlIomemPermission`].
pub const XEN_DOMCTL_IOMEM_PERMISSION: u32 = 20;
/// Allow or forbid I/O ports: [`DomctlIoportPermission`].
pub const XEN_DOMCTL_IOPORT_PERMISSION: u32 = 21;
/// Fill a page with hypercall stubs: [`DomctlHypercallInit`].
pub const XEN_DOMCTL_HYPERCALL_INIT: u32 = 22;
/// Shift a domain's wall clock: [`DomctlSettimeoffset`].
pub const XEN_DOMCTL_SETTIMEOFFSET: u32 = 24;
/// Where a virtual CPU may run: [`DomctlVcpuaffinity`].
pub const XEN_DOMCTL_GETVCPUAFFINITY: u32 = 25;
/// Let a domain that shut down go on. No payload.
pub const XEN_DOMCTL_RESUMEDOMAIN: u32 = 27;
/// Press one of a domain's buttons: [`DomctlSendtrigger`].
pub const XEN_DOMCTL_SENDTRIGGER: u32 = 28;
/// Have an event sent to a port of the domain when it needs attention: [`DomctlSubscribe`].
pub const XEN_DOMCTL_SUBSCRIBE: u32 = 29;
/// Choose between 32 and 64 bits: [`DomctlAddressSize`].
pub const XEN_DOMCTL_SET_ADDRESS_SIZE: u32 = 35;
/// Whether 32 or 64 bits: [`DomctlAddressSize`].
pub const XEN_DOMCTL_GET_ADDRESS_SIZE: u32 = 36;
/// Give a device to a domain: [`DomctlAssignDevice`].
pub const XEN_DOMCTL_ASSIGN_DEVICE: u32 = 37;
/// Map device memory into a translated domain, or allow it to a paravirtual one: [`DomctlMemoryMapping`].
pub const XEN_DOMCTL_MEMORY_MAPPING: u32 = 39;
/// Map or allow I/O ports: [`DomctlIoportMapping`].
pub const XEN_DOMCTL_IOPORT_MAPPING: u32 = 40;
/// Whether a device may be given away: [`DomctlAssignDevice`].
pub const XEN_DOMCTL_TEST_ASSIGN_DEVICE: u32 = 45;
/// Take a device back: [`DomctlAssignDevice`].
pub const XEN_DOMCTL_DEASSIGN_DEVICE: u32 = 47;
/// Which devices can only be given together: [`DomctlGetDeviceGroup`].
pub const XEN_DOMCTL_GET_DEVICE_GROUP: u32 = 50;
/// How a domain sees the time stamp counter: [`DomctlTscInfo`].
pub const XEN_DOMCTL_GETTSCINFO: u32 = 59;
/// Choose how a domain sees the time stamp counter: [`DomctlTscInfo`].
pub const XEN_DOMCTL_SETTSCINFO: u32 = 60;
/// What pages are used as: [`DomctlGetpageframeinfo3`].
pub const XEN_DOMCTL_GETPAGEFRAMEINFO3: u32 = 61;
/// Send a virtual interrupt to this domain from now on: [`DomctlSetVirqHandler`].
pub const XEN_DOMCTL_SET_VIRQ_HANDLER: u32 = 66;
/// Choose a domain's memory nodes: [`DomctlNodeaffinity`].
pub const XEN_DOMCTL_SETNODEAFFINITY: u32 = 68;
/// A domain's memory nodes: [`DomctlNodeaffinity`].
pub const XEN_DOMCTL_GETNODEAFFINITY: u32 = 69;
/// What CPUID and the model-specific registers show a domain: [`DomctlCpuPolicy`].
pub const XEN_DOMCTL_GET_CPU_POLICY: u32 = 82;
/// Choose what they show: [`DomctlCpuPolicy`].
pub const XEN_DOMCTL_SET_CPU_POLICY: u32 = 83;

/// In [`DomctlCreatedomain::flags`]: a hardware-virtualised domain.
pub const XEN_DOMCTL_CDF_HVM: u32 = 1 << 0;
/// In [`DomctlCreatedomain::flags`]: hardware page-table translation.
pub const XEN_DOMCTL_CDF_HAP: u32 = 1 << 1;
/// In [`DomctlCreatedomain::flags`]: measure its memory over sleep.
pub const XEN_DOMCTL_CDF_S3_INTEGRITY: u32 = 1 << 2;
/// In [`DomctlCreatedomain::flags`]: shadow page tables stay in step.
pub const XEN_DOMCTL_CDF_OOS_OFF: u32 = 1 << 3;
/// In [`DomctlCreatedomain::flags`]: the store runs in it.
pub const XEN_DOMCTL_CDF_XS_DOMAIN: u32 = 1 << 4;
/// In [`DomctlCreatedomain::flags`]: it may be given devices.
pub const XEN_DOMCTL_CDF_IOMMU: u32 = 1 << 5;
/// In [`DomctlCreatedomain::flags`]: it may virtualise in turn.
pub const XEN_DOMCTL_CDF_NESTED_VIRT: u32 = 1 << 6;
/// In [`DomctlCreatedomain::flags`]: it gets performance counters.
pub const XEN_DOMCTL_CDF_VPMU: u32 = 1 << 7;
/// In [`DomctlCreatedomain::iommu_opts`]: the IOMMU has page tables of its own.
pub const XEN_DOMCTL_IOMMU_NO_SHAREPT: u32 = 1 << 0;
/// In [`DomctlCreatedomain::grant_opts`]: the newest grant table format the domain may choose.
pub const XEN_DOMCTL_GRANT_VERSION_MASK: u32 = 0xf;

/// In [`DomctlGetdomaininfo::flags`]: being destroyed.
pub const XEN_DOMINF_DYING: u32 = 1 << 0;
/// In [`DomctlGetdomaininfo::flags`]: hardware-virtualised.
pub const XEN_DOMINF_HVM_GUEST: u32 = 1 << 1;
/// In [`DomctlGetdomaininfo::flags`]: shut down.
pub const XEN_DOMINF_SHUTDOWN: u32 = 1 << 2;
/// In [`DomctlGetdomaininfo::flags`]: paused by the toolstack.
pub const XEN_DOMINF_PAUSED: u32 = 1 << 3;
/// In [`DomctlGetdomaininfo::flags`]: all virtual CPUs wait for events.
pub const XEN_DOMINF_BLOCKED: u32 = 1 << 4;
/// In [`DomctlGetdomaininfo::flags`]: some virtual CPU is on a physical one.
pub const XEN_DOMINF_RUNNING: u32 = 1 << 5;
/// In [`DomctlGetdomaininfo::flags`]: stopped by a debugger.
pub const XEN_DOMINF_DEBUGGED: u32 = 1 << 6;
/// In [`DomctlGetdomaininfo::flags`]: the store runs in it.
pub const XEN_DOMINF_XS_DOMAIN: u32 = 1 << 7;
/// In [`DomctlGetdomaininfo::flags`]: hardware page-table translation.
pub const XEN_DOMINF_HAP: u32 = 1 << 8;
/// The reason of a shutdown (`SHUTDOWN_*`), once shifted down.
pub const XEN_DOMINF_SHUTDOWNMASK: u32 = 255;
/// Where the reason of a shutdown lies in the flags.
pub const XEN_DOMINF_SHUTDOWNSHIFT: u32 = 16;
/// In [`DomctlGetdomaininfo::max_vcpu_id`]: the domain has no virtual CPUs yet.
pub const XEN_INVALID_MAX_VCPU_ID: u32 = !0;

/// Page type: ordinary.
pub const XEN_DOMCTL_PFINFO_NOTAB: u32 = 0;
/// Page type: level-1 page table.
pub const XEN_DOMCTL_PFINFO_L1TAB: u32 = 1 << 28;
/// Page type: level-2 page table.
pub const XEN_DOMCTL_PFINFO_L2TAB: u32 = 2 << 28;
/// Page type: level-3 page table.
pub const XEN_DOMCTL_PFINFO_L3TAB: u32 = 3 << 28;
/// Page type: level-4 page table.
pub const XEN_DOMCTL_PFINFO_L4TAB: u32 = 4 << 28;
/// The bits of the level.
pub const XEN_DOMCTL_PFINFO_LTABTYPE_MASK: u32 = 7 << 28;
/// The page table is pinned.
pub const XEN_DOMCTL_PFINFO_LPINTAB: u32 = 1 << 31;
/// Page type: not there.
pub const XEN_DOMCTL_PFINFO_XTAB: u32 = 0xf << 28;
/// Page type: place without a frame.
pub const XEN_DOMCTL_PFINFO_XALLOC: u32 = 0xe << 28;
/// Page type: frame broken.
pub const XEN_DOMCTL_PFINFO_BROKEN: u32 = 0xd << 28;
/// The bits of the page type.
pub const XEN_DOMCTL_PFINFO_LTAB_MASK: u32 = 0xf << 28;

/// In [`DomctlVcpuaffinity::flags`]: where it must run.
pub const XEN_VCPUAFFINITY_HARD: u32 = 1 << 0;
/// In [`DomctlVcpuaffinity::flags`]: where it should run.
pub const XEN_VCPUAFFINITY_SOFT: u32 = 1 << 1;
/// In [`DomctlVcpuaffinity::flags`]: even if it is pinned for a moment.
pub const XEN_VCPUAFFINITY_FORCE: u32 = 1 << 2;
/// In [`DomctlVcpuaffinity::flags`]: nobody else may run where it must run. This is Weir's own; Xen has pools of CPUs with
/// a scheduler of their own instead.
pub const WEIR_VCPUAFFINITY_DEDICATED: u32 = 1 << 31;

/// Scheduler by credit.
pub const XEN_SCHEDULER_CREDIT: u32 = 5;
/// Scheduler by credit, second design.
pub const XEN_SCHEDULER_CREDIT2: u32 = 6;
/// Scheduler by a fixed plan.
pub const XEN_SCHEDULER_ARINC653: u32 = 7;
/// Scheduler by budget and period.
pub const XEN_SCHEDULER_RTDS: u32 = 8;
/// No scheduler: a physical CPU for each virtual one.
pub const XEN_SCHEDULER_NULL: u32 = 9;
/// Set a domain's parameters.
pub const XEN_DOMCTL_SCHEDOP_PUTINFO: u32 = 0;
/// Read a domain's parameters.
pub const XEN_DOMCTL_SCHEDOP_GETINFO: u32 = 1;
/// Set virtual CPUs' parameters.
pub const XEN_DOMCTL_SCHEDOP_PUTVCPUINFO: u32 = 2;
/// Read virtual CPUs' parameters.
pub const XEN_DOMCTL_SCHEDOP_GETVCPUINFO: u32 = 3;

/// In [`DomctlSendtrigger::trigger`]: a non-maskable interrupt.
pub const XEN_DOMCTL_SENDTRIGGER_NMI: u32 = 0;
/// In [`DomctlSendtrigger::trigger`]: reset.
pub const XEN_DOMCTL_SENDTRIGGER_RESET: u32 = 1;
/// In [`DomctlSendtrigger::trigger`]: initialise.
pub const XEN_DOMCTL_SENDTRIGGER_INIT: u32 = 2;
/// In [`DomctlSendtrigger::trigger`]: the power button.
pub const XEN_DOMCTL_SENDTRIGGER_POWER: u32 = 3;
/// In [`DomctlSendtrigger::trigger`]: the sleep button.
pub const XEN_DOMCTL_SENDTRIGGER_SLEEP: u32 = 4;

/// In [`DomctlAssignDevice::dev`]: a PCI function.
pub const XEN_DOMCTL_DEV_PCI: u32 = 0;
/// In [`DomctlAssignDevice::dev`]: a node of a device tree.
pub const XEN_DOMCTL_DEV_DT: u32 = 1;
/// In [`DomctlAssignDevice::flags`]: memory that the device insists on may be missing.
pub const XEN_DOMCTL_DEV_RDM_RELAXED: u32 = 1;

/// In [`DomctlMemoryMapping::add_mapping`] and [`DomctlIoportMapping::add_mapping`]: add.
pub const DPCI_ADD_MAPPING: u32 = 1;
/// In [`DomctlMemoryMapping::add_mapping`] and [`DomctlIoportMapping::add_mapping`]: remove.
pub const DPCI_REMOVE_MAPPING: u32 = 0;

layout! {
    /// The call (`xen_domctl`).
    pub struct Domctl [144] {
        /// `XEN_DOMCTL_*`.
        0 => cmd: u32,
        /// [`XEN_DOMCTL_INTERFACE_VERSION`].
        4 => interface_version: u32,
        /// Which domain.
        8 => domain: DomainId,
        /// Padding.
        10 => _pad: [u16; 3],
        /// The payload.
        16 => u: [u64; PAYLOAD_WORDS],
    }
}

payload_accessors!(Domctl);

impl Domctl {
    /// A call without a payload, in the version described here.
    pub const fn new(cmd: u32, domain: DomainId) -> Self {
        Self {
            cmd,
            interface_version: XEN_DOMCTL_INTERFACE_VERSION,
            domain,
            _pad: [0; 3],
            u: [0; PAYLOAD_WORDS],
        }
    }
}

#[cfg(test)]
mod tests {
    use zerocopy::IntoBytes;

    use super::*;
    use crate::PhysicalIrq;

    #[test]
    fn a_payload_lies_behind_the_header() {
        let payload = DomctlIrqPermission { pirq: PhysicalIrq(9), allow_access: 1, ..Default::default() };
        let call = Domctl::new(XEN_DOMCTL_IRQ_PERMISSION, DomainId(3)).with_payload(&payload);
        assert_eq!(
            call.as_bytes()[..24],
            [19, 0, 0, 0, 0x15, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 1, 0, 0, 0]
        );
        assert_eq!(call.payload_as::<DomctlIrqPermission>(), payload);
    }

    #[test]
    fn a_small_payload_leaves_the_rest_alone() {
        let mut call = Domctl { u: [u64::MAX; 16], ..Default::default() };
        call.set_payload(&DomctlMaxVcpus { max: 4 });
        assert_eq!(call.u[0], 0xffff_ffff_0000_0004);
        assert_eq!(call.u[1..], [u64::MAX; 15]);
    }

    #[test]
    fn the_shutdown_reason_needs_the_flag() {
        let mut info = DomctlGetdomaininfo { flags: 3 << XEN_DOMINF_SHUTDOWNSHIFT, ..Default::default() };
        assert_eq!(info.shutdown_reason(), None);
        info.flags |= XEN_DOMINF_SHUTDOWN;
        assert_eq!(info.shutdown_reason(), Some(crate::sched::SHUTDOWN_CRASH));
    }
}
