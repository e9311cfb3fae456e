//! Grant tables (`grant_table.h`): how a domain lets another one at a page.
//!
//! The granting domain writes an entry into its own table, memory it shares with the hypervisor; the other
//! domain names the entry by its index, a grant reference. The hypervisor sets the `reading` and `writing`
//! flags of the entry while the page is in use, so **entries are live memory**: an entry is withdrawn by a
//! compare-and-exchange on its flags, and only a value read in one go means anything.

use zerocopy::transmute;

use crate::{DomainId, GrantReference, MachineFrame};

/// Map a granted page.
pub const GNTTABOP_MAP_GRANT_REF: u32 = 0;
/// Unmap it.
pub const GNTTABOP_UNMAP_GRANT_REF: u32 = 1;
/// Set the table's size and learn its frames.
pub const GNTTABOP_SETUP_TABLE: u32 = 2;
/// Print a table on the hypervisor's console.
pub const GNTTABOP_DUMP_TABLE: u32 = 3;
/// Give a page away to a domain that offered a place.
pub const GNTTABOP_TRANSFER: u32 = 4;
/// Copy between pages, granted or own.
pub const GNTTABOP_COPY: u32 = 5;
/// How large a table is and may become.
pub const GNTTABOP_QUERY_SIZE: u32 = 6;
/// Unmap, and put another mapping in its place.
pub const GNTTABOP_UNMAP_AND_REPLACE: u32 = 7;
/// Choose the format of the entries.
pub const GNTTABOP_SET_VERSION: u32 = 8;
/// The frames of the status words of version 2.
pub const GNTTABOP_GET_STATUS_FRAMES: u32 = 9;
/// Which format a table has.
pub const GNTTABOP_GET_VERSION: u32 = 10;
/// Exchange two entries.
pub const GNTTABOP_SWAP_GRANT_REF: u32 = 11;
/// Clean or invalidate caches for a granted page.
pub const GNTTABOP_CACHE_FLUSH: u32 = 12;

/// The entries that a domain builder fills in before the guest starts.
pub const GNTTAB_NR_RESERVED_ENTRIES: u32 = 8;
/// The reserved entry that grants the console ring.
pub const GNTTAB_RESERVED_CONSOLE: u32 = 0;
/// The reserved entry that grants the store ring.
pub const GNTTAB_RESERVED_XENSTORE: u32 = 1;

/// Entry type: grants nothing.
pub const GTF_INVALID: u16 = 0;
/// Entry type: the page may be mapped and copied.
pub const GTF_PERMIT_ACCESS: u16 = 1;
/// Entry type: a place for a transferred page.
pub const GTF_ACCEPT_TRANSFER: u16 = 2;
/// Entry type: passes on another domain's grant (version 2).
pub const GTF_TRANSITIVE: u16 = 3;
/// The bits of the type.
pub const GTF_TYPE_MASK: u16 = 3;
/// The page may only be read.
pub const GTF_READONLY: u16 = 1 << 2;
/// Set by the hypervisor: the page is in use for reading.
pub const GTF_READING: u16 = 1 << 3;
/// Set by the hypervisor: the page is in use for writing.
pub const GTF_WRITING: u16 = 1 << 4;
/// Cache attribute of mappings: write-through.
pub const GTF_PWT: u16 = 1 << 5;
/// Cache attribute of mappings: uncached.
pub const GTF_PCD: u16 = 1 << 6;
/// Cache attribute of mappings: attribute table.
pub const GTF_PAT: u16 = 1 << 7;
/// Only part of the page, and only by copying (version 2).
pub const GTF_SUB_PAGE: u16 = 1 << 8;
/// Set by the hypervisor: a transfer has begun and the frame is not yet known.
pub const GTF_TRANSFER_COMMITTED: u16 = 1 << 2;
/// Set by the hypervisor: a transfer is complete.
pub const GTF_TRANSFER_COMPLETED: u16 = 1 << 3;

/// The source of a copy is a grant reference.
pub const GNTCOPY_SOURCE_GREF: u16 = 1 << 0;
/// The destination of a copy is a grant reference.
pub const GNTCOPY_DEST_GREF: u16 = 1 << 1;

/// Map for devices: pin the page and learn its bus address.
pub const GNTMAP_DEVICE_MAP: u32 = 1 << 0;
/// Map for the processor.
pub const GNTMAP_HOST_MAP: u32 = 1 << 1;
/// Map for reading only.
pub const GNTMAP_READONLY: u32 = 1 << 2;
/// Map for user mode too.
pub const GNTMAP_APPLICATION_MAP: u32 = 1 << 3;
/// The host address names a page-table entry, by machine address, and not a virtual address.
pub const GNTMAP_CONTAINS_PTE: u32 = 1 << 4;
/// Flags from here up go into the available bits of the page-table entry.
pub const GNTMAP_GUEST_AVAIL_MASK: u32 = !0 << 16;

