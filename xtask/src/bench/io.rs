//! `cargo xtask bench io`: the same disk requests and the same network traffic of the same guest kernel, over the proxy
//! and in other ways, and what the proxy costs compared with them.
//!
//! There is a machine for each way to the disk. Requests are counted on a disk that is empty and answers late, so that two
//! runs agree ([`with_devices_of`]); each kind is also made on a disk that stores what it is given, where
//! every byte is compared: by the guest, and at last in the disk's file here. For the ways to the network see [`network`].

mod network;
mod page;
mod report;
mod workload;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;

use super::figures::{Figures, START, Traffic};
use super::{disk_device, plain_machine, run_to_end, with_devices_of};
use crate::boot;
use crate::build::{self, Images};
use crate::machine::{DiskKind, Machine};
use crate::pattern;
use crate::progress;
use crate::scratch::Scratch;
use crate::workspace::Workspace;
use workload::{Means, WORKLOADS, Workload};

/// How long one machine may run.
const LIMIT: Duration = Duration::from_secs(300);
/// Bytes that are compared.
const CHECKED_BYTES: usize = 16 << 20;
/// What they are.
const SEED: u64 = 20_260_101;
/// Rounds in which they are.
const CHECKED_ROUNDS: u32 = 4;

/// How to show what was measured.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Print one JSON object instead of a table; docs/comparison.md describes it.
    #[arg(long)]
    json: bool,
    /// Write a page with plots to this file, too.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Only kinds with this in their name; may be given several times.
    #[arg(long, value_name = "TEXT")]
    only: Vec<String>,
    /// What the disk is behind.
    #[arg(long, value_enum, default_value_t)]
    disk: DiskKind,
    /// Measure twice, and fail unless both runs agree to the instruction.
    #[arg(long)]
    twice: bool,
}

impl Options {
    fn choose(&self, kind: &Workload) -> bool {
        self.only.is_empty() || self.only.iter().any(|text| kind.name.contains(text))
    }
}

/// One way to the devices, and what each kind of request costs on it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Column {
    name: &'static str,
    traffic: Vec<Traffic>,
}

impl Column {
    /// What a kind of request costs.
    fn of(&self, workload: &Workload) -> Option<&Traffic> {
        self.traffic.iter().find(|traffic| traffic.name == workload.words())
    }
}

/// Measures; returns whether both runs agree, if there were to be two.
pub fn bench(workspace: &Workspace, images: &Images, scratch: &Scratch, options: &Options) -> Result<bool> {
    let kinds: Vec<_> = WORKLOADS.into_iter().filter(|kind| options.choose(kind)).collect();
    ensure!(!kinds.is_empty(), "no kind is called {:?}", options.only);
    let bare = build::build_bare_machine(workspace)?;
    let programs = Programs { bare: &bare, images, scratch, disk: options.disk };
    let measure = || {
        let mut columns = ["proxy", "direct", "native"].map(|name| Column { name, traffic: Vec::new() });
        programs.measure_disks(&kinds, &mut columns)?;
        network::measure(programs, &kinds, &mut columns)?;
        Ok::<_, anyhow::Error>(columns)
    };
    let columns = measure()?;
    print!("{}", if options.json { report::json(&columns) } else { report::text(&columns) });
    if let Some(file) = &options.html {
        fs::write(file, page::html(&columns)).with_context(|| format!("cannot write {}", file.display()))?;
        progress::stage(format_args!("the plots are in {}", file.display()));
    }
    if !options.twice {
        return Ok(true);
    }
    let same = agree(&columns, &measure()?);
    progress::stage(if same { "both runs agree to the instruction" } else { "the runs differ" });
    Ok(same)
}

/// Whether two runs counted the same, as far as that is exact: what a guest itself needs depends on what its heap looks
/// like, and that on when the disk answered earlier requests.
fn agree(first: &[Column], second: &[Column]) -> bool {
    let exact = |columns: &[Column]| -> Vec<(String, String, u64)> {
        let traffic = columns.iter().flat_map(|column| &column.traffic);
        let totals =
            traffic.flat_map(|kind| kind.totals.iter().map(|(what, total)| (&kind.name, what, total)));
        totals
            .filter(|(_, what, _)| *what != "guest ticks")
            .map(|(name, what, total)| (name.clone(), what.clone(), *total))
            .collect()
    };
    exact(first) == exact(second)
}

/// What machines are made of.
#[derive(Clone, Copy)]
struct Programs<'a> {
    bare: &'a Path,
    images: &'a Images,
    scratch: &'a Scratch,
    disk: DiskKind,
}

