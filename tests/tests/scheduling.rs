//! Shares of the processors: weights, caps, virtual CPUs bound to processors, and one that has a processor to itself.
//!
//! On one processor instructions are counted, so a second is a billion of them and what guests get in it repeats exactly. On
//! two the machine's clock is this computer's, which may be busy with something else: there a share is only nearly right.
//! That it is exactly right is tested where time stands still between two steps, with the scheduler alone (`hv-core`).

use std::time::Duration;

use serde_json::Value;
use tests::{Dom0, Ledger, Prompt};

/// How long a guest spins: longer than any test takes.
const SPIN: &str = "spin 1000";
/// How long a command may take where every instruction is counted.
const SLOW: Duration = Duration::from_secs(120);

/// A machine of one processor that counts instructions.
fn counting() -> Dom0 {
    Dom0::new().with(|machine| machine.processors(1).counts_instructions(true).time_limit(SLOW * 5))
}

/// Domain 0 on two processors, after the first guest, so that what is kept for later guests is in the books already.
fn on_two_processors() -> Prompt {
    let mut dom0 = Dom0::new().with(|machine| machine.processors(2).time_limit(SLOW * 3)).start();
    dom0.succeed("create first");
    dom0.succeed("destroy first");
    dom0
}

/// Makes a guest that never waits.
fn create_spinning(dom0: &mut Prompt, name: &str, settings: &str) {
    dom0.run_within(&format!("create {name} memory=8 {settings} cmdline=noecho"), SLOW);
    dom0.succeed(&format!("guest-run {name} info"));
    dom0.succeed(&format!("send {name} \"{SPIN}\""));
}

/// Nanoseconds that each of these guests has run.
fn times<const COUNT: usize>(dom0: &mut Prompt, names: [&str; COUNT]) -> [u64; COUNT] {
    let printed = dom0.run_within("list --json", SLOW);
    let list: Value =
        serde_json::from_str(printed.trim()).unwrap_or_else(|error| panic!("{error}: {printed}"));
    let domains = list["result"].as_array().expect("domains");
    names.map(|name| {
        let domain = domains.iter().find(|domain| domain["name"] == name).expect("a guest of this name");
        domain["cpu_time_ns"].as_u64().expect("its time")
    })
}

/// The thousandths of a processor that each guest gets in some seconds, after it has had a moment to get used to it.
fn shares<const COUNT: usize>(dom0: &mut Prompt, names: [&str; COUNT], seconds: u64) -> [u64; COUNT] {
    dom0.run_within("sleep 1", SLOW);
    let before = times(dom0, names);
    dom0.run_within(&format!("sleep {seconds}"), SLOW);
    let after = times(dom0, names);
    core::array::from_fn(|index| (after[index] - before[index]) / (1_000_000 * seconds))
}

/// The hypervisor's counters of these names.
fn counters<const COUNT: usize>(dom0: &mut Prompt, names: [&str; COUNT]) -> [u64; COUNT] {
    let printed = dom0.run_within("perf", SLOW);
    names.map(|name| {
        let values = printed.lines().filter_map(|line| line.trim_end().rsplit_once(' '));
        let value = values.filter(|(key, _)| key.trim() == name).find_map(|(_, value)| value.parse().ok());
        value.unwrap_or_else(|| panic!("no counter {name} in\n{printed}"))
    })
}

/// On which processor a domain's only virtual CPU is, and where it may and should be.
fn places(dom0: &mut Prompt, name: &str) -> (String, String) {
    let list = dom0.succeed(&format!("vcpu-list {name}"));
    let row: Vec<&str> = list.lines().nth(1).unwrap_or_default().split_whitespace().collect();
    (row[3].to_owned(), row[6..].join(" "))
}

fn owned(places: (&str, &str)) -> (String, String) {
    (places.0.to_owned(), places.1.to_owned())
}

/// Makes sure that shares are these, within so many per cent of each.
#[track_caller]
fn expect(shares: &[u64], expected: &[u64], tolerance: u64) {
    let fits = |(share, expected): (&u64, &u64)| share.abs_diff(*expected) * 100 <= expected * tolerance;
    assert!(shares.iter().zip(expected).all(fits), "{shares:?} and not {expected:?} thousandths");
}

