//! A domain's memory: how much, which frames, and the maps of it (`memory.h`).
//!
//! Reservations work on *extents*: `2^order` frames, contiguous and aligned in the machine. A call over many
//! extents returns how many it managed, so less than asked for is an answer and not an error.

use zerocopy::little_endian::{U32, U64};

use crate::DomainId;

/// Ask for frames; their numbers are written back.
pub const XENMEM_INCREASE_RESERVATION: u32 = 0;
/// Give frames back.
pub const XENMEM_DECREASE_RESERVATION: u32 = 1;
/// The machine's last frame number.
pub const XENMEM_MAXIMUM_RAM_PAGE: u32 = 2;
/// How many pages a domain has.
pub const XENMEM_CURRENT_RESERVATION: u32 = 3;
/// How many pages a domain may have.
pub const XENMEM_MAXIMUM_RESERVATION: u32 = 4;
/// The frames of the machine-to-physical table.
pub const XENMEM_MACHPHYS_MFN_LIST: u32 = 5;
/// Ask for frames at chosen pseudo-physical places.
pub const XENMEM_POPULATE_PHYSMAP: u32 = 6;
/// Place a special page in a translated domain's memory.
pub const XENMEM_ADD_TO_PHYSMAP: u32 = 7;
/// The domain's memory map.
pub const XENMEM_MEMORY_MAP: u32 = 9;
/// The machine's memory map. For dom0.
pub const XENMEM_MACHINE_MEMORY_MAP: u32 = 10;
/// Swap frames for others that lie better.
pub const XENMEM_EXCHANGE: u32 = 11;
/// Where the machine-to-physical table is mapped.
pub const XENMEM_MACHPHYS_MAPPING: u32 = 12;
/// Set a domain's memory map. For dom0.
pub const XENMEM_SET_MEMORY_MAP: u32 = 13;
/// A domain's last pseudo-physical frame number.
pub const XENMEM_MAXIMUM_GPFN: u32 = 14;
/// Remove a page from a translated domain's memory.
pub const XENMEM_REMOVE_FROM_PHYSMAP: u32 = 15;
/// How much of a domain's memory is there and how much is only found when it is touched.
pub const XENMEM_GET_POD_TARGET: u32 = 17;
/// [`XENMEM_ADD_TO_PHYSMAP`] for many pages.
pub const XENMEM_ADD_TO_PHYSMAP_BATCH: u32 = 23;
/// Set pages aside for a domain. For dom0.
pub const XENMEM_CLAIM_PAGES: u32 = 24;
/// [`XENMEM_MACHPHYS_MFN_LIST`] of the 32-bit table.
pub const XENMEM_MACHPHYS_COMPAT_MFN_LIST: u32 = 25;
/// The domain's virtual NUMA topology.
pub const XENMEM_GET_VNUMAINFO: u32 = 26;
/// Ranges of memory that devices insist on.
pub const XENMEM_RESERVED_DEVICE_MEMORY_MAP: u32 = 27;
/// The frames of a domain's resource, to be mapped by the caller.
pub const XENMEM_ACQUIRE_RESOURCE: u32 = 28;

/// In [`MemoryReservation::mem_flags`]: reserve places but find frames only when they are touched.
pub const XENMEMF_POPULATE_ON_DEMAND: u32 = 1 << 16;
/// In [`MemoryReservation::mem_flags`]: only the given node will do.
pub const XENMEMF_EXACT_NODE_REQUEST: u32 = 1 << 17;
/// In [`MemoryReservation::mem_flags`]: the given node is a virtual one.
pub const XENMEMF_VNODE: u32 = 1 << 18;

/// Space of [`XENMEM_ADD_TO_PHYSMAP`]: the shared info page.
pub const XENMAPSPACE_SHARED_INFO: u32 = 0;
/// Space of [`XENMEM_ADD_TO_PHYSMAP`]: a grant table page.
pub const XENMAPSPACE_GRANT_TABLE: u32 = 1;
/// Space of [`XENMEM_ADD_TO_PHYSMAP`]: a page the domain has elsewhere.
pub const XENMAPSPACE_GMFN: u32 = 2;
/// Space of [`XENMEM_ADD_TO_PHYSMAP`]: a range of such pages.
pub const XENMAPSPACE_GMFN_RANGE: u32 = 3;
/// Space of [`XENMEM_ADD_TO_PHYSMAP_BATCH`]: another domain's page.
pub const XENMAPSPACE_GMFN_FOREIGN: u32 = 4;
/// Space of [`XENMEM_ADD_TO_PHYSMAP`]: device memory.
pub const XENMAPSPACE_DEV_MMIO: u32 = 5;
/// In [`AddToPhysmap::idx`]: a status page of grant table version 2.
pub const XENMAPIDX_GRANT_TABLE_STATUS: u64 = 0x8000_0000;