impl Programs<'_> {
    /// Adds what the kinds of disk requests among these cost.
    fn measure_disks(self, kinds: &[Workload], [proxy, direct, native]: &mut [Column; 3]) -> Result<()> {
        let kinds = of_means(kinds, &[Means::Disk]);
        if kinds.is_empty() {
            return Ok(());
        }
        progress::stage("measuring a guest whose disk is behind the proxy; this takes a minute");
        proxy.traffic.extend(self.on_weir(&kinds, "noguest", ["disk0", "disk=disk1,xvda,w"])?);
        progress::stage("measuring a guest that was given the disk");
        let words = "noguest hide=00:10.0,00:11.0";
        direct.traffic.extend(self.on_weir(&kinds, words, ["00:10.0", "pci=00:11.0,permissive=1"])?);
        progress::stage("measuring the same kernel and disk without a hypervisor");
        native.traffic.extend(self.without_hypervisor(&kinds)?);
        Ok(())
    }

    /// A guest on Weir: `counted` is its disk as domain 0's command takes it, `checked` the setting for the other one.
    fn on_weir(
        self,
        kinds: &[Workload],
        dom0_words: &str,
        [counted, checked]: [&str; 2],
    ) -> Result<Vec<Traffic>> {
        let disk = CheckedDisk::new(self.scratch, self.disk)?;
        let command = |kind: &Workload| format!("bench io {counted} {} {}", kind.words(), kind.rounds);
        let mut commands: Vec<_> = kinds.iter().map(command).collect();
        commands.push(format!("create check memory=64 {checked} cmdline=noecho"));
        commands.extend(checks(kinds, 0).map(|command| format!("guest-run -t 600 check \"{command}\"")));
        let machine = plain_machine(self.images, self.scratch, &commands, dom0_words)?;
        let (lines, _) = run_to_end(&disk.add_to(machine).time_limit(LIMIT))?;
        disk.compare()?;
        read(kinds, &lines)
    }

    /// The same kernel with nothing under it.
    fn without_hypervisor(self, kinds: &[Workload]) -> Result<Vec<Traffic>> {
        let disk = CheckedDisk::new(self.scratch, self.disk)?;
        let measured = kinds.iter().map(|kind| format!("bench io {} {}", kind.words(), kind.rounds));
        let commands: Vec<_> = measured.chain(checks(kinds, 1)).collect();
        let lines = run_alone(&disk.add_to(self.alone(&commands)?).time_limit(LIMIT))?;
        disk.compare()?;
        read(kinds, &lines)
    }

    /// A machine in which our guest's kernel, with nothing under it, executes commands and ends.
    fn alone(self, commands: &[String]) -> Result<Machine> {
        let words = format!("ip=none disk-timeout=0 run=\"{};shutdown\"", commands.join(";"));
        boot::on_the_bare_machine(self.bare, &self.images.guest, &words, self.scratch)
    }
}

/// The kinds that need one of these.
fn of_means(kinds: &[Workload], means: &[Means]) -> Vec<Workload> {
    kinds.iter().filter(|kind| means.contains(&kind.means)).copied().collect()
}

/// What the kernel printed until the machine ended.
fn run_alone(machine: &Machine) -> Result<Vec<String>> {
    let (_, transcript) = run_to_end(machine)?;
    let lines: Vec<_> = transcript.lines().map(|line| line.trim_end().to_owned()).collect();
    let error = lines.iter().find(|line| line.starts_with("error: "));
    ensure!(error.is_none(), "without a hypervisor: {error:?}");
    Ok(lines)
}

/// What a guest is told to do with the disk of this number that stores what it is given.
fn checks(kinds: &[Workload], disk: usize) -> impl Iterator<Item = String> {
    let write = format!("disk-write {SEED} 0 {CHECKED_BYTES} {disk}");
    let check = move |kind: &Workload| format!("bench check {} {CHECKED_ROUNDS} {disk} {SEED}", kind.words());
    [write].into_iter().chain(kinds.iter().map(check))
}

/// The kinds that were measured in any way.
fn measured(columns: &[Column]) -> impl Iterator<Item = &'static Workload> {
    WORKLOADS.iter().filter(|kind| columns.iter().any(|column| column.of(kind).is_some()))
}

/// What each kind costs, from what was printed; each must also have been compared.
fn read(kinds: &[Workload], lines: &[String]) -> Result<Vec<Traffic>> {
    let figures: Vec<_> = lines.iter().filter(|line| line.starts_with(START)).cloned().collect();
    let traffic = Figures::of_traffic(&figures)?;
    for kind in kinds {
        let end = format!(": {}", kind.words());
        let is_compared = lines.iter().any(|line| line.starts_with("checked ") && line.ends_with(&end));
        ensure!(is_compared, "{} was not compared", kind.name);
        ensure!(traffic.iter().any(|traffic| traffic.name == kind.words()), "{} was not measured", kind.name);
    }
    Ok(traffic)
}

/// A disk that stores what it is given, in a file.
struct CheckedDisk<'a> {
    scratch: &'a Scratch,
    kind: DiskKind,
}

impl<'a> CheckedDisk<'a> {
    const FILE: &'static str = "checked";

    fn new(scratch: &'a Scratch, kind: DiskKind) -> Result<Self> {
        fs::write(scratch.join(Self::FILE), vec![0; CHECKED_BYTES]).context("cannot make a disk")?;
        Ok(Self { scratch, kind })
    }

    /// Plugs it in, behind the one that is counted.
    fn add_to(&self, machine: Machine) -> Machine {
        let file = self.scratch.join(Self::FILE);
        let disk = format!("file,node-name=checked,filename={}", file.display());
        let arguments = [["-blockdev", &disk], ["-device", &disk_device(self.kind, "checked", "0x11")]];
        let words = arguments.as_flattened().iter();
        words.fold(with_devices_of(self.kind, machine), |machine, word| machine.argument(*word))
    }

    /// Whether it holds at last what it should.
    fn compare(&self) -> Result<()> {
        let stored = fs::read(self.scratch.join(Self::FILE)).context("cannot read the disk")?;
        ensure!(stored == pattern::data(SEED, CHECKED_BYTES), "the disk does not hold what was written");
        Ok(())
    }
}