/// Done.
pub const GNTST_OKAY: i16 = 0;
/// Failed, no further reason.
pub const GNTST_GENERAL_ERROR: i16 = -1;
/// No such domain.
pub const GNTST_BAD_DOMAIN: i16 = -2;
/// Not a grant reference that grants this.
pub const GNTST_BAD_GNTREF: i16 = -3;
/// Not a handle of a mapping.
pub const GNTST_BAD_HANDLE: i16 = -4;
/// Not a suitable virtual address.
pub const GNTST_BAD_VIRT_ADDR: i16 = -5;
/// Not a suitable device address.
pub const GNTST_BAD_DEV_ADDR: i16 = -6;
/// The IOMMU has no room.
pub const GNTST_NO_DEVICE_SPACE: i16 = -7;
/// Not allowed.
pub const GNTST_PERMISSION_DENIED: i16 = -8;
/// Not a suitable page.
pub const GNTST_BAD_PAGE: i16 = -9;
/// A copy would leave its page.
pub const GNTST_BAD_COPY_ARG: i16 = -10;
/// The page's address does not fit.
pub const GNTST_ADDRESS_TOO_BIG: i16 = -11;
/// Not now, try again.
pub const GNTST_EAGAIN: i16 = -12;
/// No room in the table.
pub const GNTST_NO_SPACE: i16 = -13;

/// Clean the caches.
pub const GNTTAB_CACHE_CLEAN: u32 = 1 << 0;
/// Invalidate the caches.
pub const GNTTAB_CACHE_INVAL: u32 = 1 << 1;
/// The page is named by a grant reference.
pub const GNTTAB_CACHE_SOURCE_GREF: u32 = 1 << 31;

/// Entries of version 1 in a table page.
pub const GRANT_ENTRIES_V1_PER_PAGE: u32 = 512;
/// Entries of version 2 in a table page.
pub const GRANT_ENTRIES_V2_PER_PAGE: u32 = 256;

number! {
    /// One mapping of a granted page, as the mapping domain names it (`grant_handle_t`).
    GrantHandle(u32), "{}";
}

