//! The scheduler itself, on as many CPUs as a test says, in virtual time: CPUs do what they do on their way out of the
//! hypervisor, and guests do nothing but run.

use super::*;
use crate::{
    arch::cpu::{all, go_to, start},
    domain::DomainRef,
    machine::TestMachine,
    test_support::{domain_with, machine_of, vcpu},
};
use proptest::prelude::*;
use std::vec::Vec;

const MILLISECOND: u64 = 1_000_000;
const SECOND: u64 = 1_000 * MILLISECOND;

/// A machine whose guests run.
struct Simulation {
    domains: Vec<DomainRef>,
    _machine: TestMachine,
}

impl Simulation {
    /// A machine of so many CPUs without guests.
    fn of(cpus: u32) -> Self {
        start(cpus);
        clock::set(1);
        all().for_each(|cpu| {
            go_to(cpu);
            clock::set_timer(u64::MAX);
        });
        let machine = machine_of(1024);
        all().for_each(|cpu| cpu.request(work::RESCHEDULE));
        let simulation = Self { _machine: machine, domains: Vec::new() };
        simulation.settle();
        simulation
    }

    /// Adds a domain with so many vCPUs, which want to run for ever; returns its number here.
    fn add(&mut self, vcpus: u32) -> usize {
        let domain = domain_with(self.domains.len() as u16 + 1, vcpus, u32::MAX);
        domain.vcpus().for_each(|vcpu| resume(vcpu, not_runnable::KEPT_OFF));
        self.domains.push(domain);
        self.settle();
        self.domains.len() - 1
    }

    fn vcpu(&self, domain: usize, number: u32) -> &Vcpu {
        vcpu(&self.domains[domain], number)
    }

    /// Binds all vCPUs of a domain.
    fn pin(&self, domain: usize, hard: CpuSet) {
        for vcpu in self.domains[domain].vcpus() {
            set_affinity(vcpu, Affinity { hard, soft: CpuSet::MAX, is_dedicated: false }).expect("CPUs");
        }
        self.settle();
    }

    /// Has every CPU do its work until none is left.
    fn settle(&self) {
        while let Some(cpu) = all().find(|cpu| cpu.work.load(Ordering::Relaxed) != 0) {
            go_to(cpu);
            if cpu.work.swap(0, Ordering::Relaxed) & work::RESCHEDULE != 0 {
                cpu.set_current(choose(cpu));
            }
            time::run_timers(cpu);
        }
    }

    /// Lets guests run until this time.
    fn run_until(&self, end: u64) {
        loop {
            let next = all().map(clock::timer).min().unwrap_or(u64::MAX).max(clock::now());
            clock::set(next.min(end));
            if next > end {
                return;
            }
            for cpu in all().filter(|cpu| clock::timer(cpu) <= next) {
                go_to(cpu);
                clock::set_timer(u64::MAX);
                time::timer_interrupt(cpu);
            }
            self.settle();
        }
    }

    fn run(&self, time: u64) {
        self.run_until(clock::now() + time);
    }

    fn times(&self) -> Vec<u64> {
        let of = |domain: &DomainRef| domain.vcpus().map(running_time_of).sum();
        self.domains.iter().map(of).collect()
    }

    /// How long each domain runs in the next second, in thousandths.
    fn shares(&self) -> Vec<u64> {
        let before = self.times();
        self.run(SECOND);
        self.times().iter().zip(before).map(|(after, before)| (after - before) / MILLISECOND).collect()
    }

    /// Makes sure of each domain's part of the next second, in thousandths, within two per cent of it.
    #[track_caller]
    fn expect(&self, expected: &[u64]) {
        self.run(100 * MILLISECOND);
        let shares = self.shares();
        let fits = |(share, expected): (&u64, &u64)| share.abs_diff(*expected) * 50 <= *expected;
        assert!(shares.iter().zip(expected).all(fits), "{shares:?} and not {expected:?}");
    }
}

/// A machine of so many CPUs with a domain of one vCPU for each weight.
fn weighted(cpus: u32, weights: &[u32]) -> Simulation {
    let mut simulation = Simulation::of(cpus);
    for weight in weights {
        let domain = simulation.add(1);
        set_weight(&simulation.domains[domain], *weight);
    }
    simulation
}

