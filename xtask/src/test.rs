//! `cargo xtask test`: the tests of every crate on this computer, then the integration tests in QEMU.
//!
//! The second kind finds what it needs through the environment: `WEIR_IMAGE`, `WEIR_DOM0`, `WEIR_GUEST` (the three
//! programs), `WEIR_SELFTEST`, `WEIR_HOSTILE`, `WEIR_NONSENSE` (kernels of the tests' own), `WEIR_TRIAL` (a program for a
//! stock kernel's user mode), `WEIR_ISO` (a disc of the three that ends QEMU with a status), `WEIR_PROFILER` and
//! `WEIR_PROFILER_PLUGIN` (what counts instructions), `WEIR_LINUX` (a directory with stock kernels, as far as there are
//! any) and `WEIR_WORK` (one for their own files).

use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result};
use clap::Args;

use crate::boot::DEBUG_EXIT;
use crate::build;
use crate::command;
use crate::consent::Consent;
use crate::image;
use crate::linux;
use crate::peer;
use crate::progress;
use crate::qemu::Uefi;
use crate::remote;
use crate::setup;
use crate::toolchain::cargo;
use crate::workspace::Workspace;

/// The environment variable that says how many processors the tests' machines have.
pub const PROCESSORS: &str = "WEIR_PROCESSORS";
/// At most so many machines at once: each of them keeps a processor busy, and memory is not endless.
const MOST_MACHINES: usize = 2;

/// Which tests to run.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Run only tests whose name contains FILTER.
    #[arg(value_name = "FILTER")]
    pub filter: Option<String>,
    /// Only the tests that run on this computer itself.
    #[arg(long, conflicts_with = "qemu_only")]
    pub host_only: bool,
    /// Only the integration tests in QEMU.
    #[arg(long)]
    pub qemu_only: bool,
    /// Processors of the machines in QEMU, where a test needs no number of its own.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=16))]
    pub cpus: u32,
}

/// Runs the tests; returns whether all passed.
pub fn test(workspace: &Workspace, options: &Options, consent: Consent) -> Result<bool> {
    setup::ensure(workspace, consent)?;
    remote::ensure_client(consent)?;
    let mut reports = Vec::new();
    if !options.qemu_only {
        progress::stage("testing every crate on this computer");
        reports.push(follow("host", host_tests(options).current_dir(workspace.root()), io::stdout())?);
    }
    if !options.host_only {
        let mut tests = qemu_tests(workspace, options, consent)?;
        progress::stage("testing in QEMU");
        reports.push(follow("QEMU", tests.current_dir(workspace.root()), io::stdout())?);
    }
    Ok(summarise(&reports))
}

fn host_tests(options: &Options) -> Command {
    let mut command = Command::new(cargo());
    command.args(["test", "--workspace", "--exclude", "tests", "--no-fail-fast"]).args(&options.filter);
    command
}

fn qemu_tests(workspace: &Workspace, options: &Options, consent: Consent) -> Result<Command> {
    let images = build::build(workspace)?;
    let kernels = build::build_test_kernels(workspace)?;
    let profiler = build::build_profiler(workspace)?;
    Uefi::ensure(consent)?;
    let work = workspace.work().join("tests");
    fs::create_dir_all(&work).with_context(|| format!("cannot make {}", work.display()))?;
    let disc = work.join("weir.iso");
    image::make_from(&images, workspace, &disc, DEBUG_EXIT, consent)?;

    let mut command = Command::new(cargo());
    command.args(["test", "--package", "tests", "--no-fail-fast"]).args(&options.filter);
    command.args(["--", "--test-threads", &machines_at_once().to_string()]);
    command
        .envs(images.environment())
        .envs(kernels)
        .envs(profiler.environment())
        .env("WEIR_ISO", &disc)
        .env("WEIR_WORK", &work)
        .env(PROCESSORS, options.cpus.to_string());
    for kernel in linux::Kernel::ALL {
        if let Err(error) = linux::ensure(workspace, kernel) {
            progress::stage(format_args!("tests with Linux {} are skipped: {error:#}", kernel.name()));
        }
    }
    command.env(linux::VARIABLE, linux::directory(workspace));
    match peer::ensure(workspace, consent) {
        Ok(files) => {
            command.env(peer::VARIABLE, files.directory());
        }
        Err(error) => progress::stage(format_args!("tests with Debian's Xen are skipped: {error:#}")),
    }
    Ok(command)
}

