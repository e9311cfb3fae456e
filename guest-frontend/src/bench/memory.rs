#![expect(unsafe_code, reason = "changes page tables and mappings of pages that it alone uses")]
//! What memory costs: mapping, page tables, pinning, granting, copying.

use hypercall_abi::grant_table::{
    GNTCOPY_DEST_GREF, GNTCOPY_SOURCE_GREF, GNTMAP_HOST_MAP, GnttabCopy, GnttabCopyPtr, GnttabMapGrantRef,
    GnttabUnmapGrantRef,
};
use hypercall_abi::xen::{
    MMU_NORMAL_PT_UPDATE, MMUEXT_PIN_L1_TABLE, MMUEXT_UNPIN_TABLE, MmuUpdate, MmuextOp, UVMF_INVLPG,
};
use hypercall_abi::{DomainId, Errno, MachineFrame, PAGE_SIZE};
use pv_runtime::event_channel::own_domain_id;
use pv_runtime::grant::{Grant, GrantAccess, grant_access};
use pv_runtime::hypercall::{grant_table_op, mmu_update, mmuext_op, update_va_mapping};
use pv_runtime::memory::{Page, SharedMemory};

use super::Table;

/// A page-table entry: present, user, accessed, dirty.
const READ_ONLY: u64 = 0x65;
const WRITABLE: u64 = READ_ONLY | 2;
/// Updates in a batch.
const BATCH: usize = 32;
/// Entries in a page table.
const ENTRIES: usize = 512;

fn address(page: &Page) -> u64 {
    page.virtual_address() as u64
}

fn entry(frame: MachineFrame, flags: u64) -> u64 {
    frame.physical_address() | flags
}

/// Maps a page of ours at its own place with these rights.
fn remap(page: &Page, flags: u64, flush: u64) -> Result<(), Errno> {
    // SAFETY: the page keeps its frame at its address; nothing writes to it while it is read-only.
    unsafe { update_va_mapping(address(page), entry(page.machine_frame(), flags), flush) }
}

/// A page that stands in for a page table: read-only, full of mappings of another page or empty.
struct TablePage(Page);

impl TablePage {
    fn new(target: Option<&Page>) -> Result<Self, Errno> {
        let page = Page::new()?;
        if let Some(target) = target {
            for index in 0..ENTRIES {
                page.write(index * 8, &entry(target.machine_frame(), READ_ONLY));
            }
        }
        remap(&page, READ_ONLY, UVMF_INVLPG)?;
        Ok(Self(page))
    }

    fn operate(&self, command: u32) -> Result<(), Errno> {
        let operation = MmuextOp { cmd: command, arg1: self.0.machine_frame().0, ..Default::default() };
        // SAFETY: pinning a page that is mapped read-only, and unpinning it again, changes no mapping in use.
        unsafe { mmuext_op(&[operation], DomainId::SELF) }
    }
}

impl Drop for TablePage {
    fn drop(&mut self) {
        if let Err(errno) = remap(&self.0, WRITABLE, UVMF_INVLPG) {
            log::error!("a page table cannot become memory again: {errno}");
        }
    }
}

/// Mapping one page, and many at once.
pub fn mappings(table: &mut Table) -> Result<(), Errno> {
    let page = Page::new()?;
    let mut result = Ok(());
    table.measure("update_va_mapping, to read-only", || result = remap(&page, READ_ONLY, 0));
    table.measure("update_va_mapping, to writable", || result = remap(&page, WRITABLE, 0));
    table.measure("update_va_mapping, INVLPG", || result = remap(&page, WRITABLE, UVMF_INVLPG));
    result?;
    let tables = TablePage::new(None)?;
    tables.operate(MMUEXT_PIN_L1_TABLE)?;
    let updates: [MmuUpdate; BATCH] = core::array::from_fn(|index| MmuUpdate {
        ptr: (tables.0.machine_frame().physical_address() + 8 * index as u64) | MMU_NORMAL_PT_UPDATE,
        val: entry(page.machine_frame(), READ_ONLY),
    });
    table.measure("mmu_update, 32 in a batch", || {
        // SAFETY: the table is in no address space.
        result = unsafe { mmu_update(&updates, DomainId::SELF) }.map(|_| ())
    });
    result?;
    tables.operate(MMUEXT_UNPIN_TABLE)
}