/// Resource of [`XENMEM_ACQUIRE_RESOURCE`]: pages of an I/O request server.
pub const XENMEM_RESOURCE_IOREQ_SERVER: u16 = 0;
/// Resource of [`XENMEM_ACQUIRE_RESOURCE`]: grant table pages.
pub const XENMEM_RESOURCE_GRANT_TABLE: u16 = 1;
/// Resource of [`XENMEM_ACQUIRE_RESOURCE`]: a processor trace buffer.
pub const XENMEM_RESOURCE_VMTRACE_BUF: u16 = 2;
/// In [`MemAcquireResource::id`]: the grant entries.
pub const XENMEM_RESOURCE_GRANT_TABLE_ID_SHARED: u32 = 0;
/// In [`MemAcquireResource::id`]: the grant status words of version 2.
pub const XENMEM_RESOURCE_GRANT_TABLE_ID_STATUS: u32 = 1;

/// In [`E820Entry::type`]: memory.
pub const E820_RAM: u32 = 1;
/// In [`E820Entry::type`]: hands off.
pub const E820_RESERVED: u32 = 2;
/// In [`E820Entry::type`]: firmware tables, memory once they are read.
pub const E820_ACPI: u32 = 3;
/// In [`E820Entry::type`]: firmware memory to be preserved over sleep.
pub const E820_NVS: u32 = 4;
/// In [`E820Entry::type`]: broken memory.
pub const E820_UNUSABLE: u32 = 5;

