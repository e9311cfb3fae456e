//! Guests are made, looked after and ended, several at a time.

use tests::ledger::domains;
use tests::{Dom0, Prompt};

/// The names of the guests that there are.
fn guests(dom0: &mut Prompt) -> Vec<String> {
    let list = domains(&dom0.succeed("list"));
    list.into_iter().filter(|(number, _)| *number != 0).map(|(_, name)| name).collect()
}

#[test]
fn the_selftest_passes_in_a_guest() {
    let mut dom0 = Dom0::new().kernel("selftest", "WEIR_SELFTEST").start();
    dom0.succeed("create a kernel=selftest");
    dom0.wait_until_gone("a");
    let console = dom0.succeed("console a --tail 40");
    assert!(console.contains("ok    store"), "{console}");
    assert!(console.contains(" passed, 0 failed"), "{console}");
}

#[test]
fn the_usual_guest_is_made_at_start_up() {
    let mut dom0 = Dom0::new().with_usual_guest().start();
    assert_eq!(guests(&mut dom0), ["guest"]);
    assert!(dom0.succeed("guest-run guest info").contains("domain 1, hypervisor interface 4.17"));
}

#[test]
fn destroying_one_of_two_guests_leaves_the_other_alone() {
    let mut dom0 = Dom0::new().start();
    dom0.succeed("create one memory=32");
    dom0.succeed("create two memory=32");
    assert_eq!(guests(&mut dom0), ["one", "two"]);
    dom0.succeed("guest-run two info");
    dom0.succeed("send one \"sleep 1000\"");
    dom0.succeed("destroy one");
    assert_eq!(guests(&mut dom0), ["two"]);
    assert!(dom0.succeed("guest-run two info").contains("memory: 8192 pages"));
    dom0.succeed("create one memory=32");
    assert_eq!(guests(&mut dom0).len(), 2);
    dom0.succeed("guest-run one info");
}

#[test]
fn a_paused_guest_stands_still() {
    let mut dom0 = Dom0::new().start();
    dom0.succeed("create a paused");
    assert!(dom0.succeed("console a --tail").is_empty(), "it has not run yet");
    dom0.succeed("unpause a");
    dom0.succeed("guest-run a info");
    dom0.succeed("pause a");
    assert_eq!(dom0.run("guest-run -t 1 a info"), "error: a: the guest's command did not end in time\n");
    assert_eq!(dom0.run("pause a"), "error: a is paused already\n");
    dom0.succeed("unpause a");
    dom0.succeed("guest-run a info");
}

#[test]
fn a_guest_can_be_made_to_start_anew() {
    let mut dom0 = Dom0::new().start();
    dom0.succeed("create a");
    dom0.succeed("guest-run a info");
    dom0.succeed("reboot a");
    dom0.wait_for("(a) is gone");
    dom0.wait_for(" is a: 64 MiB");
    dom0.succeed("guest-run a info");
    dom0.succeed("send a shutdown");
    dom0.wait_until_gone("a");
    assert!(guests(&mut dom0).is_empty());
}

#[test]
fn what_a_crash_leads_to_is_the_guests_setting() {
    let mut dom0 = Dom0::new().kernel("selftest", "WEIR_SELFTEST").start();
    dom0.succeed("create a kernel=selftest cmdline=crash=panic");
    dom0.wait_until_gone("a");
    assert!(dom0.succeed("console a --tail").contains("asked to"), "its last words can be read");
    dom0.succeed("create b kernel=selftest cmdline=crash=fault on_crash=preserve");
    dom0.wait_for("(b) crashed");
    let list = dom0.succeed("list");
    assert!(list.lines().any(|line| line.starts_with("b ") && line.contains("sc-")), "{list}");
    dom0.succeed("destroy b");
}

#[test]
fn a_guest_that_crashes_is_started_anew_unless_it_crashes_at_once() {
    let mut dom0 = Dom0::new().kernel("selftest", "WEIR_SELFTEST").start();
    dom0.succeed("create a on_crash=restart");
    dom0.succeed("guest-run a \"sleep 1\"");
    dom0.succeed("send a crash");
    dom0.wait_for("(a) crashed");
    dom0.wait_for(" is a: 64 MiB");
    dom0.succeed("guest-run a info");
    dom0.succeed("create b on_crash=restart kernel=selftest cmdline=crash=stack");
    dom0.wait_for("b is not started anew: it crashed");
    dom0.wait_for("(b) is gone");
    assert_eq!(guests(&mut dom0), ["a"]);
}
