//! The payloads of [`Domctl`], one structure for each arm of its union.

use super::*;
use crate::arch_x86::ArchDomainconfig;
use crate::{DomainId, PhysicalIrq, Port, VcpuId};

/// A domain's name that survives restarts and moves (`xen_domain_handle_t`).
pub type DomainHandle = [u8; 16];

layout! {
    /// A set of CPUs or nodes in the caller's memory (`xenctl_bitmap`).
    pub struct XenctlBitmap [16] {
        /// Address of the bytes.
        0 => bitmap: u64,
        /// How many bits.
        8 => nr_bits: u32,
        /// Padding.
        12 => _pad: u32,
    }

    /// Payload of [`XEN_DOMCTL_CREATEDOMAIN`] (`xen_domctl_createdomain`).
    pub struct DomctlCreatedomain [64] {
        /// Security label.
        0 => ssidref: u32,
        /// Handle.
        4 => handle: DomainHandle,
        /// `XEN_DOMCTL_CDF_*`.
        20 => flags: u32,
        /// `XEN_DOMCTL_IOMMU_*`.
        24 => iommu_opts: u32,
        /// How many virtual CPUs it will have.
        28 => max_vcpus: u32,
        /// The highest port it may use.
        32 => max_evtchn_port: u32,
        /// Frames its grant table may have; negative for the default.
        36 => max_grant_frames: i32,
        /// Frames its table of mappings may have; negative for the default.
        40 => max_maptrack_frames: i32,
        /// [`XEN_DOMCTL_GRANT_VERSION_MASK`].
        44 => grant_opts: u32,
        /// Bytes of processor trace buffer; 0 for none.
        48 => vmtrace_size: u32,
        /// Which pool of physical CPUs.
        52 => cpupool_id: u32,
        /// The x86 part.
        56 => arch: ArchDomainconfig,
    }

    /// Payload of [`XEN_DOMCTL_GETDOMAININFO`] (`xen_domctl_getdomaininfo`).
    pub struct DomctlGetdomaininfo [112] {
        /// Who.
        0 => domain: DomainId,
        /// Padding.
        2 => pad1: u16,
        /// `XEN_DOMINF_*`.
        4 => flags: u32,
        /// Pages it has.
        8 => tot_pages: u64,
        /// Pages it may have.
        16 => max_pages: u64,
        /// Pages set aside for it.
        24 => outstanding_pages: u64,
        /// Pages it shares copy-on-write.
        32 => shr_pages: u64,
        /// Pages paged out.
        40 => paged_pages: u64,
        /// Frame of its shared info page.
        48 => shared_info_frame: u64,
        /// Nanoseconds its virtual CPUs have run.
        56 => cpu_time: u64,
        /// Virtual CPUs that are up.
        64 => nr_online_vcpus: u32,
        /// The highest virtual CPU, or [`XEN_INVALID_MAX_VCPU_ID`].
        68 => max_vcpu_id: u32,
        /// Security label.
        72 => ssidref: u32,
        /// Handle.
        76 => handle: DomainHandle,
        /// Its pool of physical CPUs.
        92 => cpupool: u32,
        /// Bits of its pseudo-physical addresses.
        96 => gpaddr_bits: u8,
        /// Padding.
        97 => pad2: [u8; 7],
        /// The x86 part.
        104 => arch_config: ArchDomainconfig,
    }

    /// Payload of [`XEN_DOMCTL_GETPAGEFRAMEINFO3`] (`xen_domctl_getpageframeinfo3`).
    pub struct DomctlGetpageframeinfo3 [16] {
        /// How many pages.
        0 => num: u64,
        /// Address of the list, 64 bits each. In: pages. Out: `XEN_DOMCTL_PFINFO_*`.
        8 => array: u64,
    }

    /// Payload of [`XEN_DOMCTL_SETNODEAFFINITY`] and [`XEN_DOMCTL_GETNODEAFFINITY`]
    /// (`xen_domctl_nodeaffinity`).
    pub struct DomctlNodeaffinity [16] {
        /// The nodes.
        0 => nodemap: XenctlBitmap,
    }

    /// Payload of [`XEN_DOMCTL_SETVCPUAFFINITY`] and [`XEN_DOMCTL_GETVCPUAFFINITY`]
    /// (`xen_domctl_vcpuaffinity`).
    pub struct DomctlVcpuaffinity [40] {
        /// Which virtual CPU.
        0 => vcpu: VcpuId,
        /// `XEN_VCPUAFFINITY_*`, [`WEIR_VCPUAFFINITY_DEDICATED`].
        4 => flags: u32,
        /// Where it must run. Setting it writes back what took effect.
        8 => cpumap_hard: XenctlBitmap,
        /// Where it should run. Setting it writes back what took effect.
        24 => cpumap_soft: XenctlBitmap,
    }

    /// Payload of [`XEN_DOMCTL_MAX_MEM`] (`xen_domctl_max_mem`).
    pub struct DomctlMaxMem [8] {
        /// The limit, in KiB.
        0 => max_memkb: u64,
    }

    /// Payload of [`XEN_DOMCTL_SETVCPUCONTEXT`] and [`XEN_DOMCTL_GETVCPUCONTEXT`]
    /// (`xen_domctl_vcpucontext`).
    pub struct DomctlVcpucontext [16] {
        /// Which virtual CPU.
        0 => vcpu: VcpuId,
        /// Padding.
        4 => _pad: u32,
        /// Address of a [`crate::arch_x86::VcpuGuestContext`]. To set none takes the virtual CPU down again.
        8 => ctxt: u64,
    }

    /// Payload of [`XEN_DOMCTL_GETVCPUINFO`] (`xen_domctl_getvcpuinfo`).
    pub struct DomctlGetvcpuinfo [24] {
        /// Which virtual CPU.
        0 => vcpu: VcpuId,
        /// Out: it is up.
        4 => online: u8,
        /// Out: it waits for an event.
        5 => blocked: u8,
        /// Out: it is on a physical CPU.
        6 => running: u8,
        /// Padding.
        7 => _pad0: u8,
        /// Out: nanoseconds it has run.
        8 => cpu_time: u64,
        /// Out: the physical CPU it was last on.
        16 => cpu: u32,
        /// Padding.
        20 => _pad1: u32,
    }

    /// Payload of [`XEN_DOMCTL_MAX_VCPUS`] (`xen_domctl_max_vcpus`).
    pub struct DomctlMaxVcpus [4] {
        /// How many.
        0 => max: u32,
    }

    /// Parameters of the second credit scheduler (`xen_domctl_sched_credit2`); the first has the same.
    pub struct DomctlSchedCredit2 [4] {
        /// Share of a busy machine, relative to the others'; 256 is usual.
        0 => weight: u16,
        /// Most it may use, in percent of a physical CPU; 0 for no limit.
        2 => cap: u16,
    }

    /// Payload of [`XEN_DOMCTL_SCHEDULER_OP`] for a whole domain (`xen_domctl_scheduler_op`).
    pub struct DomctlSchedulerOp [24] {
        /// `XEN_SCHEDULER_*`.
        0 => sched_id: u32,
        /// [`XEN_DOMCTL_SCHEDOP_PUTINFO`] or [`XEN_DOMCTL_SCHEDOP_GETINFO`].
        4 => cmd: u32,
        /// The parameters.
        8 => credit2: DomctlSchedCredit2,
        /// Padding.
        12 => _pad: [u32; 3],
    }

    /// Payload of [`XEN_DOMCTL_SCHEDULER_OP`] for virtual CPUs; the other arm of [`DomctlSchedulerOp`].
    pub struct DomctlSchedulerOpVcpus [24] {
        /// `XEN_SCHEDULER_*`.
        0 => sched_id: u32,
        /// [`XEN_DOMCTL_SCHEDOP_PUTVCPUINFO`] or [`XEN_DOMCTL_SCHEDOP_GETVCPUINFO`].
        4 => cmd: u32,
        /// Address of the list, [`DomctlSchedparamVcpu`] each.
        8 => vcpus: u64,
        /// In: its length. Out: how many were done.
        16 => nr_vcpus: u32,
        /// Padding.
        20 => padding: u32,
    }

    /// One virtual CPU's parameters (`xen_domctl_schedparam_vcpu`).
    pub struct DomctlSchedparamVcpu [16] {
        /// The parameters.
        0 => credit2: DomctlSchedCredit2,
        /// Padding.
        4 => _pad: [u32; 2],
        /// Which virtual CPU.
        12 => vcpuid: VcpuId,
    }

    /// Payload of [`XEN_DOMCTL_SETDOMAINHANDLE`] (`xen_domctl_setdomainhandle`).
    pub struct DomctlSetdomainhandle [16] {
        /// The handle.
        0 => handle: DomainHandle,
    }

    /// Payload of [`XEN_DOMCTL_SETDEBUGGING`] (`xen_domctl_setdebugging`).
    pub struct DomctlSetdebugging [1] {
        /// Not zero: on.
        0 => enable: u8,
    }

    /// Payload of [`XEN_DOMCTL_IRQ_PERMISSION`] (`xen_domctl_irq_permission`).
    pub struct DomctlIrqPermission [8] {
        /// The interrupt.
        0 => pirq: PhysicalIrq,
        /// Not zero: allowed.
        4 => allow_access: u8,
        /// Padding.
        5 => pad: [u8; 3],
    }

    /// Payload of [`XEN_DOMCTL_IOMEM_PERMISSION`] (`xen_domctl_iomem_permission`).
    pub struct DomctlIomemPermission [24] {
        /// The first frame.
        0 => first_mfn: u64,
        /// How many.
        8 => nr_mfns: u64,
        /// Not zero: allowed.
        16 => allow_access: u8,
        /// Padding.
        17 => _pad: [u8; 7],
    }

    /// Payload of [`XEN_DOMCTL_IOPORT_PERMISSION`] (`xen_domctl_ioport_permission`).
    pub struct DomctlIoportPermission [12] {
        /// The first port.
        0 => first_port: u32,
        /// How many.
        4 => nr_ports: u32,
        /// Not zero: allowed.
        8 => allow_access: u8,
        /// Padding.
        9 => _pad: [u8; 3],
    }

    /// Payload of [`XEN_DOMCTL_HYPERCALL_INIT`] (`xen_domctl_hypercall_init`).
    pub struct DomctlHypercallInit [8] {
        /// The frame to fill.
        0 => gmfn: u64,
    }

    /// Payload of [`XEN_DOMCTL_SETTIMEOFFSET`] (`xen_domctl_settimeoffset`).
    pub struct DomctlSettimeoffset [8] {
        /// Seconds to add.
        0 => time_offset_seconds: i64,
    }

    /// Payload of [`XEN_DOMCTL_SET_ADDRESS_SIZE`] and [`XEN_DOMCTL_GET_ADDRESS_SIZE`]
    /// (`xen_domctl_address_size`).
    pub struct DomctlAddressSize [4] {
        /// 32 or 64.
        0 => size: u32,
    }

    /// Payload of [`XEN_DOMCTL_SENDTRIGGER`] (`xen_domctl_sendtrigger`).
    pub struct DomctlSendtrigger [8] {
        /// `XEN_DOMCTL_SENDTRIGGER_*`.
        0 => trigger: u32,
        /// Which virtual CPU.
        4 => vcpu: VcpuId,
    }

    /// Payload of [`XEN_DOMCTL_SUBSCRIBE`] (`xen_domctl_subscribe`).
    pub struct DomctlSubscribe [4] {
        /// The domain's port.
        0 => port: Port,
    }

    /// Payload of [`XEN_DOMCTL_ASSIGN_DEVICE`] and its relatives, for a PCI function
    /// (`xen_domctl_assign_device`).
    pub struct DomctlAssignDevice [24] {
        /// [`XEN_DOMCTL_DEV_PCI`].
        0 => dev: u32,
        /// [`XEN_DOMCTL_DEV_RDM_RELAXED`].
        4 => flags: u32,
        /// Segment, bus, device and function, from the high half down.
        8 => machine_sbdf: u32,
        /// Unused with PCI.
        12 => _pad: [u32; 3],
    }

    /// Payload of [`XEN_DOMCTL_GET_DEVICE_GROUP`] (`xen_domctl_get_device_group`).
    pub struct DomctlGetDeviceGroup [24] {
        /// Segment, bus, device and function, from the high half down.
        0 => machine_sbdf: u32,
        /// Room in the list.
        4 => max_sdevs: u32,
        /// Out: how many were written.
        8 => num_sdevs: u32,
        /// Padding.
        12 => _pad: u32,
        /// Address of the list to fill, 32 bits each.
        16 => sdev_array: u64,
    }

    /// Payload of [`XEN_DOMCTL_MEMORY_MAPPING`] (`xen_domctl_memory_mapping`).
    pub struct DomctlMemoryMapping [32] {
        /// Where to.
        0 => first_gfn: u64,
        /// The first frame.
        8 => first_mfn: u64,
        /// How many.
        16 => nr_mfns: u64,
        /// `DPCI_*_MAPPING`.
        24 => add_mapping: u32,
        /// Zero.
        28 => padding: u32,
    }

    /// Payload of [`XEN_DOMCTL_IOPORT_MAPPING`] (`xen_domctl_ioport_mapping`).
    pub struct DomctlIoportMapping [16] {
        /// Where to.
        0 => first_gport: u32,
        /// The first port.
        4 => first_mport: u32,
        /// How many.
        8 => nr_ports: u32,
        /// `DPCI_*_MAPPING`.
        12 => add_mapping: u32,
    }

    /// Payload of [`XEN_DOMCTL_GETTSCINFO`] and [`XEN_DOMCTL_SETTSCINFO`] (`xen_domctl_tsc_info`).
    pub struct DomctlTscInfo [24] {
        /// 0 as needed, 1 always emulated, 2 never emulated.
        0 => tsc_mode: u32,
        /// Frequency the domain sees, in kHz.
        4 => gtsc_khz: u32,
        /// How often the domain has moved.
        8 => incarnation: u32,
        /// Padding.
        12 => pad: u32,
        /// Age of the domain in nanoseconds.
        16 => elapsed_nsec: u64,
    }

    /// Payload of [`XEN_DOMCTL_SET_VIRQ_HANDLER`] (`xen_domctl_set_virq_handler`).
    pub struct DomctlSetVirqHandler [4] {
        /// `VIRQ_*`, a global one.
        0 => virq: u32,
    }

    /// Payload of [`XEN_DOMCTL_GET_CPU_POLICY`] and [`XEN_DOMCTL_SET_CPU_POLICY`]
    /// (`xen_domctl_cpu_policy`).
    pub struct DomctlCpuPolicy [40] {
        /// Leaves in the list, or room for them.
        0 => nr_leaves: u32,
        /// Registers in the list, or room for them.
        4 => nr_msrs: u32,
        /// Address of the leaves, [`crate::arch_x86::XenCpuidLeaf`] each.
        8 => leaves: u64,
        /// Address of the registers, [`crate::arch_x86::XenMsrEntry`] each.
        16 => msrs: u64,
        /// Out: the leaf at fault, or all ones.
        24 => err_leaf: u32,
        /// Out: the sub-leaf at fault, or all ones.
        28 => err_subleaf: u32,
        /// Out: the register at fault, or all ones.
        32 => err_msr: u32,
        /// Padding.
        36 => _pad: u32,
    }
}

impl DomctlGetdomaininfo {
    /// Why the domain shut down (`SHUTDOWN_*`), if it did.
    pub const fn shutdown_reason(&self) -> Option<u32> {
        if self.flags & XEN_DOMINF_SHUTDOWN == 0 {
            return None;
        }
        Some((self.flags >> XEN_DOMINF_SHUTDOWNSHIFT) & XEN_DOMINF_SHUTDOWNMASK)
    }
}