#[test]
fn one_cpu_is_shared_by_weight() {
    weighted(1, &[256, 256]).expect(&[500, 500]);
    weighted(1, &[256, 512, 1024]).expect(&[143, 286, 571]);
    weighted(1, &[100, 1000]).expect(&[91, 909]);
}

#[test]
fn two_cpus_are_shared_by_weight() {
    weighted(2, &[256, 256, 256]).expect(&[667, 667, 667]);
    weighted(2, &[256, 512, 512, 768]).expect(&[250, 500, 500, 750]);
}

#[test]
fn nobody_gets_more_than_a_cpu_and_the_others_share_what_is_left() {
    weighted(2, &[10_000, 256, 512]).expect(&[1000, 333, 667]);
}

#[test]
fn a_weight_counts_from_when_it_is_changed() {
    let simulation = weighted(2, &[60_000, 256, 256]);
    simulation.run(20 * SECOND);
    set_weight(&simulation.domains[0], 256);
    simulation.expect(&[667, 667, 667]);
}

#[test]
fn who_ran_alone_owes_nothing() {
    let mut simulation = weighted(1, &[256]);
    simulation.run(60 * SECOND);
    simulation.add(1);
    simulation.add(1);
    simulation.expect(&[333, 333, 333]);
}

#[test]
fn pinned_vcpus_share_their_cpu_and_no_other() {
    let simulation = weighted(2, &[256, 512, 256]);
    simulation.pin(0, 1);
    simulation.pin(1, 1);
    simulation.pin(2, 2);
    simulation.expect(&[333, 667, 1000]);
}

#[test]
fn a_vcpu_that_may_run_everywhere_gets_its_part_of_the_cpu_with_more_room() {
    let mut simulation = weighted(2, &[256, 256, 256, 256]);
    (0..3).for_each(|domain| simulation.pin(domain, 1));
    simulation.pin(3, 2);
    simulation.run(10 * SECOND);
    simulation.add(1);
    simulation.expect(&[333, 333, 333, 500, 500]);
}

#[test]
fn a_pin_that_makes_no_difference_makes_none() {
    let simulation = weighted(2, &[256, 256, 256]);
    simulation.pin(0, 1);
    simulation.expect(&[667, 667, 667]);
}

#[test]
fn a_vcpu_that_is_moved_to_others_is_one_of_them_at_once() {
    let simulation = weighted(2, &[256, 256, 256, 256]);
    (0..3).for_each(|domain| simulation.pin(domain, 1));
    simulation.pin(3, 2);
    simulation.run(20 * SECOND);
    // Alone it got ahead of the others, which is nobody's business now.
    simulation.pin(3, 1);
    simulation.expect(&[250, 250, 250, 250]);
    (0..4).for_each(|domain| simulation.pin(domain, 3));
    simulation.expect(&[500, 500, 500, 500]);
}

#[test]
fn a_cap_is_kept_and_what_is_left_goes_to_the_others() {
    let simulation = weighted(1, &[256, 256]);
    set_cap(&simulation.domains[0], 20);
    simulation.expect(&[200, 800]);
    set_cap(&simulation.domains[1], 30);
    simulation.expect(&[200, 300]);
    set_cap(&simulation.domains[0], 0);
    simulation.expect(&[700, 300]);
    set_cap(&simulation.domains[0], 90);
    set_cap(&simulation.domains[1], 90);
    simulation.expect(&[500, 500]);
}

#[test]
fn caps_hold_among_pinned_vcpus_too() {
    let simulation = weighted(2, &[256, 512, 256]);
    for (domain, cpus) in [2, 2, 1].into_iter().enumerate() {
        simulation.pin(domain, cpus);
    }
    set_cap(&simulation.domains[0], 50);
    simulation.expect(&[333, 667, 1000]);
    set_cap(&simulation.domains[0], 20);
    simulation.expect(&[200, 800, 1000]);
}

#[test]
fn a_cap_is_the_whole_domains() {
    let mut simulation = Simulation::of(4);
    for vcpus in [4, 2] {
        let domain = simulation.add(vcpus);
        set_cap(&simulation.domains[domain], 150);
    }
    simulation.expect(&[1500, 1500]);
    set_cap(&simulation.domains[0], 1);
    simulation.expect(&[10, 1500]);
}

