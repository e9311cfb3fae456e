//! The domain's memory, its page tables, and the heap.
//!
//! All of the domain's memory is mapped once, in a linear window, so that an owned page's machine frame is one
//! look-up in a list. Page tables are the hypervisor's to check: they are read-only here and change by
//! hypercall. Whatever others may change at the same time is reached through [`SharedMemory`].

mod area;
mod frames;
#[cfg(target_os = "none")]
mod heap;
mod layout;
mod mapping;
mod page;
mod page_runs;
mod shared;
mod updates;
#[cfg(target_os = "none")]
mod window;

use hypercall_abi::MachineFrame;

pub(crate) use area::AddressRange;
pub use frames::{Contiguity, PageCount};
#[cfg(target_os = "none")]
pub(crate) use mapping::set_own_domain;
pub use mapping::{
    Mapping, Protection, map_device_memory, map_machine_frames, map_own_frames, page_table_entry_address,
};
pub use page::{BuilderPage, Page, PageRun};
pub use shared::SharedMemory;
#[cfg(target_os = "none")]
pub(crate) use startup::{data_entry, init, moved};
#[cfg(target_os = "none")]
pub(crate) use window::Image;

/// The machine frame behind an address of the kernel's image, of its heap or of a page of its own. Nothing
/// else has one: not what was mapped from elsewhere.
#[inline]
pub(crate) fn machine_frame_of(virtual_address: usize) -> Option<MachineFrame> {
    frames::machine_frame_of(virtual_address)
}

/// How many pages the domain has, and how many are free.
pub fn page_count() -> PageCount {
    frames::count()
}

/// The machine frames of all of the domain's memory. A host has none.
pub fn own_frames() -> impl Iterator<Item = MachineFrame> {
    frames::all()
}

/// The fourth-level page table, which the domain builder made. A host has none.
pub fn root_table() -> Option<MachineFrame> {
    frames::root_table()
}

#[cfg(target_os = "none")]
mod startup {
    #![expect(unsafe_code, reason = "passes start-up's promises on")]

    use hypercall_abi::xen::StartInfo;
    use hypercall_abi::{Errno, MachineFrame};

    use super::{Image, area, frames, layout, window};

    /// Takes the domain's memory over from the builder: afterwards there is a heap, and what the builder
    /// placed after the image is at the addresses that [`moved`] tells.
    ///
    /// # Safety
    ///
    /// As for `window::build`.
    pub(crate) unsafe fn init(info: &StartInfo, image: &Image) -> Result<(), Errno> {
        // SAFETY: the caller's promise.
        let window = unsafe { window::build(info, image)? };
        frames::init(&window);
        area::init(frames::mappings_table().ok_or(Errno::ENOMEM)?);
        Ok(())
    }

    /// Where the window shows what the builder had mapped at an address after the image.
    pub(crate) fn moved(bootstrap_address: u64) -> u64 {
        let frame = layout::bootstrap_frame(bootstrap_address);
        layout::window_address(frame) + bootstrap_address % hypercall_abi::PAGE_SIZE as u64
    }

    /// A page-table entry that maps a frame as data.
    pub(crate) fn data_entry(frame: MachineFrame) -> u64 {
        layout::entry(frame, layout::DATA)
    }
}
