//! Cleaning caches for a device that does not look into them.

use crate::{arch, domain::Domain, frame::HeldFrame, layout::PAGE_SIZE};
use hypercall_abi::{
    Errno, MachineFrame,
    grant_table::{GNTTAB_CACHE_CLEAN, GNTTAB_CACHE_INVAL, GNTTAB_CACHE_SOURCE_GREF, GnttabCacheFlush},
};

/// Writes back, and if asked for forgets, the cached lines of a part of a page of the domain's own.
///
/// # Errors
/// `EINVAL` when the part leaves its page or nothing known is to be done, `EPERM` when the page is not the domain's,
/// `EOPNOTSUPP` for a page named by a grant and for losing what is not written back.
pub(super) fn flush(domain: &Domain, op: &GnttabCacheFlush) -> Result<(), Errno> {
    let (offset, length) = (usize::from(op.offset), usize::from(op.length));
    if offset + length > PAGE_SIZE as usize {
        return Err(Errno::EINVAL);
    }
    if length == 0 || op.op == 0 {
        return Ok(());
    }
    if op.op & !(GNTTAB_CACHE_CLEAN | GNTTAB_CACHE_INVAL | GNTTAB_CACHE_SOURCE_GREF) != 0 {
        return Err(Errno::EINVAL);
    }
    if op.op & GNTTAB_CACHE_SOURCE_GREF != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    let held = HeldFrame::get(MachineFrame::containing(op.a), domain.id).map_err(|_| Errno::EPERM)?;
    if op.op & GNTTAB_CACHE_CLEAN == 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    arch::cache::flush(held.frame(), offset, length);
    Ok(())
}