#[test]
fn a_processor_is_shared_by_weights_and_caps_to_two_per_cent() {
    let mut dom0 = counting().start();
    let names = ["a", "b", "c"];
    create_spinning(&mut dom0, "a", "");
    create_spinning(&mut dom0, "b", "cpu_weight=512");
    create_spinning(&mut dom0, "c", "cpu_weight=1024");
    expect(&shares(&mut dom0, names, 1), &[143, 286, 571], 2);
    dom0.succeed("sched-credit2 -d c -c 25");
    expect(&shares(&mut dom0, names, 1), &[250, 500, 250], 2);
    dom0.succeed("sched-credit2 -d b -c 10 -w 256");
    assert!(dom0.succeed("sched-credit2 -d b").contains("256     10\n"));
    expect(&shares(&mut dom0, names, 1), &[650, 100, 250], 2);
    dom0.succeed("destroy a");
    expect(&shares(&mut dom0, ["b", "c"], 1), &[100, 250], 2);
}

#[test]
fn on_two_processors_guests_stay_where_they_are_bound_and_below_their_caps() {
    let mut dom0 = on_two_processors();
    let names = ["a", "b", "c"];
    create_spinning(&mut dom0, "a", "cpus=1");
    create_spinning(&mut dom0, "b", "cpus=1 cpu_weight=512");
    create_spinning(&mut dom0, "c", "cpus=0");
    assert_eq!(
        names.map(|name| places(&mut dom0, name)),
        [("1", "1 / all"), ("1", "1 / all"), ("0", "0 / all")].map(owned)
    );
    let [a, b, c] = shares(&mut dom0, names, 3);
    assert!(a < b, "{a} {b}: b has twice the weight");
    assert!((a + b).abs_diff(c) * 5 < c, "{a} {b} {c}: both processors are busy");
    dom0.succeed("sched-credit2 -d a -c 10");
    let [a, b, c] = shares(&mut dom0, names, 3);
    // A tenth by its cap, a third by its weight. What the computer underneath takes from a processor counts as running.
    assert!(a * 3 < b && (a + b).abs_diff(c) * 5 < c, "{a} {b} {c}: a may have a tenth");
    dom0.succeed("sched-credit2 -d a -c 0");
    for name in names {
        dom0.succeed(&format!("vcpu-pin {name} all all"));
        dom0.succeed(&format!("sched-credit2 -d {name} -w 256"));
    }
    let all = shares(&mut dom0, names, 3);
    assert!(all.iter().all(|share| *share > 350), "{all:?}: each may have two thirds of a processor");
}

#[test]
fn a_virtual_cpu_cannot_be_bound_to_nothing() {
    let mut dom0 = on_two_processors();
    let before = Ledger::of(&mut dom0);
    let there_are = "the machine has 0-1";
    for (command, reason) in [
        ("create a cpus=2", format!("there is no CPU 2; {there_are}")),
        ("create -n a cpus_soft=0-5", format!("there is no CPU 2; {there_are}")),
        ("vcpu-pin Domain-0 0 7", format!("there is no CPU 7; {there_are}")),
        ("vcpu-pin Domain-0 0 0,^0", "the list leaves no CPU to run on".to_owned()),
        ("vcpu-pin Domain-0 0 ^0-1", "the list leaves no CPU to run on".to_owned()),
        ("vcpu-pin Domain-0 0 x", "\"x\" is no list of CPUs, such as 0-3,5 or all or all,^1".to_owned()),
        ("vcpu-pin Domain-0 1 0", "there is no virtual CPU 1; the domain has 1".to_owned()),
        ("vcpu-pin nobody 0 0", "there is no domain \"nobody\"".to_owned()),
        (
            "vcpu-pin --dedicated Domain-0 0 0",
            "CPU 0 takes the devices' interrupts: nobody has it alone".to_owned(),
        ),
        ("vcpu-pin --dedicated Domain-0 0 all", "one virtual CPU can have one CPU to itself".to_owned()),
    ] {
        assert_eq!(dom0.run(command), format!("error: {reason}\n"), "{command}");
        before.expect_same(&mut dom0, command);
    }
    dom0.succeed("vcpu-pin Domain-0 0 ^0 0");
    assert_eq!(places(&mut dom0, "Domain-0"), owned(("1", "1 / 0")), "it is there at once");
}

