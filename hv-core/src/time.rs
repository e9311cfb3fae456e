//! Time: what guests read without asking, and timers.
//!
//! System time is nanoseconds since Weir started, derived from the TSC. A guest gets the scale in its
//! `vcpu_time_info` and computes the time itself; only arming a timer takes a hypercall. A vCPU has one entry in
//! a CPU's timer queue, at the earlier of its one-shot timer and the deadline of a poll, so arming cannot fail
//! and an idle guest costs nothing. It is the queue of the CPU that it ran on when it last armed a timer; only the
//! vCPU itself moves from one queue to another, so what fires on the one is woken to run on any.

use crate::lock::Mutex;
use crate::{
    arch::{self, clock},
    cpu::{Cpu, work},
    direct_map,
    domain::Domain,
    event_channel,
    frame::HeldWritableFrame,
    hypercall::{Arguments, Caller, HypercallResult},
    indexed_heap::{Indexed, IndexedHeap, NOWHERE},
    machine::machine,
    scheduler,
    vcpu::{SharedVcpuInfo, Vcpu, VcpuPointer, not_runnable},
};
use core::{
    mem::offset_of,
    sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering},
};
use hypercall_abi::{
    DomainId, Errno, MachineFrame,
    xen::{SharedInfo, VIRQ_TIMER, VcpuTimeInfo, XEN_PVCLOCK_TSC_STABLE_BIT},
};

/// A deadline that never comes.
pub const NEVER: u64 = u64::MAX;

/// A vCPU's timers; deadlines are system time in nanoseconds.
pub struct VcpuTimers {
    place: AtomicU32,
    /// The CPU whose queue its entry is in; changes under that queue's lock.
    home: AtomicU8,
    one_shot: AtomicU64,
    poll: AtomicU64,
}

impl VcpuTimers {
    /// No timer armed.
    pub const fn new() -> Self {
        Self {
            place: AtomicU32::new(NOWHERE),
            home: AtomicU8::new(0),
            one_shot: AtomicU64::new(NEVER),
            poll: AtomicU64::new(NEVER),
        }
    }

    fn earliest(&self) -> u64 {
        self.one_shot.load(Ordering::Relaxed).min(self.poll.load(Ordering::Relaxed))
    }
}

impl Default for VcpuTimers {
    fn default() -> Self {
        Self::new()
    }
}

#[derive(Clone, Copy)]
struct Sleeper(VcpuPointer);

impl Indexed for Sleeper {
    fn place(self, _heap: usize) -> u32 {
        self.0.get().timers.place.load(Ordering::Relaxed)
    }
    fn set_place(self, _heap: usize, place: u32) {
        self.0.get().timers.place.store(place, Ordering::Relaxed);
    }
}

/// A CPU's timer queue.
pub struct CpuTimers {
    queue: Mutex<IndexedHeap<Sleeper>>,
    /// What the hardware timer is set to.
    programmed: AtomicU64,
}

impl CpuTimers {
    /// An empty queue.
    pub const fn new() -> Self {
        Self { queue: Mutex::new(IndexedHeap::new()), programmed: AtomicU64::new(NEVER) }
    }

    /// Makes room for one more vCPU.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn reserve(&self) -> Result<(), Errno> {
        self.queue.lock().reserve()
    }

    /// Gives back the room of one vCPU.
    pub fn unreserve(&self) {
        self.queue.lock().unreserve();
    }

    fn remove(&self, vcpu: &Vcpu) {
        self.queue.lock().remove(Sleeper(VcpuPointer::new(vcpu)));
    }

    fn update(&self, vcpu: &Vcpu) {
        place(&mut self.queue.lock(), vcpu);
    }

    /// Fires what is due; returns the next deadline. All under the lock: a vCPU that is about to go for good is taken out
    /// under it first, so what is found here is there.
    fn fire_due(&self, now: u64) -> u64 {
        let mut queue = self.queue.lock();
        loop {
            let Some((deadline, Sleeper(pointer))) = queue.first() else { return NEVER };
            if deadline > now {
                return deadline;
            }
            fire(pointer.get(), now);
            place(&mut queue, pointer.get());
        }
    }
}

