//! `cargo xtask bench io`: the same disk requests from the same guest kernel, over the proxy and in other ways, and what
//! the proxy costs compared with them.
//!
//! There is a machine for each way. Requests are counted on a disk that is empty and answers late, so that two runs
//! agree ([`with_devices`](super::with_devices)); each kind is also made on a disk that stores what it is given, where
//! every byte is compared: by the guest, and at last in the disk's file here.

mod page;
mod report;
mod workload;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;

use super::figures::{Figures, START, Traffic};
use super::{run_to_end, with_commands, with_devices};
use crate::boot;
use crate::build::{self, Images};
use crate::machine::Machine;
use crate::pattern;
use crate::progress;
use crate::scratch::Scratch;
use crate::workspace::Workspace;
use workload::{WORKLOADS, Workload};

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
    /// Measure twice, and fail unless both runs agree to the instruction.
    #[arg(long)]
    twice: bool,
}

/// One way to the disk, and what each kind of request costs on it.
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
    let bare = build::build_bare_machine(workspace)?;
    let measure = || {
        let columns = [proxy(images, scratch)?, direct(images, scratch)?, native(&bare, images, scratch)?];
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

/// A guest on Weir, whose disk is domain 0's to drive.
fn proxy(images: &Images, scratch: &Scratch) -> Result<Column> {
    progress::stage("measuring a guest behind the proxy; this takes a minute");
    on_weir("proxy", images, scratch, "noguest", ["disk0", "disk=disk1,xvda,w"])
}

/// A guest on Weir that drives the disk itself.
fn direct(images: &Images, scratch: &Scratch) -> Result<Column> {
    progress::stage("measuring a guest that was given the disk");
    let words = "noguest hide=00:10.0,00:11.0";
    on_weir("direct", images, scratch, words, ["00:10.0", "pci=00:11.0,permissive=1"])
}

/// A guest on Weir: `counted` is its disk as domain 0's command takes it, `checked` the setting for the other one.
fn on_weir(
    name: &'static str,
    images: &Images,
    scratch: &Scratch,
    dom0_words: &str,
    [counted, checked]: [&str; 2],
) -> Result<Column> {
    let disk = CheckedDisk::new(scratch)?;
    let mut commands: Vec<_> =
        WORKLOADS.iter().map(|kind| format!("bench io {counted} {} {}", kind.words(), kind.rounds)).collect();
    commands.push(format!("create check memory=64 {checked} cmdline=noecho"));
    commands.extend(checks(0).map(|command| format!("guest-run -t 600 check \"{command}\"")));
    let machine = disk.add_to(with_commands(images, scratch, &commands, dom0_words)?).time_limit(LIMIT);
    let (lines, _) = run_to_end(&machine)?;
    disk.compare()?;
    Column::read(name, &lines)
}

/// The same kernel with nothing under it.
fn native(bare: &Path, images: &Images, scratch: &Scratch) -> Result<Column> {
    progress::stage("measuring the same kernel without a hypervisor");
    let disk = CheckedDisk::new(scratch)?;
    let measured = WORKLOADS.iter().map(|kind| format!("bench io {} {}", kind.words(), kind.rounds));
    let commands: Vec<_> = measured.chain(checks(1)).chain(["shutdown".to_owned()]).collect();
    let words = format!("run=\"{}\"", commands.join(";"));
    let machine = with_devices(boot::on_the_bare_machine(bare, &images.guest, &words, scratch)?);
    let (_, transcript) = run_to_end(&disk.add_to(machine).time_limit(LIMIT))?;
    let lines: Vec<_> = transcript.lines().map(|line| line.trim_end().to_owned()).collect();
    if let Some(error) = lines.iter().find(|line| line.starts_with("error: ")) {
        anyhow::bail!("without a hypervisor: {error}");
    }
    disk.compare()?;
    Column::read("native", &lines)
}

/// What a guest is told to do with the disk of this number that stores what it is given.
fn checks(disk: usize) -> impl Iterator<Item = String> {
    let write = format!("disk-write {SEED} 0 {CHECKED_BYTES} {disk}");
    let check = move |kind: &Workload| format!("bench check {} {CHECKED_ROUNDS} {disk} {SEED}", kind.words());
    [write].into_iter().chain(WORKLOADS.iter().map(check))
}

impl Column {
    fn read(name: &'static str, lines: &[String]) -> Result<Self> {
        let checked = lines.iter().filter(|line| line.starts_with("checked ")).count();
        ensure!(checked == WORKLOADS.len(), "{name}: only {checked} kinds of requests were compared");
        let figures: Vec<_> = lines.iter().filter(|line| line.starts_with(START)).cloned().collect();
        let column = Self { name, traffic: Figures::of_traffic(&figures)? };
        let missing = WORKLOADS.iter().find(|workload| column.of(workload).is_none());
        ensure!(missing.is_none(), "{name}: {missing:?} was not measured");
        Ok(column)
    }
}

/// A disk that stores what it is given, in a file.
struct CheckedDisk<'a> {
    scratch: &'a Scratch,
}

impl<'a> CheckedDisk<'a> {
    const FILE: &'static str = "checked";

    fn new(scratch: &'a Scratch) -> Result<Self> {
        fs::write(scratch.join(Self::FILE), vec![0; CHECKED_BYTES]).context("cannot make a disk")?;
        Ok(Self { scratch })
    }

    /// Plugs it in, behind the disks that are there.
    fn add_to(&self, machine: Machine) -> Machine {
        let file = self.scratch.join(Self::FILE);
        let disk = format!("file,node-name=checked,filename={}", file.display());
        [["-blockdev", &disk], ["-device", "virtio-blk-pci,drive=checked,disable-legacy=on,addr=0x11"]]
            .as_flattened()
            .iter()
            .fold(machine, |machine, word| machine.argument(*word))
    }

    /// Whether it holds at last what it should.
    fn compare(&self) -> Result<()> {
        let stored = fs::read(self.scratch.join(Self::FILE)).context("cannot read the disk")?;
        ensure!(stored == pattern::data(SEED, CHECKED_BYTES), "the disk does not hold what was written");
        Ok(())
    }
}
