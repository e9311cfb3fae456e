//! `cargo xtask run`: Weir in a virtual machine, on the terminal or with commands to execute.
//!
//! Without commands the machine's console is the terminal. With commands nobody needs to be there: they travel in the
//! boot archive, domain 0 runs them and ends the machine, and only what they print reaches standard output. Exit
//! status: 0 all commands succeeded, 1 a command failed, 124 the time was up, 125 anything else.

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::boot::{self, Load};
use crate::build::{self, Images};
use crate::bundle;
use crate::consent::Consent;
use crate::disk;
use crate::exec::{self, Frames, Line};
use crate::machine::{DEFAULT_MEMORY_MIB, Ending, Exit, Machine, Running};
use crate::progress;
use crate::scratch::Scratch;
use crate::setup;
use crate::workspace::Workspace;

/// Exit status: every command succeeded, or the machine ended as it should.
pub const SUCCESS: u8 = 0;
/// Exit status: a command failed.
pub const COMMAND_FAILED: u8 = 1;
/// Exit status: the time was up.
pub const TIMED_OUT: u8 = 124;
/// Exit status: something else went wrong.
pub const BROKEN: u8 = 125;

/// Time limit of a run that nobody watches, unless told otherwise.
const DEFAULT_LIMIT: Duration = Duration::from_secs(120);
/// How to run the machine.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Run COMMAND in domain 0, print its output and end; may be given several times.
    #[arg(long, value_name = "COMMAND")]
    pub exec: Vec<String>,
    /// End the machine after so many seconds [default: 120 with --exec or without a terminal, else none].
    #[arg(long, value_name = "SECONDS")]
    pub timeout: Option<u64>,
    /// Let one clock tick be one instruction, so that runs can be compared (one processor, slower).
    #[arg(long)]
    pub icount: bool,
    /// Memory of the machine in MiB.
    #[arg(long, value_name = "MIB", default_value_t = DEFAULT_MEMORY_MIB)]
    pub memory: u32,
    /// Number of processors (also `--smp`).
    #[arg(long = "cpus", alias = "smp", value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub smp: u32,
    /// Raw disk file for domain 0 [default: work/disk.img, made if missing].
    #[arg(long, value_name = "FILE")]
    pub disk: Option<PathBuf>,
    /// Forward a port of this computer, as in QEMU: tcp::2222-:22; may be given several times.
    #[arg(long, value_name = "RULE")]
    pub hostfwd: Vec<String>,
    /// Start this Xen hypervisor (an ELF file) instead of Weir, with the same domain 0.
    #[arg(long, value_name = "FILE")]
    pub xen: Option<PathBuf>,
    /// Command line of the hypervisor.
    #[arg(long, value_name = "TEXT")]
    pub cmdline: Option<String>,
    /// Command line of domain 0.
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub dom0_cmdline: String,
    /// Show all that the machine prints on standard error, and QEMU's command line.
    #[arg(long, short)]
    pub verbose: bool,
}

/// Sets up, builds, boots and runs; returns the exit status.
pub fn run(workspace: &Workspace, options: &Options, consent: Consent) -> Result<u8> {
    ensure!(
        !options.icount || options.smp == 1,
        "--icount counts the instructions of one processor: leave out --cpus"
    );
    setup::ensure(workspace, consent)?;
    let images = build::build(workspace)?;
    let disk = match &options.disk {
        Some(path) => path.clone(),
        None => disk::ensure_default(workspace)?,
    };
    let scratch = Scratch::create(&workspace.work(), "run")?;
    let machine = machine(&images, &disk, &scratch, options)?;
    if options.verbose {
        progress::detail(machine.shown());
    }
    if options.exec.is_empty() { interactive(&machine) } else { execute(&machine, options) }
}

/// The machine that the options describe; its boot files go to `scratch`.
fn machine(images: &Images, disk: &Path, scratch: &Scratch, options: &Options) -> Result<Machine> {
    let archive = bundle::boot_archive(images, &options.exec)?;
    let hypervisor_words = options.cmdline.as_deref();
    let load = Load { images, archive: &archive, hypervisor_words, dom0_words: &options.dom0_cmdline };
    let machine = match &options.xen {
        None => boot::on_weir(load, scratch)?,
        Some(xen) => boot::on_xen(xen, load, scratch)?,
    };
    let mut network = "user".to_owned();
    for rule in &options.hostfwd {
        network += &format!(",hostfwd={rule}");
    }
    let machine = machine
        .memory_mib(options.memory)
        .processors(options.smp)
        .counts_instructions(options.icount)
        .disk(disk)
        .network(network);
    Ok(match time_limit(options, io::stdin().is_terminal()) {
        Some(limit) => machine.time_limit(limit),
        None => machine,
    })
}

fn time_limit(options: &Options, somebody_watches: bool) -> Option<Duration> {
    match options.timeout {
        Some(seconds) => Some(Duration::from_secs(seconds)),
        None if options.exec.is_empty() && somebody_watches => None,
        None => Some(DEFAULT_LIMIT),
    }
}

fn interactive(machine: &Machine) -> Result<u8> {
    progress::stage("booting; Ctrl-a x ends the machine, Ctrl-a c is QEMU's monitor");
    let ending = machine.on_terminal()?;
    Ok(match ending {
        Ending::Exited(Exit::PowerOff | Exit::Debug(exec::ALL_SUCCEEDED)) => {
            progress::stage("the machine is off");
            SUCCESS
        }
        Ending::TimedOut => {
            progress::stage(ending);
            TIMED_OUT
        }
        _ => {
            progress::stage(format_args!("the machine failed: {ending}"));
            BROKEN
        }
    })
}

