//! `cargo xtask bench`: what things cost, counted in machines of their own: `micro` hypercalls, requests and packets,
//! [`io`] the same requests and packets over the proxy and without it, [`guest`] all that a stock Linux does.
//!
//! For `micro`, domain 0 does the measuring (its commands `bench micro` and `bench traffic`); here a machine that counts
//! instructions is started for it, what it prints is read, and shown beside the goals. The machine's disk is empty and
//! its network leads nowhere; nothing of the user's is touched.

mod figures;
mod goals;
mod guest;
mod io;
mod profile;
mod table;

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use clap::{Args, Subcommand};

use crate::boot::{self, Load};
use crate::build::{self, Images};
use crate::bundle;
use crate::consent::Consent;
use crate::exec::{self, Frames, Line};
use crate::machine::{DiskKind, Ending, Exit, Machine};
use crate::progress;
use crate::scratch::Scratch;
use crate::setup;
use crate::workspace::Workspace;
use figures::Figures;
pub use profile::{Profile, profile};

/// What domain 0 is told to do.
const COMMAND: &str = "bench micro";
/// How long a run may take.
const LIMIT: Duration = Duration::from_secs(180);
/// How long a run may take in which many guests are made.
const LONG_LIMIT: Duration = Duration::from_secs(1800);
/// Size of the machine's disk.
const DISK_BYTES: u64 = 64 << 20;
/// How long the disk takes for a request, in this computer's time.
const LATENCY_NS: u64 = 3_000_000;

/// What to measure, and how to show it.
#[derive(Args, Clone, Debug)]
pub struct Options {
    #[command(subcommand)]
    kind: Kind,
}

#[derive(Subcommand, Clone, Debug)]
enum Kind {
    /// Instructions of single hypercalls, events, disk requests and packets.
    Micro {
        /// Print one JSON object instead of a table; docs/benchmarks.md describes it.
        #[arg(long)]
        json: bool,
        /// Measure twice, and fail unless both runs agree to the instruction.
        #[arg(long)]
        twice: bool,
    },
    /// Which functions execute the instructions of one kind of disk request or packet.
    Profile {
        /// Text in its name as `bench micro` prints it, such as "guest to network" or "read of 4 KiB, 32".
        #[arg(value_name = "TEXT")]
        traffic: String,
        /// Tell source lines apart, not only functions.
        #[arg(long)]
        lines: bool,
    },
    /// Instructions of disk requests and packets: over the proxy, and in a kernel that has the machine for itself.
    Io(io::Options),
    /// Instructions from the order for a guest to its first instruction, again and again.
    Create {
        /// How many guests are made, one after the other.
        #[arg(value_name = "COUNT", default_value_t = 1000)]
        count: u32,
    },
    /// How many idle guests there is room for, and what each takes of the hypervisor's memory and of domain 0's.
    Guests {
        /// Memory of the machine in MiB.
        #[arg(long, value_name = "MIB", default_value_t = 6144)]
        memory: u32,
        /// Memory of each guest in MiB.
        #[arg(long, value_name = "MIB", default_value_t = 4)]
        size: u32,
    },
    /// Instructions of what a stock Linux does: bare, on Weir, and on Debian's Xen.
    Guest(guest::Options),
}

/// Measures; returns whether all was measured and, if asked for, twice the same.
pub fn bench(workspace: &Workspace, options: &Options, consent: Consent) -> Result<bool> {
    setup::ensure(workspace, consent)?;
    let images = build::build(workspace)?;
    let scratch = Scratch::create(&workspace.work(), "bench")?;
    match &options.kind {
        Kind::Micro { json, twice } => micro(&images, &scratch, *json, *twice),
        Kind::Profile { traffic, lines } => {
            let profiler = build::build_profiler(workspace)?;
            let profile = profile(&profiler, &images, &scratch, traffic, (workspace.root(), *lines))?;
            println!("instructions of each {}, by function", profile.traffic.name);
            print!("{}", profile.table);
            Ok(true)
        }
        Kind::Io(options) => io::bench(workspace, &images, &scratch, options),
        Kind::Create { count } => {
            show(&machine(&images, &scratch, &format!("bench create {count}"))?.time_limit(LONG_LIMIT))
        }
        Kind::Guests { memory, size } => {
            let machine = plain_machine(&images, &scratch, &[format!("bench guests {size}")], "noguest")?;
            show(&machine.memory_mib(*memory).time_limit(LONG_LIMIT))
        }
        Kind::Guest(options) => guest::bench(workspace, &images, options, consent),
    }
}

fn micro(images: &Images, scratch: &Scratch, json: bool, twice: bool) -> Result<bool> {
    let measured = || run(machine(images, scratch, COMMAND)?);
    let first = measured()?;
    let figures = Figures::read(&first)?;
    if json {
        println!("{}", table::json(&figures));
    } else {
        print!("{}", table::text(&figures));
    }
    Ok(!twice || agree(&first, &measured()?))
}

/// Runs a machine, and shows what domain 0 printed.
fn show(machine: &Machine) -> Result<bool> {
    progress::stage("measuring; this takes some minutes");
    let (lines, _) = run_to_end(machine)?;
    lines.iter().for_each(|line| println!("{}", line.strip_prefix(figures::START).unwrap_or(line)));
    Ok(true)
}