layout! {
    /// A table entry of version 1 (`grant_entry_v1`). Live shared memory.
    pub struct GrantEntryV1 [8] {
        /// `GTF_*`.
        0 => flags: u16,
        /// Who is granted access.
        2 => domid: DomainId,
        /// The page's frame.
        4 => frame: u32,
    }

    /// What all entries of version 2 begin with (`grant_entry_header`).
    pub struct GrantEntryHeader [4] {
        /// `GTF_*`, without the flags that version 2 keeps in its status words.
        0 => flags: u16,
        /// Who is granted access.
        2 => domid: DomainId,
    }

    /// A table entry of version 2 that grants a whole page (`grant_entry_v2`). Live shared memory.
    ///
    /// This is also the form to read an entry in before its type is known; the other forms convert from it.
    pub struct GrantEntryV2 [16] {
        /// Type and grantee.
        0 => hdr: GrantEntryHeader,
        /// Padding.
        4 => pad0: u32,
        /// The page's frame.
        8 => frame: u64,
    }

    /// A table entry of version 2 that grants part of a page for copying; [`GTF_SUB_PAGE`] is set.
    pub struct GrantEntryV2SubPage [16] {
        /// Type and grantee.
        0 => hdr: GrantEntryHeader,
        /// First byte of the part.
        4 => page_off: u16,
        /// Its bytes.
        6 => length: u16,
        /// The page's frame.
        8 => frame: u64,
    }

    /// A table entry of version 2 that passes on a grant; its type is [`GTF_TRANSITIVE`].
    pub struct GrantEntryV2Transitive [16] {
        /// Type and grantee.
        0 => hdr: GrantEntryHeader,
        /// Who granted it.
        4 => trans_domid: DomainId,
        /// Padding.
        6 => pad0: u16,
        /// Their grant reference.
        8 => gref: GrantReference,
        /// Padding.
        12 => _pad1: u32,
    }

    /// Argument of [`GNTTABOP_MAP_GRANT_REF`] (`gnttab_map_grant_ref`).
    pub struct GnttabMapGrantRef [32] {
        /// Where: a virtual address, or a page-table entry's machine address.
        0 => host_addr: u64,
        /// `GNTMAP_*`.
        8 => flags: u32,
        /// What.
        12 => r#ref: GrantReference,
        /// Whose.
        16 => dom: DomainId,
        /// Out: `GNTST_*`.
        18 => status: i16,
        /// Out: names the mapping.
        20 => handle: GrantHandle,
        /// Out: the bus address, for [`GNTMAP_DEVICE_MAP`].
        24 => dev_bus_addr: u64,
    }

    /// Argument of [`GNTTABOP_UNMAP_GRANT_REF`] (`gnttab_unmap_grant_ref`).
    pub struct GnttabUnmapGrantRef [24] {
        /// The host mapping to undo; 0 for none.
        0 => host_addr: u64,
        /// The device mapping to undo; 0 for none.
        8 => dev_bus_addr: u64,
        /// The mapping.
        16 => handle: GrantHandle,
        /// Out: `GNTST_*`.
        20 => status: i16,
        /// Padding.
        22 => _pad: u16,
    }

    /// Argument of [`GNTTABOP_SETUP_TABLE`] (`gnttab_setup_table`).
    pub struct GnttabSetupTable [24] {
        /// Whose table.
        0 => dom: DomainId,
        /// Padding.
        2 => _pad0: u16,
        /// How many frames it shall have.
        4 => nr_frames: u32,
        /// Out: `GNTST_*`.
        8 => status: i16,
        /// Padding.
        10 => _pad1: [u16; 3],
        /// Address of the list of frames to fill, 64 bits each.
        16 => frame_list: u64,
    }

    /// Argument of [`GNTTABOP_DUMP_TABLE`] (`gnttab_dump_table`).
    pub struct GnttabDumpTable [4] {
        /// Whose table.
        0 => dom: DomainId,
        /// Out: `GNTST_*`.
        2 => status: i16,
    }

    /// Argument of [`GNTTABOP_TRANSFER`] (`gnttab_transfer`).
    pub struct GnttabTransfer [24] {
        /// What to give away.
        0 => mfn: MachineFrame,
        /// To whom.
        8 => domid: DomainId,
        /// Padding.
        10 => _pad0: u16,
        /// The receiver's entry that offers a place.
        12 => r#ref: GrantReference,
        /// Out: `GNTST_*`.
        16 => status: i16,
        /// Padding.
        18 => _pad1: [u16; 3],
    }

    /// One end of a copy (`gnttab_copy_ptr`).
    pub struct GnttabCopyPtr [16] {
        /// A grant reference in the low half, or a frame, as the flags of [`GnttabCopy`] say.
        0 => u: u64,
        /// Whose.
        8 => domid: DomainId,
        /// First byte in the page.
        10 => offset: u16,
        /// Padding.
        12 => _pad: u32,
    }

    /// Argument of [`GNTTABOP_COPY`] (`gnttab_copy`).
    pub struct GnttabCopy [40] {
        /// From.
        0 => source: GnttabCopyPtr,
        /// To.
        16 => dest: GnttabCopyPtr,
        /// Bytes; may not cross the end of either page.
        32 => len: u16,
        /// `GNTCOPY_*`.
        34 => flags: u16,
        /// Out: `GNTST_*`.
        36 => status: i16,
        /// Padding.
        38 => _pad: u16,
    }

    /// Argument of [`GNTTABOP_QUERY_SIZE`] (`gnttab_query_size`).
    pub struct GnttabQuerySize [16] {
        /// Whose table.
        0 => dom: DomainId,
        /// Padding.
        2 => _pad0: u16,
        /// Out: its frames.
        4 => nr_frames: u32,
        /// Out: how many it may have.
        8 => max_nr_frames: u32,
        /// Out: `GNTST_*`.
        12 => status: i16,
        /// Padding.
        14 => _pad1: u16,
    }

    /// Argument of [`GNTTABOP_UNMAP_AND_REPLACE`] (`gnttab_unmap_and_replace`).
    pub struct GnttabUnmapAndReplace [24] {
        /// The mapping to undo.
        0 => host_addr: u64,
        /// The mapping to put in its place, which is undone where it was.
        8 => new_addr: u64,
        /// The mapping's handle.
        16 => handle: GrantHandle,
        /// Out: `GNTST_*`.
        20 => status: i16,
        /// Padding.
        22 => _pad: u16,
    }

    /// Argument of [`GNTTABOP_SET_VERSION`] (`gnttab_set_version`).
    pub struct GnttabSetVersion [4] {
        /// In: the format wanted. Out: the format now.
        0 => version: u32,
    }

    /// Argument of [`GNTTABOP_GET_STATUS_FRAMES`] (`gnttab_get_status_frames`).
    pub struct GnttabGetStatusFrames [16] {
        /// Room in the list.
        0 => nr_frames: u32,
        /// Whose table.
        4 => dom: DomainId,
        /// Out: `GNTST_*`.
        6 => status: i16,
        /// Address of the list of frames to fill, 64 bits each.
        8 => frame_list: u64,
    }

    /// Argument of [`GNTTABOP_GET_VERSION`] (`gnttab_get_version`).
    pub struct GnttabGetVersion [8] {
        /// Whose table.
        0 => dom: DomainId,
        /// Padding.
        2 => pad: u16,
        /// Out: its format.
        4 => version: u32,
    }

    /// Argument of [`GNTTABOP_SWAP_GRANT_REF`] (`gnttab_swap_grant_ref`).
    pub struct GnttabSwapGrantRef [12] {
        /// One entry.
        0 => ref_a: GrantReference,
        /// The other.
        4 => ref_b: GrantReference,
        /// Out: `GNTST_*`.
        8 => status: i16,
        /// Padding.
        10 => _pad: u16,
    }

    /// Argument of [`GNTTABOP_CACHE_FLUSH`] (`gnttab_cache_flush`).
    pub struct GnttabCacheFlush [16] {
        /// A bus address, or a grant reference in the low half.
        0 => a: u64,
        /// First byte in the page.
        8 => offset: u16,
        /// Bytes.
        10 => length: u16,
        /// `GNTTAB_CACHE_*`.
        12 => op: u32,
    }
}

