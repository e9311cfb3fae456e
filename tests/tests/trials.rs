//! What a processor must do for user programs of a stock Linux, tried by programs of our own in its user mode.
//!
//! The first program of the guest runs the trials that the kernel's command line names; see `test-programs`.

use std::time::Duration;

use tests::{Dom0, Prompt, Stock, program};
use xtask::linux::Kernel;
use xtask::machine::Machine;

/// How long a kernel may take to boot and to do what it is told.
const LIMIT: Duration = Duration::from_secs(180);

/// Runs each of `trials`, with `+` between trials and `:` between a trial's words. Faults of programs are not the
/// kernel's to complain about here.
const SCRIPT: &str = r#"
echo 0 > /proc/sys/debug/exception-trace
stolen() { awk '$1 == "cpu" { print $9 }' /proc/stat; }
before=$(stolen)
for trial in $(echo $trials | tr + ' '); do
    timeout 120 /bin/trial $(echo $trial | tr : ' ')
    echo "$trial ended with $?"
done
echo "stolen $(($(stolen) - before))"
"#;

/// Domain 0 with a stock kernel whose file system has the program.
fn dom0_with(stock: &Stock) -> Dom0 {
    stock.dom0_with_programs(SCRIPT, &[("bin/trial", &program::content("WEIR_TRIAL"))])
}

/// Makes a guest that runs `trials`.
fn create(dom0: &mut Prompt, stock: &Stock, name: &str, settings: &str, trials: &str) {
    dom0.run_within(&stock.create(name, settings, &format!("trials={trials}")), LIMIT);
}

/// What a guest said when it is gone, if all its trials ended well and its kernel has nothing to complain of.
#[track_caller]
fn success(dom0: &mut Prompt, name: &str, trials: &str) -> String {
    dom0.wait_until_gone(name);
    let said = dom0.succeed(&format!("console {name} --tail 400"));
    for trial in trials.split('+') {
        let ended = format!("{trial} ended with 0");
        assert!(said.lines().any(|line| line.trim_end() == ended), "no {ended:?}\n{said}");
    }
    assert!(said.contains("all done") && !said.contains("the kernel complained"), "{said}");
    said
}

/// Runs trials in one guest on a machine that is changed like this; what was said has these texts.
#[track_caller]
fn run(kernel: Kernel, change: impl FnOnce(Machine) -> Machine + 'static, trials: &str, expected: &[&str]) {
    let Some(stock) = Stock::find(kernel) else { return };
    let mut dom0 = dom0_with(&stock).with(change).start();
    create(&mut dom0, &stock, "linux", "", trials);
    let said = success(&mut dom0, "linux", trials);
    for text in expected {
        assert!(said.contains(text), "no {text:?}\n{said}");
    }
}

/// Every trial that needs no particular machine.
const ALL: &str = "vectors:1:4:500+bases+ldt+ldt-code+step+thirty-two+ports+time-stamp+watch+watch-code";
/// What these say where everything is there.
const OF_A_WHOLE_PROCESSOR: [&str; 3] =
    ["vectors of 256 bits", "bases by instruction and by call", "32 bits by SYSCALL"];

#[test]
fn a_processor_is_whole_for_user_programs() {
    run(Kernel::Cloud61, |machine| machine, ALL, &OF_A_WHOLE_PROCESSOR);
}

#[test]
fn a_processor_is_whole_for_a_newer_kernel_too() {
    run(Kernel::Cloud612, |machine| machine, ALL, &OF_A_WHOLE_PROCESSOR);
}

#[test]
fn a_processor_without_extended_state_has_the_rest() {
    let trials = "vectors:1:3:500+bases+ldt+step+watch";
    run(Kernel::Cloud61, |machine| machine.cpu("qemu64"), trials, &["vectors of 128 bits", "bases by call"]);
}

#[test]
fn a_processor_of_the_other_maker_has_its_own_entry_for_32_bits() {
    let intel = |machine: Machine| machine.cpu("max,vendor=GenuineIntel");
    run(Kernel::Cloud61, intel, "thirty-two+step", &["32 bits by SYSENTER"]);
}

#[test]
fn the_wall_clock_is_right_and_never_goes_back() {
    // In such a machine the clock of the board begins with the year, and the time stamp counts its nanoseconds.
    const START_OF_2026: u64 = 1_767_225_600;
    let trial = format!("clock:{START_OF_2026}");
    run(Kernel::Cloud61, |machine| machine.counts_instructions(true), &trial, &["ns off"]);
}

#[test]
fn two_guests_share_a_processor_and_see_nothing_of_each_others_vectors() {
    let Some(stock) = Stock::find(Kernel::Cloud61) else { return };
    let mut dom0 = dom0_with(&stock).start();
    // The first must still be at it when the second begins.
    let guests = [("one", "", "vectors:1:2:15000"), ("two", "vcpus=2", "vectors:2:3:3000")];
    for (name, settings, trials) in guests {
        create(&mut dom0, &stock, name, settings, trials);
    }
    for (name, _, trials) in guests {
        let said = success(&mut dom0, name, trials);
        let stolen = said.lines().find_map(|line| line.trim_end().strip_prefix("stolen "));
        let hundredths: u64 = stolen.and_then(|count| count.parse().ok()).unwrap_or(0);
        assert!(
            hundredths >= 50,
            "{name} was told of {stolen:?} hundredths of a second without a processor\n{said}"
        );
    }
}

#[test]
fn two_processors_and_as_many_virtual_ones_are_whole_too() {
    let Some(stock) = Stock::find(Kernel::Cloud61) else { return };
    let mut dom0 = dom0_with(&stock).with(|machine| machine.processors(2)).start();
    let trials = "vectors:1:4:3000+bases+ldt+step+thirty-two+time-stamp+watch+watch-code";
    create(&mut dom0, &stock, "linux", "vcpus=2", trials);
    success(&mut dom0, "linux", trials);
}
