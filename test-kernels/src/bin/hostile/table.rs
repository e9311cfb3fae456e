//! Pages that can become page tables.

use alloc::string::String;
use core::mem;

use hypercall_abi::MachineFrame;
use pv_runtime::memory::{BuilderPage, Page, SharedMemory};

use crate::attacker::Attacker;
use crate::entry::{READ, WRITE, entry, frame_of, index_of, place_of};
use crate::report::accepted;
use crate::slot::page;

/// A page of this domain's own that is mapped read-only, as one must be to become a table. It is writable again when
/// this is dropped; if it cannot be, because it still is a table, it is never used again.
pub struct Table<'a> {
    attacker: &'a Attacker,
    /// There until this is dropped.
    page: Option<Page>,
}

impl<'a> Table<'a> {
    /// Takes a page and fills it with entries, the rest being zero.
    pub fn new(
        attacker: &'a Attacker,
        entries: impl IntoIterator<Item = (usize, u64)>,
    ) -> Result<Self, String> {
        Self::of_itself(attacker, |_| entries)
    }

    /// As [`new`](Self::new), with entries that may name the page's own frame.
    pub fn of_itself<I: IntoIterator<Item = (usize, u64)>>(
        attacker: &'a Attacker,
        entries: impl FnOnce(MachineFrame) -> I,
    ) -> Result<Self, String> {
        let page = page()?;
        for (index, entry) in entries(page.machine_frame()) {
            page.write(8 * index, &entry);
        }
        let table = Self { attacker, page: Some(page) };
        accepted(
            "write-protecting a page",
            attacker.set_address(table.address(), entry(table.frame(), READ)),
        )?;
        Ok(table)
    }

    fn page(&self) -> &Page {
        self.page.as_ref().expect("the page is there until the end")
    }

    /// The frame.
    pub fn frame(&self) -> MachineFrame {
        self.page().machine_frame()
    }

    /// Where the page is.
    pub fn address(&self) -> u64 {
        self.page().virtual_address() as u64
    }

    /// Machine address of an entry in it.
    pub fn place(&self, index: usize) -> u64 {
        place_of(self.frame(), index)
    }

    /// What an entry in it says.
    pub fn entry(&self, index: usize) -> u64 {
        self.page().read(8 * index)
    }

    /// Whether it can be mapped writable, which tells that it is no table. Afterwards it is as before.
    pub fn is_plain(&self) -> bool {
        let writable = self.attacker.set_address(self.address(), entry(self.frame(), WRITE)).is_ok();
        writable && self.attacker.set_address(self.address(), entry(self.frame(), READ)).is_ok()
    }
}

impl Drop for Table<'_> {
    fn drop(&mut self) {
        if self.attacker.set_address(self.address(), entry(self.frame(), WRITE)).is_err() {
            mem::forget(self.page.take());
        }
    }
}

/// The tables on the way from the root to an address: of level 4, 3, 2 and 1.
pub fn tables_of(attacker: &Attacker, address: u64) -> Result<[MachineFrame; 4], String> {
    let mut tables = [attacker.root; 4];
    for step in 1..4 {
        let level = 5 - step as u32;
        let page = BuilderPage::find(tables[step - 1]).map_err(|_| "a table is not this domain's")?;
        tables[step] = frame_of(page.read(8 * index_of(address, level)));
    }
    Ok(tables)
}
