//! The command line of `cargo xtask`: names, options and their explanations.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

use crate::bench;
use crate::build;
use crate::bundle;
use crate::check;
use crate::consent::Consent;
use crate::ctl;
use crate::debian::Debian;
use crate::disk;
use crate::image;
use crate::progress;
use crate::run;
use crate::setup;
use crate::test;
use crate::workspace::Workspace;

/// Sets up, builds, runs, checks and tests Weir.
///
/// Every command installs what it lacks: it says what and why, and asks before it does when there is a terminal.
#[derive(Parser, Debug)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 110)]
struct CommandLine {
    #[command(subcommand)]
    task: Task,
    /// Install what is missing without asking (also: environment variable CI=true, or no terminal).
    #[arg(long, global = true, display_order = 1000)]
    yes: bool,
}

const RUN_NOTES: &str = "\
On the terminal, Ctrl-a x ends the machine and Ctrl-a c switches to QEMU's monitor and back.

Examples:
  cargo xtask run --exec list
  cargo xtask run --kernel vmlinuz --ramdisk initrd.img --cmdline \"root=/dev/xvda\" --disk root.img --nic
  cargo xtask run --debian                   (log in as root, without a password)
  cargo xtask run --debian --exec 'uname -a'

Exit status with --exec, --kernel or --debian:
  0    every command succeeded; the guest has switched itself off
  1    a command failed; the guest crashed
  124  the time was up
  125  the machine itself failed, or could not be started";

const CTL_NOTES: &str = "\
Examples:
  cargo xtask ctl -- list --json
  cargo xtask ctl -- guest-run web \"disk-hash 0 1M\"
  cargo xtask ctl -- console web             (Ctrl-] leaves it)
  cargo xtask ctl                            (domain 0's prompt; exit or Ctrl-D leaves it)

Exit status:
  0    the command succeeded
  1    it failed
  2    it is no command
  255  domain 0 could not be reached";

const BENCH_NOTES: &str = "\
Exit status:
  0    everything was measured (whether goals are met is in the table)
  1    something was not, or two runs differ (--twice)";

#[derive(Subcommand, Debug)]
enum Task {
    /// Make sure of a compiler for bare metal and of QEMU; quick when both are there.
    Setup {
        /// Make the small Debian of `run --debian` too (work/debian).
        #[arg(long)]
        debian: bool,
    },
    /// Build the hypervisor, domain 0 and the guest, and print where they are.
    Build,
    /// Boot Weir in QEMU, on this terminal or to execute commands in domain 0.
    #[command(after_help = RUN_NOTES)]
    Run(run::Options),
    /// Run a command in domain 0 of a machine that `run` has started, or open its prompt there.
    #[command(after_help = CTL_NOTES)]
    Ctl(ctl::Options),
    /// Make a bootable ISO file (GRUB; BIOS and UEFI).
    Image(image::Options),
    /// Write the boot bundle, to be given to QEMU as -initrd beside -kernel weir.
    Bundle {
        /// Where to write it.
        #[arg(long, short, value_name = "FILE", default_value = "work/bundle")]
        output: PathBuf,
        /// A command for domain 0 to run at once; may be given several times.
        #[arg(long, value_name = "COMMAND")]
        exec: Vec<String>,
    },
    /// Make an empty raw disk for domain 0; never replaces a file.
    Disk {
        /// Where to make it [default: work/disk.img].
        #[arg(long, short, value_name = "FILE")]
        output: Option<PathBuf>,
        /// Its size in MiB.
        #[arg(long, value_name = "MIB", default_value_t = disk::DEFAULT_SIZE_MIB)]
        size: u64,
    },
    /// Check formatting, lints and documentation, for this computer and for the bare machine.
    Check,
    /// Count what hypercalls, requests and packets cost, in a machine that counts instructions.
    #[command(after_help = BENCH_NOTES)]
    Bench(bench::Options),
    /// Run the tests: of every crate on this computer, then of the whole system in QEMU.
    Test(test::Options),
}

/// Runs the command that the process's arguments name.
pub fn main() -> ExitCode {
    let line = CommandLine::parse();
    let on_error = match line.task {
        Task::Run(_) => run::BROKEN,
        Task::Ctl(_) => ctl::UNREACHABLE,
        _ => 1,
    };
    match line.task.perform(&Workspace::locate(), Consent::detect(line.yes)) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            progress::stage(format_args!("error: {error:#}"));
            ExitCode::from(on_error)
        }
    }
}

impl Task {
    /// Does it; returns the exit status.
    fn perform(self, workspace: &Workspace, consent: Consent) -> Result<u8> {
        match self {
            Self::Setup { debian } => {
                setup::ensure(workspace, consent)?;
                if debian {
                    Debian::of(workspace).ensure(consent)?;
                }
                progress::stage("everything needed is there");
            }
            Self::Build => {
                setup::ensure(workspace, consent)?;
                build::report(workspace)?;
            }
            Self::Run(options) => return run::run(workspace, &options, consent),
            Self::Ctl(options) => return ctl::ctl(workspace, &options, consent),
            Self::Image(options) => {
                setup::ensure(workspace, consent)?;
                println!("{}", image::make(workspace, &options, consent)?.display());
            }
            Self::Bundle { output, exec } => {
                setup::ensure(workspace, consent)?;
                write_bundle(workspace, &output, &exec)?;
                println!("{}", output.display());
            }
            Self::Disk { output, size } => {
                disk::create(&output.unwrap_or_else(|| disk::default_path(workspace)), size)?;
            }
            Self::Bench(options) => return Ok(status(bench::bench(workspace, &options, consent)?)),
            Self::Check => return Ok(status(check::check(workspace, consent)?)),
            Self::Test(options) => return Ok(status(test::test(workspace, &options, consent)?)),
        }
        Ok(0)
    }
}

fn status(passed: bool) -> u8 {
    u8::from(!passed)
}

fn write_bundle(workspace: &Workspace, output: &PathBuf, commands: &[String]) -> Result<()> {
    let images = build::build(workspace)?;
    let archive = bundle::boot_archive(&images, commands)?;
    let dom0 = fs::read(&images.dom0).with_context(|| format!("cannot read {}", images.dom0.display()))?;
    if let Some(directory) = output.parent() {
        fs::create_dir_all(directory)?;
    }
    fs::write(output, bundle::bundle(&[&dom0, &archive]))
        .with_context(|| format!("cannot write {}", output.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_consistent() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn every_command_and_option_explains_itself() {
        for task in CommandLine::command().get_subcommands() {
            assert!(task.get_about().is_some(), "{} has no text", task.get_name());
            for argument in task.get_arguments() {
                assert!(
                    argument.get_help().is_some(),
                    "{} {} has no text",
                    task.get_name(),
                    argument.get_id()
                );
            }
        }
    }

    #[test]
    fn yes_may_stand_anywhere() {
        for words in [["xtask", "--yes", "setup"], ["xtask", "setup", "--yes"]] {
            assert!(CommandLine::parse_from(words).yes);
        }
    }

    #[test]
    fn commands_with_blanks_stay_whole() {
        let line = CommandLine::parse_from(["xtask", "run", "--exec", "xl create a b", "--exec", "xl list"]);
        let Task::Run(options) = line.task else { panic!("not run") };
        assert_eq!(options.exec, ["xl create a b", "xl list"]);
    }
}