layout! {
    /// Frames to get or to give (`xen_memory_reservation`).
    pub struct MemoryReservation [32] {
        /// Address of the extents' first frames, 64 bits each.
        0 => extent_start: u64,
        /// How many extents.
        8 => nr_extents: u64,
        /// Base-two logarithm of the frames in an extent.
        16 => extent_order: u32,
        /// `XENMEMF_*`, with a limit on address bits in the low byte and a node plus one in the next.
        20 => mem_flags: u32,
        /// Whose memory.
        24 => domid: DomainId,
        /// Padding.
        26 => _pad: [u16; 3],
    }

    /// Argument of [`XENMEM_EXCHANGE`] (`xen_memory_exchange`).
    pub struct MemoryExchange [72] {
        /// What to give up.
        0 => r#in: MemoryReservation,
        /// What to get.
        32 => out: MemoryReservation,
        /// Out: how many extents of `in` were exchanged; 0 to start with.
        64 => nr_exchanged: u64,
    }

    /// A domain, for the calls that ask about one (`xen_memory_domain`).
    pub struct MemoryDomain [2] {
        /// Who.
        0 => domid: DomainId,
    }

    /// Argument of [`XENMEM_MACHPHYS_MFN_LIST`] (`xen_machphys_mfn_list`).
    pub struct MachphysMfnList [24] {
        /// Room in the list.
        0 => max_extents: u32,
        /// Padding.
        4 => _pad0: u32,
        /// Address of the list of frames, 64 bits each; one for each 2 MiB of table.
        8 => extent_start: u64,
        /// Out: frames written.
        16 => nr_extents: u32,
        /// Padding.
        20 => _pad1: u32,
    }

    /// Answer of [`XENMEM_MACHPHYS_MAPPING`] (`xen_machphys_mapping`).
    pub struct MachphysMapping [24] {
        /// Virtual address of the table.
        0 => v_start: u64,
        /// One past its range.
        8 => v_end: u64,
        /// The last machine frame it can speak of.
        16 => max_mfn: u64,
    }

    /// Argument of [`XENMEM_GET_POD_TARGET`] (`xen_pod_target`).
    pub struct PodTarget [40] {
        /// Pages that a domain shall have; not used when asking.
        0 => target_pages: u64,
        /// Out: pages it has.
        8 => tot_pages: u64,
        /// Out: pages set aside for what it touches.
        16 => pod_cache_pages: u64,
        /// Out: places where pages are found when they are touched.
        24 => pod_entries: u64,
        /// Whose memory.
        32 => domid: DomainId,
        /// Padding.
        34 => _pad: [u16; 3],
    }

    /// Argument of [`XENMEM_ADD_TO_PHYSMAP`] (`xen_add_to_physmap`).
    pub struct AddToPhysmap [24] {
        /// Whose memory.
        0 => domid: DomainId,
        /// Pages, for [`XENMAPSPACE_GMFN_RANGE`].
        2 => size: u16,
        /// `XENMAPSPACE_*`.
        4 => space: u32,
        /// Which page of the space.
        8 => idx: u64,
        /// Where to.
        16 => gpfn: u64,
    }

    /// Argument of [`XENMEM_ADD_TO_PHYSMAP_BATCH`] (`xen_add_to_physmap_batch`).
    pub struct AddToPhysmapBatch [32] {
        /// Whose memory.
        0 => domid: DomainId,
        /// `XENMAPSPACE_*`.
        2 => space: u16,
        /// How many pages.
        4 => size: u16,
        /// The other domain, for [`XENMAPSPACE_GMFN_FOREIGN`]; else zero.
        6 => foreign_domid: DomainId,
        /// Address of the pages' indices, 64 bits each.
        8 => idxs: u64,
        /// Address of their places, 64 bits each.
        16 => gpfns: u64,
        /// Address of the results, 32 bits each.
        24 => errs: u64,
    }

    /// Argument of [`XENMEM_REMOVE_FROM_PHYSMAP`] (`xen_remove_from_physmap`).
    pub struct RemoveFromPhysmap [16] {
        /// Whose memory.
        0 => domid: DomainId,
        /// Padding.
        2 => _pad: [u16; 3],
        /// Where.
        8 => gpfn: u64,
    }

    /// Argument of [`XENMEM_MEMORY_MAP`] and [`XENMEM_MACHINE_MEMORY_MAP`] (`xen_memory_map`).
    pub struct MemoryMap [16] {
        /// In: room for entries. Out: entries written.
        0 => nr_entries: u32,
        /// Padding.
        4 => _pad: u32,
        /// Address of the entries, [`E820Entry`] each.
        8 => buffer: u64,
    }

    /// Argument of [`XENMEM_SET_MEMORY_MAP`] (`xen_foreign_memory_map`).
    pub struct ForeignMemoryMap [24] {
        /// Whose map.
        0 => domid: DomainId,
        /// Padding.
        2 => _pad: [u16; 3],
        /// The map.
        8 => map: MemoryMap,
    }

    /// Argument of [`XENMEM_ACQUIRE_RESOURCE`] (`xen_mem_acquire_resource`).
    pub struct MemAcquireResource [32] {
        /// Whose resource.
        0 => domid: DomainId,
        /// `XENMEM_RESOURCE_*`.
        2 => r#type: u16,
        /// Which one of its type.
        4 => id: u32,
        /// In: frames wanted. Out, if `frame_list` is null: how many there are.
        8 => nr_frames: u32,
        /// Zero.
        12 => pad: u32,
        /// The first frame wanted, counted within the resource.
        16 => frame: u64,
        /// Address of the list to fill, 64 bits each.
        24 => frame_list: u64,
    }

    /// One range of a memory map, in the form of the PC's firmware call E820: packed, 20 bytes an entry.
    /// The header leaves the form of the buffer to the architecture.
    pub struct E820Entry [20] {
        /// First byte.
        0 => addr: U64,
        /// Bytes.
        8 => size: U64,
        /// `E820_*`.
        16 => r#type: U32,
    }
}

impl MemoryReservation {
    /// How many address bits the frames may have; 0 means no limit.
    pub const fn address_bits(&self) -> u32 {
        self.mem_flags & 0xff
    }

    /// The NUMA node asked for, if any.
    pub const fn node(&self) -> Option<u8> {
        match (self.mem_flags >> 8) & 0xff {
            0 => None,
            node_plus_one => Some(node_plus_one as u8 - 1),
        }
    }
}
