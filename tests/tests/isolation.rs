//! A guest that attacks the hypervisor gets nowhere, and one that ends badly, or never, does so alone.

use std::time::Duration;

use tests::pattern::{data, seed};
use tests::service::{echo, free_port};
use tests::{Dom0, Ledger, Prompt};

/// How long an echo may take while another guest takes all the time it can get.
const SOON: Duration = Duration::from_secs(30);

/// Domain 0, a guest that echoes, and room for a hostile one.
struct Bench {
    dom0: Prompt,
    /// Where the echo is reached.
    echo: u16,
    before: Ledger,
}

impl Bench {
    fn new() -> Self {
        let port = free_port();
        let machine = Dom0::new().kernel("hostile", "WEIR_HOSTILE").network(&[(port, "10.0.2.60", 7)]);
        let mut dom0 = machine.start();
        dom0.succeed("create witness vif cmdline=ip=10.0.2.60/24,10.0.2.2");
        dom0.succeed("guest-run witness info");
        // What domain 0 keeps for later guests is in the books before it is counted.
        dom0.succeed("create villain");
        dom0.succeed("guest-run villain info");
        dom0.succeed("destroy villain");
        let before = Ledger::of(&mut dom0);
        Self { dom0, echo: port, before }
    }

    /// Makes the hostile guest.
    fn begin(&mut self, mode: &str) {
        self.dom0.succeed(&format!("create villain kernel=hostile vcpus=2 cmdline=mode={mode}"));
    }

    /// The other guest echoes.
    fn expect_echo(&mut self, mode: &str) {
        let outcome = echo(self.echo, &data(seed(), 5000), SOON);
        outcome.unwrap_or_else(|error| panic!("{mode}: {error}\n{}", self.dom0.run("list")));
    }

    /// Nothing is left of the hostile guest.
    fn expect_nothing_left(&mut self, mode: &str) {
        self.before.expect_same(&mut self.dom0, mode);
    }
}

#[test]
fn every_attack_is_refused() {
    let mut bench = Bench::new();
    bench.dom0.succeed("create villain kernel=hostile memory=64 on_crash=preserve");
    let verdict = bench.dom0.hear("villain", "hostile: ");
    assert!(verdict.ends_with(" passed, 0 failed"), "{}", bench.dom0.console());
    bench.expect_echo("attacks");
    bench.dom0.wait_until_gone("villain");
    bench.expect_nothing_left("attacks");
}

/// Two virtual CPUs, one of them doing what the other must not see.
fn races_in_vain(processors: u32) {
    let machine = Dom0::new().kernel("hostile", "WEIR_HOSTILE");
    let mut dom0 = machine.with(move |machine| machine.processors(processors)).start();
    dom0.succeed("create villain");
    dom0.succeed("guest-run villain info");
    dom0.succeed("destroy villain");
    let before = Ledger::of(&mut dom0);
    dom0.succeed("create villain kernel=hostile memory=64 vcpus=2 cmdline=only=second_cpu on_crash=preserve");
    let verdict = dom0.hear("villain", "hostile: ");
    assert!(verdict.ends_with(" passed, 0 failed"), "{}", dom0.console());
    dom0.wait_until_gone("villain");
    before.expect_same(&mut dom0, "races");
}

#[test]
fn two_virtual_cpus_race_in_vain() {
    races_in_vain(1);
}

#[test]
fn two_virtual_cpus_race_in_vain_on_two_processors() {
    races_in_vain(2);
}

#[test]
fn a_guest_that_ends_badly_ends_alone() {
    let mut bench = Bench::new();
    for mode in [
        "no-handler",
        "no-stack",
        "stack-in-the-hypervisor",
        "no-return-frame",
        "no-user-table",
        "no-failsafe",
        "failsafe-without-stack",
        "handler-nowhere",
        "handler-that-faults",
        "event-handler-nowhere",
        "event-without-stack",
        "user-without-kernel-stack",
        "code-unmapped",
        "crash",
        "suspend",
        "watchdog",
        "odd-reason",
        "in-a-multicall",
        "shared-data-moved",
        "second-cpu-nowhere",
        "second-cpu-in-the-hypervisor",
        "second-cpu-without-stack",
        "down",
    ] {
        bench.begin(mode);
        bench.dom0.wait_until_gone("villain");
        let console = bench.dom0.succeed("console villain --tail 40");
        assert!(console.contains(&format!("hostile: ending by {mode}")), "{mode}: {console}");
        assert!(!console.contains("FAIL"), "{mode}: {console}");
        bench.expect_echo(mode);
        bench.expect_nothing_left(mode);
    }
}

#[test]
fn a_guest_that_never_ends_leaves_others_their_share_and_can_be_destroyed() {
    let mut bench = Bench::new();
    for mode in ["spin", "yield", "hypercalls", "long-hypercalls", "faults", "timer", "block", "hog"] {
        bench.begin(mode);
        bench.dom0.hear("villain", &format!("hostile: ending by {mode}"));
        bench.expect_echo(mode);
        bench.dom0.succeed("destroy villain");
        bench.expect_nothing_left(mode);
    }
}

/// How long a machine may take for races: whoever holds a lock may itself have to wait for a processor of this computer.
const RACE_LIMIT: Duration = Duration::from_secs(400);

/// Virtual CPUs that fight for the same frames, entries, grants and ports, while other guests come and go.
fn races_harm_nobody(processors: u32, vcpus: u32) {
    let mut dom0 = Dom0::new()
        .kernel("hostile", "WEIR_HOSTILE")
        .with(move |machine| machine.processors(processors).time_limit(RACE_LIMIT))
        .start();
    dom0.succeed("create villain");
    dom0.succeed("guest-run villain info");
    dom0.succeed("destroy villain");
    let before = Ledger::of(&mut dom0);
    let create = "create villain kernel=hostile memory=64 on_crash=preserve cmdline=races=150";
    dom0.succeed(&format!("{create} vcpus={vcpus}"));
    for _ in 0..5 {
        dom0.succeed("create passer-by");
        dom0.succeed("guest-run passer-by info");
        dom0.succeed("destroy passer-by");
    }
    dom0.wait_until_gone("villain");
    let console = dom0.succeed("console villain --tail 40");
    assert!(console.contains("hostile: 2 passed, 0 failed"), "{console}\n{}", dom0.console());
    before.expect_same(&mut dom0, "races");
}

#[test]
fn virtual_cpus_that_race_on_one_processor_harm_nobody() {
    races_harm_nobody(1, 4);
}

#[test]
fn virtual_cpus_that_race_on_two_processors_harm_nobody() {
    races_harm_nobody(2, 4);
}
