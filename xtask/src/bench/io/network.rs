//! The machines in which network traffic is counted.
//!
//! Each has two cards at one wire, and the guest has both ends: one by way of domain 0, given to it, or with nothing in
//! between; the other always as a card of its own, for what it does there is not counted. Cards send when the machine's
//! clock says so, and nobody else is at the wire: nothing depends on the computer underneath.

use anyhow::Result;

use super::workload::{Means, Workload};
use super::{Column, LIMIT, Programs, of_means, read, run_alone};
use crate::bench::figures::Traffic;
use crate::bench::{plain_machine, run_to_end};
use crate::machine::Machine;
use crate::progress;

/// The cards' addresses: the one that is measured, and the one at the far end.
const NEAR: &str = "00:12.0";
const FAR: &str = "00:13.0";

/// Adds what the kinds of network traffic among these cost.
pub(super) fn measure(
    programs: Programs<'_>,
    kinds: &[Workload],
    [proxy, direct, native]: &mut [Column; 3],
) -> Result<()> {
    let (all, wire) = (of_means(kinds, &[Means::Wire, Means::Pair]), of_means(kinds, &[Means::Wire]));
    if !all.is_empty() {
        progress::stage("measuring a guest whose network is behind the proxy");
        proxy.traffic.extend(on_weir(programs, &all, &format!("noguest hide={FAR}"), "vif")?);
    }
    if !wire.is_empty() {
        progress::stage("measuring a guest that was given a network card");
        direct.traffic.extend(on_weir(programs, &wire, &format!("noguest hide={NEAR},{FAR}"), NEAR)?);
        progress::stage("measuring the same kernel and card without a hypervisor");
        native.traffic.extend(without_hypervisor(programs, &wire)?);
    }
    Ok(())
}

/// A guest on Weir with this interface.
fn on_weir(programs: Programs<'_>, kinds: &[Workload], dom0_words: &str, near: &str) -> Result<Vec<Traffic>> {
    let command = |kind: &Workload| match kind.means {
        Means::Pair => format!("bench pair {} {} {}", kind.bytes, kind.depth, kind.rounds),
        _ => format!("bench wire {near} {FAR} {} {}", kind.words(), kind.rounds),
    };
    let commands: Vec<_> = kinds.iter().map(command).collect();
    let machine = plain_machine(programs.images, programs.scratch, &commands, dom0_words)?;
    let (lines, _) = run_to_end(&with_wire(machine))?;
    read(kinds, &lines)
}

/// The same kernel with nothing under it.
fn without_hypervisor(programs: Programs<'_>, kinds: &[Workload]) -> Result<Vec<Traffic>> {
    let command = |kind: &Workload| format!("bench wire {} {}", kind.words(), kind.rounds);
    let commands: Vec<_> = kinds.iter().map(command).collect();
    read(kinds, &run_alone(&with_wire(programs.alone(&commands)?))?)
}

/// Puts the cards and the wire in, and has instructions counted.
fn with_wire(machine: Machine) -> Machine {
    let card = |id, address: &str| {
        let slot = address.trim_start_matches("00:");
        format!("virtio-net-pci,netdev={id},disable-legacy=on,ioeventfd=off,tx=timer,addr={slot}")
    };
    let (near, far) = (card("near", NEAR), card("far", FAR));
    let arguments = [
        ["-netdev", "hubport,id=near,hubid=0"],
        ["-netdev", "hubport,id=far,hubid=0"],
        ["-device", &near],
        ["-device", &far],
    ];
    let machine = machine.counts_instructions(true).time_limit(LIMIT);
    arguments.as_flattened().iter().fold(machine, |machine, word| machine.argument(*word))
}
