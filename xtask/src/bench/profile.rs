//! `cargo xtask bench profile`: the functions behind a figure of `bench micro`.
//!
//! The same machine runs the same rounds, and a plugin in QEMU counts what is executed between the hypervisor's function
//! that sets its counters to zero and the one that tells them: the very stretches that `bench micro` counts.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};

use super::figures::{Figures, Traffic};
use super::{machine, run};
use crate::build::{Images, Profiler};
use crate::command;
use crate::scratch::Scratch;

/// Functions of the hypervisor at which a round begins and ends.
const BEGIN: &str = "counters::start";
const END: &str = "sysctl::write_counter";

/// Instructions of each request or packet, by function.
pub struct Profile {
    /// What was profiled, and what the hypervisor's own counters say of it.
    pub traffic: Traffic,
    /// For each kernel a line with its sum, then one for each function, indented.
    pub table: String,
}

/// Profiles the one kind of traffic whose name contains `traffic`. Functions are those of the source below `root`; with
/// `lines`, their lines are told apart.
pub fn profile(
    profiler: &Profiler,
    images: &Images,
    scratch: &Scratch,
    traffic: &str,
    (root, lines): (&Path, bool),
) -> Result<Profile> {
    let record = scratch.path().join("record");
    let plugin = plugin(profiler, images, &record)?;
    let machine = machine(images, scratch, &format!("bench traffic \"{traffic}\""))?;
    let printed = run(machine.argument("-plugin").argument(plugin))?;
    let mut kinds = Figures::of_traffic(&printed)?;
    let names: Vec<_> = kinds.iter().map(|kind| kind.name.as_str()).collect();
    ensure!(names.len() == 1, "{traffic:?} is in the names of several: {}", names.join("; "));
    let traffic = kinds.remove(0);
    let mut report = Command::new(&profiler.program);
    report.arg("report").arg(record).args(["--count", &traffic.count.to_string()]).arg("--root").arg(root);
    for (name, path) in images.named() {
        report.arg("--image").arg(format!("{name}={}", path.display()));
    }
    if lines {
        report.arg("--lines");
    }
    Ok(Profile { traffic, table: command::text(&mut report)? })
}

/// The plugin with its arguments, as QEMU wants it.
fn plugin(profiler: &Profiler, images: &Images, record: &Path) -> Result<String> {
    let address = |function| {
        let mut find = Command::new(&profiler.program);
        command::text(find.arg("address").arg(&images.weir).arg(function))
    };
    let (begin, end) = (address(BEGIN)?, address(END)?);
    let (plugin, record) = (profiler.plugin.display(), record.display());
    Ok(format!("{plugin},begin={},end={},record={record}", begin.trim(), end.trim()))
}
