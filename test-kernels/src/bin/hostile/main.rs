#![no_std]
#![no_main]
//! A guest that attacks the hypervisor by every hypercall it has, and by every instruction.
//!
//! Boot it as an ordinary domain, without rights. It tries what a guest must not be able to do, one named case after
//! the other, and prints `ok` or `FAIL` for each, then `hostile: <n> passed, <m> failed`, and switches itself off.
//! Each case also does the same thing to what is its own, and that must succeed: a hypervisor that refuses
//! everything is no safer, only useless.
//!
//! Words of the command line: `only=<prefix>` runs the cases whose names begin so; `mode=<ending>` ends the domain in
//! one of the ways of [`endings`], which must hurt nobody else; `races=<rounds>` has all virtual CPUs, of which there
//! must be more than one, do things at the same time ([`races`]).
//!
//! How to read it: [`attacker`] makes hypercalls with any arguments and survives faults; [`surroundings`] knows which
//! frames are whose; [`slot`] and [`table`] are memory to attack with. Everything else is cases, a module for each
//! part of the interface.

extern crate alloc;

mod addresses;
mod attacker;
mod calls;
mod companion;
mod counts;
mod descriptors;
mod endings;
mod entry;
mod entry_points;
mod event_queues;
mod events;
mod exhaustion;
mod flag_changes;
mod flags;
mod floods;
mod grant_copies;
mod grant_versions;
mod grants;
mod instructions;
mod kept_frames;
mod large_tables;
mod mapping;
mod multicalls;
mod numbers;
mod page_tables;
mod pointers;
mod privileged;
mod races;
mod report;
mod reservation;
mod returns;
mod roots;
mod second_cpu;
mod slot;
mod surroundings;
mod table;
mod table_writes;
mod timers;
mod user_mode;
mod vcpus;

use pv_runtime::executor::yield_now;
use pv_runtime::{BootInfo, entry, println};

use report::Case;

entry!(main);

/// All cases. Those that leave something behind in this kernel come last.
const CASES: [&[Case]; 29] = [
    numbers::CASES,
    privileged::CASES,
    pointers::CASES,
    counts::CASES,
    multicalls::CASES,
    mapping::CASES,
    page_tables::CASES,
    large_tables::CASES,
    flag_changes::CASES,
    roots::CASES,
    table_writes::CASES,
    reservation::CASES,
    kept_frames::CASES,
    descriptors::CASES,
    entry_points::CASES,
    returns::CASES,
    vcpus::CASES,
    grants::CASES,
    grant_copies::CASES,
    grant_versions::CASES,
    events::CASES,
    timers::CASES,
    instructions::CASES,
    addresses::CASES,
    user_mode::CASES,
    floods::CASES,
    exhaustion::CASES,
    flags::CASES,
    event_queues::CASES,
];

/// Cases for a domain with two virtual CPUs; they run only when they are asked for.
const WITH_TWO_CPUS: &[Case] = second_cpu::CASES;

async fn main(info: &'static BootInfo) {
    if info.is_privileged {
        println!("hostile: the control domain may do what this kernel tries; boot it as a guest");
        return;
    }
    let attacker = attacker::of(info);
    if let Some(ending) = info.option("mode") {
        return endings::end(&attacker, ending).await;
    }
    if let Some(rounds) = info.option("races").and_then(|rounds| rounds.parse().ok()) {
        return races::run(&attacker, rounds).await;
    }
    let only = info.option("only").unwrap_or_default();
    let (mut passed, mut failed) = (0, 0);
    let extra = if only.is_empty() { &[] } else { WITH_TWO_CPUS };
    let cases = CASES.into_iter().flatten().chain(extra);
    for case in cases.filter(|case| case.name.starts_with(only)) {
        match (case.run)(&attacker) {
            Ok(()) => {
                passed += 1;
                println!("ok    {}", case.name);
            }
            Err(reason) => {
                failed += 1;
                println!("FAIL  {}: {reason}", case.name);
            }
        }
        // Lets the console's other end take the lines.
        yield_now().await;
    }
    println!("hostile: {passed} passed, {failed} failed");
}
