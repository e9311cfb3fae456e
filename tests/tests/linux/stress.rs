//! A stock kernel under load: stress-ng drives what a paravirtual guest does through the hypervisor (page tables made,
//! changed and dropped, faults, signals, timers, floating point, context switches), checks its own results, and the
//! kernel has nothing to complain of.

use super::*;
use xtask::machine::Machine;

/// How long each load lasts.
const SECONDS: u32 = 2;
/// The names of the loads, and each one's kinds, which run all at once. `--pthread` is left out for a defect of its own
/// (docs/testing.md).
pub(super) const LOADS: [(&str, &str); 8] = [
    ("processes", "--fork 2 --vfork 1 --clone 1 --zombie 1"),
    ("programs", "--exec 2"),
    (
        "mappings",
        "--mmap 1 --mmap-bytes 16m --mremap 1 --mremap-bytes 8m --mprotect 1 --mmapfork 1 --munmap 1",
    ),
    ("memory", "--vm 1 --vm-bytes 24m --fault 1 --brk 1 --stack 1 --madvise 1 --userfaultfd 1"),
    ("signals", "--signal 1 --sigsegv 1 --sigfpe 1 --sigtrap 1 --sigsuspend 1 --bad-altstack 1"),
    ("timers", "--timer 1 --itimer 1 --hrtimers 1 --nanosleep 1 --clock 1 --alarm 1"),
    ("floating-point", "--matrix 2 --cpu 1 --cpu-method fft --vecmath 1 --context 1"),
    ("switches", "--switch 1 --pipe 1 --futex 1 --mutex 1 --sem 1 --ptrace 1 --set 1"),
];

/// Memory of a guest under load: less, and Linux ends processes for the lack of it, which it complains of.
pub(super) const MEMORY_MIB: u32 = 384;

/// Comes before the loads. What starts programs must not do so as root. stress-ng ends with 3 when one kind could not
/// begin, as on a machine so slow that its time is up before it has its memory: then it gets more time.
const BEFORE: &str = r#"
echo 'nobody:x:65534:65534::/tmp:/bin/sh' > /etc/passwd
cd /tmp; chmod 1777 /tmp
load() {
    name=$1; shift
    for times in 1 4 16; do
        timeout=$((seconds * times))s
        su nobody -s /bin/sh -c "stress-ng --verify --oomable --timeout $timeout $*" > /log 2>&1
        status=$?
        [ $status = 3 ] || break
    done
    if [ $status = 0 ]; then
        echo "$name: passed"
    else
        echo "$name: failed with $status"; cat /log
    fi
}
"#;

/// A script that puts the guest under every load, each for as many seconds as its kernel's command line says.
pub(super) fn script() -> String {
    let loads = LOADS.map(|(name, what)| format!("load {name} {what}\n")).concat();
    format!("{BEFORE}{loads}")
}

/// The kernel, with so many virtual CPUs on a machine of so many processors, under each load for a while.
fn endures(kernel: Kernel, vcpus: u32, processors: u32) {
    let Some(stock) = Stock::find(kernel) else { return };
    let scratch = program::scratch();
    let disk = scratch.join("disk.img");
    stock.root_disk(&disk, &script(), &[]);
    let machine_of = move |machine: Machine| machine.disk(disk).processors(processors);
    let dom0 = stock.dom0().with(machine_of).with(|machine| machine.time_limit(LIMIT * 5));
    let mut dom0 = start(dom0, "disk=disk0");
    let before = Ledger::of(&mut dom0);
    let settings = format!("disk=disk0 memory={MEMORY_MIB} vcpus={vcpus}");
    dom0.run_within(&stock.create("linux", &settings, &format!("seconds={SECONDS}")), LIMIT);
    dom0.wait_until_gone_within("linux", LIMIT * 5);
    let said = dom0.succeed("console linux --tail 500");
    expect_lines(&said, LOADS.map(|(name, _)| format!("{name}: passed")));
    expect_lines(&said, ["all done"]);
    assert!(!said.contains("complained"), "{said}");
    before.expect_same(&mut dom0, "a guest under load");
}

#[test]
fn a_stock_linux_endures_every_kind_of_load() {
    endures(Kernel::Standard612, 1, 1);
}

#[test]
fn a_stock_linux_endures_load_on_two_virtual_cpus() {
    endures(Kernel::Cloud61, 2, 1);
}

#[test]
fn a_stock_linux_endures_load_on_four_virtual_cpus_and_two_processors() {
    endures(Kernel::Cloud612, 4, 2);
}
