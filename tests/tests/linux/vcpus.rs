//! A stock kernel whose virtual CPUs are plugged in and out from domain 0 while it works on all that it has.

use super::*;

/// Waits for each of these sets of online CPUs in turn, with more busy processes than CPUs. The kernel takes CPUs that are
/// unplugged down by itself; one that is plugged in is brought up by a rule of udev's, whose place this script takes.
const SCRIPT: &str = r#"
cpus=/sys/devices/system/cpu
online() { cat $cpus/online; }
bring_up() { for cpu in $cpus/cpu[1-9]*/online; do [ "$(cat $cpu)" = 1 ] || echo 1 > $cpu; done 2> /dev/null; }
for process in 1 2 3 4 5 6; do while :; do :; done & done
for expected in 0-1 0-3 0 0-2; do
    until [ "$(online)" = "$expected" ]; do bring_up; usleep 100000; done
    echo "up: $expected."
done
kill $(jobs -p)
"#;

/// How long a kernel whose CPUs are busy may take to bring one up or down.
const PLUG_LIMIT: Duration = Duration::from_secs(120);

/// What `list` says of how many virtual CPUs are up.
fn virtual_cpus(dom0: &mut Prompt) -> String {
    let list = dom0.succeed("list linux");
    let line = list.lines().find(|line| line.starts_with("linux ")).unwrap_or_else(|| panic!("{list}"));
    line.split_whitespace().nth(3).expect("a column of virtual CPUs").to_owned()
}

/// Domain 0 on so many processors, with a guest that was made with two virtual CPUs and may have four.
fn with_guest(stock: &Stock, processors: u32) -> (Prompt, Ledger) {
    let dom0 = stock.dom0_with_script(SCRIPT);
    let mut dom0 = start(dom0.with(move |machine| machine.processors(processors).time_limit(LIMIT * 8)), "");
    let before = Ledger::of(&mut dom0);
    dom0.run_within(&stock.create("linux", "vcpus=2 maxvcpus=4", "stay=1"), LIMIT);
    dom0.hear_within("linux", "up: 0-1.", PLUG_LIMIT);
    (dom0, before)
}

/// Plugs virtual CPUs in and out, and interrupts one.
fn plugs(processors: u32) {
    let Some(stock) = Stock::find(Kernel::Cloud61) else { return };
    let (mut dom0, before) = with_guest(&stock, processors);
    for (count, online) in [(4, "0-3"), (1, "0"), (3, "0-2")] {
        dom0.succeed(&format!("vcpu-set linux {count}"));
        dom0.hear_within("linux", &format!("up: {online}."), PLUG_LIMIT);
        assert_eq!(virtual_cpus(&mut dom0), count.to_string());
        let offline = dom0.succeed("vcpu-list linux").matches("  --p  ").count();
        assert_eq!(offline, 4 - count);
    }
    dom0.hear_within("linux", "all done", PLUG_LIMIT);
    assert_eq!(
        dom0.run("vcpu-set linux 5"),
        "error: 5 virtual CPUs are more than the 4 that the guest was made with; see `maxvcpus`\n"
    );
    assert_eq!(dom0.run("trigger linux nmi 4"), "error: there is no virtual CPU 4; the domain has 4\n");
    dom0.succeed("trigger linux nmi");
    dom0.hear_within("linux", "NMI received", PLUG_LIMIT);
    dom0.succeed("shutdown linux");
    let said = last_words(&mut dom0, "linux");
    assert!(!said.contains("complained"), "{said}");
    before.expect_same(&mut dom0, "virtual CPUs that came and went");
}

#[test]
fn virtual_cpus_of_a_stock_linux_are_plugged_in_and_out() {
    plugs(1);
}

#[test]
fn virtual_cpus_of_a_stock_linux_are_plugged_in_and_out_on_two_processors() {
    plugs(2);
}

#[test]
fn a_guest_is_destroyed_while_its_virtual_cpus_come_and_go() {
    let Some(stock) = Stock::find(Kernel::Cloud61) else { return };
    let (mut dom0, before) = with_guest(&stock, 2);
    for count in [4, 1, 3, 2] {
        dom0.succeed(&format!("vcpu-set linux {count}"));
        dom0.succeed(&format!("vcpu-pin linux all {}", count % 2));
    }
    dom0.succeed("destroy linux");
    before.expect_same(&mut dom0, "a guest that ended in the middle");
}
