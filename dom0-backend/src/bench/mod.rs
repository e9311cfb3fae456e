//! Measuring the whole: what a guest's hypercalls, requests and packets cost, and whom.
//!
//! `bench micro` makes guests of its own, one after the other, has each run its part, and takes them apart again. What
//! a guest can measure alone it prints itself; for the rest it passes [marks](service) between which the hypervisor's
//! counters are read here. So a figure is what everybody did for the guest, and idling is no part of it.
//!
//! Every result is a line `bench: NUMBER NAME`, or `bench: TOTAL/COUNT NAME: WHAT` for what was counted over several
//! requests or packets. Under QEMU's instruction counter a tick is an instruction.

mod counts;
mod creation;
mod population;
mod service;
mod subject;
mod traffic;
mod wire;

use alloc::rc::Rc;
use alloc::string::String;

use crate::toolstack::Toolstack;

pub use subject::BenchError;
use subject::Subject;
pub use traffic::DiskRequests;
pub use wire::{PairTraffic, WireTraffic};

/// Measures everything, with guests made for it; or what the hypervisor does, in a guest that is there.
///
/// # Errors
///
/// [`BenchError`]; what was measured until then has been printed.
pub async fn micro(toolstack: &Rc<Toolstack>, guest: Option<&str>) -> Result<(), BenchError> {
    if let Some(name) = guest {
        let guest = toolstack.find(name).ok_or_else(|| BenchError::NoGuest(name.into()))?;
        return hypervisor(&Subject::existing(toolstack, guest)).await;
    }
    let subject = Subject::make(toolstack, "bench", &["memory=16"]).await?;
    let measured = hypervisor(&subject).await;
    subject.end().await;
    measured?;
    creation::measure(toolstack).await?;
    traffic::measure(toolstack, "").await.map(drop)
}

/// Measures requests and packets of the kinds whose name contains `selection`, with guests made for it.
///
/// # Errors
///
/// [`BenchError`], also if there is no such kind; what was measured until then has been printed.
pub async fn traffic(toolstack: &Rc<Toolstack>, selection: &str) -> Result<(), BenchError> {
    match traffic::measure(toolstack, selection).await? {
        0 => Err(BenchError::NoTraffic(selection.into())),
        _ => Ok(()),
    }
}

/// Measures one kind of disk request.
///
/// # Errors
///
/// [`BenchError`].
pub async fn disk_requests(toolstack: &Rc<Toolstack>, requests: &DiskRequests) -> Result<(), BenchError> {
    traffic::disk_requests(toolstack, requests).await
}

/// Measures one kind of traffic over a wire of which a guest has both ends.
///
/// # Errors
///
/// [`BenchError`].
pub async fn wire_traffic(toolstack: &Rc<Toolstack>, traffic: &WireTraffic) -> Result<(), BenchError> {
    wire::traffic(toolstack, traffic).await
}

/// Measures packets from one guest to another.
///
/// # Errors
///
/// [`BenchError`].
pub async fn pair_traffic(toolstack: &Rc<Toolstack>, traffic: &PairTraffic) -> Result<(), BenchError> {
    wire::pair(toolstack, traffic).await
}

/// Measures how long domains take to be made, so many one after the other, beside others.
///
/// # Errors
///
/// [`BenchError`]; what was measured until then has been printed.
pub async fn creations(toolstack: &Rc<Toolstack>, count: u32) -> Result<(), BenchError> {
    creation::repeat(toolstack, count).await
}

/// Measures how many idle guests of so many MiB there is room for.
///
/// # Errors
///
/// [`BenchError`].
pub async fn population(toolstack: &Rc<Toolstack>, memory: u64) -> Result<(), BenchError> {
    population::fill(toolstack, memory).await
}

/// What a guest measures alone, and with a peer that sends it events.
async fn hypervisor(subject: &Subject) -> Result<(), BenchError> {
    let _service = subject.offer()?;
    let print = |line: &str| pv_runtime::print!("{line}");
    subject.run("bench micro", print).await
}

/// Prints a result.
fn print_figure(figure: u64, name: &str) {
    pv_runtime::println!("bench: {figure} {name}");
}

/// The number of a line `bench: NUMBER NAME` with this name.
fn figure_in(output: &str, name: &str) -> Option<u64> {
    let figure = |line: &str| line.strip_prefix("bench: ")?.strip_suffix(name)?.trim().parse().ok();
    output.lines().map(String::from).find_map(|line| figure(&line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_is_found_by_its_name() {
        let output = "hello\nbench: 7 other\nbench: 123456 first instruction\n";
        assert_eq!(figure_in(output, "first instruction"), Some(123_456));
        assert_eq!(figure_in(output, "second"), None);
        assert_eq!(figure_in("bench: x first instruction", "first instruction"), None);
    }
}