/// Puts a vCPU where its timers belong in its queue.
fn place(queue: &mut IndexedHeap<Sleeper>, vcpu: &Vcpu) {
    let sleeper = Sleeper(VcpuPointer::new(vcpu));
    match vcpu.timers.earliest() {
        NEVER => queue.remove(sleeper),
        deadline => queue.set(sleeper, deadline),
    }
}

fn home_of(vcpu: &Vcpu) -> &'static CpuTimers {
    &arch::cpu::by_number(vcpu.timers.home.load(Ordering::Relaxed)).timers
}

/// Forgets a vCPU that is off its CPU for good.
pub fn retire(vcpu: &Vcpu) {
    home_of(vcpu).remove(vcpu);
    arch::cpu::all().for_each(|cpu| cpu.timers.unreserve());
}

impl Default for CpuTimers {
    fn default() -> Self {
        Self::new()
    }
}

/// Arms or, with [`NEVER`], disarms the running vCPU's one-shot timer, which raises `VIRQ_TIMER`.
pub fn set_one_shot(vcpu: &Vcpu, deadline: u64) {
    vcpu.timers.one_shot.store(deadline, Ordering::Relaxed);
    update(vcpu);
}

/// Arms or disarms the deadline of the running vCPU's poll.
pub fn set_poll_deadline(vcpu: &Vcpu, deadline: u64) {
    if vcpu.timers.poll.swap(deadline, Ordering::Relaxed) != deadline {
        update(vcpu);
    }
}

fn update(vcpu: &Vcpu) {
    let cpu = arch::cpu::this_cpu();
    if u32::from(vcpu.timers.home.load(Ordering::Relaxed)) != cpu.id {
        move_here(vcpu, cpu);
    }
    cpu.timers.update(vcpu);
    cpu.request(work::TIMERS);
}

/// The vCPU has come to another CPU since it last armed a timer. Only it itself changes its home, so nobody can put it
/// back into the old queue after this.
#[cold]
fn move_here(vcpu: &Vcpu, cpu: &Cpu) {
    let old = home_of(vcpu);
    let mut queue = old.queue.lock();
    queue.remove(Sleeper(VcpuPointer::new(vcpu)));
    vcpu.timers.home.store(cpu.id as u8, Ordering::Relaxed);
}

/// Fires what is due on this CPU and sets the hardware timer to what comes next.
pub fn run_timers(cpu: &Cpu) {
    let now = clock::now();
    let deadline = cpu.timers.fire_due(now);
    let choice = cpu.schedule.next_choice();
    if now >= choice {
        cpu.request(work::RESCHEDULE);
    }
    let next = deadline.min(choice);
    if cpu.timers.programmed.swap(next, Ordering::Relaxed) != next || next <= now {
        clock::set_timer(next);
    }
}

/// The hardware timer went off: whatever it was set to, it is not any more.
pub fn timer_interrupt(cpu: &Cpu) {
    cpu.timers.programmed.store(NEVER, Ordering::Relaxed);
    cpu.request(work::TIMERS);
}

fn fire(vcpu: &Vcpu, now: u64) {
    if take_due(&vcpu.timers.one_shot, now) {
        event_channel::notify_virq(vcpu, VIRQ_TIMER);
    }
    if take_due(&vcpu.timers.poll, now) {
        event_channel::stop_polling(vcpu);
        scheduler::resume(vcpu, not_runnable::POLLING);
    }
}

/// Disarms a timer that is due, unless its vCPU, which may be running elsewhere, has just set it anew.
fn take_due(timer: &AtomicU64, now: u64) -> bool {
    let deadline = timer.load(Ordering::Relaxed);
    deadline <= now && timer.compare_exchange(deadline, NEVER, Ordering::Relaxed, Ordering::Relaxed).is_ok()
}

/// `HYPERVISOR_set_timer_op`: one absolute deadline in nanoseconds; zero disarms.
///
/// # Errors
/// None: a deadline in the past fires at once.
pub fn set_timer_op(caller: &mut Caller<'_>, arguments: &Arguments) -> HypercallResult {
    let deadline = if arguments[0] == 0 { NEVER } else { arguments[0] };
    set_one_shot(caller.vcpu, deadline);
    Ok(0)
}

