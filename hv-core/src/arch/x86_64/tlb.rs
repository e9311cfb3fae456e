#![expect(unsafe_code, reason = "TLB instructions")]
//! Forgetting translations.
//!
//! One CPU runs guests so far, so what must be forgotten is in this CPU's TLB.

use super::cpu::this_cpu;
use crate::{cpu, domain::Domain};

/// Forgets everything but global pages, of which there are none.
pub fn flush_local() {
    cpu::count(&this_cpu().counters.tlb_flushes);
    // SAFETY: reloads the table in force.
    unsafe { x86::controlregs::cr3_write(x86::controlregs::cr3()) };
}

/// Forgets the translation of one address.
pub fn flush_page_local(address: u64) {
    cpu::count(&this_cpu().counters.tlb_flushes);
    // SAFETY: only forgets a translation.
    unsafe { x86::tlb::flush(address as usize) };
}

/// Makes sure that no CPU remembers a translation of this domain's that is no longer in its tables.
///
/// A domain's translations are in a TLB only while its address space is in force: loading another flushes them.
pub fn flush_domain(domain: &Domain) {
    if this_cpu().runs(domain) {
        flush_local();
    }
}
