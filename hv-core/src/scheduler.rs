//! Which vCPU runs, and where.
//!
//! Proportional share: each vCPU has a *virtual time* that advances as it runs, the slower the larger its weight,
//! and the runnable vCPU with the least virtual time is next. A vCPU that wakes from a wait is placed close
//! behind the queue's clock, so it runs soon, but cannot save up time by sleeping.
//!
//! There is one run queue for all CPUs. So shares hold across CPUs without balancing, and no CPU idles while a vCPU
//! waits: who is first in the queue takes whichever CPU is free first, preferably the one it ran on last.
//!
//! A vCPU is on the run queue, or on a CPU, or has a reason in [`Vcpu::paused`]; the run queue's lock orders the
//! three. Nothing here scans but over CPUs: every step is O(log n) in the number of *runnable* vCPUs.
//!
//! A vCPU that makes way for another may be chosen by a second CPU before the first has put its registers away.
//! Therefore [`Vcpu::on_cpu`] tells when the first is done, and the second waits for it ([`crate::arch`]).

use crate::{
    arch::{self, clock},
    cpu::{Cpu, work},
    indexed_heap::{Indexed, IndexedHeap, NOWHERE},
    lock::Mutex,
    machine::machine,
    time,
    vcpu::{SharedVcpuPointer, Vcpu, VcpuPointer, not_runnable},
};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use hypercall_abi::{
    Errno,
    vcpu::{RUNSTATE_RUNNING, VcpuRunstateInfo},
};

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

/// All vCPUs that wait for a CPU.
pub struct RunQueue {
    queue: Mutex<Queue>,
    /// Vcpus on the queue, readable without its lock.
    waiting: AtomicU32,
}

struct Queue {
    heap: IndexedHeap<Runnable>,
    /// Virtual time of the vCPU that got a CPU last: where newcomers start.
    clock: u64,
    /// CPUs that have found nothing to run and have not been told of anything since.
    idle: u32,
}

impl RunQueue {
    /// An empty run queue.
    pub const fn new() -> Self {
        let queue = Queue { heap: IndexedHeap::new(), clock: 0, idle: 0 };
        Self { queue: Mutex::new(queue), waiting: AtomicU32::new(0) }
    }
}

impl Default for RunQueue {
    fn default() -> Self {
        Self::new()
    }
}

/// What the scheduler keeps for a CPU.
pub struct CpuSchedule {
    /// The vCPU it chose last; null when it found none. Changes under the lock of the run queue, and whoever holds that
    /// may follow it: no vCPU goes for good that is chosen.
    chosen: SharedVcpuPointer,
    /// System time at which the running vCPU must make way if others wait.
    slice_end: AtomicU64,
}

impl CpuSchedule {
    /// A CPU that has chosen nothing.
    pub const fn new() -> Self {
        Self { chosen: SharedVcpuPointer::none(), slice_end: AtomicU64::new(u64::MAX) }
    }

