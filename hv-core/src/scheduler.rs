//! Which vCPU runs, and where.
//!
//! Proportional share: each vCPU has a *virtual time* that advances as it runs, the slower the larger its weight,
//! and the runnable vCPU with the least virtual time is next. A vCPU that wakes from a wait is placed close
//! behind the queue's clock, so it runs soon, but cannot save up time by sleeping.
//!
//! There is one run queue for all CPUs (`queue`). So shares hold across CPUs without balancing, and no CPU idles while a
//! vCPU waits that may use it: who is first takes whichever CPU is free first, preferably the one it ran on last. A vCPU can
//! be bound to some CPUs, and have one to itself (`affinity`); a domain's use of all can be capped (`budget`).
//!
//! A vCPU waits in the run queue, or is on a CPU, or has a reason in [`Vcpu::paused`]; the run queue's lock orders the
//! three. Nothing here scans but over CPUs: every step is O(log n) in the number of *runnable* vCPUs.
//!
//! A vCPU that makes way for another may be chosen by a second CPU before the first has put its registers away.
//! Therefore [`Vcpu::on_cpu`] tells when the first is done, and the second waits for it ([`crate::arch`]).

mod affinity;
mod budget;
mod queue;
#[cfg(test)]
mod tests;

use crate::{
    arch::{self, clock},
    cpu::{Cpu, CpuSet, work},
    domain::Domain,
    indexed_heap::NOWHERE,
    lock::{Mutex, MutexGuard},
    machine::machine,
    time,
    vcpu::{SharedVcpuPointer, Vcpu, not_runnable},
};
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use hypercall_abi::{
    Errno,
    vcpu::{RUNSTATE_RUNNING, VcpuRunstateInfo},
};
use queue::{HEAPS, Queue};

pub use affinity::{Affinity, affinity_of, set_affinity};
pub use budget::Budget;

/// Time in which every vCPU that waits for a CPU has a turn there, in nanoseconds, if that does not make turns too short.
const PERIOD: u64 = 10_000_000;
/// How far behind the queue's clock a waking vCPU may start, in nanoseconds of virtual time.
const WAKE_CREDIT: u64 = 2_000_000;
/// A waking vCPU takes the CPU at once if it is this far behind the running one.
const PREEMPTION_MARGIN: u64 = 100_000;
/// The weight of a vCPU nobody has given another.
pub const DEFAULT_WEIGHT: u64 = 256;

/// What the scheduler keeps for a vCPU. It changes under the lock of the run queue.
pub struct VcpuSchedule {
    /// Its place in the common line of the run queue.
    place: AtomicU32,
    /// Its places in the other heaps of the run queue, by their numbers.
    places: [AtomicU32; HEAPS],
    /// It is in the run queue: in line, or apart.
    is_waiting: AtomicBool,
    virtual_time: AtomicU64,
    /// System time up to which its running has been charged.
    running_since: AtomicU64,
    /// What it drew from its domain's budget for this turn.
    drawn: AtomicU64,
    /// Its share of the CPU relative to others.
    weight: AtomicU32,
    /// How far its last turns may have brought it ahead of the others, in virtual time.
    head_start: AtomicU64,
    /// CPUs on which it may run; [`CpuSet::MAX`] for every CPU, also those that are not there.
    hard: AtomicU32,
    /// CPUs on which it should run if they idle.
    soft: AtomicU32,
}

impl VcpuSchedule {
    /// A vCPU that has not run.
    pub const fn new() -> Self {
        Self {
            place: AtomicU32::new(NOWHERE),
            places: [const { AtomicU32::new(NOWHERE) }; HEAPS],
            is_waiting: AtomicBool::new(false),
            virtual_time: AtomicU64::new(0),
            running_since: AtomicU64::new(0),
            drawn: AtomicU64::new(0),
            weight: AtomicU32::new(DEFAULT_WEIGHT as u32),
            head_start: AtomicU64::new(2 * PERIOD),
            hard: AtomicU32::new(CpuSet::MAX),
            soft: AtomicU32::new(CpuSet::MAX),
        }
    }

    /// Its share of the CPU relative to others.
    #[inline]
    pub fn weight(&self) -> u64 {
        self.weight.load(Ordering::Relaxed).into()
    }

    /// It may run on some CPUs only.
    #[inline]
    fn is_bound(&self) -> bool {
        self.hard.load(Ordering::Relaxed) != CpuSet::MAX
    }

    /// How far its last turns may have brought it ahead of the others, in virtual time.
    #[inline]
    fn head_start(&self) -> u64 {
        self.head_start.load(Ordering::Relaxed)
    }
}

impl Default for VcpuSchedule {
    fn default() -> Self {
        Self::new()
    }
}

/// All vCPUs that wait for a CPU.
pub struct RunQueue(Mutex<Queue>);

