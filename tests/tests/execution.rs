//! `cargo xtask run --exec`: what a script that boots Weir can rely on.

use std::ffi::OsStr;
use std::process::Output;

use tests::call::{self, status, text};
use tests::program;
use xtask::disk;

/// What a call of `cargo xtask run` with these words came to. The machine's disk is an empty one.
fn run<T: AsRef<OsStr>>(words: impl IntoIterator<Item = T>) -> Output {
    let scratch = program::scratch();
    let path = scratch.join("disk.img");
    disk::create(&path, 1).expect("the scratch directory takes files");
    call::run().arg("--disk").arg(&path).args(words).output().expect("cargo starts")
}

#[test]
fn success_is_status_0_and_only_the_commands_output_is_on_standard_output() {
    let output =
        run(["--dom0-cmdline", "noguest", "--exec", "list", "--exec", "create a", "--exec", "help list"]);
    assert_eq!(status(&output), 0, "{}", text(&output.stderr));
    let lines: Vec<_> = text(&output.stdout).lines().map(str::to_owned).collect();
    assert_eq!(lines.len(), 4, "{lines:#?}");
    assert!(lines[0].starts_with("Name ") && lines[1].starts_with("Domain-0 "), "{lines:#?}");
    assert_eq!(lines[2], "domain 1 is a");
    assert!(lines[3].trim_start().starts_with("list "), "{lines:#?}");
}

#[test]
fn a_failing_command_is_status_1_and_the_others_are_run_all_the_same() {
    let output = run(["--exec", "destroy nobody", "--exec", "list"]);
    assert_eq!(status(&output), 1, "{}", text(&output.stderr));
    let printed = text(&output.stdout);
    assert!(printed.starts_with("error: there is no guest \"nobody\"\n"), "{printed}");
    assert!(printed.contains("Domain-0"), "{printed}");
    assert!(text(&output.stderr).contains("command 1 failed with status 1"), "{}", text(&output.stderr));
}

#[test]
fn a_command_that_takes_too_long_is_status_124_and_is_named() {
    let output = run(["--timeout", "8", "--exec", "list", "--exec", "sleep 1000"]);
    assert_eq!(status(&output), 124, "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("Domain-0"), "what came in time is shown");
    assert!(text(&output.stderr).contains("during `sleep 1000`"), "{}", text(&output.stderr));
}

#[test]
fn a_machine_that_cannot_boot_is_status_125_with_the_reason() {
    let output = run(["--cmdline", "dom0_mem=64G", "--exec", "list"]);
    assert_eq!(status(&output), 125, "{}", text(&output.stderr));
    assert!(output.stdout.is_empty());
    let reason = "the control domain cannot be started: dom0_mem= is 65536 MiB, but only";
    assert!(text(&output.stderr).contains(reason), "{}", text(&output.stderr));
}

#[test]
fn a_machine_that_cannot_be_started_is_status_125_with_the_reason() {
    let output = run(["--hostfwd", "nonsense", "--exec", "list"]);
    assert_eq!(status(&output), 125, "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("Invalid host forwarding rule"), "{}", text(&output.stderr));
}
