//! Which vCPU runs.
//!
//! Proportional share: each vCPU has a *virtual time* that advances as it runs, the slower the larger its weight,
//! and the runnable vCPU with the least virtual time is next. A vCPU that wakes from a wait is placed close
//! behind the queue's clock, so it runs soon, but cannot save up time by sleeping.
//!
//! A vCPU is on the run queue, or on the CPU, or has a reason in [`Vcpu::paused`]; the run queue's lock orders the
//! three. Nothing here scans: every step is O(log n) in the number of *runnable* vCPUs.

use crate::{
    arch::{self, clock},
    cpu::{Cpu, work},
    indexed_heap::{Indexed, IndexedHeap, NOWHERE},
    vcpu::{Vcpu, VcpuPointer, not_runnable},
};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use hypercall_abi::Errno;
use spin::Mutex;

/// Time a vCPU may run while others wait, in nanoseconds.
const TIME_SLICE: u64 = 10_000_000;
/// How far behind the queue's clock a waking vCPU may start, in nanoseconds of virtual time.
const WAKE_CREDIT: u64 = 2_000_000;
/// A waking vCPU takes the CPU at once if it is this far behind the running one.
const PREEMPTION_MARGIN: u64 = 100_000;
/// The weight of a vCPU nobody has given another.
pub const DEFAULT_WEIGHT: u32 = 256;

/// What the scheduler keeps for a vCPU.
pub struct VcpuSchedule {
    place: AtomicU32,
    virtual_time: AtomicU64,
    /// System time up to which its running has been charged.
    running_since: AtomicU64,
    /// Its share of the CPU relative to others.
    pub weight: AtomicU32,
}

impl VcpuSchedule {
    /// A vCPU that has not run.
    pub const fn new() -> Self {
        Self {
            place: AtomicU32::new(NOWHERE),
            virtual_time: AtomicU64::new(0),
            running_since: AtomicU64::new(0),
            weight: AtomicU32::new(DEFAULT_WEIGHT),
        }
    }
}

impl Default for VcpuSchedule {
    fn default() -> Self {
        Self::new()
    }
}

/// A vCPU as the run queue sees it.
#[derive(Clone, Copy)]
struct Runnable(VcpuPointer);

impl Indexed for Runnable {
    fn place(self) -> u32 {
        self.0.get().schedule.place.load(Ordering::Relaxed)
    }
    fn set_place(self, place: u32) {
        self.0.get().schedule.place.store(place, Ordering::Relaxed);
    }
}

/// A CPU's run queue.
pub struct CpuSchedule {
    queue: Mutex<IndexedHeap<Runnable>>,
    /// Virtual time of the vCPU that got the CPU last: where newcomers start.
    clock: AtomicU64,
    /// System time at which the running vCPU must make way if others wait.
    slice_end: AtomicU64,
    /// Vcpus on the queue, readable without its lock.
    waiting: AtomicU32,
}

impl CpuSchedule {
    /// An empty run queue.
    pub const fn new() -> Self {
        Self {
            queue: Mutex::new(IndexedHeap::new()),
            clock: AtomicU64::new(0),
            slice_end: AtomicU64::new(u64::MAX),
            waiting: AtomicU32::new(0),
        }
    }

    /// When the running vCPU must make way: never, if nobody waits.
    pub fn slice_end(&self) -> u64 {
        if self.waiting.load(Ordering::Relaxed) == 0 {
            u64::MAX
        } else {
            self.slice_end.load(Ordering::Relaxed)
        }
    }
}

impl Default for CpuSchedule {
    fn default() -> Self {
        Self::new()
    }
}

/// Makes room for one more vCPU on every queue it may come to.
///
/// # Errors
/// `ENOMEM`.
pub fn admit() -> Result<(), Errno> {
    for cpu in arch::cpu::all() {
        cpu.schedule.queue.lock().reserve()?;
        cpu.timers.reserve()?;
    }
    Ok(())
}

/// Takes a vCPU out of every queue for good. It must have a reason in `paused` that nobody will clear.
pub fn retire(vcpu: &Vcpu) {
    let cpu = processor_of(vcpu);
    let mut queue = cpu.schedule.queue.lock();
    queue.remove(Runnable(VcpuPointer::new(vcpu)));
    queue.unreserve();
    drop(queue);
    cpu.timers.retire(vcpu);
}

fn processor_of(vcpu: &Vcpu) -> &'static Cpu {
    let number = vcpu.processor.load(Ordering::Relaxed);
    arch::cpu::all().find(|cpu| cpu.id == u32::from(number)).unwrap_or_else(|| arch::cpu::this_cpu())
}

/// Ends a wait: `BLOCKED` and `POLLING` are cleared, and the vCPU runs if nothing else holds it.
#[inline]
pub fn wake(vcpu: &Vcpu) {
    resume(vcpu, not_runnable::BLOCKED | not_runnable::POLLING);
}