impl RunQueue {
    /// An empty run queue.
    pub const fn new() -> Self {
        Self(Mutex::new(Queue::new()))
    }
}

impl Default for RunQueue {
    fn default() -> Self {
        Self::new()
    }
}

#[inline]
fn run_queue() -> MutexGuard<'static, Queue> {
    machine().run_queue.0.lock()
}

/// What the scheduler keeps for a CPU. It changes under the lock of the run queue.
pub struct CpuSchedule {
    /// The vCPU it chose last; null when it found none. Whoever holds the lock of the run queue may follow it: no vCPU goes
    /// for good that is chosen.
    chosen: SharedVcpuPointer,
    /// System time at which the running vCPU must make way for others.
    turn_end: AtomicU64,
    /// System time at which the running vCPU has used up what its domain may.
    budget_end: AtomicU64,
    /// System time at which this CPU is to see to those that stand apart.
    next_return: AtomicU64,
}

impl CpuSchedule {
    /// A CPU that has chosen nothing.
    pub const fn new() -> Self {
        Self {
            chosen: SharedVcpuPointer::none(),
            turn_end: AtomicU64::new(u64::MAX),
            budget_end: AtomicU64::new(u64::MAX),
            next_return: AtomicU64::new(u64::MAX),
        }
    }

    /// When the CPU has to choose again, whatever happens: never, if nobody waits and nothing is capped.
    #[inline]
    pub fn next_choice(&self) -> u64 {
        let vcpu = self.turn_end.load(Ordering::Relaxed).min(self.budget_end.load(Ordering::Relaxed));
        vcpu.min(self.next_return.load(Ordering::Relaxed))
    }

    /// The CPU has put somebody apart, who is to come back then.
    fn must_look_by(&self, time: u64) {
        self.next_return.fetch_min(time, Ordering::Relaxed);
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
    run_queue().reserve()?;
    for cpu in arch::cpu::all() {
        if let Err(errno) = cpu.timers.reserve() {
            arch::cpu::all().take_while(|other| other.id != cpu.id).for_each(|cpu| cpu.timers.unreserve());
            run_queue().unreserve();
            return Err(errno);
        }
    }
    Ok(())
}

/// Takes a vCPU out of every queue for good, and lets others have the CPU that it had to itself. It must have a reason in
/// `paused` that nobody will clear, and be off its CPU.
pub fn retire(vcpu: &Vcpu) {
    let mut queue = run_queue();
    if vcpu.schedule.is_waiting.load(Ordering::Relaxed) {
        queue.leave(vcpu);
    }
    affinity::release(&mut queue, vcpu);
    queue.unreserve();
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
    let mut queue = run_queue();
    let is_waiting = vcpu.schedule.is_waiting.load(Ordering::Relaxed);
    if vcpu.running.load(Ordering::Relaxed) || is_waiting || vcpu.paused.load(Ordering::Acquire) != 0 {
        return;
    }
    let now = clock::now();
    vcpu.run_state.queue(now);
    queue.enter(vcpu, WAKE_CREDIT);
    find_cpu(&mut queue, vcpu, now);
}

/// Has a CPU take a vCPU that has just come into line; if none should at once, sees to it that turns end.
fn find_cpu(queue: &mut Queue, vcpu: &Vcpu, now: u64) {
    match idle_cpu(queue, vcpu).or_else(|| preempted_cpu(queue, vcpu, now)) {
        Some(cpu) => request(cpu, work::RESCHEDULE),
        None => end_turns(queue, vcpu),
    }
}

/// Has a CPU do something before it goes on with its guest.
fn request(cpu: &Cpu, work: u32) {
    cpu.request(work);
    arch::cpu::kick(cpu);
}

/// An idle CPU for the vCPU, if there is one: best the one it ran on last, if it should run there. It counts as idle no
/// more.
fn idle_cpu(queue: &mut Queue, vcpu: &Vcpu) -> Option<&'static Cpu> {
    if queue.idle == 0 {
        return None;
    }
    let possible = queue.idle & queue.allowed(vcpu);
    let liked = possible & vcpu.schedule.soft.load(Ordering::Relaxed);
    let last = 1 << vcpu.processor.load(Ordering::Relaxed);
    let best = [liked & last, liked, possible & last, possible].into_iter().find(|cpus| *cpus != 0)?;
    let number = best.trailing_zeros();
    queue.idle &= !(1 << number);
    Some(arch::cpu::by_number(number as u8))
}

/// The CPU whose vCPU has had most, if this one should not wait for the end of its turn.
fn preempted_cpu(queue: &Queue, vcpu: &Vcpu, now: u64) -> Option<&'static Cpu> {
    let allowed = queue.allowed(vcpu);
    let lead = |cpu: &'static Cpu| Some((lead_on(queue, cpu, vcpu, now)?, cpu));
    let cpus = arch::cpu::all().filter(|cpu| cpu.bit() & allowed != 0);
    let (most, cpu) = cpus.filter_map(lead).max_by_key(|(lead, _)| *lead)?;
    (most > PREEMPTION_MARGIN as i64).then_some(cpu)
}