    /// When the running vCPU must make way: never, if nobody waits.
    pub fn slice_end(&self) -> u64 {
        if machine().run_queue.waiting.load(Ordering::Relaxed) == 0 {
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
    machine().run_queue.queue.lock().heap.reserve()?;
    for cpu in arch::cpu::all() {
        if let Err(errno) = cpu.timers.reserve() {
            arch::cpu::all().take_while(|other| other.id != cpu.id).for_each(|cpu| cpu.timers.unreserve());
            machine().run_queue.queue.lock().heap.unreserve();
            return Err(errno);
        }
    }
    Ok(())
}

/// Takes a vCPU out of every queue for good. It must have a reason in `paused` that nobody will clear, and be off its
/// CPU.
pub fn retire(vcpu: &Vcpu) {
    let mut queue = machine().run_queue.queue.lock();
    queue.heap.remove(Runnable(VcpuPointer::new(vcpu)));
    queue.heap.unreserve();
    drop(queue);
    time::retire(vcpu);
}

fn processor_of(vcpu: &Vcpu) -> &'static Cpu {
    arch::cpu::by_number(vcpu.processor.load(Ordering::Relaxed))
}

/// Ends a wait: `BLOCKED` and `POLLING` are cleared, and the vCPU runs if nothing else holds it. One that runs on
/// another CPU is interrupted, so that it sees at once what it is woken for.
///
/// The caller has written what it wakes for with sequential consistency, and a CPU looks at that after a choice, which
/// a load of page tables separates from it: so either it sees it itself, or it is seen here to run.
#[inline]
pub fn wake(vcpu: &Vcpu) {
    resume(vcpu, not_runnable::BLOCKED | not_runnable::POLLING);
    if vcpu.running.load(Ordering::SeqCst) {
        arch::cpu::kick(processor_of(vcpu));
    }
}

/// Removes `reasons` from what keeps the vCPU from running, and queues it when none is left.
#[inline]
pub fn resume(vcpu: &Vcpu, reasons: u32) {
    let before = vcpu.paused.fetch_and(!reasons, Ordering::AcqRel);
    if before & reasons != 0 && before & !reasons == 0 {
        enqueue(vcpu);
    }
}

/// Queues a vCPU that can run. If it has not left its CPU yet, the choice there will find that it can run.
fn enqueue(vcpu: &Vcpu) {
    let run_queue = &machine().run_queue;
    let mut queue = run_queue.queue.lock();
    let is_queued = vcpu.schedule.place.load(Ordering::Relaxed) != NOWHERE;
    if vcpu.running.load(Ordering::Relaxed) || is_queued || vcpu.paused.load(Ordering::Acquire) != 0 {
        return;
    }
    let earliest = queue.clock.saturating_sub(WAKE_CREDIT);
    let virtual_time = vcpu.schedule.virtual_time.load(Ordering::Relaxed).max(earliest);
    vcpu.schedule.virtual_time.store(virtual_time, Ordering::Relaxed);
    let now = clock::now();
    vcpu.run_state.queue(now);
    queue.heap.set(Runnable(VcpuPointer::new(vcpu)), virtual_time);
    let is_first = run_queue.waiting.fetch_add(1, Ordering::Relaxed) == 0;
    let taker = idle_cpu(&mut queue, vcpu).or_else(|| preempted_cpu(virtual_time, now));
    drop(queue);
    match taker {
        Some(cpu) => request(cpu, work::RESCHEDULE),
        // Now that somebody waits, everybody's slice counts.
        None if is_first => arch::cpu::all().for_each(|cpu| request(cpu, work::TIMERS)),
        None => (),
    }
}

/// Has a CPU do something before it goes on with its guest.
fn request(cpu: &Cpu, work: u32) {
    cpu.request(work);
    arch::cpu::kick(cpu);
}

/// An idle CPU for the vCPU, if there is one: best the one it ran on last. It counts as idle no more.
fn idle_cpu(queue: &mut Queue, vcpu: &Vcpu) -> Option<&'static Cpu> {
    if queue.idle == 0 {
        return None;
    }
    let last = 1 << vcpu.processor.load(Ordering::Relaxed);
    let number = if queue.idle & last != 0 { last.trailing_zeros() } else { queue.idle.trailing_zeros() };
    queue.idle &= !(1 << number);
    Some(arch::cpu::by_number(number as u8))
}

/// The CPU whose vCPU has had most, if one with this virtual time should not wait for the end of its slice. The caller
/// holds the lock of the run queue.
fn preempted_cpu(virtual_time: u64, now: u64) -> Option<&'static Cpu> {
    let had = |cpu: &'static Cpu| Some((virtual_time_on(cpu, now)?, cpu));
    let (most, cpu) = arch::cpu::all().filter_map(had).max_by_key(|(time, _)| *time)?;
    (virtual_time.saturating_add(PREEMPTION_MARGIN) < most).then_some(cpu)
}

/// The virtual time, up to now, of the vCPU that a CPU has chosen.
fn virtual_time_on(cpu: &Cpu, now: u64) -> Option<u64> {
    let pointer = cpu.schedule.chosen.get()?;
    let running = pointer.get();
    let since = running.schedule.running_since.load(Ordering::Relaxed);
    let ran = scaled(now.saturating_sub(since), running);
    Some(running.schedule.virtual_time.load(Ordering::Relaxed).saturating_add(ran))
}

/// Makes the CPU that runs the vCPU look at it anew before it goes on with it. One that does not run is looked at when
/// it gets a CPU.
pub fn reconsider(vcpu: &Vcpu) {
    let _queue = machine().run_queue.queue.lock();
    if vcpu.running.load(Ordering::Relaxed) {
        request(processor_of(vcpu), work::RESCHEDULE);
    }
}

