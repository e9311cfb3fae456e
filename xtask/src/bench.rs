//! `cargo xtask bench micro`: what hypercalls, requests and packets cost, counted in a machine of its own.
//!
//! Domain 0 does the measuring (its command `bench micro`); here a machine that counts instructions is started for it,
//! what it prints is read, and shown beside the goals. The machine has a disk of zeros and QEMU's own network; nothing
//! of the user's is touched.

mod figures;
mod goals;
mod table;

use std::fs::File;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, Subcommand};

use crate::boot::{self, Load};
use crate::build::{self, Images};
use crate::bundle;
use crate::consent::Consent;
use crate::exec::{self, Frames, Line};
use crate::machine::{Ending, Exit, Machine};
use crate::progress;
use crate::scratch::Scratch;
use crate::setup;
use crate::workspace::Workspace;
use figures::Figures;

/// What domain 0 is told to do.
const COMMAND: &str = "bench micro";
/// How long a run may take.
const LIMIT: Duration = Duration::from_secs(180);
/// Size of the machine's disk.
const DISK_BYTES: u64 = 64 << 20;

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
}

/// Measures; returns whether all was measured and, if asked for, twice the same.
pub fn bench(workspace: &Workspace, options: &Options, consent: Consent) -> Result<bool> {
    let Kind::Micro { json, twice } = options.kind;
    setup::ensure(workspace, consent)?;
    let images = build::build(workspace)?;
    let scratch = Scratch::create(&workspace.work(), "bench")?;
    let first = measure(&images, &scratch)?;
    let figures = Figures::read(&first)?;
    if json {
        println!("{}", table::json(&figures));
    } else {
        print!("{}", table::text(&figures));
    }
    Ok(!twice || agree(&first, &measure(&images, &scratch)?))
}

/// One run; the lines that domain 0 printed.
fn measure(images: &Images, scratch: &Scratch) -> Result<Vec<String>> {
    progress::stage("measuring; this takes some seconds");
    let mut running = machine(images, scratch)?.spawn()?;
    let mut frames = Frames::new();
    let mut lines = Vec::new();
    let ending = loop {
        match running.next_line() {
            Ok(line) => {
                if let Line::Output(text) = frames.next(&line) {
                    progress::detail(&text);
                    lines.push(text);
                }
            }
            Err(ending) => break ending,
        }
    };
    if ending != Ending::Exited(Exit::Debug(exec::ALL_SUCCEEDED)) {
        bail!("nothing was measured: {ending}\n{}", running.context());
    }
    Ok(lines)
}

/// A machine that measures and ends.
fn machine(images: &Images, scratch: &Scratch) -> Result<Machine> {
    let archive = bundle::boot_archive(images, &[COMMAND.to_owned()])?;
    let load = Load { images, archive: &archive, hypervisor_words: None, dom0_words: "noguest" };
    let disk = scratch.join("disk");
    let made = File::create(&disk).and_then(|file| file.set_len(DISK_BYTES));
    made.with_context(|| format!("cannot make {}", disk.display()))?;
    Ok(boot::on_weir(load, scratch)?.counts_instructions(true).disk(disk).network("user").time_limit(LIMIT))
}

/// Whether two runs printed the same; says where they differ.
fn agree(first: &[String], second: &[String]) -> bool {
    let differences: Vec<_> = first.iter().zip(second).filter(|(one, other)| one != other).collect();
    for (one, other) in &differences {
        progress::stage(format_args!("first {one}; then {other}"));
    }
    let same = differences.is_empty() && first.len() == second.len();
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
    }
}