/// By how much the virtual time of the vCPU that a CPU has chosen is, up to now, ahead of another's.
fn lead_on(queue: &Queue, cpu: &Cpu, other: &Vcpu, now: u64) -> Option<i64> {
    let pointer = cpu.schedule.chosen.get()?;
    let running = pointer.get();
    let since = running.schedule.running_since.load(Ordering::Relaxed);
    let ran = scaled(now.saturating_sub(since), running);
    Some(queue.time_of(running, cpu) + ran as i64 - queue.time_of(other, cpu))
}

/// A vCPU waits: on the CPUs that it may use nobody's turn is endless any more.
fn end_turns(queue: &mut Queue, vcpu: &Vcpu) {
    let untold = queue.endless & queue.allowed(vcpu);
    if untold == 0 {
        return;
    }
    queue.endless &= !untold;
    for cpu in arch::cpu::all().filter(|cpu| cpu.bit() & untold != 0) {
        if let Some(running) = cpu.schedule.chosen.get() {
            let running = running.get();
            let since = running.schedule.running_since.load(Ordering::Relaxed);
            cpu.schedule.turn_end.store(since + queue.turn(cpu, running), Ordering::Relaxed);
            request(cpu, work::TIMERS);
        }
    }
}

/// Makes the CPU that runs the vCPU look at it anew before it goes on with it. One that does not run is looked at when
/// it gets a CPU.
pub fn reconsider(vcpu: &Vcpu) {
    let _queue = run_queue();
    if vcpu.running.load(Ordering::Relaxed) {
        request(processor_of(vcpu), work::RESCHEDULE);
    }
}

/// How a vCPU spends its life, seen at one moment: it may be changing on another CPU.
pub fn run_state_of(vcpu: &Vcpu) -> VcpuRunstateInfo {
    let _queue = run_queue();
    vcpu.run_state.snapshot()
}

/// Nanoseconds that a vCPU has run, up to now.
pub fn running_time_of(vcpu: &Vcpu) -> u64 {
    run_state_of(vcpu).time[RUNSTATE_RUNNING as usize]
}

/// Nanoseconds as the vCPU's virtual time counts them.
#[inline]
fn scaled(nanoseconds: u64, vcpu: &Vcpu) -> u64 {
    match vcpu.schedule.weight() {
        DEFAULT_WEIGHT => nanoseconds,
        weight => nanoseconds.saturating_mul(DEFAULT_WEIGHT) / weight,
    }
}

/// Sets the share that each of a domain's vCPUs has relative to others; at least 1.
pub fn set_weight(domain: &Domain, weight: u32) {
    for vcpu in domain.vcpus() {
        change(vcpu, |_| {
            vcpu.schedule.weight.store(weight.max(1), Ordering::Relaxed);
            vcpu.schedule.head_start.store(scaled(2 * PERIOD, vcpu), Ordering::Relaxed);
        });
    }
}

/// Caps what a domain's vCPUs together may use, in per cent of one CPU; zero for no cap.
pub fn set_cap(domain: &Domain, cap: u32) {
    {
        let _queue = run_queue();
        domain.budget.set(cap, clock::now());
    }
    domain.vcpus().for_each(|vcpu| change(vcpu, |_| ()));
}

/// Changes by what a vCPU's place in the run queue, or its right to a CPU, is found; and finds it anew.
fn change(vcpu: &Vcpu, change: impl FnOnce(&mut Queue)) {
    let mut queue = run_queue();
    let is_waiting = vcpu.schedule.is_waiting.load(Ordering::Relaxed);
    if is_waiting {
        queue.leave(vcpu);
    }
    change(&mut queue);
    if is_waiting {
        queue.enter(vcpu, WAKE_CREDIT);
        find_cpu(&mut queue, vcpu, clock::now());
    } else if vcpu.running.load(Ordering::Relaxed) {
        request(processor_of(vcpu), work::RESCHEDULE);
    }
}

/// Adds `reason` to what keeps the vCPU from running. If it runs it leaves its CPU at the next opportunity.
pub fn suspend(vcpu: &Vcpu, reason: u32) {
    vcpu.paused.fetch_or(reason, Ordering::SeqCst);
    let mut queue = run_queue();
    if vcpu.running.load(Ordering::Relaxed) {
        request(processor_of(vcpu), work::RESCHEDULE);
    } else if vcpu.schedule.is_waiting.load(Ordering::Relaxed) {
        queue.leave(vcpu);
        vcpu.run_state.stop(vcpu.paused.load(Ordering::Relaxed), clock::now());
    }
}