/// Making a page a page table, and memory again.
pub fn pinning(table: &mut Table) -> Result<(), Errno> {
    let target = Page::new()?;
    for (name, target) in [("empty", None), ("of 512 entries", Some(&target))] {
        let page = TablePage::new(target)?;
        let mut result = Ok(());
        let pin = |table: &Table| {
            let start = pv_runtime::time::time_stamp_counter();
            result = page.operate(MMUEXT_PIN_L1_TABLE);
            let ticks = table.between(start, pv_runtime::time::time_stamp_counter());
            result = result.and(page.operate(MMUEXT_UNPIN_TABLE));
            ticks
        };
        table.measure_by(&alloc::format!("pin an L1 {name}"), pin);
        let unpin = |table: &Table| {
            result = page.operate(MMUEXT_PIN_L1_TABLE);
            let start = pv_runtime::time::time_stamp_counter();
            result = result.and(page.operate(MMUEXT_UNPIN_TABLE));
            table.between(start, pv_runtime::time::time_stamp_counter())
        };
        table.measure_by(&alloc::format!("unpin an L1 {name}"), unpin);
        result?;
    }
    Ok(())
}

/// Mapping a page that this domain grants to itself, at the place of another.
pub fn grants(table: &mut Table) -> Result<(), Errno> {
    let own = own_domain_id()?;
    let (granted, place) = (Page::new()?, Page::new()?);
    let grant = grant_access(own, granted.machine_frame(), GrantAccess::ReadWrite)?;
    let mut result = Ok(());
    table.measure("grant map and unmap", || result = map_and_unmap(own, &grant, address(&place)));
    result?;
    remap(&place, WRITABLE, UVMF_INVLPG)?;
    copies(table, own, &grant)
}

fn map_and_unmap(own: DomainId, grant: &Grant, place: u64) -> Result<(), Errno> {
    let mut map = GnttabMapGrantRef {
        host_addr: place,
        flags: GNTMAP_HOST_MAP,
        r#ref: grant.reference(),
        dom: own,
        ..Default::default()
    };
    // SAFETY: nothing else uses the place.
    unsafe { grant_table_op(core::slice::from_mut(&mut map)) }?;
    if map.status != 0 {
        return Err(Errno::EINVAL);
    }
    let mut unmap = GnttabUnmapGrantRef { host_addr: place, handle: map.handle, ..Default::default() };
    // SAFETY: as above.
    unsafe { grant_table_op(core::slice::from_mut(&mut unmap)) }?;
    if unmap.status == 0 { Ok(()) } else { Err(Errno::EINVAL) }
}

/// Bytes that the hypervisor copies in one tick.
const COPIED_PER_TICK: u64 = 8;

fn copies(table: &mut Table, own: DomainId, source: &Grant) -> Result<(), Errno> {
    let page = Page::new()?;
    let target = grant_access(own, page.machine_frame(), GrantAccess::ReadWrite)?;
    let end =
        |grant: &Grant| GnttabCopyPtr { u: u64::from(grant.reference().0), domid: own, offset: 0, _pad: 0 };
    let copy = GnttabCopy {
        source: end(source),
        dest: end(&target),
        len: PAGE_SIZE as u16,
        flags: GNTCOPY_SOURCE_GREF | GNTCOPY_DEST_GREF,
        ..Default::default()
    };
    let mut result = Ok(());
    let mut once = || {
        let mut copy = copy;
        // SAFETY: both pages are ours and nothing else looks at them.
        result = unsafe { grant_table_op(core::slice::from_mut(&mut copy)) };
        if copy.status != 0 {
            result = Err(Errno::EINVAL);
        }
    };
    let ticks = table.least(&mut once);
    result?;
    table.add("grant copy of 4 KiB", ticks);
    table.add(
        "grant copy of 4 KiB, without the copy loop",
        ticks.saturating_sub(PAGE_SIZE as u64 / COPIED_PER_TICK),
    );
    Ok(())
}