fn machines_at_once() -> usize {
    thread::available_parallelism().map_or(1, usize::from).min(MOST_MACHINES)
}

/// What one call of `cargo test` came to.
#[derive(Debug, Default, PartialEq, Eq)]
struct Report {
    name: &'static str,
    succeeded: bool,
    passed: u32,
    failed: Vec<String>,
    ignored: u32,
    seconds: u64,
}

/// Runs the command, passes its output on and reads the results from it.
fn follow(name: &'static str, command: &mut Command, mut show: impl Write) -> Result<Report> {
    let started = Instant::now();
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start `{}`", command::shown(command)))?;
    let mut report = Report { name, ..Report::default() };
    let output = child.stdout.take().context("the output of the tests is not ours to read")?;
    for line in BufReader::new(output).lines() {
        let line = line?;
        writeln!(show, "{line}")?;
        report.read(&line);
    }
    report.succeeded = child.wait()?.success();
    report.seconds = started.elapsed().as_secs();
    Ok(report)
}

impl Report {
    /// Takes in one line of what the test harness prints.
    fn read(&mut self, line: &str) {
        if let Some(counts) = line.strip_prefix("test result: ") {
            self.passed += count(counts, "passed");
            self.ignored += count(counts, "ignored");
        } else if let Some(name) =
            line.strip_prefix("test ").and_then(|rest| rest.strip_suffix(" ... FAILED"))
        {
            self.failed.push(name.to_owned());
        }
    }

    fn line(&self) -> String {
        let word = if self.succeeded { "passed" } else { "FAILED" };
        let Self { name, passed, ignored, seconds, .. } = self;
        let failed = self.failed.len();
        format!("{name:<5} {word}: {passed} passed, {failed} failed, {ignored} ignored, {seconds} s")
    }
}

/// The number before `word` in `ok. 3 passed; 0 failed; ...`.
fn count(counts: &str, word: &str) -> u32 {
    let clause = counts.split([';', '.']).map(str::trim).find_map(|clause| clause.strip_suffix(word));
    clause.and_then(|number| number.trim().parse().ok()).unwrap_or(0)
}

fn summarise(reports: &[Report]) -> bool {
    println!("\nSummary");
    for report in reports {
        println!("  {}", report.line());
        for name in &report.failed {
            println!("    FAILED {name}");
        }
    }
    let passed = reports.iter().all(|report| report.succeeded);
    println!("{}", if passed { "All tests passed." } else { "Some tests FAILED; see above." });
    passed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_harness_is_understood() {
        let mut report = Report::default();
        for line in [
            "running 3 tests",
            "test ring::wraps ... ok",
            "test grant::copy_checks_both_sides ... FAILED",
            "test result: FAILED. 1 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s",
            "test result: ok. 41 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.02s",
        ] {
            report.read(line);
        }
        assert_eq!((report.passed, report.ignored), (42, 1));
        assert_eq!(report.failed, ["grant::copy_checks_both_sides"]);
    }

    #[test]
    fn a_failing_command_fails_the_report() {
        let mut shell = Command::new("sh");
        shell.args(["-c", "echo 'test result: ok. 2 passed; 0 failed'; exit 101"]);
        let mut shown = Vec::new();
        let report = follow("x", &mut shell, &mut shown).unwrap();
        assert_eq!(shown, b"test result: ok. 2 passed; 0 failed\n");
        assert!(!report.succeeded);
        assert_eq!(report.passed, 2);
        assert!(!summarise(&[report]));
    }

    #[test]
    fn every_machine_keeps_a_processor_busy() {
        assert!((1..=MOST_MACHINES).contains(&machines_at_once()));
    }

    #[test]
    fn a_filter_reaches_the_tests() {
        let options =
            Options { filter: Some("ring".to_owned()), host_only: false, qemu_only: false, cpus: 1 };
        assert!(command::shown(&host_tests(&options)).ends_with("--no-fail-fast ring"));
    }
}