/// Lets others run before the caller, if any are waiting (`SCHEDOP_yield`).
pub fn yield_now(vcpu: &Vcpu) {
    let cpu = arch::cpu::this_cpu();
    if cpu.schedule.turn_end.load(Ordering::Relaxed) == u64::MAX {
        return;
    }
    run_queue().let_pass(vcpu, cpu);
    cpu.request(work::RESCHEDULE);
}

/// Chooses who runs on this CPU from now on, charging whoever ran until now. `None` means nobody can.
///
/// The chosen vCPU may still be [on another CPU](Vcpu::on_cpu) that is just leaving it.
pub fn choose(cpu: &Cpu) -> Option<&'static Vcpu> {
    let now = clock::now();
    let mut queue = run_queue();
    if cpu.schedule.next_return.load(Ordering::Relaxed) <= now {
        take_back(&mut queue, cpu, now);
    }
    let previous = cpu.current();
    if let Some(previous) = previous {
        put_back(&mut queue, previous, now);
    }
    let next = queue.take(cpu, now);
    cpu.schedule.chosen.set(next);
    match next {
        Some(next) => begin_turn(&mut queue, cpu, next, now),
        None => be_idle(&mut queue, cpu),
    }
    if queue.idle != 0 && queue.has_any() {
        employ_idle(&mut queue);
    }
    if let Some(left) = previous.filter(|vcpu| vcpu.schedule.is_waiting.load(Ordering::Relaxed)) {
        end_turns(&mut queue, left);
    }
    next
}

/// Whoever makes way may use a CPU that idles; and who was to get a CPU that idled may have found another there, which is
/// bound to it. One such CPU is told; when it has chosen, it sees to the next.
#[cold]
fn employ_idle(queue: &mut Queue) {
    let wanted = |cpu: &&'static Cpu| queue.idle & cpu.bit() != 0 && queue.is_wanted(cpu);
    if let Some(cpu) = arch::cpu::all().find(wanted) {
        queue.idle &= !cpu.bit();
        request(cpu, work::RESCHEDULE);
    }
}

/// Lets those go into line whose domains may use CPUs again.
#[cold]
fn take_back(queue: &mut Queue, cpu: &Cpu, now: u64) {
    while let Some(vcpu) = queue.next_back(now) {
        find_cpu(queue, vcpu, now);
    }
    cpu.schedule.next_return.store(queue.next_return(), Ordering::Relaxed);
}

/// A vCPU's turn is over.
fn put_back(queue: &mut Queue, vcpu: &Vcpu, now: u64) {
    charge(vcpu, now);
    vcpu.running.store(false, Ordering::Relaxed);
    let paused = vcpu.paused.load(Ordering::Acquire);
    if paused != 0 {
        vcpu.run_state.stop(paused, now);
    } else {
        vcpu.run_state.queue(now);
        queue.enter(vcpu, u64::MAX);
    }
}

fn begin_turn(queue: &mut Queue, cpu: &Cpu, vcpu: &Vcpu, now: u64) {
    queue.idle &= !cpu.bit();
    let turn_end = if queue.is_wanted(cpu) {
        queue.endless &= !cpu.bit();
        now + queue.turn(cpu, vcpu)
    } else {
        queue.endless |= cpu.bit();
        u64::MAX
    };
    cpu.schedule.turn_end.store(turn_end, Ordering::Relaxed);
    let budget_end = now.saturating_add(vcpu.schedule.drawn.load(Ordering::Relaxed));
    cpu.schedule.budget_end.store(budget_end, Ordering::Relaxed);
    vcpu.running.store(true, Ordering::Relaxed);
    vcpu.processor.store(cpu.id as u8, Ordering::Relaxed);
    vcpu.schedule.running_since.store(now, Ordering::Relaxed);
    vcpu.run_state.run(now);
}

fn be_idle(queue: &mut Queue, cpu: &Cpu) {
    queue.idle |= cpu.bit();
    queue.endless &= !cpu.bit();
    cpu.schedule.turn_end.store(u64::MAX, Ordering::Relaxed);
    cpu.schedule.budget_end.store(u64::MAX, Ordering::Relaxed);
}

fn charge(vcpu: &Vcpu, now: u64) {
    let since = vcpu.schedule.running_since.load(Ordering::Relaxed);
    let ran = now.saturating_sub(since);
    vcpu.schedule.running_since.store(now, Ordering::Relaxed);
    vcpu.schedule.virtual_time.fetch_add(scaled(ran, vcpu), Ordering::Relaxed);
    let drawn = vcpu.schedule.drawn.load(Ordering::Relaxed);
    if drawn != u64::MAX {
        vcpu.domain().budget.settle(drawn, ran);
    }
}