/// One run; the lines that domain 0 printed.
fn run(machine: Machine) -> Result<Vec<String>> {
    progress::stage("measuring; this takes some seconds");
    run_to_end(&machine).map(|(lines, _)| lines)
}

/// Runs a machine until it ends: the lines that domain 0's commands printed, and all that was printed.
fn run_to_end(machine: &Machine) -> Result<(Vec<String>, String)> {
    let mut running = machine.spawn()?;
    let mut frames = Frames::new();
    let mut lines = Vec::new();
    let ending = loop {
        match running.next_line() {
            Ok(line) => {
                if let Line::Output(text) = frames.next(&line) {
                    if text.starts_with(figures::START) {
                        progress::detail(&text);
                    }
                    lines.push(text);
                }
            }
            Err(ending) => break ending,
        }
    };
    if ending != Ending::Exited(Exit::Debug(exec::ALL_SUCCEEDED)) {
        bail!("nothing was measured: {ending}\n{}", running.context());
    }
    Ok((lines, running.transcript()))
}

/// A machine in which domain 0 executes a command and ends, and which counts instructions.
fn machine(images: &Images, scratch: &Scratch, command: &str) -> Result<Machine> {
    with_commands(images, scratch, &[command.to_owned()], "noguest")
}

/// A machine in which domain 0, with these words on its command line, executes commands and ends, and which counts
/// instructions.
fn with_commands(
    images: &Images,
    scratch: &Scratch,
    commands: &[String],
    dom0_words: &str,
) -> Result<Machine> {
    Ok(with_devices(plain_machine(images, scratch, commands, dom0_words)?.time_limit(LIMIT)))
}

/// A machine in which domain 0, with these words on its command line, executes commands and ends, without devices.
fn plain_machine(
    images: &Images,
    scratch: &Scratch,
    commands: &[String],
    dom0_words: &str,
) -> Result<Machine> {
    let archive = bundle::boot_archive(images, commands)?;
    // Where nobody looks whether a disk takes too long, no clock runs while it is waited for.
    let dom0_words = &format!("{dom0_words} disk-timeout=0");
    let load = Load { images, archive: &archive, hypervisor_words: None, dom0_words };
    boot::on_weir(load, scratch)
}

/// Makes a machine one in which two runs agree: it counts instructions, and its devices do nothing that depends on this
/// computer.
///
/// The disk is empty, and answers after a time in which everybody has long fallen asleep, so that it never depends on
/// this computer's speed which comes first. The network card sends when the machine's own clock says so, to a network
/// that takes every packet and has none of its own.
pub fn with_devices(machine: Machine) -> Machine {
    with_devices_of(DiskKind::Virtio, machine)
}

/// The same, with a disk of this kind.
pub fn with_devices_of(kind: DiskKind, machine: Machine) -> Machine {
    let disk = format!("null-co,node-name=empty,read-zeroes=on,size={DISK_BYTES},latency-ns={LATENCY_NS}");
    let arguments = [
        ["-blockdev", &disk],
        ["-device", &disk_device(kind, "empty", "0x10")],
        ["-netdev", "user,id=sink,ipv6=off"],
        ["-device", "virtio-net-pci,netdev=sink,disable-legacy=on,ioeventfd=off,tx=timer"],
    ];
    arguments
        .as_flattened()
        .iter()
        .fold(machine.counts_instructions(true), |machine, word| machine.argument(*word))
}

/// A disk at a place of the bus, in QEMU's notation.
pub fn disk_device(kind: DiskKind, drive: &str, place: &str) -> String {
    let device = match kind {
        DiskKind::Virtio => "virtio-blk-pci,disable-legacy=on,ioeventfd=off".to_owned(),
        DiskKind::Nvme => format!("nvme,serial={drive}"),
    };
    format!("{device},drive={drive},addr={place}")
}

/// Whether a line that domain 0 printed is the same in every run. What a guest itself needs for its requests is not quite:
/// it depends on what its heap looks like, and that on when the disk answered earlier requests.
pub fn is_exact(line: &str) -> bool {
    line.starts_with("bench: ") && !line.ends_with(" at a time: guest ticks")
}

/// Whether two runs printed the same, as far as that is [exact](is_exact); says where they differ.
fn agree(first: &[String], second: &[String]) -> bool {
    let exact = |lines: &[String]| lines.iter().filter(|line| is_exact(line)).cloned().collect::<Vec<_>>();
    let (first, second) = (exact(first), exact(second));
    for (one, other) in first.iter().zip(&second).filter(|(one, other)| one != other) {
        progress::stage(format_args!("first {one}; then {other}"));
    }
    let same = first == second;
    progress::stage(if same { "both runs agree to the instruction" } else { "the runs differ" });
    same
}

/// Makes sure that something was measured.
fn ensure_some<T>(list: &[T], what: &str) -> Result<()> {
    ensure!(!list.is_empty(), "domain 0 printed no {what}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_agree_line_by_line() {
        let lines = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let one = lines(&["bench: 1 a", "bench: 2 b"]);
        assert!(agree(&one, &one));
        assert!(!agree(&one, &lines(&["bench: 1 a", "bench: 3 b"])));
        assert!(!agree(&one, &lines(&["bench: 1 a"])));
        assert!(agree(
            &one,
            &lines(&["bench: 1 a", "bench: 2 b", "bench: 7/32 c, 32 at a time: guest ticks"])
        ));
    }
}