#[test]
fn on_a_processor_of_ones_own_the_hypervisor_executes_nothing() {
    let mut dom0 = on_two_processors();
    create_spinning(&mut dom0, "own", "");
    create_spinning(&mut dom0, "other", "");
    dom0.succeed("vcpu-pin --dedicated own 0 1");
    let list = dom0.succeed("vcpu-list");
    assert!(list.contains("1 / all, dedicated\n"), "{list}");
    assert_eq!(dom0.run("vcpu-pin other 0 1"), "error: CPU 1 is dedicated to virtual CPU 0 of domain 2\n");
    assert_eq!(dom0.run("create third cpus=1"), "error: CPU 1 is dedicated to virtual CPU 0 of domain 2\n");
    dom0.succeed("perf -r");
    let ticks = |dom0: &mut Prompt| counters(dom0, ["CPU 0 hypervisor ticks", "CPU 1 hypervisor ticks"]);
    // To have reset the counters is the last that the hypervisor may have had to do there.
    dom0.succeed("sleep 1");
    let before = ticks(&mut dom0);
    // Guests come and go, and one that may run everywhere does not stop.
    for _ in 0..3 {
        dom0.succeed("create passing memory=8");
        dom0.succeed("guest-run passing info");
        dom0.succeed("destroy passing");
    }
    dom0.succeed("sleep 2");
    let after = ticks(&mut dom0);
    assert!(after[0] > before[0], "{before:?} {after:?}");
    assert_eq!(after[1], before[1], "the hypervisor was on CPU 1");
    // Where nobody is alone any more, others come.
    dom0.succeed("destroy own");
    dom0.succeed("vcpu-pin other 0 1");
    dom0.succeed("sleep 1");
    assert!(ticks(&mut dom0)[1] > after[1]);
}

#[test]
fn virtual_cpus_are_moved_about_while_they_run_and_while_they_end() {
    let mut dom0 = on_two_processors();
    let before = Ledger::of(&mut dom0);
    for round in 0..10 {
        create_spinning(&mut dom0, "a", "");
        create_spinning(&mut dom0, "b", "cap=150");
        for cpus in ["0", "1", "all", "1", "0", "^0"] {
            dom0.succeed(&format!("vcpu-pin a all {cpus}"));
            dom0.succeed(&format!("vcpu-pin b all {cpus}"));
            dom0.succeed(&format!("sched-credit2 -d b -c {}", 10 + round));
        }
        dom0.succeed("vcpu-pin b all 0");
        dom0.succeed("vcpu-pin --dedicated a 0 1");
        // Either of them may be running, waiting, or kept from running by its cap.
        dom0.succeed("destroy a");
        dom0.succeed("pause b");
        dom0.succeed("vcpu-pin b all 1");
        dom0.succeed("unpause b");
        dom0.succeed("destroy b");
    }
    before.expect_same(&mut dom0, "all of it");
}

#[test]
fn an_idle_guest_costs_no_instruction() {
    let mut dom0 = counting().start();
    for name in ["a", "b", "c"] {
        dom0.run_within(&format!("create {name} memory=8 cmdline=noecho"), SLOW);
        dom0.run_within(&format!("guest-run {name} info"), SLOW);
    }
    // What happens in so many seconds in which nobody wants anything.
    let mut idle = |seconds: u32| {
        dom0.run_within("perf -r", SLOW);
        dom0.run_within(&format!("sleep {seconds}"), SLOW);
        counters(&mut dom0, ["hypervisor ticks", "domain 0 ticks", "domain 1 ticks"])
    };
    let (little, much) = (idle(10), idle(1010));
    eprintln!("hypervisor, domain 0, guest: in 10 s {little:?}, in 1010 s {much:?}");
    assert_eq!(much[2], 0, "the guest itself was running");
    // In how many pieces a command is typed is the computer's doing, and a timer that is far away is set a few times, for the
    // hardware's cannot be set so far. Whatever is done each second, be it as little as an interrupt, is a million.
    assert!(much[1] < little[1] + 50_000, "domain 0 does something by itself");
    assert!(much[0] < little[0] + 50_000, "the hypervisor does something by itself");
}
