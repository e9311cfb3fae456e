//! Physical interrupts and PCI devices in the hands of a domain (`physdev.h`).
//!
//! A domain names an interrupt by a number of its own, the pirq. It asks for one by the machine's interrupt
//! line or by a device's message-signalled interrupt, binds an event channel to it, and says when it is done.

use crate::{DomainId, PhysicalIrq};

/// Tell the caller when an interrupt needs unmasking (obsolete).
pub const PHYSDEVOP_IRQ_UNMASK_NOTIFY: u32 = 4;
/// Whether an interrupt wants [`PHYSDEVOP_EOI`].
pub const PHYSDEVOP_IRQ_STATUS_QUERY: u32 = 5;
/// Set the I/O privilege level.
pub const PHYSDEVOP_SET_IOPL: u32 = 6;
/// Set the bitmap of I/O ports that user mode may use.
pub const PHYSDEVOP_SET_IOBITMAP: u32 = 7;
/// Read an I/O APIC register.
pub const PHYSDEVOP_APIC_READ: u32 = 8;
/// Write an I/O APIC register.
pub const PHYSDEVOP_APIC_WRITE: u32 = 9;
/// Get a vector for an interrupt.
pub const PHYSDEVOP_ALLOC_IRQ_VECTOR: u32 = 10;
/// Give the vector back.
pub const PHYSDEVOP_FREE_IRQ_VECTOR: u32 = 11;
/// The caller has handled an interrupt.
pub const PHYSDEVOP_EOI: u32 = 12;
/// Get a pirq for a machine interrupt.
pub const PHYSDEVOP_MAP_PIRQ: u32 = 13;
/// Give a pirq back.
pub const PHYSDEVOP_UNMAP_PIRQ: u32 = 14;
/// A PCI device appeared (segment 0).
pub const PHYSDEVOP_MANAGE_PCI_ADD: u32 = 15;
/// A PCI device went (segment 0).
pub const PHYSDEVOP_MANAGE_PCI_REMOVE: u32 = 16;
/// Share a bitmap of interrupts that want [`PHYSDEVOP_EOI`]; unmasks as well.
pub const PHYSDEVOP_PIRQ_EOI_GMFN_V1: u32 = 17;
/// Restore a device's message-signalled interrupts after sleep (segment 0).
pub const PHYSDEVOP_RESTORE_MSI: u32 = 19;
/// A PCI function with relatives appeared (segment 0).
pub const PHYSDEVOP_MANAGE_PCI_ADD_EXT: u32 = 20;
/// Set trigger and polarity of an interrupt line.
pub const PHYSDEVOP_SETUP_GSI: u32 = 21;
/// Get an unused pirq.
pub const PHYSDEVOP_GET_FREE_PIRQ: u32 = 23;
/// A range of PCI configuration memory is, or is not, reserved by firmware.
pub const PHYSDEVOP_PCI_MMCFG_RESERVED: u32 = 24;
/// A PCI device appeared.
pub const PHYSDEVOP_PCI_DEVICE_ADD: u32 = 25;
/// A PCI device went.
pub const PHYSDEVOP_PCI_DEVICE_REMOVE: u32 = 26;
/// Restore a device's message-signalled interrupts after sleep.
pub const PHYSDEVOP_RESTORE_MSI_EXT: u32 = 27;
/// Share a bitmap of interrupts that want [`PHYSDEVOP_EOI`].
pub const PHYSDEVOP_PIRQ_EOI_GMFN_V2: u32 = 28;
/// The debug port's controller is about to be, or was, reset.
pub const PHYSDEVOP_DBGP_OP: u32 = 29;
/// Prepare a device whose interrupt table a guest will own.
pub const PHYSDEVOP_PREPARE_MSIX: u32 = 30;
/// Undo [`PHYSDEVOP_PREPARE_MSIX`].
pub const PHYSDEVOP_RELEASE_MSIX: u32 = 31;

/// In [`PhysdevIrqStatusQuery::flags`]: the interrupt wants [`PHYSDEVOP_EOI`].
pub const XENIRQSTAT_NEEDS_EOI: u32 = 1 << 0;
/// In [`PhysdevIrqStatusQuery::flags`]: the interrupt is shared with other domains.
pub const XENIRQSTAT_SHARED: u32 = 1 << 1;

