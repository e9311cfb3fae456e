#![expect(unsafe_code, reason = "builds the page tables that everything else stands on")]
//! Start-up of memory: from the domain builder's mapping to the kernel's own.
//!
//! The builder maps the image and what follows it (module, frame list, page tables, at least 512 KiB more)
//! at `VIRT_BASE`; most of the domain's memory is not mapped at all. This module
//!
//! 1. writes page tables that show all of the domain's memory in the window, in frames after the builder's
//!    last; page tables, the builder's and its own, appear read-only, as the hypervisor demands;
//! 2. hooks them into the builder's fourth-level table with one update, at which the hypervisor checks them;
//! 3. takes away the builder's mapping of everything but the image, so that each page has one address;
//! 4. write-protects code and constants, makes the rest non-executable, and unmaps the stack's guard page.

use core::ops::Range;
use core::slice;

use hypercall_abi::xen::{StartInfo, UVMF_INVLPG, UVMF_LOCAL};
use hypercall_abi::{DomainId, Errno, MachineFrame, PAGE_SIZE, PseudoPhysicalFrame};

use super::layout::*;
use super::updates::UpdateBatch;
use crate::hypercall;

/// Where the linker put things, as virtual addresses.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    /// Code; the image starts with it.
    pub(crate) text: Range<u64>,
    /// What is only read.
    pub(crate) constants: Range<u64>,
    /// Everything else; the image ends with it.
    pub(crate) data: Range<u64>,
    /// The page below the stack.
    pub(crate) stack_guard: u64,
    /// A page of data whose address is used to reach frames that are mapped nowhere else.
    pub(crate) scratch: u64,
}

impl Image {
    fn addresses(&self) -> Range<u64> {
        self.text.start..self.data.end
    }

    fn frames(&self) -> Range<u64> {
        bootstrap_frame(self.text.start).0..bootstrap_frame(self.data.end).0
    }

    fn protection(&self, address: u64) -> u64 {
        if self.text.contains(&address) {
            CODE
        } else if self.constants.contains(&address) {
            READ_ONLY
        } else {
            DATA
        }
    }
}

/// The domain's memory once the window stands.
pub(super) struct Window {
    /// The machine frame of each frame, at an address in the window.
    pub(super) machine_frames: &'static [u64],
    /// The frames that nothing uses: before the image, and after the last page table.
    pub(super) free: [Range<u64>; 2],
    /// The page tables of the window and the second-level table of the mappings.
    pub(super) tables: WindowTables,
    /// The fourth-level table.
    pub(super) root: PseudoPhysicalFrame,
}

/// Builds the window. On an error start-up cannot go on.
///
/// # Safety
///
/// To be called once, first thing, with what the domain builder and the linker say. What the builder placed
/// after the image must not be used at its old address afterwards.
pub(super) unsafe fn build(info: &StartInfo, image: &Image) -> Result<Window, Errno> {
    let pages = usize::try_from(info.nr_pages).ok().filter(|pages| *pages <= WINDOW_PAGES);
    let pages = pages.ok_or(Errno::E2BIG)?;
    let root = bootstrap_frame(info.pt_base);
    // The builder's last element is one page of stack after its page tables.
    let first_free = PseudoPhysicalFrame(root.0 + info.nr_pt_frames + 1);
    let mut builder = Builder {
        base: VIRT_BASE,
        // SAFETY: the domain builder put a list of `nr_pages` entries there, which nobody changes.
        machine_frames: unsafe { slice::from_raw_parts(info.mfn_list as *const u64, pages) },
        builder_tables: root.0..root.0 + info.nr_pt_frames,
        tables: WindowTables::new(first_free, pages),
        image,
    };
    if builder.tables.end().0 > info.nr_pages {
        return Err(Errno::ENOMEM);
    }
    builder.write_tables()?;
    builder.hook_tables()?;
    builder.base = WINDOW;
    let list = window_address(bootstrap_frame(info.mfn_list)) as *const u64;
    // SAFETY: the same list at its address in the window, where it stays.
    let machine_frames = unsafe { slice::from_raw_parts(list, pages) };
    builder.machine_frames = machine_frames;
    builder.drop_bootstrap_mapping()?;
    builder.protect_image()?;
    hypercall::flush_tlb()?;
    Ok(Window {
        machine_frames,
        free: [0..image.frames().start, builder.tables.end().0..info.nr_pages],
        tables: builder.tables,
        root,
    })
}

struct Builder<'a> {
    /// Where the frame 0 of the domain appears: at the builder's mapping first, then in the window.
    base: u64,
    machine_frames: &'a [u64],
    /// The frames of the domain builder's page tables, the fourth-level table first.
    builder_tables: Range<u64>,
    tables: WindowTables,
    image: &'a Image,
}

