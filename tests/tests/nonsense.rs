//! A guest that talks nonsense to domain 0 pays for it alone: another guest works on, and nothing is left of it.

use std::io;
use std::net::{Ipv4Addr, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use tests::pattern::{data, seed, sha256};
use tests::service::{echo, free_port};
use tests::{Dom0, Ledger, Prompt, program};
use xtask::disk;
use xtask::scratch::Scratch;

/// How long an echo may take while the other guest keeps the processor busy.
const SOON: Duration = Duration::from_secs(30);
/// What the second guest has on its disk.
const SEED: u64 = 99;
const LENGTH: usize = 1 << 20;

/// Domain 0, a guest that works, and room for one that talks nonsense.
struct Bench {
    dom0: Prompt,
    /// Where the working guest's echo is reached.
    echo: u16,
    /// A connection to this port makes this computer look for a guest that is not there, by asking all.
    nobody: u16,
    disk: PathBuf,
    before: Ledger,
    _scratch: Scratch,
}

impl Bench {
    fn new() -> Self {
        let scratch = program::scratch();
        let disk = scratch.join("disk.img");
        disk::create(&disk, 8).expect("the scratch directory takes files");
        let (echo, nobody, path) = (free_port(), free_port(), disk.clone());
        let machine = Dom0::new().kernel("nonsense", "WEIR_NONSENSE").with(|machine| machine.disk(path));
        let mut dom0 = machine.network(&[(echo, "10.0.2.60", 7), (nobody, "10.0.2.99", 7)]).start();
        dom0.succeed("create witness disk=disk0@4M+4M vif cmdline=ip=10.0.2.60/24,10.0.2.2");
        dom0.succeed(&format!("guest-run witness disk-write {SEED} 0 {LENGTH}"));
        // What domain 0 keeps for later guests is in the books before it is counted.
        dom0.succeed("create villain disk=disk0@0M+1M vif cmdline=ip=10.0.2.61/24");
        dom0.succeed("guest-run villain info");
        dom0.succeed("destroy villain");
        let before = Ledger::of(&mut dom0);
        Self { dom0, echo, nobody, disk, before, _scratch: scratch }
    }

    /// Makes the guest that talks nonsense.
    fn begin(&mut self, mode: &str) {
        let seed = seed() % 1_000_000;
        let words = format!("cmdline=\"mode={mode} seed={seed}\"");
        self.dom0.succeed(&format!("create villain kernel=nonsense disk=disk0@0M+1M vif {words}"));
    }

    /// The other guest's devices work, and when the villain is destroyed all is as before.
    fn expect_no_harm(&mut self, mode: &str) {
        let context = |error: io::Error, dom0: &Prompt| panic!("{mode}: {error}\n{}", dom0.console());
        echo(self.echo, &data(seed(), 20_000), SOON).unwrap_or_else(|error| context(error, &self.dom0));
        let hash = self.dom0.succeed(&format!("guest-run witness disk-hash 0 {LENGTH}"));
        assert!(hash.contains(&sha256(&data(SEED, LENGTH))), "{mode}: {hash}");
        self.dom0.succeed("destroy villain");
        self.before.expect_same(&mut self.dom0, mode);
        // Nothing but its own part of the disk can have changed.
        let file = std::fs::read(&self.disk).unwrap();
        assert!(file[1 << 20..4 << 20].iter().all(|byte| *byte == 0), "{mode}");
    }

    /// Talks nonsense in one way, until the villain says what came of it.
    fn try_out(&mut self, mode: &str, expected: &str) {
        self.begin(mode);
        let outcome = self.dom0.hear("villain", "nonsense: ");
        assert!(outcome.contains(expected), "{mode}: {outcome}\n{}", self.dom0.console());
        self.expect_no_harm(mode);
    }
}

#[test]
fn nonsense_for_the_disk_closes_that_disk_at_most() {
    let mut bench = Bench::new();
    for (mode, expected) in [
        ("block-indices", "the back end closed the device"),
        ("block-requests", "1280 requests answered, "),
        ("block-references", "the back end is Closed"),
        ("block-words", "the back end is Closed"),
        ("block-states", "500 states"),
    ] {
        bench.try_out(mode, expected);
    }
}

#[test]
fn nonsense_for_the_switch_closes_that_interface_at_most() {
    let mut bench = Bench::new();
    for (mode, expected) in [
        ("net-indices", "the back end closed the device"),
        ("net-requests", "the back end closed the device after "),
        ("net-references", "the back end is Closed"),
    ] {
        bench.try_out(mode, expected);
    }
    bench.begin("net-buffers");
    bench.dom0.hear("villain", "nonsense: waiting for a packet");
    let _connection = TcpStream::connect((Ipv4Addr::LOCALHOST, bench.nobody)).unwrap();
    let outcome = bench.dom0.hear("villain", "nonsense: a packet came");
    assert_eq!(outcome, "nonsense: a packet came");
    bench.expect_no_harm("net-buffers");
}

#[test]
fn nonsense_for_the_store_is_refused_and_bounded() {
    let mut bench = Bench::new();
    for (mode, expected) in [
        ("store-indices", "the store was told of a gigabyte"),
        ("store-messages", "the store took 2000 messages"),
        ("store-hoard", "the store set a limit"),
    ] {
        bench.try_out(mode, expected);
    }
}

#[test]
fn floods_and_nonsense_at_the_console_leave_others_their_share() {
    let mut bench = Bench::new();
    for (mode, expected) in [
        ("console-indices", "nonsense: now a gigabyte of output"),
        ("console-flood", "and so on and so on"),
        ("events", "nonsense: sending events for ever"),
    ] {
        bench.begin(mode);
        bench.dom0.hear("villain", expected);
        bench.expect_no_harm(mode);
    }
}
