//! An address at which anything can be mapped.

use alloc::format;
use alloc::string::String;
use core::mem;

use hypercall_abi::{DomainId, MachineFrame};
use pv_runtime::memory::{BuilderPage, Page, SharedMemory, page_table_entry_address};

use crate::attacker::Attacker;
use crate::calls::Answer;
use crate::entry::{WRITE, entry};

/// The address of a page that nobody uses meanwhile. The page is back at its place when this is dropped; if it cannot
/// be, because a case has failed half-way, it is never used again.
pub struct Slot<'a> {
    attacker: &'a Attacker,
    /// There until this is dropped.
    page: Option<Page>,
    /// Machine address of the page-table entry.
    place: u64,
}

impl<'a> Slot<'a> {
    /// Takes a page.
    pub fn new(attacker: &'a Attacker) -> Result<Self, String> {
        let page = page()?;
        let place = page_table_entry_address(page.virtual_address() as u64).ok_or("a page has no entry")?;
        Ok(Self { attacker, page: Some(page), place })
    }

    fn page(&self) -> &Page {
        self.page.as_ref().expect("the page is there until the end")
    }

    /// The address.
    pub fn address(&self) -> u64 {
        self.page().virtual_address() as u64
    }

    /// Machine address of its page-table entry.
    pub fn place(&self) -> u64 {
        self.place
    }

    /// The frame that belongs there.
    pub fn frame(&self) -> MachineFrame {
        self.page().machine_frame()
    }

    /// What its page-table entry says now.
    pub fn entry(&self) -> u64 {
        read_entry(self.place)
    }

    /// Maps something of `owner`'s there, by the entry's machine address.
    pub fn map_of(&self, owner: DomainId, entry: u64) -> Answer {
        self.attacker.mmu_update(self.place, entry, u64::from(owner.0))
    }

    /// Maps something of this domain's own there, by the entry's machine address.
    pub fn map(&self, entry: u64) -> Answer {
        self.map_of(DomainId::SELF, entry)
    }

    /// Maps something there, by the virtual address.
    pub fn map_by_address(&self, entry: u64) -> Answer {
        self.attacker.set_address(self.address(), entry)
    }

    /// Puts its own page back, so that the next attempt finds things as the first one did.
    pub fn restore(&self) -> Answer {
        self.map_by_address(entry(self.frame(), WRITE))
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        if self.restore().is_err() {
            mem::forget(self.page.take());
        }
    }
}

/// A page of this domain's own.
pub fn page() -> Result<Page, String> {
    Page::new().map_err(|errno| format!("there is no page: {errno}"))
}

/// The page-table entry at a machine address, which lies in a table of this domain's own.
pub fn read_entry(place: u64) -> u64 {
    let table = BuilderPage::find(MachineFrame::containing(place)).expect("the table is this domain's");
    table.read((place % 4096) as usize)
}