/// Writes the scale of system time into a vCPU's shared page. The TSC never changes its rate, so once is enough.
pub fn publish_system_time(info: SharedVcpuInfo) {
    let scale = clock::scale();
    let base = info.time_address();
    let store32 = |offset: usize, value: u32| shared32(base + offset as u64).store(value, Ordering::Release);
    let version = shared32(base).load(Ordering::Relaxed) & !1;
    store32(offset_of!(VcpuTimeInfo, version), version.wrapping_add(1));
    shared64(base + offset_of!(VcpuTimeInfo, tsc_timestamp) as u64)
        .store(scale.tsc_at_zero, Ordering::Release);
    shared64(base + offset_of!(VcpuTimeInfo, system_time) as u64).store(0, Ordering::Release);
    store32(offset_of!(VcpuTimeInfo, tsc_to_system_mul), scale.multiplier);
    let shift_and_flags = u32::from(scale.shift as u8) | u32::from(XEN_PVCLOCK_TSC_STABLE_BIT) << 8;
    store32(offset_of!(VcpuTimeInfo, tsc_shift), shift_and_flags);
    store32(offset_of!(VcpuTimeInfo, version), version.wrapping_add(2));
}

/// Sets the wall clock, by its nanoseconds since 1970 at system time zero, and tells every domain.
pub fn set_wall_clock(at_zero: u64) {
    clock::set_wall_clock_at_zero(at_zero);
    let mut next = DomainId(0);
    while let Some(domain) = machine().domains.next_from(next) {
        // A domain that is being taken apart may have lost its page, to somebody else even.
        if let Ok(_held) = HeldWritableFrame::get(domain.shared_info, domain.id) {
            publish_wall_clock(&domain);
        }
        next = DomainId(domain.id.0 + 1);
    }
}

/// Writes the wall clock at system time zero into a domain's shared page.
pub fn publish_wall_clock(domain: &Domain) {
    let base = domain.shared_info.physical_address();
    let nanoseconds = clock::wall_clock_at_zero();
    let (seconds, rest) = (nanoseconds / 1_000_000_000, nanoseconds % 1_000_000_000);
    let version = shared32(base + offset_of!(SharedInfo, wc_version) as u64);
    let before = version.load(Ordering::Relaxed) & !1;
    version.store(before.wrapping_add(1), Ordering::Release);
    shared32(base + offset_of!(SharedInfo, wc_sec) as u64).store(seconds as u32, Ordering::Release);
    shared32(base + offset_of!(SharedInfo, wc_nsec) as u64).store(rest as u32, Ordering::Release);
    shared32(base + offset_of!(SharedInfo, wc_sec_hi) as u64)
        .store((seconds >> 32) as u32, Ordering::Release);
    version.store(before.wrapping_add(2), Ordering::Release);
}

fn shared32(address: u64) -> &'static AtomicU32 {
    direct_map::atomic::<u32>(MachineFrame(address >> 12), (address & 0xfff) as usize)
}

fn shared64(address: u64) -> &'static AtomicU64 {
    direct_map::atomic::<u64>(MachineFrame(address >> 12), (address & 0xfff) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        frame,
        test_support::{Guest, machine_of},
    };

    #[test]
    fn a_page_that_a_dying_domain_has_lost_gets_no_wall_clock() {
        let _machine = machine_of(256);
        let guest = Guest::new(1);
        let page = guest.domain().shared_info;
        let version = || shared32(page.physical_address() + offset_of!(SharedInfo, wc_version) as u64);
        version().store(0, Ordering::Relaxed);
        set_wall_clock(0);
        assert_ne!(version().load(Ordering::Relaxed), 0);
        frame::unshare(guest.domain(), page);
        version().store(0, Ordering::Relaxed);
        set_wall_clock(0);
        assert_eq!(version().load(Ordering::Relaxed), 0, "the frame is somebody else's by now");
    }
}
