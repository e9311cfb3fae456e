//! `cargo xtask check`: everything a reviewer's tools would say before a human looks.
//!
//! Formatting, lints and documentation, for the host and for the bare machine, warnings counted as errors. Every
//! step runs even if one before it failed, so that one call tells all.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result};

use crate::build::{BARE_PACKAGES, BENCH_PACKAGES, FEATURE, PACKAGES, TEST_PACKAGES, package_arguments};
use crate::command;
use crate::consent::Consent;
use crate::packages::{Apt, Request};
use crate::progress;
use crate::setup;
use crate::sysroot::Sysroot;
use crate::toolchain::{TARGET, cargo};
use crate::workspace::Workspace;

/// Where Debian's packages put their formatter.
const SYSTEM_CARGO_FMT: &str = "/usr/bin/cargo-fmt";
const SYSTEM_RUSTFMT: &str = "/usr/bin/rustfmt";

/// One thing that is checked.
struct Step {
    name: &'static str,
    command: Command,
}

/// Runs all checks; returns whether all passed.
pub fn check(workspace: &Workspace, consent: Consent) -> Result<bool> {
    setup::ensure(workspace, consent)?;
    let steps =
        [formatting(consent)?, host_lints(workspace), machine_lints(workspace), host_docs(), machine_docs()];
    let mut summary = Vec::new();
    let mut passed = true;
    for mut step in steps {
        progress::stage(format_args!("checking {}", step.name));
        let started = Instant::now();
        let result = command::run(step.command.current_dir(workspace.root()));
        passed &= result.is_ok();
        let word = if result.is_ok() { "passed" } else { "FAILED" };
        summary.push(format!("{:<28} {word}  {:>4} s", step.name, started.elapsed().as_secs()));
    }
    println!("\nSummary");
    for line in summary {
        println!("  {line}");
    }
    println!("{}", if passed { "All checks passed." } else { "Some checks FAILED; see above." });
    Ok(passed)
}

fn formatting(consent: Consent) -> Result<Step> {
    let mut command = formatter(consent)?;
    command.args(["fmt", "--all", "--check"]);
    Ok(Step { name: "formatting", command })
}

/// A cargo that understands `fmt`: the active one, else the one of Debian's package.
fn formatter(consent: Consent) -> Result<Command> {
    let active = command::output(Command::new(cargo()).args(["fmt", "--version"]));
    if active.is_ok_and(|output| output.status.success()) {
        return Ok(Command::new(cargo()));
    }
    if !Path::new(SYSTEM_CARGO_FMT).exists() {
        let request = Request { packages: &["rustfmt-web"], reason: "rustfmt, which formats Rust source," };
        let apt = Apt::find()
            .context("rustfmt is needed; with rustup, `rustup component add rustfmt` supplies it")?;
        apt.install(request, consent)?;
    }
    let mut command = Command::new(SYSTEM_CARGO_FMT);
    command.env("RUSTFMT", SYSTEM_RUSTFMT);
    Ok(command)
}

fn host_lints(workspace: &Workspace) -> Step {
    let mut command = clippy(workspace);
    command.args(["--workspace", "--all-targets", "--", "--deny", "warnings"]);
    Step { name: "lints, host", command }
}

fn machine_lints(workspace: &Workspace) -> Step {
    let mut command = clippy(workspace);
    command.args(["--target", TARGET, "--features", FEATURE, "--lib", "--bins"]);
    for packages in [&PACKAGES[..], &TEST_PACKAGES, &BENCH_PACKAGES, &BARE_PACKAGES] {
        command.args(package_arguments(packages));
    }
    command.args(["--", "--deny", "warnings"]);
    Step { name: "lints, bare machine", command }
}

/// Clippy of the same version as the compiler in use: another one could not read the compiled libraries.
fn clippy(workspace: &Workspace) -> Command {
    let mut command = Command::new(clippy_program(workspace).unwrap_or_else(|| cargo().into()));
    command.arg("clippy").env("CARGO", cargo());
    command
}

/// The `cargo-clippy` beside the compiler that the private sysroot was made with.
fn clippy_program(workspace: &Workspace) -> Option<PathBuf> {
    let compiler = Sysroot::of(workspace).compiler()?;
    let beside = compiler.rustc.with_file_name("cargo-clippy");
    beside.exists().then_some(beside)
}

fn host_docs() -> Step {
    Step { name: "documentation, host", command: docs(&["--workspace".into()]) }
}

fn machine_docs() -> Step {
    let start = ["--target", TARGET, "--features", FEATURE, "--lib"];
    let words = start.into_iter().chain(package_arguments(&PACKAGES));
    Step {
        name: "documentation, bare machine",
        command: docs(&words.map(OsString::from).collect::<Vec<_>>()),
    }
}

fn docs(words: &[OsString]) -> Command {
    let mut command = Command::new(cargo());
    command.args(["doc", "--no-deps"]).args(words).env("RUSTDOCFLAGS", "--deny warnings");
    command
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    #[test]
    fn warnings_are_errors_everywhere() {
        let scratch = Scratch::create(&std::env::temp_dir(), "weir-check").unwrap();
        let workspace = Workspace::at(scratch.path());
        for step in [host_lints(&workspace), machine_lints(&workspace)] {
            assert!(command::shown(&step.command).ends_with("-- --deny warnings"), "{}", step.name);
        }
        for step in [host_docs(), machine_docs()] {
            assert!(
                step.command
                    .get_envs()
                    .any(|(name, value)| name == "RUSTDOCFLAGS" && value == Some("--deny warnings".as_ref()))
            );
        }
    }

    #[test]
    fn without_a_private_sysroot_clippy_is_cargos_own() {
        let scratch = Scratch::create(&std::env::temp_dir(), "weir-check").unwrap();
        assert_eq!(clippy_program(&Workspace::at(scratch.path())), None);
    }

    #[test]
    fn the_bare_machine_is_linted_with_its_programs() {
        let scratch = Scratch::create(&std::env::temp_dir(), "weir-check").unwrap();
        let line = command::shown(&machine_lints(&Workspace::at(scratch.path())).command);
        assert!(
            line.contains("--target x86_64-unknown-none --features image --lib --bins --package hv-core"),
            "{line}"
        );
    }
}
