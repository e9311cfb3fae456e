#![expect(unsafe_code, reason = "names the vCPU that runs on a CPU by pointer")]
//! A physical CPU: what the hypervisor keeps for each.
//!
//! [`crate::arch::cpu::this_cpu`] finds the one the code runs on. Fields that other CPUs touch are atomics or
//! locked, so a reference to any CPU may be held anywhere.

use crate::{
    flush_requests::FlushRequests, own_registers::LoadedRegisters, scheduler::CpuSchedule, time::CpuTimers,
    vcpu::Vcpu,
};
use core::{
    ptr,
    sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering},
};

/// Most CPUs that are used; a set of CPUs has a bit for each.
pub const MOST_CPUS: usize = 16;
/// A set of CPUs: bit `n` is CPU `n`.
pub type CpuSet = u32;

/// Things to do before a CPU goes back to a guest, as bits of [`Cpu::work`].
pub mod work {
    /// Look at the run queue.
    pub const RESCHEDULE: u32 = 1 << 0;
    /// Look at the timers.
    pub const TIMERS: u32 = 1 << 1;
}

/// What one CPU owns.
pub struct Cpu {
    /// Its number, below [`MOST_CPUS`]; the boot processor is 0.
    pub id: u32,
    /// Its local APIC's identifier.
    pub apic_id: AtomicU32,
    /// The vCPU whose registers it will return to; null while it idles.
    current: AtomicPtr<Vcpu>,
    /// Bits of [`work`].
    pub work: AtomicU32,
    /// Translations that others want it to forget.
    pub flush_requests: FlushRequests,
    /// The vCPU whose FPU state is in the registers; null when nobody's is.
    pub fpu_owner: AtomicPtr<Vcpu>,
    /// Registers that vCPUs have their own values of, as they are now.
    pub loaded: LoadedRegisters,
    /// TSC when it last went from a guest to the hypervisor or back, while ticks are accounted.
    pub crossed_at: AtomicU64,
    /// What the scheduler keeps for it.
    pub schedule: CpuSchedule,
    /// Its timer queue.
    pub timers: CpuTimers,
    /// What it has done, for benchmarks.
    pub counters: Counters,
}

/// What a CPU has done. Only the CPU itself adds to these.
#[derive(Default)]
pub struct Counters {
    /// TSC ticks in the hypervisor, while they are [accounted](crate::counters::start).
    pub hypervisor_ticks: AtomicU64,
    /// TSC ticks asleep, likewise.
    pub idle_ticks: AtomicU64,
    /// CR3 loads.
    pub address_space_switches: AtomicU64,
    /// TLB flushes other than by CR3 load.
    pub tlb_flushes: AtomicU64,
    /// Entries by hypercall.
    pub hypercalls: AtomicU64,
    /// Interrupts from devices.
    pub interrupts: AtomicU64,
    /// Changes from one vCPU to another, or from and to idling.
    pub context_switches: AtomicU64,
}

impl Counters {
    const fn new() -> Self {
        Self {
            hypervisor_ticks: AtomicU64::new(0),
            idle_ticks: AtomicU64::new(0),
            address_space_switches: AtomicU64::new(0),
            tlb_flushes: AtomicU64::new(0),
            hypercalls: AtomicU64::new(0),
            interrupts: AtomicU64::new(0),
            context_switches: AtomicU64::new(0),
        }
    }
}

/// Adds one to a counter that only this CPU writes.
#[inline]
pub fn count(counter: &AtomicU64) {
    add(counter, 1);
}

/// Adds to a counter that only this CPU writes.
#[inline]
pub fn add(counter: &AtomicU64, amount: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(amount), Ordering::Relaxed);
}

impl Cpu {
    /// A CPU that has not run anything yet.
    pub const fn new(id: u32) -> Self {
        Self {
            id,
            apic_id: AtomicU32::new(0),
            current: AtomicPtr::new(ptr::null_mut()),
            work: AtomicU32::new(0),
            flush_requests: FlushRequests::new(),
            fpu_owner: AtomicPtr::new(ptr::null_mut()),
            loaded: LoadedRegisters::new(),
            crossed_at: AtomicU64::new(0),
            schedule: CpuSchedule::new(),
            timers: CpuTimers::new(),
            counters: Counters::new(),
        }
    }

    /// The vCPU that runs here, if any. For another CPU's this is no more than a name.
    #[inline]
    pub fn current(&self) -> Option<&Vcpu> {
        // SAFETY: a domain lives on until its vCPUs have left their CPUs, and the CPU itself is who asks.
        unsafe { self.current.load(Ordering::Relaxed).as_ref() }
    }

    /// Says which vCPU runs here; only the scheduler of this CPU does.
    pub fn set_current(&self, vcpu: Option<&Vcpu>) {
        let pointer = vcpu.map_or(ptr::null_mut(), |vcpu| ptr::from_ref(vcpu).cast_mut());
        self.current.store(pointer, Ordering::Relaxed);
    }

    /// The set of CPUs that has this one in it.
    #[inline]
    pub fn bit(&self) -> u32 {
        1 << self.id
    }

    /// Asks this CPU to do something before it returns to a guest. For another CPU the caller also sends an
    /// interrupt ([`crate::arch::cpu::kick`]).
    #[inline]
    pub fn request(&self, work: u32) {
        self.work.fetch_or(work, Ordering::Release);
    }
}