impl GnttabCopyPtr {
    /// A place in a page that `domid` granted; its flag must be set in [`GnttabCopy::flags`].
    pub const fn granted(domid: DomainId, reference: GrantReference, offset: u16) -> Self {
        Self { u: reference.0 as u64, domid, offset, _pad: 0 }
    }

    /// A place in a frame of the caller's own.
    pub const fn own(frame: u64, offset: u16) -> Self {
        Self { u: frame, domid: DomainId::SELF, offset, _pad: 0 }
    }

    /// The place's grant reference. Callers may leave anything in the high half.
    pub const fn reference(&self) -> GrantReference {
        GrantReference(self.u as u32)
    }

    /// The place's frame.
    pub const fn gmfn(&self) -> u64 {
        self.u
    }
}

impl From<GrantEntryV2> for GrantEntryV2SubPage {
    fn from(entry: GrantEntryV2) -> Self {
        transmute!(entry)
    }
}

impl From<GrantEntryV2SubPage> for GrantEntryV2 {
    fn from(entry: GrantEntryV2SubPage) -> Self {
        transmute!(entry)
    }
}

impl From<GrantEntryV2> for GrantEntryV2Transitive {
    fn from(entry: GrantEntryV2) -> Self {
        transmute!(entry)
    }
}

impl From<GrantEntryV2Transitive> for GrantEntryV2 {
    fn from(entry: GrantEntryV2Transitive) -> Self {
        transmute!(entry)
    }
}

/// The meaning of a `GNTST_*` status, in a few words.
pub const fn status_meaning(status: i16) -> &'static str {
    match status {
        GNTST_OKAY => "done",
        GNTST_BAD_DOMAIN => "no such domain",
        GNTST_BAD_GNTREF => "the grant reference does not grant this",
        GNTST_BAD_HANDLE => "no such mapping",
        GNTST_BAD_VIRT_ADDR => "unsuitable virtual address",
        GNTST_BAD_DEV_ADDR => "unsuitable device address",
        GNTST_NO_DEVICE_SPACE => "the IOMMU has no room",
        GNTST_PERMISSION_DENIED => "not allowed",
        GNTST_BAD_PAGE => "unsuitable page",
        GNTST_BAD_COPY_ARG => "the copy leaves its page",
        GNTST_ADDRESS_TOO_BIG => "the address does not fit",
        GNTST_EAGAIN => "not now, try again",
        GNTST_NO_SPACE => "no room in the table",
        _ => "failed",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_2_entry_keeps_its_bytes_in_every_form() {
        let transitive = GrantEntryV2Transitive {
            hdr: GrantEntryHeader { flags: GTF_TRANSITIVE, domid: DomainId(7) },
            trans_domid: DomainId(3),
            gref: GrantReference(0x1234),
            ..Default::default()
        };
        let entry = GrantEntryV2::from(transitive);
        assert_eq!((entry.pad0, entry.frame), (3, 0x1234));
        assert_eq!(GrantEntryV2Transitive::from(entry), transitive);
    }

    #[test]
    fn a_grant_reference_is_the_low_half_of_a_copy_end() {
        let place = GnttabCopyPtr { u: 0xffff_ffff_0000_0009, ..Default::default() };
        assert_eq!(place.reference(), GrantReference(9));
    }
}
