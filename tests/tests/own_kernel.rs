//! `cargo xtask run --kernel` and `--debian`: a person's own kernel, its console, its devices, its end.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use tests::call::{self, status, text};
use tests::pattern::{data, sha256};
use tests::{Stock, kernel, program};
use xtask::debian::Debian;
use xtask::linux::Kernel;
use xtask::machine::{Exit, Running};
use xtask::workspace::Workspace;

const MIB: usize = 1 << 20;
/// How long something at a terminal may take.
const LIMIT: Duration = Duration::from_secs(60);
/// How long a run may take as a whole, in seconds.
const RUN_LIMIT: &str = "110";

/// What a call with this kernel and these words came to.
fn run_kernel<T: AsRef<OsStr>>(kernel: &Path, words: impl IntoIterator<Item = T>) -> Output {
    run_kernel_for(RUN_LIMIT, kernel, words)
}

/// The same when it may take only so many seconds.
fn run_kernel_for<T: AsRef<OsStr>>(limit: &str, kernel: &Path, words: impl IntoIterator<Item = T>) -> Output {
    let mut run = call::run();
    run.args(["--timeout", limit, "--kernel"]).arg(kernel).args(words);
    run.output().expect("cargo starts")
}

fn own_guest() -> PathBuf {
    program::path("WEIR_GUEST")
}

#[test]
fn a_kernel_has_its_disks_and_network_and_its_end_is_the_commands_success() {
    let scratch = program::scratch();
    let (first, second) = (data(1, 2 * MIB), data(2, MIB));
    fs::write(scratch.join("first"), &first).unwrap();
    fs::write(scratch.join("second"), &second).unwrap();
    let read_only = format!("{},ro", scratch.join("second").display());
    let script =
        "run=\"disk-hash 0 2M; disk-hash 0 1M 1; disk-write 7 0 1M; disk-write 7 0 512 1; info; shutdown\"";
    let first_disk = scratch.join("first").display().to_string();
    let words = ["--cmdline", script, "--disk", &first_disk, "--disk", &read_only, "--nic", "--memory", "96"];
    let output = run_kernel(&own_guest(), words);
    let (printed, said) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(status(&output), 0, "{printed}\n{said}");
    for expected in [
        format!("sha256 {}", sha256(&first)),
        format!("sha256 {}", sha256(&second)),
        "error: the disk is read-only".to_owned(),
        ", 10.0.2.15/24".to_owned(),
    ] {
        assert!(printed.contains(&expected), "no {expected:?}\n{printed}");
    }
    assert!(!printed.contains("@exec") && !printed.contains('\r'), "{printed}");
    assert!(said.ends_with("weir: the guest has switched itself off\n"), "{said}");
    assert!(fs::read(scratch.join("first")).unwrap()[..MIB] == data(7, MIB));
    assert!(fs::read(scratch.join("second")).unwrap() == second);
}

#[test]
fn a_guest_that_crashes_is_status_1_with_its_last_lines() {
    let output = run_kernel(&own_guest(), ["--cmdline", "run=\"info; crash\""]);
    let said = text(&output.stderr);
    assert_eq!(status(&output), 1, "{said}");
    assert!(said.contains("weir: error: guest crashed\n--- the console's last "), "{said}");
    assert!(said.contains("@run-begin crash"), "{said}");
}

#[test]
fn a_guest_that_does_not_end_in_time_is_status_124_with_its_last_lines() {
    let output = run_kernel_for("15", &own_guest(), ["--cmdline", "run=\"info\""]);
    let said = text(&output.stderr);
    assert_eq!(status(&output), 124, "{said}");
    assert!(said.contains("weir: error: the time was up\n"), "{said}");
    assert!(text(&output.stdout).contains("guest> "), "what it printed is shown all the same");
}

#[test]
fn at_a_terminal_keys_reach_the_guest_and_a_reboot_starts_it_anew() {
    let kernel = own_guest();
    let mut command = call::run();
    command.args(["--timeout", RUN_LIMIT, "--kernel"]).arg(kernel);
    let line = xtask::command::shown(&command);
    // What gives a program a terminal.
    let mut script = std::process::Command::new("script");
    script.args(["--quiet", "--return", "--command", &line, "/dev/null"]);
    script.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")));
    script.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = script.spawn().expect("there is a `script`, of util-linux");
    let mut terminal = Running::new(child, Some(2 * LIMIT));
    let wait_for = |terminal: &mut Running, text: &str| {
        terminal.wait_for(text, LIMIT).unwrap_or_else(|error| panic!("{error}"));
    };
    wait_for(&mut terminal, "Ctrl-a x ends the machine");
    wait_for(&mut terminal, "guest> ");
    terminal.send(b"info\r").unwrap();
    wait_for(&mut terminal, "domain 1, hypervisor interface 4.17");
    wait_for(&mut terminal, "guest> ");
    // Ctrl-C is the guest's, like any other key.
    terminal.send(b"\x03\r").unwrap();
    wait_for(&mut terminal, "guest> ");
    terminal.send(b"reboot\r").unwrap();
    wait_for(&mut terminal, "reboot");
    wait_for(&mut terminal, "guest> ");
    terminal.send(b"info\r").unwrap();
    wait_for(&mut terminal, "domain 2, hypervisor interface 4.17");
    terminal.send(b"shutdown\r").unwrap();
    wait_for(&mut terminal, "the guest has switched itself off");
    assert_eq!(terminal.wait().unwrap(), Exit::PowerOff, "status 0");
}

