//! Checks of grants, with this domain on both sides.

use alloc::format;
use alloc::vec::Vec;

use hypercall_abi::grant_table::{GNTST_BAD_COPY_ARG, GNTST_BAD_GNTREF};
use hypercall_abi::{DomainId, GrantReference, PAGE_SIZE};
use pv_runtime::grant::{
    CopyBatch, CopyEnd, DeviceBatch, Grant, GrantAccess, GrantError, grant_access, grants_in_use, map,
    map_device, map_pages,
};
use pv_runtime::memory::{Page, PageRun, SharedMemory};

use crate::{Outcome, during, expect};

/// Grants each page of a run to this domain.
fn grant_run(own: DomainId, run: &PageRun, access: GrantAccess) -> Result<Vec<Grant>, alloc::string::String> {
    let grants = run.machine_frames().map(|frame| grant_access(own, frame, access));
    during("granting", grants.collect())
}

/// A granted page can be mapped; its grant cannot be ended meanwhile.
pub async fn map_own(own: DomainId) -> Outcome {
    let before = grants_in_use();
    let run = during("three pages", PageRun::new(3))?;
    let mut grants = grant_run(own, &run, GrantAccess::ReadWrite)?;
    let references: Vec<_> = grants.iter().map(Grant::reference).collect();
    let mapping = during("mapping", map_pages(own, &references, GrantAccess::ReadWrite))?;
    mapping.copy_in(PAGE_SIZE - 2, b"abcd");
    expect(run.read::<[u8; 4]>(PAGE_SIZE - 2) == *b"abcd", "the page does not show what was written")?;
    let last = grants.pop().ok_or("no grant")?;
    expect(last.is_in_use(), "the grant does not say that it is in use")?;
    let last = last.end().err().ok_or("a grant in use was ended")?;
    drop(mapping);
    expect(!last.is_in_use(), "the grant is still in use")?;
    expect(last.end().is_ok(), "an unused grant cannot be ended")?;
    drop(grants);
    expect(grants_in_use() == before, "grants were lost")
}

/// A read-only grant cannot be mapped for writing.
pub async fn read_only(own: DomainId) -> Outcome {
    let page = during("a page", Page::new())?;
    page.copy_in(0, b"look");
    let grant = during("granting", grant_access(own, page.machine_frame(), GrantAccess::ReadOnly))?;
    let writable = map(own, grant.reference(), GrantAccess::ReadWrite);
    expect(writable.is_err(), "a read-only grant was mapped for writing")?;
    let readable = during("mapping", map(own, grant.reference(), GrantAccess::ReadOnly))?;
    expect(readable.read::<[u8; 4]>(0) == *b"look", "the mapping shows something else")?;
    expect(!readable.is_writable(), "the mapping says that it is writable")
}

/// The hypervisor copies from and to grants, and refuses what leaves a page.
pub async fn copy(own: DomainId) -> Outcome {
    let (from, into) = (during("a page", Page::new())?, during("two pages", PageRun::new(2))?);
    from.copy_in(100, b"payload");
    let grant = during("granting", grant_access(own, from.machine_frame(), GrantAccess::ReadOnly))?;
    let source = |offset| CopyEnd::Granted { domain: own, reference: grant.reference(), offset };
    let destination = |offset| during("naming a page", CopyEnd::own(&into, offset));
    let mut batch = CopyBatch::new();
    batch.push(source(100), destination(PAGE_SIZE + 7)?, 7);
    batch.push(source(4090), destination(0)?, 7);
    batch.push(destination(0)?, source(0), 7);
    batch.push(source(0), destination(0)?, 4096);
    batch.submit();
    let statuses: Vec<_> = batch.statuses().collect();
    expect(into.read::<[u8; 7]>(PAGE_SIZE + 7) == *b"payload", "the bytes did not arrive")?;
    expect(into.read::<[u8; 7]>(100) == *b"payload", "the page did not arrive")?;
    expect(statuses[0].is_ok() && statuses[3].is_ok(), format!("good copies failed: {statuses:?}"))?;
    let beyond = Err(GrantError::Refused(GNTST_BAD_COPY_ARG));
    expect(statuses[1] == beyond, format!("a copy beyond the page: {:?}", statuses[1]))?;
    expect(statuses[2].is_err(), "a copy into a read-only grant was made")
}

/// Devices get the page's own address where nothing translates for them.
pub async fn device(own: DomainId) -> Outcome {
    let run = during("two pages", PageRun::new(2))?;
    let grants = grant_run(own, &run, GrantAccess::ReadWrite)?;
    let one = during("mapping", map_device(own, grants[0].reference(), GrantAccess::ReadWrite))?;
    expect(one.bus_address() == run.machine_frame(0).physical_address(), "another address than the page's")?;
    expect(grants[0].is_in_use(), "the grant can be ended")?;
    drop(one);
    expect(!grants[0].is_in_use(), "the grant is still in use")?;
    let mut batch = DeviceBatch::new();
    grants.iter().for_each(|grant| batch.push(own, grant.reference(), GrantAccess::ReadOnly));
    let mappings: Result<Vec<_>, _> = batch.map().collect();
    let mappings = during("mapping", mappings)?;
    expect(grants.iter().all(Grant::is_in_use), "a grant is not in use")?;
    mappings.into_iter().for_each(|mapping| batch.withdraw(mapping));
    batch.unmap();
    grants.iter().for_each(|grant| batch.push(own, grant.reference(), GrantAccess::ReadOnly));
    drop(batch.map());
    expect(!grants.iter().any(Grant::is_in_use), "a grant is still in use")
}

/// A reference that grants nothing is refused, and leaves nothing behind.
pub async fn refused(own: DomainId) -> Outcome {
    let beyond = map(own, GrantReference(u32::MAX), GrantAccess::ReadWrite).err();
    expect(beyond == Some(GrantError::Refused(GNTST_BAD_GNTREF)), format!("beyond the table: {beyond:?}"))?;
    let unused = map(own, GrantReference(7), GrantAccess::ReadWrite).err();
    expect(matches!(unused, Some(GrantError::Refused(_))), format!("an unused entry: {unused:?}"))?;
    let page = during("a page", Page::new())?;
    let grant = during("granting", grant_access(own, page.machine_frame(), GrantAccess::ReadWrite))?;
    let mixed = [grant.reference(), GrantReference(7)];
    expect(map_pages(own, &mixed, GrantAccess::ReadWrite).is_err(), "a half good list was mapped")?;
    expect(!grant.is_in_use(), "the good half stayed mapped")?;
    let foreign =
        during("granting", grant_access(DomainId(0x7fe0), page.machine_frame(), GrantAccess::ReadWrite))?;
    let result = map(own, foreign.reference(), GrantAccess::ReadWrite);
    expect(result.is_err(), "a grant to somebody else was mapped")
}

/// More grants than one frame of the table holds.
pub async fn many(own: DomainId) -> Outcome {
    let page = during("a page", Page::new())?;
    let grants: Result<Vec<_>, _> =
        (0..1500).map(|_| grant_access(own, page.machine_frame(), GrantAccess::ReadOnly)).collect();
    let grants = during("granting", grants)?;
    let last = grants.last().ok_or("no grant")?;
    let mapping = during("mapping", map(own, last.reference(), GrantAccess::ReadOnly))?;
    drop(mapping);
    drop(grants);
    Ok(())
}