#[test]
fn a_cpu_of_ones_own_is_left_alone() {
    let mut simulation = weighted(2, &[256, 256, 256]);
    let own = Affinity { hard: 2, soft: CpuSet::MAX, is_dedicated: true };
    set_affinity(simulation.vcpu(0, 0), own).expect("CPU 1 is nobody's");
    assert_eq!(affinity_of(simulation.vcpu(0, 0)), Affinity { soft: 3, ..own });
    simulation.settle();
    simulation.expect(&[1000, 500, 500]);
    let cpu = arch::cpu::by_number(1);
    assert_eq!(clock::timer(cpu), u64::MAX, "nothing is to happen there");
    simulation.add(1);
    assert_eq!(cpu.work.load(Ordering::Relaxed), 0);
    let elsewhere = |hard, is_dedicated| {
        set_affinity(simulation.vcpu(1, 0), Affinity { hard, soft: CpuSet::MAX, is_dedicated })
    };
    assert_eq!(elsewhere(2, false), Err(Errno::EBUSY));
    assert_eq!(elsewhere(2, true), Err(Errno::EBUSY));
    assert_eq!(elsewhere(1, true), Err(Errno::EINVAL), "the devices' interrupts come there");
    assert_eq!(elsewhere(3, false), Ok(()), "everywhere means everywhere else");
    simulation.pin(0, CpuSet::MAX);
    simulation.expect(&[500, 500, 500, 500]);
}

#[test]
fn a_cpu_that_others_are_bound_to_cannot_be_had_alone() {
    let simulation = weighted(3, &[256, 256]);
    simulation.pin(1, 6);
    let own = Affinity { hard: 2, soft: CpuSet::MAX, is_dedicated: true };
    assert_eq!(set_affinity(simulation.vcpu(0, 0), own), Err(Errno::EBUSY));
    retire_all(&simulation.domains[1]);
    assert_eq!(set_affinity(simulation.vcpu(0, 0), own), Ok(()));
    retire_all(&simulation.domains[0]);
    assert_eq!(run_queue().dedicated(), 0);
    assert_eq!(run_queue().pinned, [0; crate::cpu::MOST_CPUS]);
}

/// Ends a domain as far as the scheduler goes.
fn retire_all(domain: &Domain) {
    domain.vcpus().for_each(|vcpu| suspend(vcpu, not_runnable::DOMAIN_PAUSED));
    for cpu in all() {
        go_to(cpu);
        cpu.set_current(choose(cpu));
    }
    domain.vcpus().for_each(retire);
}

#[test]
fn there_must_be_a_cpu_to_run_on() {
    let simulation = weighted(2, &[256]);
    let bind = |hard, soft| set_affinity(simulation.vcpu(0, 0), Affinity { hard, soft, is_dedicated: false });
    assert_eq!(bind(0, 3), Err(Errno::EINVAL));
    assert_eq!(bind(4, 3), Err(Errno::EINVAL));
    assert_eq!(bind(3, 0), Err(Errno::EINVAL));
    assert_eq!(bind(6, 3), Ok(()), "the one that is there");
    assert_eq!(affinity_of(simulation.vcpu(0, 0)), Affinity { hard: 2, soft: 3, is_dedicated: false });
}

#[test]
fn an_idle_cpu_that_a_vcpu_should_run_on_is_taken_first() {
    let simulation = weighted(4, &[256]);
    let vcpu = simulation.vcpu(0, 0);
    set_affinity(vcpu, Affinity { hard: 0xf, soft: 4, is_dedicated: false }).expect("CPUs");
    suspend(vcpu, not_runnable::BLOCKED);
    simulation.settle();
    wake(vcpu);
    simulation.settle();
    assert_eq!(vcpu.processor.load(Ordering::Relaxed), 2);
}

