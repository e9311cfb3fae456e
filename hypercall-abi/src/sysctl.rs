//! Control of the host, for the toolstack in dom0 (`sysctl.h` of Xen 4.17).
//!
//! Like [`crate::domctl`], not a stable interface: the caller states the version it speaks.

use crate::DomainId;
use crate::domctl::XenctlBitmap;
use crate::payload::PAYLOAD_WORDS;

/// The version described here.
pub const XEN_SYSCTL_INTERFACE_VERSION: u32 = 0x15;

/// Read the hypervisor's log: [`SysctlReadconsole`].
pub const XEN_SYSCTL_READCONSOLE: u32 = 1;
/// Trace buffers: [`SysctlTbufOp`].
pub const XEN_SYSCTL_TBUF_OP: u32 = 2;
/// What the machine has: [`SysctlPhysinfo`].
pub const XEN_SYSCTL_PHYSINFO: u32 = 3;
/// Which scheduler runs: [`SysctlSchedId`].
pub const XEN_SYSCTL_SCHED_ID: u32 = 4;
/// Counters of the hypervisor: [`SysctlPerfcOp`].
pub const XEN_SYSCTL_PERFC_OP: u32 = 5;
/// State of many domains: [`SysctlGetdomaininfolist`].
pub const XEN_SYSCTL_GETDOMAININFOLIST: u32 = 6;
/// Press keys on the hypervisor's console: [`SysctlDebugKeys`].
pub const XEN_SYSCTL_DEBUG_KEYS: u32 = 7;
/// Idle time of the physical CPUs: [`SysctlGetcpuinfo`].
pub const XEN_SYSCTL_GETCPUINFO: u32 = 8;
/// Free memory by node and address width: [`SysctlAvailheap`].
pub const XEN_SYSCTL_AVAILHEAP: u32 = 9;
/// Where each physical CPU sits: [`SysctlCputopoinfo`].
pub const XEN_SYSCTL_CPUTOPOINFO: u32 = 16;
/// Memory of each node: [`SysctlNumainfo`].
pub const XEN_SYSCTL_NUMAINFO: u32 = 17;
/// Pools of physical CPUs: [`SysctlCpupoolOp`].
pub const XEN_SYSCTL_CPUPOOL_OP: u32 = 18;
/// Parameters of the scheduler: [`SysctlSchedulerOp`].
pub const XEN_SYSCTL_SCHEDULER_OP: u32 = 19;

/// In [`SysctlTbufOp::cmd`]: where the buffers are.
pub const XEN_SYSCTL_TBUFOP_GET_INFO: u32 = 0;
/// In [`SysctlTbufOp::cmd`]: choose the physical CPUs to trace.
pub const XEN_SYSCTL_TBUFOP_SET_CPU_MASK: u32 = 1;
/// In [`SysctlTbufOp::cmd`]: choose the events to trace.
pub const XEN_SYSCTL_TBUFOP_SET_EVT_MASK: u32 = 2;
/// In [`SysctlTbufOp::cmd`]: set the size.
pub const XEN_SYSCTL_TBUFOP_SET_SIZE: u32 = 3;
/// In [`SysctlTbufOp::cmd`]: start.
pub const XEN_SYSCTL_TBUFOP_ENABLE: u32 = 4;
/// In [`SysctlTbufOp::cmd`]: stop.
pub const XEN_SYSCTL_TBUFOP_DISABLE: u32 = 5;

/// In [`SysctlPhysinfo::capabilities`]: runs hardware-virtualised domains.
pub const XEN_SYSCTL_PHYSCAP_HVM: u32 = 1 << 0;
/// In [`SysctlPhysinfo::capabilities`]: runs paravirtual domains.
pub const XEN_SYSCTL_PHYSCAP_PV: u32 = 1 << 1;
/// In [`SysctlPhysinfo::capabilities`]: devices can be given to domains.
pub const XEN_SYSCTL_PHYSCAP_DIRECTIO: u32 = 1 << 2;
/// In [`SysctlPhysinfo::capabilities`]: hardware page-table translation.
pub const XEN_SYSCTL_PHYSCAP_HAP: u32 = 1 << 3;
/// In [`SysctlPhysinfo::capabilities`]: shadow page tables.
pub const XEN_SYSCTL_PHYSCAP_SHADOW: u32 = 1 << 4;
/// In [`SysctlPhysinfo::capabilities`]: the IOMMU can use a domain's own page tables.
pub const XEN_SYSCTL_PHYSCAP_IOMMU_HAP_PT_SHARE: u32 = 1 << 5;
/// In [`SysctlPhysinfo::capabilities`]: processor tracing.
pub const XEN_SYSCTL_PHYSCAP_VMTRACE: u32 = 1 << 6;
/// In [`SysctlPhysinfo::capabilities`]: performance counters for domains.
pub const XEN_SYSCTL_PHYSCAP_VPMU: u32 = 1 << 7;
/// In [`SysctlPhysinfo::capabilities`]: grant tables of version 1.
pub const XEN_SYSCTL_PHYSCAP_GNTTAB_V1: u32 = 1 << 8;
/// In [`SysctlPhysinfo::capabilities`]: grant tables of version 2.
pub const XEN_SYSCTL_PHYSCAP_GNTTAB_V2: u32 = 1 << 9;

