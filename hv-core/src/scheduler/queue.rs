//! The vCPUs that wait for a CPU, and who of them is next on which.
//!
//! There is a line of those that may run on every CPU, and for each CPU a line of those that may run on some only; such a
//! vCPU stands in the line of each. A CPU takes whoever has had less of the first in the common line and the first in
//! its own. Those whose domain has used up its cap stand apart, by the time when that is over.
//!
//! Lines move on at different speeds: who is alone on a CPU gets ahead of those who share another. So each line has a
//! clock of its own, and newcomers start near the clock of their line. Between its own line and the common one a CPU
//! compares virtual times by a difference that follows when one of the two falls far behind ([`Queue::align`]): what
//! somebody could not have, or had while nobody else wanted it, is forgotten.

use super::{PERIOD, VcpuSchedule, WAKE_CREDIT, budget::Draw};
use crate::{
    arch,
    cpu::{Cpu, CpuSet, MOST_CPUS},
    indexed_heap::{Indexed, IndexedHeap},
    vcpu::{Vcpu, VcpuPointer},
};
use core::sync::atomic::Ordering;
use hypercall_abi::Errno;

/// The heap of those that stand apart; those below are the CPUs' own lines.
const APART: usize = MOST_CPUS;
/// Heaps in which a vCPU that may run on some CPUs only may have a place.
pub(super) const HEAPS: usize = MOST_CPUS + 1;
/// The shortest turn of a vCPU while others wait, in nanoseconds.
const SHORTEST_TURN: u64 = 500_000;

/// A vCPU as a heap sees it.
trait Waiting: Indexed {
    fn new(vcpu: &Vcpu) -> Self;
    fn vcpu(self) -> &'static Vcpu;
}

/// One in the common line.
#[derive(Clone, Copy)]
struct Free(VcpuPointer);

/// One in the heap of this number.
#[derive(Clone, Copy)]
struct Bound(VcpuPointer);

impl Indexed for Free {
    #[inline]
    fn place(self, _heap: usize) -> u32 {
        self.0.get().schedule.place.load(Ordering::Relaxed)
    }
    #[inline]
    fn set_place(self, _heap: usize, place: u32) {
        self.0.get().schedule.place.store(place, Ordering::Relaxed);
    }
}

impl Indexed for Bound {
    fn place(self, heap: usize) -> u32 {
        self.0.get().schedule.places[heap].load(Ordering::Relaxed)
    }
    fn set_place(self, heap: usize, place: u32) {
        self.0.get().schedule.places[heap].store(place, Ordering::Relaxed);
    }
}

impl Waiting for Free {
    #[inline]
    fn new(vcpu: &Vcpu) -> Self {
        Self(VcpuPointer::new(vcpu))
    }
    #[inline]
    fn vcpu(self) -> &'static Vcpu {
        self.0.get()
    }
}

impl Waiting for Bound {
    fn new(vcpu: &Vcpu) -> Self {
        Self(VcpuPointer::new(vcpu))
    }
    fn vcpu(self) -> &'static Vcpu {
        self.0.get()
    }
}

impl VcpuSchedule {
    /// It stands apart, because its domain has used up its cap.
    #[inline]
    pub(super) fn is_apart(&self) -> bool {
        self.places[APART].load(Ordering::Relaxed) != crate::indexed_heap::NOWHERE
    }
}

/// vCPUs in the order in which they will run.
struct Line<E> {
    heap: IndexedHeap<E>,
    /// The sum of their weights.
    weight: u64,
    /// Virtual time of the one that left it last in order to run.
    clock: u64,
    /// By how much its virtual times are ahead of those in the common line.
    ahead: i64,
}

impl<E: Waiting> Line<E> {
    const fn numbered(number: usize) -> Self {
        Self { heap: IndexedHeap::numbered(number), weight: 0, clock: 0, ahead: 0 }
    }

    #[inline]
    fn enter(&mut self, vcpu: &Vcpu, time: u64) {
        self.weight += vcpu.schedule.weight();
        self.heap.set(E::new(vcpu), time);
    }

    #[inline]
    fn leave(&mut self, vcpu: &Vcpu) {
        self.weight -= vcpu.schedule.weight();
        self.heap.remove(E::new(vcpu));
    }