/// Removes `reasons` from what keeps the vCPU from running, and queues it when none is left.
pub fn resume(vcpu: &Vcpu, reasons: u32) {
    let before = vcpu.paused.fetch_and(!reasons, Ordering::AcqRel);
    if before & reasons == 0 || before & !reasons != 0 {
        return;
    }
    let cpu = processor_of(vcpu);
    let mut queue = cpu.schedule.queue.lock();
    if vcpu.running.load(Ordering::Relaxed) {
        // It has not left the CPU yet; `schedule` there will find it runnable.
        cpu.request(work::RESCHEDULE);
        return;
    }
    if vcpu.schedule.place.load(Ordering::Relaxed) != NOWHERE {
        return;
    }
    let earliest = cpu.schedule.clock.load(Ordering::Relaxed).saturating_sub(WAKE_CREDIT);
    let virtual_time = vcpu.schedule.virtual_time.load(Ordering::Relaxed).max(earliest);
    vcpu.schedule.virtual_time.store(virtual_time, Ordering::Relaxed);
    vcpu.run_state.queue(clock::now());
    queue.set(Runnable(VcpuPointer::new(vcpu)), virtual_time);
    cpu.schedule.waiting.fetch_add(1, Ordering::Relaxed);
    drop(queue);
    if preempts(cpu, virtual_time) {
        cpu.request(work::RESCHEDULE);
    } else {
        // Now that somebody waits, the running vCPU's slice counts.
        cpu.request(work::TIMERS);
    }
    arch::cpu::kick(cpu);
}

/// Makes the CPU that runs the vCPU look at it anew before it goes on with it. One that does not run is looked at when
/// it gets a CPU.
pub fn reconsider(vcpu: &Vcpu) {
    let cpu = processor_of(vcpu);
    let _queue = cpu.schedule.queue.lock();
    if vcpu.running.load(Ordering::Relaxed) {
        cpu.request(work::RESCHEDULE);
        arch::cpu::kick(cpu);
    }
}

/// True when a vCPU with this virtual time should not wait for the running one's slice to end.
fn preempts(cpu: &Cpu, virtual_time: u64) -> bool {
    let Some(running) = cpu.current() else { return true };
    let since = running.schedule.running_since.load(Ordering::Relaxed);
    let ran = scaled(clock::now().saturating_sub(since), running);
    let current = running.schedule.virtual_time.load(Ordering::Relaxed).saturating_add(ran);
    virtual_time.saturating_add(PREEMPTION_MARGIN) < current
}

/// Nanoseconds as the vCPU's virtual time counts them.
fn scaled(nanoseconds: u64, vcpu: &Vcpu) -> u64 {
    let weight = u64::from(vcpu.schedule.weight.load(Ordering::Relaxed).max(1));
    nanoseconds.saturating_mul(u64::from(DEFAULT_WEIGHT)) / weight
}

/// Adds `reason` to what keeps the vCPU from running. If it runs on this CPU it leaves at the next opportunity.
pub fn suspend(vcpu: &Vcpu, reason: u32) {
    vcpu.paused.fetch_or(reason, Ordering::AcqRel);
    let cpu = processor_of(vcpu);
    let mut queue = cpu.schedule.queue.lock();
    if vcpu.running.load(Ordering::Relaxed) {
        cpu.request(work::RESCHEDULE);
        drop(queue);
        arch::cpu::kick(cpu);
    } else if vcpu.schedule.place.load(Ordering::Relaxed) != NOWHERE {
        queue.remove(Runnable(VcpuPointer::new(vcpu)));
        vcpu.run_state.stop(vcpu.paused.load(Ordering::Relaxed), clock::now());
        cpu.schedule.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Lets others run before the caller, if any are waiting (`SCHEDOP_yield`).
pub fn yield_now(vcpu: &Vcpu) {
    let cpu = processor_of(vcpu);
    if cpu.schedule.waiting.load(Ordering::Relaxed) == 0 {
        return;
    }
    if let Some((key, _)) = cpu.schedule.queue.lock().first() {
        vcpu.schedule.virtual_time.fetch_max(key.saturating_add(1), Ordering::Relaxed);
    }
    cpu.request(work::RESCHEDULE);
}

/// Chooses who runs on this CPU from now on, charging whoever ran until now. `None` means nobody can.
pub fn choose(cpu: &Cpu) -> Option<&'static Vcpu> {
    let now = clock::now();
    let mut queue = cpu.schedule.queue.lock();
    if let Some(previous) = cpu.current() {
        charge(previous, now);
        previous.running.store(false, Ordering::Relaxed);
        let paused = previous.paused.load(Ordering::Acquire);
        if paused != 0 {
            previous.run_state.stop(paused, now);
        } else {
            previous.run_state.queue(now);
            let key = previous.schedule.virtual_time.load(Ordering::Relaxed);
            queue.set(Runnable(VcpuPointer::new(previous)), key);
            cpu.schedule.waiting.fetch_add(1, Ordering::Relaxed);
        }
    }
    let (virtual_time, Runnable(pointer)) = queue.pop()?;
    cpu.schedule.waiting.fetch_sub(1, Ordering::Relaxed);
    let next = pointer.get();
    next.running.store(true, Ordering::Relaxed);
    next.processor.store(cpu.id as u8, Ordering::Relaxed);
    next.schedule.running_since.store(now, Ordering::Relaxed);
    next.run_state.run(now);
    cpu.schedule.clock.fetch_max(virtual_time, Ordering::Relaxed);
    cpu.schedule.slice_end.store(now + TIME_SLICE, Ordering::Relaxed);
    Some(next)
}

fn charge(vcpu: &Vcpu, now: u64) {
    let since = vcpu.schedule.running_since.load(Ordering::Relaxed);
    let ran = now.saturating_sub(since);
    vcpu.schedule.running_since.store(now, Ordering::Relaxed);
    vcpu.schedule.virtual_time.fetch_add(scaled(ran, vcpu), Ordering::Relaxed);
}