fn execute(machine: &Machine, options: &Options) -> Result<u8> {
    progress::stage(format_args!("booting; commands to run: {}", options.exec.len()));
    let mut running = machine.spawn()?;
    let mut session = Session { verbose: options.verbose, ..Session::default() };
    let ending = session.follow(&mut running)?;
    let status = session.judge(&ending, options.exec.len());
    if status == BROKEN || status == TIMED_OUT {
        progress::stage(session.verdict(&ending, options));
        eprint!("{}", running.context());
    }
    Ok(status)
}

/// What is known of a run with commands.
#[derive(Debug, Default)]
struct Session {
    frames: Frames,
    verbose: bool,
    /// Commands that ended.
    ended: usize,
}

impl Session {
    /// Shows commands' output as it comes, until the machine ends.
    fn follow(&mut self, running: &mut Running) -> Result<Ending> {
        loop {
            match running.next_line() {
                Ok(line) => self.show(&line).context("cannot write to standard output")?,
                Err(ending) => return Ok(ending),
            }
        }
    }

    fn show(&mut self, line: &str) -> io::Result<()> {
        if self.verbose {
            eprintln!("| {line}");
        }
        match self.frames.next(line) {
            Line::Output(text) => writeln!(io::stdout(), "{text}")?,
            Line::End { number, status, output } => {
                if !output.is_empty() {
                    writeln!(io::stdout(), "{output}")?;
                }
                self.ended += 1;
                if status != 0 {
                    progress::stage(format_args!("command {} failed with status {status}", number + 1));
                }
            }
            Line::Begin { .. } | Line::Machine(_) => {}
        }
        Ok(())
    }

    fn judge(&self, ending: &Ending, commands: usize) -> u8 {
        match ending {
            Ending::Exited(Exit::Debug(exec::ALL_SUCCEEDED)) if self.ended == commands => SUCCESS,
            Ending::Exited(Exit::Debug(exec::SOME_FAILED)) => COMMAND_FAILED,
            Ending::TimedOut => TIMED_OUT,
            _ => BROKEN,
        }
    }

    fn verdict(&self, ending: &Ending, options: &Options) -> String {
        let at = match self.frames.current().and_then(|number| options.exec.get(number as usize)) {
            Some(command) => format!("during `{command}`"),
            None => format!("outside of any command, {} of {} had ended", self.ended, options.exec.len()),
        };
        format!("{ending} ({at})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use std::fs;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    fn options(words: &[&str]) -> Options {
        Line::parse_from(std::iter::once(&"run").chain(words)).options
    }

    fn images(scratch: &Scratch) -> Images {
        for name in ["weir", "dom0", "guest"] {
            fs::write(scratch.join(name), name).unwrap();
        }
        Images { weir: scratch.join("weir"), dom0: scratch.join("dom0"), guest: scratch.join("guest") }
    }

    fn arguments(words: &[&str]) -> String {
        let scratch = Scratch::create(&std::env::temp_dir(), "weir-run").unwrap();
        let machine = machine(&images(&scratch), Path::new("/d"), &scratch, &options(words)).unwrap();
        machine.shown().replace(&scratch.path().display().to_string(), "S")
    }

    #[test]
    fn options_describe_the_machine() {
        let line =
            arguments(&["--hostfwd", "tcp::1-:2", "--hostfwd", "tcp::3-:4", "--memory", "256", "--icount"]);
        assert!(line.contains("-netdev user,hostfwd=tcp::1-:2,hostfwd=tcp::3-:4,id=net0"), "{line}");
        assert!(line.contains("-m 256M -smp 1 -icount"), "{line}");
        assert!(line.contains("-kernel S/weir") && line.contains("file=/d"), "{line}");
        assert!(arguments(&["--xen", "/x/xen.elf"]).contains("-kernel /x/xen.elf"));
    }

    #[test]
    fn only_a_watched_console_has_no_time_limit() {
        assert_eq!(time_limit(&options(&[]), true), None);
        assert_eq!(time_limit(&options(&[]), false), Some(DEFAULT_LIMIT));
        assert_eq!(time_limit(&options(&["--exec", "a"]), true), Some(DEFAULT_LIMIT));
        assert_eq!(time_limit(&options(&["--timeout", "7"]), true), Some(Duration::from_secs(7)));
    }

    #[test]
    fn success_needs_the_port_and_every_frame() {
        let mut session = Session::default();
        let good = Ending::Exited(Exit::Debug(exec::ALL_SUCCEEDED));
        assert_eq!(session.judge(&good, 1), BROKEN);
        session.show("@exec-begin 0 true").unwrap();
        session.show("@exec-end 0 0").unwrap();
        assert_eq!(session.judge(&good, 1), SUCCESS);
        assert_eq!(session.judge(&Ending::Exited(Exit::PowerOff), 1), BROKEN);
        assert_eq!(session.judge(&Ending::Exited(Exit::Debug(exec::SOME_FAILED)), 1), COMMAND_FAILED);
        assert_eq!(session.judge(&Ending::TimedOut, 1), TIMED_OUT);
        assert_eq!(session.judge(&Ending::Panicked(String::new()), 1), BROKEN);
    }

    #[test]
    fn the_verdict_names_the_command() {
        let options = options(&["--exec", "one", "--exec", "two"]);
        let mut session = Session::default();
        session.show("@exec-begin 1 two").unwrap();
        assert!(session.verdict(&Ending::TimedOut, &options).contains("during `two`"));
    }
}
