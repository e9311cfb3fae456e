//! A stock kernel gives memory back and takes it again, by its own balloon driver.

use std::thread;
use std::time::Instant;

use super::*;

/// How long a kernel may take to change its memory.
const BALLOON_LIMIT: Duration = Duration::from_secs(60);
/// How often it is looked.
const LOOK: Duration = Duration::from_millis(500);
/// Memory of the guest in MiB.
const MIB_OF_MEMORY: u64 = 192;

/// Number and MiB of the guest called `linux`.
fn of_list(dom0: &mut Prompt) -> (u64, u64) {
    let list = dom0.succeed("list");
    let line = list.lines().find(|line| line.starts_with("linux ")).unwrap_or_else(|| panic!("{list}"));
    let mut numbers = line.split_whitespace().skip(1).map(|word| word.parse().expect("a number"));
    (numbers.next().expect("a domain"), numbers.next().expect("its memory"))
}

/// Tells the guest how much memory it is to have.
fn set_target(dom0: &mut Prompt, domain: u64, mebibytes: u64) {
    let kibibytes = mebibytes * 1024;
    dom0.succeed(&format!("store write /local/domain/{domain}/memory/target {kibibytes}"));
}

/// Waits until the guest has that much.
#[track_caller]
#[expect(clippy::disallowed_methods, reason = "nothing tells of it but the list")]
fn wait_for_memory(dom0: &mut Prompt, mebibytes: u64) {
    let begun = Instant::now();
    loop {
        let (_, has) = of_list(dom0);
        if has == mebibytes {
            return;
        }
        assert!(begun.elapsed() < BALLOON_LIMIT, "it has {has} MiB and not {mebibytes}\n{}", dom0.console());
        thread::sleep(LOOK);
    }
}

#[test]
fn a_stock_linux_grows_beyond_what_it_started_with_and_shrinks_again() {
    let Some(stock) = Stock::find(Kernel::Cloud61) else { return };
    let mut dom0 = stock.dom0_with_script("").start();
    dom0.run_within(&stock.create("linux", "memory=128 maxmem=224", "stay=1"), LIMIT);
    dom0.hear("linux", "all done");
    assert_eq!(of_list(&mut dom0).1, 128);
    let before = Ledger::of(&mut dom0);
    for mebibytes in [224, 96, 160, 128] {
        dom0.succeed(&format!("mem-set linux {mebibytes}"));
        wait_for_memory(&mut dom0, mebibytes);
    }
    before.expect_same(&mut dom0, "memory taken and given back");
    let most = 224 * 1024;
    let refused =
        format!("{} KiB are more than the {most} KiB that the guest may have; see `mem-max`", 225 * 1024);
    assert_eq!(dom0.run("mem-set linux 225"), format!("error: {refused}\n"));

    // The limit can be lowered to what the guest has, and then that is all it gets.
    dom0.succeed("mem-max linux 160");
    dom0.succeed("mem-set linux 160");
    wait_for_memory(&mut dom0, 160);
    let refused = dom0.run("mem-set linux 161");
    assert!(refused.contains("more than the 163840 KiB"), "{refused}");
    let refused = dom0.run("mem-max linux 159");
    assert!(refused.contains("less than the 163840 KiB that the guest has"), "{refused}");
    dom0.succeed("mem-max linux 224");
    dom0.succeed("mem-set linux 200");
    wait_for_memory(&mut dom0, 200);
    dom0.succeed("shutdown linux");
    assert!(last_words(&mut dom0, "linux").contains("reboot: System halted"));
}

#[test]
fn a_stock_linux_gives_memory_back_and_takes_it_again() {
    let Some(stock) = Stock::find(Kernel::Cloud61) else { return };
    let mut dom0 = stock.dom0_with_script("").start();
    dom0.run_within(&stock.create("linux", "", "stay=1"), LIMIT);
    dom0.hear("linux", "all done");
    let before = Ledger::of(&mut dom0);
    let (domain, has) = of_list(&mut dom0);
    assert_eq!(has, MIB_OF_MEMORY);

    set_target(&mut dom0, domain, MIB_OF_MEMORY / 2);
    wait_for_memory(&mut dom0, MIB_OF_MEMORY / 2);
    let half = Ledger::of(&mut dom0);
    assert_eq!(half.free_pages - before.free_pages, MIB_OF_MEMORY / 2 * 256, "what it gave back is free");

    set_target(&mut dom0, domain, MIB_OF_MEMORY);
    wait_for_memory(&mut dom0, MIB_OF_MEMORY);
    before.expect_same(&mut dom0, "memory given back and taken again");

    // More than it may have it does not get, however it tries, and goes on.
    set_target(&mut dom0, domain, MIB_OF_MEMORY + 4);
    dom0.succeed("sleep 5");
    assert_eq!(of_list(&mut dom0).1, MIB_OF_MEMORY);
    set_target(&mut dom0, domain, MIB_OF_MEMORY - 8);
    wait_for_memory(&mut dom0, MIB_OF_MEMORY - 8);
    dom0.succeed("shutdown linux");
    assert!(last_words(&mut dom0, "linux").contains("reboot: System halted"));
}