#[test]
fn a_vcpu_that_makes_way_goes_to_an_idle_cpu() {
    let mut simulation = weighted(2, &[256]);
    assert_eq!(simulation.vcpu(0, 0).processor.load(Ordering::Relaxed), 0);
    let other = simulation.add(1);
    suspend(simulation.vcpu(other, 0), not_runnable::BLOCKED);
    simulation.settle();
    simulation.pin(other, 1);
    simulation.run(SECOND);
    wake(simulation.vcpu(other, 0));
    simulation.settle();
    assert!(all().all(|cpu| cpu.current().is_some()), "both run");
}

#[test]
fn who_finds_its_idle_cpu_taken_by_another_gets_the_next() {
    let mut simulation = Simulation::of(3);
    // The first may use either of two, the second only the one that the first would like.
    let bound = [6, 2].map(|cpus| {
        let domain = simulation.add(1);
        simulation.pin(domain, cpus);
        simulation.run(MILLISECOND);
        suspend(simulation.vcpu(domain, 0), not_runnable::BLOCKED);
        simulation.settle();
        domain
    });
    let vcpu = |domain: usize| simulation.vcpu(bound[domain], 0);
    vcpu(0).processor.store(1, Ordering::Relaxed);
    vcpu(0).schedule.virtual_time.fetch_add(MILLISECOND, Ordering::Relaxed);
    wake(vcpu(0));
    wake(vcpu(1));
    simulation.settle();
    assert!([1, 2].map(arch::cpu::by_number).iter().all(|cpu| cpu.current().is_some()));
}

/// What can happen to a vCPU.
#[derive(Clone, Debug)]
enum Step {
    Suspend(u32),
    Wake(u32),
    Pin(u32, CpuSet, bool),
    Weigh(u32),
    Cap(u32),
    Run(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..6u32).prop_map(Step::Suspend),
        (0..6u32).prop_map(Step::Wake),
        (0..6u32, 0..16u32, any::<bool>()).prop_map(|(vcpu, cpus, own)| Step::Pin(vcpu, cpus, own)),
        (1..2000u32).prop_map(Step::Weigh),
        (0..400u32).prop_map(Step::Cap),
        (1..30 * MILLISECOND).prop_map(Step::Run),
    ]
}

/// What must hold at any time: everybody is in one place, where it may be, and no CPU idles while somebody could use it.
fn check(simulation: &Simulation) {
    let vcpus = || simulation.domains.iter().flat_map(|domain| domain.vcpus());
    for vcpu in vcpus() {
        let running =
            all().filter(|cpu| cpu.current().is_some_and(|other| core::ptr::eq(other, vcpu))).count();
        let is_waiting = vcpu.schedule.is_waiting.load(Ordering::Relaxed);
        let is_paused = vcpu.paused.load(Ordering::Relaxed) != 0;
        assert_eq!(running + usize::from(is_waiting) + usize::from(is_paused), 1);
        let queue = run_queue();
        let allowed = queue.allowed(vcpu);
        if running == 1 {
            assert_ne!(processor_of(vcpu).bit() & allowed, 0, "it is where it may be");
        }
        if is_waiting && !vcpu.schedule.is_apart() {
            assert_eq!(queue.idle & allowed, 0, "a CPU idles that it could use");
        }
        for cpu in all().filter(|cpu| cpu.bit() & queue.dedicated() != 0) {
            let there = cpu.current().map(|vcpu| vcpu.schedule.hard.load(Ordering::Relaxed));
            assert!(there.is_none_or(|hard| hard == cpu.bit()), "only its own");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn whatever_happens_everybody_has_a_place(steps in prop::collection::vec(step(), 1..120)) {
        let mut simulation = Simulation::of(4);
        simulation.add(3);
        simulation.add(3);
        for step in steps {
            let vcpu = |number: u32| simulation.vcpu(number as usize / 3, number % 3);
            match step {
                Step::Suspend(number) => suspend(vcpu(number), not_runnable::BLOCKED),
                Step::Wake(number) => wake(vcpu(number)),
                Step::Pin(number, hard, is_dedicated) => {
                    let _ = set_affinity(vcpu(number), Affinity { hard, soft: CpuSet::MAX, is_dedicated });
                }
                Step::Weigh(weight) => set_weight(&simulation.domains[0], weight),
                Step::Cap(cap) => set_cap(&simulation.domains[1], cap),
                Step::Run(time) => simulation.run(time),
            }
            simulation.settle();
            check(&simulation);
        }
    }
}
