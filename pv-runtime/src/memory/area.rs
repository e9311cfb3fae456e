#![expect(unsafe_code, reason = "makes page tables for addresses that are given out")]
//! Addresses at which frames that are not the domain's own get mapped.
//!
//! One second-level table covers the area; first-level tables are made when addresses under them are first
//! used, and stay. A range of addresses has its first-level tables, but maps nothing.

use alloc::vec;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::mem;
use core::ops::Range;
use core::ptr::NonNull;

use hypercall_abi::xen::{UVMF_INVLPG, UVMF_LOCAL};
use hypercall_abi::{DomainId, Errno, MachineFrame, PAGE_SHIFT, PAGE_SIZE};

use super::layout::*;
use super::page::Page;
use super::page_runs::{PageRuns, words_for};
use super::shared::SharedMemory;
use super::updates::UpdateBatch;
use crate::hypercall;
use crate::kernel_local;

struct Area {
    second_level: MachineFrame,
    first_level: Vec<Option<MachineFrame>>,
    free: PageRuns<Vec<u64>>,
}

kernel_local! {
    static AREA: RefCell<Option<Area>> = RefCell::new(None);
}

/// Opens the area under its second-level table. To be called once, when there is a heap.
pub(super) fn init(second_level: MachineFrame) {
    let mut free = PageRuns::new(vec![0; words_for(MAPPINGS_PAGES)], MAPPINGS_PAGES);
    free.release(0, MAPPINGS_PAGES);
    let area = Area { second_level, first_level: vec![None; ENTRIES], free };
    AREA.with(|cell| cell.replace(Some(area)));
}

impl Area {
    /// Makes the first-level table at `index`, if it is not there.
    fn ensure_table(&mut self, index: usize) -> Result<(), Errno> {
        if self.first_level[index].is_some() {
            return Ok(());
        }
        let page = Page::new()?;
        let (frame, address) = (page.machine_frame(), page.virtual_address() as u64);
        // SAFETY: the page is ours, and it stays readable.
        unsafe { hypercall::update_va_mapping(address, entry(frame, READ_ONLY), UVMF_INVLPG | UVMF_LOCAL)? };
        // From here on the page is a table, or at least not writable: it never goes back to the free ones.
        mem::forget(page);
        let mut updates = UpdateBatch::new(DomainId::SELF);
        // SAFETY: nothing was mapped there, and the table is empty.
        unsafe { updates.push(entry_address(self.second_level, index), entry(frame, TABLE))? };
        updates.finish()?;
        self.first_level[index] = Some(frame);
        Ok(())
    }
}

/// The first-level table under an address of the area, if there is one.
pub(super) fn table_of(address: u64) -> Option<MachineFrame> {
    AREA.with(|cell| cell.borrow().as_ref()?.first_level[table_index(address, 2)])
}

/// A range of addresses that is nobody else's.
#[derive(Debug)]
pub(crate) struct AddressRange {
    first: usize,
    pages: usize,
}

impl AddressRange {
    /// Takes addresses for `pages` pages.
    pub(crate) fn new(pages: usize) -> Result<Self, Errno> {
        AREA.with(|cell| {
            let mut cell = cell.borrow_mut();
            let area = cell.as_mut().ok_or(Errno::ENOSYS)?;
            let first = area.free.take(pages).ok_or(Errno::ENOMEM)?;
            for table in first / ENTRIES..=(first + pages - 1) / ENTRIES {
                if let Err(errno) = area.ensure_table(table) {
                    area.free.release(first, pages);
                    return Err(errno);
                }
            }
            Ok(Self { first, pages })
        })
    }

    /// How many pages the range has.
    pub(crate) fn pages(&self) -> usize {
        self.pages
    }

    /// The first byte.
    pub(crate) fn base(&self) -> NonNull<u8> {
        NonNull::new(self.address(0) as *mut u8).expect("the area does not start at zero")
    }

    /// The address of the page `index`.
    fn address(&self, index: usize) -> u64 {
        MAPPINGS + (((self.first + index) as u64) << PAGE_SHIFT)
    }

    /// The addresses of all pages.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = u64> + use<> {
        let all: Range<u64> = self.address(0)..self.address(self.pages);
        all.step_by(PAGE_SIZE)
    }

    /// Keeps the addresses from ever being given out again.
    pub(crate) fn leak(&mut self) {
        self.pages = 0;
    }
}

impl Drop for AddressRange {
    fn drop(&mut self) {
        AREA.with(|cell| {
            if let Some(area) = cell.borrow_mut().as_mut() {
                area.free.release(self.first, self.pages);
            }
        });
    }
}