#[test]
fn a_stock_kernel_that_panics_is_told_with_its_last_words() {
    let Some(stock) = Stock::find(Kernel::Cloud61) else { return };
    let scratch = program::scratch();
    fs::write(scratch.join("initrd"), stock.bare_file_system("echo nothing to do for me; exit 7")).unwrap();
    let ramdisk = scratch.join("initrd").display().to_string();
    let words = ["--ramdisk", &ramdisk, "--cmdline", "console=hvc0", "--memory", "160"];
    let output = run_kernel(&stock.image(), words);
    let (printed, said) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(status(&output), 1, "{printed}\n{said}");
    assert!(printed.contains("nothing to do for me"), "{printed}");
    assert!(said.contains("weir: error: guest crashed\n"), "{said}");
    assert!(
        said.contains("Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000700"),
        "{said}"
    );
}

/// Files of every bad kind in a directory, which the messages name.
fn bad_files(directory: &Path) {
    let write = |name: &str, content: &[u8]| fs::write(directory.join(name), content).unwrap();
    let mut without_notes = program::content("WEIR_GUEST");
    kernel::remove_notes(&mut without_notes);
    write("plain", &without_notes);
    write("text", b"#!/bin/sh\n");
    write("odd", &[0; 700]);
    write("big", &vec![1; 65 * MIB]);
}

#[test]
fn what_cannot_be_a_guest_is_explained_before_anything_is_started_and_leaves_nothing() {
    let scratch = program::scratch();
    bad_files(scratch.path());
    let there = scratch.path().display();
    let work = Workspace::locate().work();
    let runs = || {
        let names =
            fs::read_dir(&work).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with("run-")).collect::<Vec<_>>()
    };
    let guest = own_guest().display().to_string();
    for (words, reason) in [
        (format!("--kernel {there}/none"), format!("the kernel {there}/none cannot be read: No such file")),
        (format!("--kernel {there}"), format!("the kernel {there} cannot be read: it is a directory")),
        (format!("--kernel {there}/text"), format!("{there}/text: the kernel is no ELF file")),
        (format!("--kernel {there}/plain"), "it was built without paravirtual support".to_owned()),
        (format!("--ramdisk {there}/big"), "--ramdisk is for the kernel that --kernel names".to_owned()),
        (
            format!("--kernel {guest} --memory 64 --ramdisk {there}/big"),
            format!("the RAM disk {there}/big has 65 MiB; that does not go into a memory of 64 MiB"),
        ),
        (format!("--kernel {guest} --memory 2"), format!("--memory 2 is too little: {guest} needs ")),
        (format!("--kernel {guest} --vcpus 0"), "--vcpus 0: a guest has 1 to 8 virtual CPUs".to_owned()),
        ("--debian --vcpus 9".to_owned(), "--vcpus 9: a guest has 1 to 8 virtual CPUs".to_owned()),
        (
            format!("--kernel {guest} --disk {there}/none"),
            format!("the disk {there}/none cannot be used: No such"),
        ),
        (format!("--kernel {guest} --disk {there}/odd"), "700 bytes is no multiple of 512".to_owned()),
        (
            format!("--kernel {guest} --disk {there}"),
            format!("the disk {there} cannot be used: it is a directory"),
        ),
    ] {
        let before = runs();
        let output = call::run().args(words.split(' ')).output().unwrap();
        let said = text(&output.stderr);
        assert_eq!(status(&output), 125, "{words}: {said}");
        assert!(said.starts_with("weir: error: ") && said.contains(&reason), "{words}: {said}");
        assert_eq!(said.lines().count(), 1, "nothing was begun: {said}");
        assert!(output.stdout.is_empty(), "{words}");
        assert!(runs().iter().all(|name| before.contains(name)), "{words}");
    }
}

#[test]
fn debian_boots_to_a_login_has_an_address_and_switches_itself_off() {
    let debian = Debian::of(&Workspace::locate());
    // To make it takes minutes, so it is not made for its own sake.
    if !debian.disk.is_file() && std::env::var_os("CI").is_none() {
        eprintln!("skipped: there is no small Debian yet; `cargo xtask run --debian` makes one");
        return;
    }
    let commands =
        ["ip -4 -o address show scope global", "uname -r; findmnt -n -o SOURCE,FSTYPE /", "exit 3"];
    let mut run = call::run();
    run.arg("--debian").args(commands.iter().flat_map(|command| ["--exec", command]));
    let output = run.output().unwrap();
    let (printed, said) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(status(&output), 1, "the third command fails\n{printed}\n{said}");
    assert!(printed.contains("inet 10.0.2.15/24"), "{printed}\n{said}");
    assert!(printed.contains("-amd64\n/dev/xvda ext4\n"), "{printed}\n{said}");
    assert!(said.contains("command 3 failed with status 3"), "{said}");
}
