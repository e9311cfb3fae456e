//! What the hypervisor and its guests have done, by name: the figures behind the benchmarks.
//!
//! Under QEMU's instruction counter an address-space switch and a TLB flush cost one tick; on a real machine they
//! cost hundreds. So they are counted beside the instructions, always. Where the ticks go (to each domain's own code,
//! to the hypervisor, to idling) is accounted exactly, but only from [`start`] on: reading the TSC twice on every
//! entry would be a tenth of a null hypercall.

use crate::{
    arch::{self, clock},
    cpu::{self, Cpu},
    domain::Domain,
    machine::machine,
    vcpu::Vcpu,
};
use core::{
    fmt::{self, Write},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};
use hypercall_abi::{DomainId, sysctl::SysctlPerfcDesc};

/// Ticks are accounted.
static ACCOUNTING: AtomicBool = AtomicBool::new(false);

/// A guest has entered the hypervisor: its own code ran since it was left.
#[inline]
pub fn enter(cpu: &Cpu, vcpu: Option<&Vcpu>) {
    if ACCOUNTING.load(Ordering::Relaxed) {
        cross(cpu, vcpu.map(|vcpu| &vcpu.own_ticks));
    }
}

/// The hypervisor returns to a guest: it ran since it was entered.
#[inline]
pub fn leave(cpu: &Cpu) {
    if ACCOUNTING.load(Ordering::Relaxed) {
        cross(cpu, Some(&cpu.counters.hypervisor_ticks));
    }
}

/// The CPU falls asleep (the hypervisor ran until now), or wakes up.
pub fn sleep(cpu: &Cpu, sleep: impl FnOnce()) {
    leave(cpu);
    sleep();
    if ACCOUNTING.load(Ordering::Relaxed) {
        cross(cpu, Some(&cpu.counters.idle_ticks));
    }
}

#[cold]
fn cross(cpu: &Cpu, side: Option<&AtomicU64>) {
    let now = clock::ticks();
    let since = cpu.crossed_at.swap(now, Ordering::Relaxed);
    if let Some(side) = side {
        cpu::add(side, now.wrapping_sub(since));
    }
}

/// Sets everything to zero and accounts ticks from now on. A profiler finds it in the program, so it is never inlined.
#[inline(never)]
pub fn start() {
    for cpu in arch::cpu::all() {
        NAMED.iter().for_each(|(_, counter)| counter(cpu).store(0, Ordering::Relaxed));
        cpu.crossed_at.store(clock::ticks(), Ordering::Relaxed);
    }
    let mut next = DomainId(0);
    while let Some(domain) = machine().domains.next_from(next) {
        domain.vcpus().for_each(|vcpu| vcpu.own_ticks.store(0, Ordering::Relaxed));
        domain.event_channels.counters.reset();
        domain.grant_table.counters.reset();
        next = DomainId(domain.id.0 + 1);
    }
    ACCOUNTING.store(true, Ordering::Relaxed);
}

/// A counter that each CPU has.
type OfCpu = fn(&Cpu) -> &AtomicU64;

/// Counters that are summed over CPUs.
const NAMED: [(&str, OfCpu); 7] = [
    ("hypercalls", |cpu| &cpu.counters.hypercalls),
    ("device interrupts", |cpu| &cpu.counters.interrupts),
    ("context switches", |cpu| &cpu.counters.context_switches),
    ("address-space switches", |cpu| &cpu.counters.address_space_switches),
    ("TLB flushes", |cpu| &cpu.counters.tlb_flushes),
    ("hypervisor ticks", |cpu| &cpu.counters.hypervisor_ticks),
    ("idle ticks", |cpu| &cpu.counters.idle_ticks),
];

/// A counter's name as the ABI carries it.
struct Name([u8; 80], usize);

impl Write for Name {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = self.0.len() - 1 - self.1;
        let length = text.len().min(room);
        self.0[self.1..self.1 + length].copy_from_slice(&text.as_bytes()[..length]);
        self.1 += length;
        Ok(())
    }
}

/// A value is two 32-bit words of the ABI, the low one first.
fn description(name: fmt::Arguments<'_>) -> SysctlPerfcDesc {
    let mut text = Name([0; 80], 0);
    // What does not fit is cut, so this cannot fail.
    let _ = text.write_fmt(name);
    SysctlPerfcDesc { name: text.0, nr_vals: 2 }
}

/// A counter that each domain has.
type OfDomain = fn(&Domain) -> u64;

/// Counters that are told for every domain; ticks are those of its own code. The last two are no counts of events but what
/// it has now.
const OF_DOMAIN: [(&str, OfDomain); 7] = [
    ("ticks", |domain| domain.vcpus().map(|vcpu| vcpu.own_ticks.load(Ordering::Relaxed)).sum()),
    ("events sent", |domain| domain.event_channels.counters.events_sent.load(Ordering::Relaxed)),
    ("grant copies", |domain| domain.grant_table.counters.copies.load(Ordering::Relaxed)),
    ("bytes copied", |domain| domain.grant_table.counters.bytes_copied.load(Ordering::Relaxed)),
    ("grant maps", |domain| domain.grant_table.counters.maps.load(Ordering::Relaxed)),
    ("grants mapped", |domain| u64::from(domain.grant_table.mappings())),
    ("maptrack frames", |domain| u64::from(domain.grant_table.maptrack_frames())),
];

/// Tells `visit` every counter, until it says that it has had enough.
pub fn visit(mut visit: impl FnMut(SysctlPerfcDesc, u64) -> bool) {
    for (name, counter) in NAMED {
        let sum = arch::cpu::all().map(|cpu| counter(cpu).load(Ordering::Relaxed)).sum();
        if !visit(description(format_args!("{name}")), sum) {
            return;
        }
    }
    for cpu in arch::cpu::all() {
        let ticks = cpu.counters.hypervisor_ticks.load(Ordering::Relaxed);
        if !visit(description(format_args!("CPU {} hypervisor ticks", cpu.id)), ticks) {
            return;
        }
    }
    let mut next = DomainId(0);
    while let Some(domain) = machine().domains.next_from(next) {
        for (name, counter) in OF_DOMAIN {
            if !visit(description(format_args!("domain {} {name}", domain.id)), counter(&domain)) {
                return;
            }
        }
        next = DomainId(domain.id.0 + 1);
    }
}
