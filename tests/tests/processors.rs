//! Guests with several virtual CPUs: a stock Linux brings them up, works on all of them, takes them down and up again,
//! and ends cleanly.

use std::time::Duration;

use tests::{Ledger, Stock};
use xtask::linux::Kernel;

/// How long a kernel may take to boot and to do what it is told.
const LIMIT: Duration = Duration::from_secs(180);

/// What the guest does; what it says is compared word by word.
const SCRIPT: &str = r#"
cpus=/sys/devices/system/cpu
last=$(($(nproc) - 1))
on() { mask=$(printf %x $((1 << $1))); shift; taskset $mask "$@" > /dev/null; }
sum() { awk "/^ *$1:/ { n = 0; for (i = 2; i < NF; i++) if (\$i ~ /^[0-9]+\$/) n += \$i; print n }" /proc/interrupts; }
echo "online $(cat $cpus/online), $(nproc) of $(grep -c ^processor /proc/cpuinfo)"
# Every CPU executes, and each takes time interrupts.
for cpu in $(seq 0 $last); do
    on $cpu dd if=/dev/urandom of=/dev/null bs=64k count=8 2> /dev/null || echo "nothing runs on $cpu"
done
# Many small processes on all at once: page tables are made, pinned, changed and dropped concurrently.
storm() { for i in $(seq 1 $forks); do /bin/true; (cat /init | md5sum) > /dev/null; done; }
for cpu in $(seq 0 $last); do storm & done; wait
echo "forked"
[ $last = 0 ] || [ "$(sum RES)" -gt 0 ] || echo "no reschedule interrupts"
[ $last = 0 ] || [ "$(sum CAL)" -gt 0 ] || echo "no calls between CPUs"
# The clock never goes back from one CPU to the next.
before=0
for round in $(seq 1 20); do
    for cpu in $(seq 0 $last); do
        now=$(taskset $(printf %x $((1 << cpu))) awk '/^now at/ { print $3 }' /proc/timer_list)
        [ "$now" -gt "$before" ] || echo "CPU $cpu has $now after $before"
        before=$now
    done
done
echo "clock read"
for round in 1 2 3; do
    for cpu in $(seq 1 $last); do echo 0 > $cpus/cpu$cpu/online || echo "CPU $cpu stays"; done
    echo "online $(cat $cpus/online)"
    for cpu in $(seq 1 $last); do echo 1 > $cpus/cpu$cpu/online || echo "CPU $cpu does not come back"; done
done
echo "online again $(cat $cpus/online)"
echo "steal $(awk '$1 == "cpu" { print ($9 >= 0) ? "told" : "odd" }' /proc/stat)"
"#;

/// What sysfs calls CPUs 0 to `count` - 1.
fn list(count: u32) -> String {
    if count == 1 { "0".to_owned() } else { format!("0-{}", count - 1) }
}

/// A Linux with `vcpus` virtual CPUs on a machine with `processors`.
fn works_with(vcpus: u32, processors: u32) {
    let Some(stock) = Stock::find(Kernel::Cloud61) else { return };
    let dom0 = stock.dom0_with_script(SCRIPT);
    let dom0 = dom0.with(move |machine| machine.processors(processors).time_limit(LIMIT * 2));
    let mut dom0 = dom0.start();
    // What domain 0 keeps for later guests is in the books before it is counted.
    dom0.succeed("create first");
    dom0.succeed("guest-run first info");
    dom0.succeed("destroy first");
    let before = Ledger::of(&mut dom0);
    let create = stock.create("linux", &format!("vcpus={vcpus}"), "loglevel=1 forks=12");
    dom0.run_within(&create, LIMIT);
    dom0.wait_until_gone("linux");
    let said = dom0.succeed("console linux --tail 200");
    let said: Vec<&str> = said.lines().map(str::trim_end).collect();
    let all = list(vcpus);
    let expected = [
        format!("online {all}, {vcpus} of {vcpus}"),
        "forked".to_owned(),
        "clock read".to_owned(),
        "online 0".to_owned(),
        "online 0".to_owned(),
        "online 0".to_owned(),
        format!("online again {all}"),
        "steal told".to_owned(),
        "all done".to_owned(),
    ];
    let from = said.iter().position(|line| *line == expected[0]).unwrap_or_else(|| panic!("{said:#?}"));
    assert_eq!(said.get(from..from + expected.len()), Some(&expected.each_ref().map(String::as_str)[..]));
    before.expect_same(&mut dom0, "a guest of several CPUs");
}

#[test]
fn a_stock_linux_uses_two_virtual_cpus() {
    works_with(2, 1);
}

#[test]
fn a_stock_linux_uses_four_virtual_cpus() {
    works_with(4, 1);
}

#[test]
fn a_stock_linux_uses_eight_virtual_cpus() {
    works_with(8, 1);
}

#[test]
fn a_stock_linux_uses_one_virtual_cpu_of_two_processors() {
    works_with(1, 2);
}

#[test]
fn a_stock_linux_uses_two_virtual_cpus_on_two_processors() {
    works_with(2, 2);
}

#[test]
fn a_stock_linux_uses_four_virtual_cpus_on_two_processors() {
    works_with(4, 2);
}