/// In [`SysctlPerfcOp::cmd`]: back to zero.
pub const XEN_SYSCTL_PERFCOP_RESET: u32 = 1;
/// In [`SysctlPerfcOp::cmd`]: read.
pub const XEN_SYSCTL_PERFCOP_QUERY: u32 = 2;

/// In [`SysctlCpupoolOp::op`]: create a pool.
pub const XEN_SYSCTL_CPUPOOL_OP_CREATE: u32 = 1;
/// In [`SysctlCpupoolOp::op`]: destroy a pool.
pub const XEN_SYSCTL_CPUPOOL_OP_DESTROY: u32 = 2;
/// In [`SysctlCpupoolOp::op`]: about the pool with this number or the next higher one.
pub const XEN_SYSCTL_CPUPOOL_OP_INFO: u32 = 3;
/// In [`SysctlCpupoolOp::op`]: add a physical CPU.
pub const XEN_SYSCTL_CPUPOOL_OP_ADDCPU: u32 = 4;
/// In [`SysctlCpupoolOp::op`]: remove a physical CPU.
pub const XEN_SYSCTL_CPUPOOL_OP_RMCPU: u32 = 5;
/// In [`SysctlCpupoolOp::op`]: move a domain to the pool.
pub const XEN_SYSCTL_CPUPOOL_OP_MOVEDOMAIN: u32 = 6;
/// In [`SysctlCpupoolOp::op`]: the physical CPUs in no pool.
pub const XEN_SYSCTL_CPUPOOL_OP_FREEINFO: u32 = 7;
/// In [`SysctlCpupoolOp::cpupool_id`] and [`SysctlCpupoolOp::cpu`]: any.
pub const XEN_SYSCTL_CPUPOOL_PAR_ANY: u32 = 0xffff_ffff;

/// In [`SysctlSchedulerOp::cmd`]: set.
pub const XEN_SYSCTL_SCHEDOP_PUTINFO: u32 = 0;
/// In [`SysctlSchedulerOp::cmd`]: read.
pub const XEN_SYSCTL_SCHEDOP_GETINFO: u32 = 1;
/// The longest run before another may preempt, in microseconds.
pub const XEN_SYSCTL_SCHED_RATELIMIT_MAX: u32 = 500_000;
/// The shortest run before another may preempt, in microseconds.
pub const XEN_SYSCTL_SCHED_RATELIMIT_MIN: u32 = 100;

/// In [`SysctlMeminfo`]: the node is not there.
pub const XEN_INVALID_MEM_SZ: u32 = !0;
/// A distance between nodes that is not known.
pub const XEN_INVALID_NODE_DIST: u32 = !0;

