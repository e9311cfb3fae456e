#![expect(unsafe_code, reason = "TLB instructions")]
//! Forgetting translations, here and on other CPUs.
//!
//! A domain's translations are in a TLB only while one of its address spaces is loaded there: loading another flushes
//! them, because none is global. Which CPUs that are is kept in [`Domain::cpus`]: a CPU enters itself before it loads
//! such an address space, and leaves after it has loaded another.
//!
//! A CPU that wants a translation forgotten everywhere asks each of those CPUs and waits. The answer comes from the
//! interrupt that it sends, or, while the other CPU is in the hypervisor and hears no interrupts, when that waits for
//! something itself ([`crate::lock`]) or returns to its guest. Either way it comes in bounded time, and two CPUs that
//! wait for each other serve each other.

use super::cpu::{all, kick, this_cpu, wait_politely};
use crate::{
    cpu::{self, Cpu, MOST_CPUS},
    domain::Domain,
};
use core::sync::atomic::{Ordering, fence};

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
pub fn flush_domain(domain: &Domain) {
    // What was written to the tables comes before the look at who may have read them.
    fence(Ordering::SeqCst);
    let cpus = domain.cpus.load(Ordering::Relaxed);
    let here = this_cpu().bit();
    if cpus & here != 0 {
        flush_local();
    }
    if cpus & !here != 0 {
        flush_others(cpus & !here);
    }
}

#[cold]
fn flush_others(cpus: u32) {
    let mut tickets = [None; MOST_CPUS];
    for cpu in all().filter(|cpu| cpus & cpu.bit() != 0) {
        tickets[cpu.id as usize] = Some(cpu.flush_requests.ask());
        kick(cpu);
    }
    for (cpu, ticket) in all().zip(tickets) {
        while ticket.is_some_and(|ticket| !cpu.flush_requests.is_answered(ticket)) {
            wait_politely();
        }
    }
}

/// Does what other CPUs wait for this one to do.
#[inline]
pub fn serve_requests(cpu: &Cpu) {
    cpu.flush_requests.serve(flush_local);
}