impl Builder<'_> {
    fn machine(&self, frame: PseudoPhysicalFrame) -> MachineFrame {
        MachineFrame(self.machine_frames[frame.0 as usize])
    }

    fn entry(&self, frame: PseudoPhysicalFrame, protection: u64) -> u64 {
        entry(self.machine(frame), protection)
    }

    /// What the window shows at `frame`: nothing where there is no frame or the image lies.
    fn window_entry(&self, frame: PseudoPhysicalFrame) -> u64 {
        let exists = self.machine_frames.get(frame.0 as usize).is_some_and(|machine| *machine != u64::MAX);
        if !exists || self.image.frames().contains(&frame.0) {
            return 0;
        }
        let new_tables = self.tables.first.0..self.tables.end().0;
        let is_table = self.builder_tables.contains(&frame.0) || new_tables.contains(&frame.0);
        self.entry(frame, if is_table { READ_ONLY } else { DATA })
    }

    /// Writes every table of the window.
    fn write_tables(&self) -> Result<(), Errno> {
        let tables = self.tables;
        for index in 0..tables.first_levels {
            self.write_table(tables.first_level(index), |slot| {
                self.window_entry(PseudoPhysicalFrame((index * ENTRIES + slot) as u64))
            })?;
        }
        for index in 0..tables.second_levels {
            self.write_table(tables.second_level(index), |slot| match index * ENTRIES + slot {
                below if below < tables.first_levels => self.entry(tables.first_level(below), TABLE),
                _ => 0,
            })?;
        }
        self.write_table(tables.mappings_second_level(), |_| 0)?;
        self.write_table(tables.first, |slot| match slot {
            slot if slot < tables.second_levels => self.entry(tables.second_level(slot), TABLE),
            slot if slot == table_index(MAPPINGS, 3) => self.entry(tables.mappings_second_level(), TABLE),
            _ => 0,
        })
    }

    /// Fills the frame of a table with entries, and leaves no writable mapping of it behind.
    fn write_table(&self, frame: PseudoPhysicalFrame, entry_at: impl Fn(usize) -> u64) -> Result<(), Errno> {
        let mapped = self.builder_entry(bootstrap_address(frame), 1).is_some();
        let address = if mapped { bootstrap_address(frame) } else { self.image.scratch };
        if !mapped {
            let entry = self.entry(frame, DATA);
            // SAFETY: nothing uses the scratch page.
            unsafe { hypercall::update_va_mapping(address, entry, UVMF_INVLPG | UVMF_LOCAL)? };
        }
        for slot in 0..ENTRIES {
            // SAFETY: the page is mapped writable and nothing else uses it; the slot lies in it.
            unsafe { (address as *mut u64).add(slot).write(entry_at(slot)) };
        }
        // SAFETY: only the loop above uses the page at this address.
        unsafe { hypercall::update_va_mapping(address, 0, UVMF_INVLPG | UVMF_LOCAL) }
    }

    /// Hooks the third-level table into the fourth level; the hypervisor checks all tables now.
    fn hook_tables(&self) -> Result<(), Errno> {
        let root = self.machine(PseudoPhysicalFrame(self.builder_tables.start));
        let mut updates = UpdateBatch::new(DomainId::SELF);
        let slot = entry_address(root, table_index(WINDOW, 4));
        // SAFETY: nothing was mapped at the window.
        unsafe { updates.push(slot, self.entry(self.tables.first, TABLE))? };
        updates.finish()
    }

    /// The builder's entry of `level` on the way to an address, if it is present: the machine address of the
    /// entry, and the entry.
    fn builder_entry(&self, address: u64, level: u32) -> Option<(u64, u64)> {
        let mut table = PseudoPhysicalFrame(self.builder_tables.start);
        for at_level in (level..=4).rev() {
            let index = table_index(address, at_level);
            let place = self.base + (table.0 * PAGE_SIZE as u64) + 8 * index as u64;
            // SAFETY: the tables are mapped at `base`. The processor may set bits in them: hence volatile.
            let entry = unsafe { (place as *const u64).read_volatile() };
            let target = entry_frame(entry)?;
            if at_level == level {
                return Some((entry_address(self.machine(table), index), entry));
            }
            let mut below = self.builder_tables.clone().map(PseudoPhysicalFrame);
            table = below.find(|frame| self.machine(*frame) == target)?;
        }
        None
    }

    /// Unmaps all that the builder mapped but the image.
    fn drop_bootstrap_mapping(&self) -> Result<(), Errno> {
        let step = (ENTRIES * PAGE_SIZE) as u64;
        let image = self.image.addresses();
        let mut updates = UpdateBatch::new(DomainId::SELF);
        let regions = (0..).map(|index| VIRT_BASE + index * step);
        for region in regions.map(|start| start..start + step) {
            let Some((place, _)) = self.builder_entry(region.start, 2) else { break };
            if region.end <= image.start || region.start >= image.end {
                // SAFETY: what lies there is used at its window address only.
                unsafe { updates.push(place, 0)? };
                continue;
            }
            for address in region.step_by(PAGE_SIZE).filter(|address| !image.contains(address)) {
                if let Some((place, _)) = self.builder_entry(address, 1) {
                    // SAFETY: likewise.
                    unsafe { updates.push(place, 0)? };
                }
            }
        }
        updates.finish()
    }

    /// Gives each page of the image the protection of its section.
    fn protect_image(&self) -> Result<(), Errno> {
        let unmapped = [self.image.stack_guard, self.image.scratch];
        let mut updates = UpdateBatch::new(DomainId::SELF);
        for address in self.image.addresses().step_by(PAGE_SIZE) {
            let Some((place, _)) = self.builder_entry(address, 1) else { continue };
            let protected = self.entry(bootstrap_frame(address), self.image.protection(address));
            let entry = if unmapped.contains(&address) { 0 } else { protected };
            // SAFETY: the same page stays mapped, with all the rights that its use needs; nothing uses the
            // two that are unmapped.
            unsafe { updates.push(place, entry)? };
        }
        updates.finish()
    }
}
