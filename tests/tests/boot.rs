//! Weir starts on any machine it should, and says in one line why not where it cannot.

use tests::Kernel;
use tests::kernel::Outcome;
use tests::program;
use xtask::machine::{Ending, Exit};

/// Status of a machine that ended as it should.
const GOOD: Exit = Exit::Debug(0x10);
/// Status of a machine whose hypervisor could not go on.
const BAD: Exit = Exit::Debug(0x12);

/// Every check of the self-test passed, and the machine powered off by itself.
fn expect_success(outcome: &Outcome) {
    let verdict = outcome.line_with("selftest: ").to_owned() + outcome.line_with(" passed, ");
    assert!(verdict.ends_with(" passed, 0 failed"), "{}", outcome.console);
    assert_eq!(outcome.ending, Ending::Exited(GOOD), "{}", outcome.console);
}

/// The machine's last words are these, and it ended at once.
fn expect_refusal(outcome: &Outcome, reason: &str) {
    let Ending::Panicked(words) = &outcome.ending else { panic!("{}\n{}", outcome.ending, outcome.console) };
    assert!(words.contains(&format!("WEIR PANIC: {reason} (")), "{words}");
    assert_eq!(outcome.exit, BAD, "{}", outcome.console);
}

#[test]
fn the_selftest_passes() {
    expect_success(&Kernel::selftest().run());
}

#[test]
fn a_processor_without_modern_features_is_enough() {
    expect_success(&Kernel::selftest().with(|machine| machine.cpu("qemu64")).run());
}

#[test]
fn little_memory_is_enough() {
    expect_success(&Kernel::selftest().with(|machine| machine.memory_mib(256)).run());
}

#[test]
fn memory_up_to_four_gibibytes_and_beyond_is_used() {
    for memory in [3500, 5 * 1024] {
        let outcome = Kernel::selftest().with(|machine| machine.memory_mib(memory)).run();
        expect_success(&outcome);
        let (total, free) = memory_of(&outcome);
        assert_eq!(total, memory - 1, "firmware has the first MiB");
        assert!(free > total - total / 50, "{free} of {total} MiB are free");
    }
}

/// The MiB that Weir has found, and of those the free ones.
fn memory_of(outcome: &Outcome) -> (u32, u32) {
    let line = outcome.line_with("MiB of memory");
    let mut numbers = line.split(' ').filter_map(|word| word.parse().ok());
    let (Some(total), Some(free)) = (numbers.next(), numbers.next()) else { panic!("{line}") };
    (total, free)
}

#[test]
fn counted_instructions_make_two_runs_the_same() {
    let run = || Kernel::selftest().words("-- bench").with(|machine| machine.counts_instructions(true)).run();
    let (first, second) = (run(), run());
    expect_success(&first);
    assert_eq!(first, second);
}

#[test]
fn the_wall_clock_is_right_to_a_fraction_of_a_millisecond() {
    // The clock of a board that counts instructions begins with 2026.
    let outcome = Kernel::selftest()
        .words("-- only=date began=1767225600")
        .with(|machine| machine.counts_instructions(true))
        .run();
    expect_success(&outcome);
    assert!(outcome.console.contains("ok    date"), "{}", outcome.console);
}

#[test]
fn a_missing_module_is_named() {
    let outcome = Kernel::with_modules(&[]).run();
    expect_refusal(&outcome, "there is no module: the boot loader must load the control domain's kernel");
}

#[test]
fn a_module_that_is_no_elf_file_is_refused() {
    let outcome = Kernel::with_modules(&[b"#!/bin/sh\necho no kernel\n"]).run();
    expect_refusal(&outcome, "the control domain cannot be started: the kernel is no ELF file");
}

#[test]
fn a_module_that_is_cut_short_is_refused() {
    let kernel = program::content("WEIR_SELFTEST");
    let outcome = Kernel::with_modules(&[&kernel[..kernel.len() / 4]]).run();
    let Ending::Panicked(words) = &outcome.ending else { panic!("{}", outcome.console) };
    assert!(words.contains("WEIR PANIC: the control domain cannot be started: the kernel"), "{words}");
    assert_eq!(outcome.exit, BAD);
}

#[test]
fn a_program_of_this_computer_is_refused() {
    let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
    let outcome = Kernel::with_modules(&[&own]).run();
    expect_refusal(&outcome, "the control domain cannot be started: the kernel is no 64-bit x86 executable");
}

#[test]
fn a_kernel_without_xen_notes_is_refused() {
    let mut kernel = program::content("WEIR_SELFTEST");
    tests::kernel::remove_notes(&mut kernel);
    let outcome = Kernel::with_modules(&[&kernel]).run();
    let reason = "the kernel has no Xen notes: it was built without paravirtual support";
    expect_refusal(&outcome, &format!("the control domain cannot be started: {reason}"));
}

#[test]
fn more_memory_for_the_control_domain_than_there_is_is_refused_with_both_numbers() {
    let outcome = Kernel::selftest().words("dom0_mem=2G").run();
    let (_, free) = memory_of(&outcome);
    let reason = format!("dom0_mem= is 2048 MiB, but only {free} MiB of memory are free");
    expect_refusal(&outcome, &format!("the control domain cannot be started: {reason}"));
}

#[test]
fn too_little_memory_for_the_control_domain_is_refused_with_what_it_needs() {
    let outcome = Kernel::selftest().words("dom0_mem=1").run();
    let line = outcome.line_with("WEIR PANIC: the control domain cannot be started: kernel and module need");
    assert!(line.contains("the domain has 1024 KiB; give it more with dom0_mem="), "{line}");
    assert_eq!(outcome.exit, BAD);
}

#[test]
fn a_word_that_weir_does_not_know_is_reported_and_ignored() {
    let outcome = Kernel::selftest().words("dom0_men=64 loglevel=info").run();
    expect_success(&outcome);
    outcome.line_with("unknown option \"dom0_men=64\" ignored");
}

#[test]
fn a_control_domain_that_crashes_takes_the_machine_down_with_a_status() {
    for way in ["panic", "fault", "stack"] {
        let outcome = Kernel::selftest().words(&format!("-- crash={way}")).run();
        let Ending::Panicked(words) = &outcome.ending else { panic!("{way}: {}", outcome.console) };
        assert!(words.contains("WEIR PANIC: the control domain has crashed"), "{way}: {words}");
        assert_eq!(outcome.exit, BAD, "{way}");
    }
}