    /// The first, and its virtual time as the common line counts.
    #[inline]
    fn first(&self) -> Option<(i64, &'static Vcpu)> {
        let (time, first) = self.heap.first()?;
        Some((time as i64 - self.ahead, first.vcpu()))
    }

    /// A vCPU leaves the line in order to run. One that is far behind the next is moved up: there are more CPUs than it
    /// could use its share of.
    #[inline]
    fn advance(&mut self, vcpu: &Vcpu) {
        let mut time = vcpu.schedule.virtual_time.load(Ordering::Relaxed);
        if let Some((next, waiting)) = self.heap.first() {
            time = time.max(next.saturating_sub(waiting.vcpu().schedule.head_start()));
            vcpu.schedule.virtual_time.store(time, Ordering::Relaxed);
        }
        self.clock = self.clock.max(time);
    }
}

/// The virtual time with which a vCPU comes into a line.
#[inline]
fn start_time(vcpu: &Vcpu, clock: u64, credit: u64) -> u64 {
    let had = vcpu.schedule.virtual_time.load(Ordering::Relaxed);
    let time = had.max(clock.saturating_sub(credit)).min(clock.saturating_add(vcpu.schedule.head_start()));
    vcpu.schedule.virtual_time.store(time, Ordering::Relaxed);
    time
}

/// All vCPUs that wait.
pub(super) struct Queue {
    common: Line<Free>,
    /// By CPU.
    own: [Line<Bound>; MOST_CPUS],
    apart: IndexedHeap<Bound>,
    /// CPUs that have found nothing to run and have not been told of anything since.
    pub(super) idle: CpuSet,
    /// CPUs whose vCPU's turn has no end, because nobody waited when it began.
    pub(super) endless: CpuSet,
    /// CPUs that only a vCPU of their own may use.
    dedicated: CpuSet,
    /// CPUs for which there is more to look at than the common line: those that are dedicated, or in whose own line
    /// somebody waits.
    special: CpuSet,
    /// How many vCPUs may run on some CPUs only, by CPU.
    pub(super) pinned: [u32; MOST_CPUS],
}

impl Queue {
    pub(super) const fn new() -> Self {
        let mut own = [const { Line::numbered(0) }; MOST_CPUS];
        let mut number = 0;
        while number < own.len() {
            own[number].heap.set_number(number);
            number += 1;
        }
        Self {
            common: Line::numbered(0),
            own,
            apart: IndexedHeap::numbered(APART),
            idle: 0,
            endless: 0,
            dedicated: 0,
            special: 0,
            pinned: [0; MOST_CPUS],
        }
    }

