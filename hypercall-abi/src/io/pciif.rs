//! How a guest reaches the configuration space of devices that were given to it (`public/io/pciif.h`).
//!
//! There is no ring: one page holds one operation. The front end fills it in, sets [`XEN_PCIF_ACTIVE`] and sends an
//! event; the back end does it, writes the answer into the same place and clears the bit.

/// The protocol's version, as it stands in the store.
pub const XEN_PCI_MAGIC: &str = "7";

/// In [`XenPciSharedinfo::flags`]: there is an operation for the back end.
pub const XEN_PCIF_ACTIVE: u32 = 1 << 0;

/// Read a configuration register.
pub const XEN_PCI_OP_CONF_READ: u32 = 0;
/// Write a configuration register.
pub const XEN_PCI_OP_CONF_WRITE: u32 = 1;
/// Use the function's one interrupt message.
pub const XEN_PCI_OP_ENABLE_MSI: u32 = 2;
/// Use it no longer.
pub const XEN_PCI_OP_DISABLE_MSI: u32 = 3;
/// Use entries of the function's table of interrupt messages.
pub const XEN_PCI_OP_ENABLE_MSIX: u32 = 4;
/// Use them no longer.
pub const XEN_PCI_OP_DISABLE_MSIX: u32 = 5;

/// It is done.
pub const XEN_PCI_ERR_SUCCESS: i32 = 0;
/// There is no such function.
pub const XEN_PCI_ERR_DEV_NOT_FOUND: i32 = -1;
/// There is no such register.
pub const XEN_PCI_ERR_INVALID_OFFSET: i32 = -2;
/// The register is not the guest's to write.
pub const XEN_PCI_ERR_ACCESS_DENIED: i32 = -3;
/// There is no such operation.
pub const XEN_PCI_ERR_NOT_IMPLEMENTED: i32 = -4;
/// It went wrong.
pub const XEN_PCI_ERR_OP_FAILED: i32 = -5;

/// Entries that one operation may name.
pub const SH_INFO_MAX_VEC: usize = 128;

/// Keys of the store that only this kind of device has.
pub mod key {
    /// The front end's page.
    pub const OP_REF: &str = "pci-op-ref";
    /// The front end's port.
    pub const EVENT_CHANNEL: &str = "event-channel";
    /// The front end's version of the protocol.
    pub const MAGIC: &str = "magic";
    /// How many functions the back end has for the guest.
    pub const NUM_DEVS: &str = "num_devs";
    /// What the machine calls a function; a number follows.
    pub const DEV: &str = "dev-";
    /// What the guest is to call it; a number follows.
    pub const VDEV: &str = "vdev-";
    /// How many buses the guest is to look at.
    pub const ROOT_NUM: &str = "root_num";
    /// One of them; a number follows.
    pub const ROOT: &str = "root-";
}

layout! {
    /// An entry of a table of interrupt messages (`xen_msix_entry`).
    pub struct XenMsixEntry [4] {
        /// Out: the physical interrupt.
        0 => vector: u16,
        /// In: which entry.
        2 => entry: u16,
    }

    /// An operation (`xen_pci_op`).
    pub struct XenPciOp [548] {
        /// In: `XEN_PCI_OP_*`.
        0 => cmd: u32,
        /// Out: `XEN_PCI_ERR_*`.
        4 => err: i32,
        /// In: the segment.
        8 => domain: u32,
        /// In: the bus.
        12 => bus: u32,
        /// In: device and function.
        16 => devfn: u32,
        /// In: the register.
        20 => offset: i32,
        /// In: its bytes.
        24 => size: i32,
        /// In and out: what is read or written; how many entries, then zero if they are in use.
        28 => value: u32,
        /// In: more about the operation; nothing uses it.
        32 => info: u32,
        /// In and out: the entries.
        36 => msix_entries: [XenMsixEntry; SH_INFO_MAX_VEC],
    }

    /// The page, without what reports errors of the bus (`xen_pci_sharedinfo`).
    pub struct XenPciSharedinfo [552] {
        /// `XEN_PCIF_*`.
        0 => flags: u32,
        /// The operation.
        4 => op: XenPciOp,
    }
}