/// How a vCPU spends its life, seen at one moment: it may be changing on another CPU.
pub fn run_state_of(vcpu: &Vcpu) -> VcpuRunstateInfo {
    let _queue = machine().run_queue.queue.lock();
    vcpu.run_state.snapshot()
}

/// Nanoseconds that a vCPU has run, up to now.
pub fn running_time_of(vcpu: &Vcpu) -> u64 {
    run_state_of(vcpu).time[RUNSTATE_RUNNING as usize]
}

/// Nanoseconds as the vCPU's virtual time counts them.
fn scaled(nanoseconds: u64, vcpu: &Vcpu) -> u64 {
    let weight = u64::from(vcpu.schedule.weight.load(Ordering::Relaxed).max(1));
    nanoseconds.saturating_mul(u64::from(DEFAULT_WEIGHT)) / weight
}

/// Adds `reason` to what keeps the vCPU from running. If it runs it leaves its CPU at the next opportunity.
pub fn suspend(vcpu: &Vcpu, reason: u32) {
    vcpu.paused.fetch_or(reason, Ordering::SeqCst);
    let run_queue = &machine().run_queue;
    let mut queue = run_queue.queue.lock();
    if vcpu.running.load(Ordering::Relaxed) {
        request(processor_of(vcpu), work::RESCHEDULE);
    } else if vcpu.schedule.place.load(Ordering::Relaxed) != NOWHERE {
        queue.heap.remove(Runnable(VcpuPointer::new(vcpu)));
        vcpu.run_state.stop(vcpu.paused.load(Ordering::Relaxed), clock::now());
        run_queue.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Lets others run before the caller, if any are waiting (`SCHEDOP_yield`).
pub fn yield_now(vcpu: &Vcpu) {
    let run_queue = &machine().run_queue;
    if run_queue.waiting.load(Ordering::Relaxed) == 0 {
        return;
    }
    if let Some((key, _)) = run_queue.queue.lock().heap.first() {
        vcpu.schedule.virtual_time.fetch_max(key.saturating_add(1), Ordering::Relaxed);
    }
    arch::cpu::this_cpu().request(work::RESCHEDULE);
}

/// Chooses who runs on this CPU from now on, charging whoever ran until now. `None` means nobody can.
///
/// The chosen vCPU may still be [on another CPU](Vcpu::on_cpu) that is just leaving it.
pub fn choose(cpu: &Cpu) -> Option<&'static Vcpu> {
    let now = clock::now();
    let run_queue = &machine().run_queue;
    let mut queue = run_queue.queue.lock();
    if let Some(previous) = cpu.current() {
        charge(previous, now);
        previous.running.store(false, Ordering::Relaxed);
        let paused = previous.paused.load(Ordering::Acquire);
        if paused != 0 {
            previous.run_state.stop(paused, now);
        } else {
            previous.run_state.queue(now);
            let key = previous.schedule.virtual_time.load(Ordering::Relaxed);
            queue.heap.set(Runnable(VcpuPointer::new(previous)), key);
            run_queue.waiting.fetch_add(1, Ordering::Relaxed);
        }
    }
    let Some((virtual_time, Runnable(pointer))) = queue.heap.pop() else {
        cpu.schedule.chosen.set(None);
        queue.idle |= cpu.bit();
        return None;
    };
    run_queue.waiting.fetch_sub(1, Ordering::Relaxed);
    queue.idle &= !cpu.bit();
    queue.clock = queue.clock.max(virtual_time);
    let next = pointer.get();
    next.running.store(true, Ordering::Relaxed);
    next.processor.store(cpu.id as u8, Ordering::Relaxed);
    next.schedule.running_since.store(now, Ordering::Relaxed);
    next.run_state.run(now);
    cpu.schedule.chosen.set(Some(next));
    cpu.schedule.slice_end.store(now + TIME_SLICE, Ordering::Relaxed);
    Some(next)
}

fn charge(vcpu: &Vcpu, now: u64) {
    let since = vcpu.schedule.running_since.load(Ordering::Relaxed);
    let ran = now.saturating_sub(since);
    vcpu.schedule.running_since.store(now, Ordering::Relaxed);
    vcpu.schedule.virtual_time.fetch_add(scaled(ran, vcpu), Ordering::Relaxed);
}