/// In [`PhysdevMapPirq::type`]: a message-signalled interrupt of a device in segment 0.
pub const MAP_PIRQ_TYPE_MSI: i32 = 0;
/// In [`PhysdevMapPirq::type`]: an interrupt line.
pub const MAP_PIRQ_TYPE_GSI: i32 = 1;
/// In [`PhysdevMapPirq::type`]: not said.
pub const MAP_PIRQ_TYPE_UNKNOWN: i32 = 2;
/// In [`PhysdevMapPirq::type`]: a message-signalled interrupt; the bus field holds the segment too.
pub const MAP_PIRQ_TYPE_MSI_SEG: i32 = 3;
/// In [`PhysdevMapPirq::type`]: several message-signalled interrupts of one device.
pub const MAP_PIRQ_TYPE_MULTI_MSI: i32 = 4;

/// In [`PhysdevPciMmcfgReserved::flags`]: firmware reserves the range.
pub const XEN_PCI_MMCFG_RESERVED: u32 = 1;
/// In [`PhysdevPciDeviceAdd::flags`]: a further function of a device that counts functions beyond eight.
pub const XEN_PCI_DEV_EXTFN: u32 = 1;
/// In [`PhysdevPciDeviceAdd::flags`]: a virtual function; `physfn` names the physical one.
pub const XEN_PCI_DEV_VIRTFN: u32 = 2;
/// In [`PhysdevPciDeviceAdd::flags`]: a proximity domain follows the structure.
pub const XEN_PCI_DEV_PXM: u32 = 4;

