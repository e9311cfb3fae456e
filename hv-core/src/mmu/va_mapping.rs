//! `update_va_mapping`: the entry for one address of the running address space, with the flush in the same call.
//!
//! Tables that wait to be undone are undone first: the frame to be mapped writable may be one of them.

use super::{
    BUDGET,
    party::{Frames, Party},
};
use crate::{
    arch,
    domain::Domain,
    hypercall::{Arguments, Caller, HypercallResult},
    page_table::{Entry, TableSession, Write, locate_entry},
};
use hypercall_abi::{
    DomainId, Errno,
    xen::{UVMF_FLUSHTYPE_MASK, UVMF_INVLPG, UVMF_TLB_FLUSH},
};

/// `HYPERVISOR_update_va_mapping(address, entry, flags)`.
///
/// # Errors
/// `EINVAL` when no table of level 1 covers the address, or as [`TableSession::update_page`].
pub fn update_va_mapping(caller: &mut Caller<'_>, arguments: &Arguments) -> HypercallResult {
    let mut session = TableSession::open(caller.domain, BUDGET)?;
    finish(caller, &mut session, arguments)
}

/// `HYPERVISOR_update_va_mapping_otherdomain(address, entry, flags, domain)`: the frame is another domain's, or
/// I/O space.
///
/// # Errors
/// As [`update_va_mapping`]; `EPERM` unless the caller may map that domain's frames.
pub fn update_va_mapping_otherdomain(caller: &mut Caller<'_>, arguments: &Arguments) -> HypercallResult {
    let frames = Frames::named(caller.domain, DomainId(arguments[3] as u16))?;
    let tables = Party::Caller(caller.domain);
    let mut session = TableSession::open(caller.domain, BUDGET)?;
    session.set_mappable(frames.mappable_in(&tables)?);
    finish(caller, &mut session, arguments)
}

fn finish(caller: &Caller<'_>, session: &mut TableSession<'_>, arguments: &Arguments) -> HypercallResult {
    let [address, value, flags, ..] = *arguments;
    let root = caller.context.kernel_page_table.ok_or(Errno::EINVAL)?;
    let location = locate_entry(root, address)?;
    session.update_page(location, Entry(value), Write::Plain)?;
    flush(caller.domain, address, flags);
    Ok(0)
}

/// Flushes as the flags ask: whole TLBs or one address, here only or wherever the domain runs.
#[inline]
fn flush(domain: &Domain, address: u64, flags: u64) {
    let here_only = flags & !UVMF_FLUSHTYPE_MASK == 0 || domain.vcpu_count() == 1;
    match (flags & UVMF_FLUSHTYPE_MASK, here_only) {
        (UVMF_TLB_FLUSH, true) => arch::tlb::flush_local(),
        (UVMF_INVLPG, true) => arch::tlb::flush_page_local(address),
        (UVMF_TLB_FLUSH | UVMF_INVLPG, false) => arch::tlb::flush_domain(domain),
        _ => (),
    }
}