layout! {
    /// The call (`xen_sysctl`).
    pub struct Sysctl [136] {
        /// `XEN_SYSCTL_*`.
        0 => cmd: u32,
        /// [`XEN_SYSCTL_INTERFACE_VERSION`].
        4 => interface_version: u32,
        /// The payload.
        8 => u: [u64; PAYLOAD_WORDS],
    }

    /// Payload of [`XEN_SYSCTL_READCONSOLE`] (`xen_sysctl_readconsole`).
    pub struct SysctlReadconsole [24] {
        /// Not zero: forget what was read.
        0 => clear: u8,
        /// Not zero: start at `index`.
        1 => incremental: u8,
        /// Padding.
        2 => pad0: u8,
        /// Padding.
        3 => pad1: u8,
        /// In: where to start. Out: where to go on.
        4 => index: u32,
        /// Address to write to.
        8 => buffer: u64,
        /// In: bytes of room. Out: bytes written.
        16 => count: u32,
        /// Padding.
        20 => _pad: u32,
    }

    /// Payload of [`XEN_SYSCTL_TBUF_OP`] (`xen_sysctl_tbuf_op`).
    pub struct SysctlTbufOp [48] {
        /// `XEN_SYSCTL_TBUFOP_*`.
        0 => cmd: u32,
        /// Padding.
        4 => _pad0: u32,
        /// Physical CPUs to trace.
        8 => cpu_mask: XenctlBitmap,
        /// Events to trace.
        24 => evt_mask: u32,
        /// Padding.
        28 => _pad1: u32,
        /// Out: the first frame of the buffers' description.
        32 => buffer_mfn: u64,
        /// In: pages a buffer. Out: bytes of the description.
        40 => size: u32,
        /// Padding.
        44 => _pad2: u32,
    }

    /// Payload of [`XEN_SYSCTL_PHYSINFO`] (`xen_sysctl_physinfo`).
    pub struct SysctlPhysinfo [112] {
        /// Threads of a core.
        0 => threads_per_core: u32,
        /// Cores of a socket.
        4 => cores_per_socket: u32,
        /// Physical CPUs that are up.
        8 => nr_cpus: u32,
        /// The highest physical CPU there can be.
        12 => max_cpu_id: u32,
        /// Memory nodes that are up.
        16 => nr_nodes: u32,
        /// The highest memory node there can be.
        20 => max_node_id: u32,
        /// Frequency, in kHz.
        24 => cpu_khz: u32,
        /// `XEN_SYSCTL_PHYSCAP_*`.
        28 => capabilities: u32,
        /// Further capabilities of the architecture.
        32 => arch_capabilities: u32,
        /// Padding.
        36 => pad: u32,
        /// Pages of memory.
        40 => total_pages: u64,
        /// Free ones.
        48 => free_pages: u64,
        /// Freed ones not yet scrubbed.
        56 => scrub_pages: u64,
        /// Free ones that are set aside.
        64 => outstanding_pages: u64,
        /// The last frame.
        72 => max_mfn: u64,
        /// CPUID feature words of the boot processor.
        80 => hw_cap: [u32; 8],
    }

    /// Payload of [`XEN_SYSCTL_SCHED_ID`] (`xen_sysctl_sched_id`).
    pub struct SysctlSchedId [4] {
        /// Out: `XEN_SCHEDULER_*`.
        0 => sched_id: u32,
    }

    /// Name of a counter (`xen_sysctl_perfc_desc`).
    pub struct SysctlPerfcDesc [84] {
        /// Ended by a zero.
        0 => name: [u8; 80],
        /// How many values it has.
        80 => nr_vals: u32,
    }

    /// Payload of [`XEN_SYSCTL_PERFC_OP`] (`xen_sysctl_perfc_op`).
    pub struct SysctlPerfcOp [32] {
        /// `XEN_SYSCTL_PERFCOP_*`.
        0 => cmd: u32,
        /// Out: how many counters there are.
        4 => nr_counters: u32,
        /// Out: how many values they have together.
        8 => nr_vals: u32,
        /// Padding.
        12 => _pad: u32,
        /// Address of the names to fill, [`SysctlPerfcDesc`] each; 0 to ask for the sizes only.
        16 => desc: u64,
        /// Address of the values to fill, 32 bits each; 0 to ask for the sizes only.
        24 => val: u64,
    }

    /// Payload of [`XEN_SYSCTL_GETDOMAININFOLIST`] (`xen_sysctl_getdomaininfolist`).
    pub struct SysctlGetdomaininfolist [24] {
        /// The lowest domain to tell of.
        0 => first_domain: DomainId,
        /// Padding.
        2 => _pad0: u16,
        /// Room in the list.
        4 => max_domains: u32,
        /// Address of the list, [`crate::domctl::DomctlGetdomaininfo`] each.
        8 => buffer: u64,
        /// Out: how many were written.
        16 => num_domains: u32,
        /// Padding.
        20 => _pad1: u32,
    }

    /// Payload of [`XEN_SYSCTL_DEBUG_KEYS`] (`xen_sysctl_debug_keys`).
    pub struct SysctlDebugKeys [16] {
        /// Address of the characters.
        0 => keys: u64,
        /// How many.
        8 => nr_keys: u32,
        /// Padding.
        12 => _pad: u32,
    }

    /// One physical CPU's idle time (`xen_sysctl_cpuinfo`).
    pub struct SysctlCpuinfo [8] {
        /// Nanoseconds.
        0 => idletime: u64,
    }

    /// Payload of [`XEN_SYSCTL_GETCPUINFO`] (`xen_sysctl_getcpuinfo`).
    pub struct SysctlGetcpuinfo [24] {
        /// Room in the list.
        0 => max_cpus: u32,
        /// Padding.
        4 => _pad0: u32,
        /// Address of the list, [`SysctlCpuinfo`] each.
        8 => info: u64,
        /// Out: how many were written.
        16 => nr_cpus: u32,
        /// Padding.
        20 => _pad1: u32,
    }

    /// Payload of [`XEN_SYSCTL_AVAILHEAP`] (`xen_sysctl_availheap`).
    pub struct SysctlAvailheap [24] {
        /// Fewest address bits; 0 for any.
        0 => min_bitwidth: u32,
        /// Most address bits; 0 for any.
        4 => max_bitwidth: u32,
        /// Which node; -1 for all.
        8 => node: i32,
        /// Padding.
        12 => _pad: u32,
        /// Out: free bytes.
        16 => avail_bytes: u64,
    }

    /// Where a physical CPU sits (`xen_sysctl_cputopo`); all ones where it does not.
    pub struct SysctlCputopo [12] {
        /// Core.
        0 => core: u32,
        /// Socket.
        4 => socket: u32,
        /// Memory node.
        8 => node: u32,
    }

    /// Payload of [`XEN_SYSCTL_CPUTOPOINFO`] (`xen_sysctl_cputopoinfo`).
    pub struct SysctlCputopoinfo [16] {
        /// In: room in the list. Out: how many there are.
        0 => num_cpus: u32,
        /// Padding.
        4 => _pad: u32,
        /// Address of the list, [`SysctlCputopo`] each; 0 to ask for the number only.
        8 => cputopo: u64,
    }

    /// One node's memory (`xen_sysctl_meminfo`).
    pub struct SysctlMeminfo [16] {
        /// Bytes.
        0 => memsize: u64,
        /// Free bytes.
        8 => memfree: u64,
    }

    /// Payload of [`XEN_SYSCTL_NUMAINFO`] (`xen_sysctl_numainfo`).
    pub struct SysctlNumainfo [24] {
        /// In: room in the lists. Out: how many there are.
        0 => num_nodes: u32,
        /// Padding.
        4 => _pad: u32,
        /// Address of the nodes, [`SysctlMeminfo`] each; 0 to ask for the number only.
        8 => meminfo: u64,
        /// Address of the distances, 32 bits for each ordered pair of nodes; 0 if not wanted.
        16 => distance: u64,
    }

    /// Payload of [`XEN_SYSCTL_CPUPOOL_OP`] (`xen_sysctl_cpupool_op`).
    pub struct SysctlCpupoolOp [40] {
        /// `XEN_SYSCTL_CPUPOOL_OP_*`.
        0 => op: u32,
        /// Which pool.
        4 => cpupool_id: u32,
        /// Its scheduler.
        8 => sched_id: u32,
        /// The domain to move.
        12 => domid: u32,
        /// The physical CPU to add or remove.
        16 => cpu: u32,
        /// Out: how many domains it has.
        20 => n_dom: u32,
        /// Out: its physical CPUs.
        24 => cpumap: XenctlBitmap,
    }

    /// Payload of [`XEN_SYSCTL_SCHEDULER_OP`] for the second credit scheduler (`xen_sysctl_scheduler_op`).
    pub struct SysctlSchedulerOp [32] {
        /// Which pool.
        0 => cpupool_id: u32,
        /// `XEN_SCHEDULER_CREDIT2`.
        4 => sched_id: u32,
        /// `XEN_SYSCTL_SCHEDOP_*`.
        8 => cmd: u32,
        /// Padding.
        12 => _pad0: u32,
        /// How long a virtual CPU runs before another may preempt it, in microseconds; 0 for no minimum.
        16 => ratelimit_us: u32,
        /// Padding.
        20 => _pad1: [u32; 3],
    }
}

payload_accessors!(Sysctl);

impl Sysctl {
    /// A call without a payload, in the version described here.
    pub const fn new(cmd: u32) -> Self {
        Self { cmd, interface_version: XEN_SYSCTL_INTERFACE_VERSION, u: [0; PAYLOAD_WORDS] }
    }
}