layout! {
    /// Argument of [`PHYSDEVOP_EOI`] (`physdev_eoi`).
    pub struct PhysdevEoi [4] {
        /// The interrupt.
        0 => irq: PhysicalIrq,
    }

    /// Argument of [`PHYSDEVOP_PIRQ_EOI_GMFN_V2`] (`physdev_pirq_eoi_gmfn`).
    pub struct PhysdevPirqEoiGmfn [8] {
        /// The frame for the bitmap.
        0 => gmfn: u64,
    }

    /// Argument of [`PHYSDEVOP_IRQ_STATUS_QUERY`] (`physdev_irq_status_query`).
    pub struct PhysdevIrqStatusQuery [8] {
        /// The interrupt.
        0 => irq: PhysicalIrq,
        /// Out: `XENIRQSTAT_*`.
        4 => flags: u32,
    }

    /// Argument of [`PHYSDEVOP_SET_IOPL`] (`physdev_set_iopl`).
    pub struct PhysdevSetIopl [4] {
        /// The level: rings up to it may use all I/O ports.
        0 => iopl: u32,
    }

    /// Argument of [`PHYSDEVOP_SET_IOBITMAP`] (`physdev_set_iobitmap`).
    pub struct PhysdevSetIobitmap [16] {
        /// Virtual address of the bitmap; a set bit forbids.
        0 => bitmap: u64,
        /// Ports it covers; those beyond are forbidden.
        8 => nr_ports: u32,
        /// Padding.
        12 => _pad: u32,
    }

    /// Argument of [`PHYSDEVOP_APIC_READ`] and [`PHYSDEVOP_APIC_WRITE`] (`physdev_apic`).
    pub struct PhysdevApic [16] {
        /// Physical address of the I/O APIC.
        0 => apic_physbase: u64,
        /// Register.
        8 => reg: u32,
        /// Its value.
        12 => value: u32,
    }

    /// Argument of [`PHYSDEVOP_ALLOC_IRQ_VECTOR`] (`physdev_irq`).
    pub struct PhysdevIrq [8] {
        /// The interrupt.
        0 => irq: u32,
        /// Out: its vector.
        4 => vector: u32,
    }

    /// Argument of [`PHYSDEVOP_MAP_PIRQ`] (`physdev_map_pirq`).
    pub struct PhysdevMapPirq [40] {
        /// Whose pirq.
        0 => domid: DomainId,
        /// Padding.
        2 => _pad0: u16,
        /// `MAP_PIRQ_TYPE_*`.
        4 => r#type: i32,
        /// The interrupt line, or -1.
        8 => index: i32,
        /// In: the pirq wanted, or -1. Out: the pirq.
        12 => pirq: i32,
        /// The device's bus, with the segment in the high half for [`MAP_PIRQ_TYPE_MSI_SEG`].
        16 => bus: i32,
        /// The device and function.
        20 => devfn: i32,
        /// Which entry of an MSI-X table, or how many interrupts.
        24 => entry_nr: i32,
        /// Padding.
        28 => _pad1: u32,
        /// Physical address of the MSI-X table; 0 for plain MSI.
        32 => table_base: u64,
    }

    /// Argument of [`PHYSDEVOP_UNMAP_PIRQ`] (`physdev_unmap_pirq`).
    pub struct PhysdevUnmapPirq [8] {
        /// Whose pirq.
        0 => domid: DomainId,
        /// Padding.
        2 => _pad: u16,
        /// The pirq.
        4 => pirq: i32,
    }

    /// A PCI function in segment 0 (`physdev_manage_pci`).
    pub struct PhysdevManagePci [2] {
        /// Bus.
        0 => bus: u8,
        /// Device and function.
        1 => devfn: u8,
    }

    /// Argument of [`PHYSDEVOP_MANAGE_PCI_ADD_EXT`] (`physdev_manage_pci_ext`).
    pub struct PhysdevManagePciExt [16] {
        /// Bus.
        0 => bus: u8,
        /// Device and function.
        1 => devfn: u8,
        /// Padding.
        2 => _pad0: u16,
        /// Not zero: a function beyond the eighth.
        4 => is_extfn: u32,
        /// Not zero: a virtual function.
        8 => is_virtfn: u32,
        /// The physical function it belongs to.
        12 => physfn: PhysdevManagePci,
        /// Padding.
        14 => _pad1: u16,
    }

    /// Argument of [`PHYSDEVOP_SETUP_GSI`] (`physdev_setup_gsi`).
    pub struct PhysdevSetupGsi [8] {
        /// The interrupt line.
        0 => gsi: i32,
        /// 0 for edge, 1 for level.
        4 => triggering: u8,
        /// 0 for active high, 1 for active low.
        5 => polarity: u8,
        /// Padding.
        6 => _pad: u16,
    }

    /// Argument of [`PHYSDEVOP_GET_FREE_PIRQ`] (`physdev_get_free_pirq`).
    pub struct PhysdevGetFreePirq [8] {
        /// `MAP_PIRQ_TYPE_*`.
        0 => r#type: i32,
        /// Out: the pirq.
        4 => pirq: PhysicalIrq,
    }

    /// Argument of [`PHYSDEVOP_PCI_MMCFG_RESERVED`] (`physdev_pci_mmcfg_reserved`).
    pub struct PhysdevPciMmcfgReserved [16] {
        /// Physical address of the range.
        0 => address: u64,
        /// Segment.
        8 => segment: u16,
        /// First bus.
        10 => start_bus: u8,
        /// Last bus.
        11 => end_bus: u8,
        /// [`XEN_PCI_MMCFG_RESERVED`].
        12 => flags: u32,
    }

    /// Argument of [`PHYSDEVOP_PCI_DEVICE_ADD`] (`physdev_pci_device_add`).
    pub struct PhysdevPciDeviceAdd [12] {
        /// Segment.
        0 => seg: u16,
        /// Bus.
        2 => bus: u8,
        /// Device and function.
        3 => devfn: u8,
        /// `XEN_PCI_DEV_*`.
        4 => flags: u32,
        /// The physical function of a virtual one.
        8 => physfn: PhysdevManagePci,
        /// Padding.
        10 => _pad: u16,
    }

    /// A PCI function (`physdev_pci_device`).
    pub struct PhysdevPciDevice [4] {
        /// Segment.
        0 => seg: u16,
        /// Bus.
        2 => bus: u8,
        /// Device and function.
        3 => devfn: u8,
    }
}
