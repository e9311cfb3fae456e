//! `cargo xtask bench guest`: what a stock Linux needs for what it does all the time, on the bare machine, on Weir and on
//! Debian's Xen.
//!
//! The same kernel with the same first program, `linux-bench`, runs in three machines that count instructions. What it
//! prints is read from the console, and shown side by side. The kernel's own work is the same in all three, so what a
//! column has more than the first is what its hypervisor costs.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};

use super::figures::{self, Single};
use crate::build::{self, Images};
use crate::consent::Consent;
use crate::linux;
use crate::linux::initramfs::Initramfs;
use crate::peer;
use crate::progress;
use crate::scratch::Scratch;
use crate::workspace::Workspace;

mod machines;
mod module;
mod table;

/// What to compare with, and how to show it.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Measure on this hypervisor too.
    #[arg(long, value_name = "NAME")]
    peer: Option<Peer>,
    /// Print one JSON object instead of a table; docs/benchmarks.md describes it.
    #[arg(long)]
    json: bool,
    /// Measure on Weir twice, and fail unless both runs agree to the instruction.
    #[arg(long)]
    twice: bool,
}

/// A hypervisor to compare with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Peer {
    /// Debian's Xen 4.17.
    Xen,
}

/// What all machines run.
struct Linux {
    /// The kernel, a bzImage.
    kernel: PathBuf,
    /// Its initial file system, with the program and the module that measure.
    ramdisk: Vec<u8>,
}

/// What one machine showed.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Column {
    /// What the kernel ran on.
    name: &'static str,
    figures: Vec<Single>,
    /// Bytes of the hypervisor's memory that the guest takes, beside its own memory.
    memory: Option<u64>,
    /// Bytes that the hypervisor keeps for each frame of memory.
    metadata: Option<u64>,
}

impl Column {
    /// A column, if all was measured that `last` comes after.
    fn new(name: &'static str, lines: &[String], last: &str) -> Result<Self> {
        let figures = figures::singles(lines)?;
        ensure!(
            figures.iter().any(|figure| figure.name == last),
            "{name}: {last} was not measured:\n{}",
            lines.join("\n")
        );
        Ok(Self { name, figures, memory: None, metadata: None })
    }

    fn figure(&self, name: &str) -> Option<u64> {
        self.figures.iter().find(|figure| figure.name == name).map(|figure| figure.ticks)
    }
}

/// Measures everywhere; returns whether both runs on Weir agree, if two were asked for.
pub fn bench(workspace: &Workspace, images: &Images, options: &Options, consent: Consent) -> Result<bool> {
    let linux = linux(workspace, consent)?;
    let xen = match options.peer {
        Some(Peer::Xen) => Some(peer::ensure(workspace, consent)?),
        None => None,
    };
    let scratch = Scratch::create(&workspace.work(), "bench-guest")?;
    progress::stage("measuring on the bare machine");
    let mut columns = vec![machines::bare(&linux, &scratch)?];
    progress::stage("measuring on Weir");
    columns.push(machines::weir(&linux, images, &scratch)?);
    if let Some(files) = xen {
        progress::stage("measuring on Xen; this takes a minute or two");
        columns.push(machines::xen(&linux, &files, &scratch)?);
    }
    if options.json {
        println!("{}", table::json(&columns));
    } else {
        print!("{}", table::text(&columns));
    }
    if !options.twice {
        return Ok(true);
    }
    progress::stage("measuring on Weir again");
    Ok(agree(&columns[1], &machines::weir(&linux, images, &scratch)?))
}

/// The kernel and what it starts from.
fn linux(workspace: &Workspace, consent: Consent) -> Result<Linux> {
    let kernel = linux::ensure(workspace, linux::Kernel::Cloud61)?.image();
    let program = build::build_linux_bench(workspace)?;
    let module = module::ensure(workspace, &kernel, consent)?;
    let ramdisk = Initramfs::new()
        .program("init", &read(&program)?)
        .program(&module.file_name().unwrap_or_default().to_string_lossy(), &read(&module)?);
    Ok(Linux { kernel, ramdisk: ramdisk.finish() })
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Whether two columns are the same; says where they differ.
fn agree(first: &Column, second: &Column) -> bool {
    for (one, other) in first.figures.iter().zip(&second.figures).filter(|(one, other)| one != other) {
        progress::stage(format_args!("{}: first {}, then {}", one.name, one.ticks, other.ticks));
    }
    let same = first == second;
    progress::stage(if same { "both runs agree to the instruction" } else { "the runs differ" });
    same
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(lines: &[&str]) -> Result<Column> {
        let lines: Vec<_> = lines.iter().map(|line| (*line).to_owned()).collect();
        Column::new("x", &lines, "b")
    }

    #[test]
    fn a_column_is_complete_or_an_error() {
        let complete = column(&["noise", "bench: 1 a", "bench: 2 b"]).unwrap();
        assert_eq!((complete.figure("a"), complete.figure("c")), (Some(1), None));
        assert!(column(&["bench: 1 a"]).unwrap_err().to_string().contains("b was not measured"));
        assert!(column(&["bench: one a", "bench: 2 b"]).is_err());
    }

    #[test]
    fn runs_agree_figure_by_figure() {
        let one = column(&["bench: 1 a", "bench: 2 b"]).unwrap();
        assert!(agree(&one, &one));
        assert!(!agree(&one, &column(&["bench: 1 a", "bench: 3 b"]).unwrap()));
    }
}
