//! What the hypervisor has done, by name: the figures behind the benchmarks and `xl`-style listings.
//!
//! Under QEMU's instruction counter an address-space switch and a TLB flush cost one tick; on a real machine they
//! cost hundreds. So they are counted beside the instructions. Times are what domains and the idle loop used.

use crate::{arch, cpu::Cpu};
use core::sync::atomic::{AtomicU64, Ordering};
use hypercall_abi::sysctl::SysctlPerfcDesc;

/// A counter and what it stands at.
pub struct Counter {
    name: &'static str,
    /// Its value.
    pub value: u64,
}

impl Counter {
    /// Its name as the ABI carries it; a value is two 32-bit words, the low one first.
    pub fn description(&self) -> SysctlPerfcDesc {
        let mut name = [0; 80];
        let length = self.name.len().min(name.len() - 1);
        name[..length].copy_from_slice(&self.name.as_bytes()[..length]);
        SysctlPerfcDesc { name, nr_vals: 2 }
    }
}

/// Every counter, summed over CPUs.
pub fn all() -> [Counter; 5] {
    let sum = |counter: fn(&Cpu) -> &AtomicU64| {
        arch::cpu::all().map(|cpu| counter(cpu).load(Ordering::Relaxed)).sum()
    };
    [
        Counter { name: "hypercalls", value: sum(|cpu| &cpu.counters.hypercalls) },
        Counter { name: "device interrupts", value: sum(|cpu| &cpu.counters.interrupts) },
        Counter { name: "address-space switches", value: sum(|cpu| &cpu.counters.address_space_switches) },
        Counter { name: "TLB flushes", value: sum(|cpu| &cpu.counters.tlb_flushes) },
        Counter { name: "context switches", value: sum(|cpu| &cpu.counters.context_switches) },
    ]
}