    /// Makes room for one more vCPU.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(super) fn reserve(&mut self) -> Result<(), Errno> {
        self.common.heap.reserve()?;
        let mut done = 0;
        let result = self.bound_heaps().try_for_each(|heap| {
            heap.reserve()?;
            done += 1;
            Ok(())
        });
        if result.is_err() {
            self.common.heap.unreserve();
            self.bound_heaps().take(done).for_each(IndexedHeap::unreserve);
        }
        result
    }

    /// Gives back the room of one vCPU.
    pub(super) fn unreserve(&mut self) {
        self.common.heap.unreserve();
        self.bound_heaps().for_each(IndexedHeap::unreserve);
    }

    fn bound_heaps(&mut self) -> impl Iterator<Item = &mut IndexedHeap<Bound>> {
        let cpus = arch::cpu::all().count();
        self.own.iter_mut().take(cpus).map(|line| &mut line.heap).chain([&mut self.apart])
    }

    /// CPUs that the vCPU may run on; the set may have CPUs that are not there.
    #[inline]
    pub(super) fn allowed(&self, vcpu: &Vcpu) -> CpuSet {
        match vcpu.schedule.hard.load(Ordering::Relaxed) {
            CpuSet::MAX => !self.dedicated,
            some => some,
        }
    }

    /// Puts a vCPU into its lines. It starts near their clocks: no further back than what a wait is worth, and not further
    /// on than by its own turns.
    #[inline]
    pub(super) fn enter(&mut self, vcpu: &Vcpu, credit: u64) {
        vcpu.schedule.is_waiting.store(true, Ordering::Relaxed);
        if vcpu.schedule.is_bound() {
            return self.enter_own(vcpu, credit);
        }
        let time = start_time(vcpu, self.common.clock, credit);
        self.common.enter(vcpu, time);
    }

    #[cold]
    fn enter_own(&mut self, vcpu: &Vcpu, credit: u64) {
        let clock = lines_of(vcpu).map(|line| self.own[line].clock).max().unwrap_or(0);
        let time = start_time(vcpu, clock, credit);
        for line in lines_of(vcpu) {
            self.own[line].enter(vcpu, time);
            self.special |= 1 << line;
        }
    }

    #[cold]
    fn leave_own(&mut self, vcpu: &Vcpu) {
        for line in lines_of(vcpu) {
            self.own[line].leave(vcpu);
            if self.own[line].heap.is_empty() {
                self.special &= self.dedicated | !(1 << line);
            }
        }
    }

    /// CPUs that only a vCPU of their own may use.
    pub(super) fn dedicated(&self) -> CpuSet {
        self.dedicated
    }

    /// From now on a CPU is, or is not, for a vCPU of its own only. Nobody waits in its own line.
    pub(super) fn dedicate(&mut self, cpu: &Cpu, is_dedicated: bool) {
        let bit = |set: CpuSet| if is_dedicated { set | cpu.bit() } else { set & !cpu.bit() };
        (self.dedicated, self.special) = (bit(self.dedicated), bit(self.special));
    }

    /// Takes a vCPU out, wherever it is.
    #[inline]
    pub(super) fn leave(&mut self, vcpu: &Vcpu) {
        vcpu.schedule.is_waiting.store(false, Ordering::Relaxed);
        if vcpu.schedule.is_apart() {
            self.apart.remove(Bound::new(vcpu));
        } else {
            self.leave_line(vcpu);
        }
    }

    #[inline]
    fn leave_line(&mut self, vcpu: &Vcpu) {
        if vcpu.schedule.is_bound() {
            self.leave_own(vcpu);
        } else {
            self.common.leave(vcpu);
        }
    }

    /// Puts a vCPU apart until its domain may use CPUs again.
    #[cold]
    fn set_apart(&mut self, vcpu: &Vcpu, until: u64) {
        self.apart.set(Bound::new(vcpu), until);
    }

    /// Somebody of those apart whose time has come goes into line.
    pub(super) fn next_back(&mut self, now: u64) -> Option<&'static Vcpu> {
        let (until, waiting) = self.apart.first()?;
        if until > now {
            return None;
        }
        let vcpu = waiting.vcpu();
        self.leave(vcpu);
        self.enter(vcpu, WAKE_CREDIT);
        Some(vcpu)
    }

    /// When the first of those apart comes back.
    pub(super) fn next_return(&self) -> u64 {
        self.apart.first().map_or(u64::MAX, |(until, _)| until)
    }

    #[inline]
    fn own(&self, cpu: &Cpu) -> &Line<Bound> {
        &self.own[cpu.id as usize]
    }

    /// The common line, if a CPU serves it.
    #[inline]
    fn common(&self, cpu: &Cpu) -> Option<&Line<Free>> {
        if self.dedicated & cpu.bit() == 0 { Some(&self.common) } else { None }
    }

    /// See [`Self::special`].
    #[inline]
    fn is_special(&self, cpu: &Cpu) -> bool {
        self.special & cpu.bit() != 0
    }

    /// Who is next on a CPU, with its virtual time as the common line counts.
    #[inline]
    fn next(&self, cpu: &Cpu) -> Option<(i64, &'static Vcpu)> {
        if self.is_special(cpu) { self.next_of_two(cpu) } else { self.common.first() }
    }

    #[cold]
    fn next_of_two(&self, cpu: &Cpu) -> Option<(i64, &'static Vcpu)> {
        let firsts = [self.own(cpu).first(), self.common(cpu).and_then(Line::first)];
        firsts.into_iter().flatten().min_by_key(|(time, _)| *time)
    }

    /// True when somebody is in line, or may be.
    #[inline]
    pub(super) fn has_any(&self) -> bool {
        !self.common.heap.is_empty() || self.special != 0
    }

    /// True when somebody waits who could run on a CPU.
    #[inline]
    pub(super) fn is_wanted(&self, cpu: &Cpu) -> bool {
        if self.is_special(cpu) { self.next_of_two(cpu).is_some() } else { !self.common.heap.is_empty() }
    }

    /// A vCPU's virtual time on a CPU, as the common line counts.
    #[inline]
    pub(super) fn time_of(&self, vcpu: &Vcpu, cpu: &Cpu) -> i64 {
        vcpu.schedule.virtual_time.load(Ordering::Relaxed) as i64 - self.ahead_of(vcpu, cpu)
    }

    #[inline]
    fn ahead_of(&self, vcpu: &Vcpu, cpu: &Cpu) -> i64 {
        if vcpu.schedule.is_bound() { self.own(cpu).ahead } else { 0 }
    }

    /// Puts a vCPU that runs on a CPU behind the first that waits for it.
    pub(super) fn let_pass(&self, vcpu: &Vcpu, cpu: &Cpu) {
        if let Some((time, _)) = self.next(cpu) {
            let time = (time + 1 + self.ahead_of(vcpu, cpu)).max(0) as u64;
            vcpu.schedule.virtual_time.fetch_max(time, Ordering::Relaxed);
        }
    }

    /// Takes out who is next on a CPU, and lets its domain pay for the turn; those that cannot pay stand apart from now on.
    #[inline]
    pub(super) fn take(&mut self, cpu: &Cpu, now: u64) -> Option<&'static Vcpu> {
        loop {
            if self.is_special(cpu) {
                self.align(cpu);
            }
            let (_, vcpu) = self.next(cpu)?;
            self.leave_line(vcpu);
            match vcpu.domain().budget.draw(now) {
                Draw::NotBefore(until) => {
                    self.set_apart(vcpu, until);
                    cpu.schedule.must_look_by(until);
                }
                Draw::Time(turn) => {
                    vcpu.schedule.is_waiting.store(false, Ordering::Relaxed);
                    vcpu.schedule.drawn.store(turn, Ordering::Relaxed);
                    self.advance(cpu, vcpu);
                    return Some(vcpu);
                }
            }
        }
    }

    /// See [`Line::advance`].
    #[inline]
    fn advance(&mut self, cpu: &Cpu, vcpu: &Vcpu) {
        if vcpu.schedule.is_bound() {
            self.own[cpu.id as usize].advance(vcpu);
        } else {
            self.common.advance(vcpu);
        }
    }

    /// Brings a CPU's own line near the common one, if the first of one is further behind the first of the other than that
    /// one's turns explain.
    #[cold]
    fn align(&mut self, cpu: &Cpu) {
        let firsts = (self.own(cpu).first(), self.common(cpu).and_then(Line::first));
        let (Some((own, of_own)), Some((common, of_common))) = firsts else { return };
        let lowest = common - of_common.schedule.head_start() as i64;
        let nearest = own.clamp(lowest, common + of_own.schedule.head_start() as i64);
        self.own[cpu.id as usize].ahead += own - nearest;
    }

    /// How long a vCPU's turn on a CPU is while others wait for it: in each period everybody has one, in proportion to
    /// the weights.
    #[inline]
    pub(super) fn turn(&self, cpu: &Cpu, vcpu: &Vcpu) -> u64 {
        let others = if self.is_special(cpu) {
            self.common(cpu).map_or(0, |line| line.weight) + self.own(cpu).weight
        } else {
            self.common.weight
        };
        let weight = vcpu.schedule.weight();
        (PERIOD * weight / (weight + others)).max(SHORTEST_TURN)
    }
}

/// The CPUs in whose own lines a vCPU waits.
fn lines_of(vcpu: &Vcpu) -> impl Iterator<Item = usize> + use<> {
    let mut left = vcpu.schedule.hard.load(Ordering::Relaxed);
    core::iter::from_fn(move || {
        let line = left.trailing_zeros() as usize;
        left &= left.wrapping_sub(1);
        (line < MOST_CPUS).then_some(line)
    })
}
