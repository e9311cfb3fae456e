//! Memory that nobody else should write to: filled, left alone, compared.

use alloc::format;
use alloc::vec::Vec;
use core::time::Duration;

use hypercall_abi::PAGE_SIZE;
use pv_runtime::executor::sleep;
use pv_runtime::memory::{PageRun, SharedMemory, page_count};
use pv_runtime::println;

use super::failure::Failure;
use super::pattern::Pattern;

/// Pages that are taken at once.
const RUN: usize = 16;
/// Pages that are left for everything else.
const LEFT: usize = 256;

/// Fills most of the free memory with the data of a seed, waits, and compares.
pub(super) async fn hold(time: Duration, seed: u64) -> Result<(), Failure> {
    let mut runs = Vec::new();
    while page_count().free > LEFT + RUN
        && let Ok(run) = PageRun::new(RUN)
    {
        runs.push(run);
    }
    let (mut pattern, mut bytes) = (Pattern::new(seed), [0; PAGE_SIZE]);
    for (run, page) in pages(&runs) {
        pattern.fill(&mut bytes);
        run.copy_in(page, &bytes);
    }
    println!("holding {} bytes", pattern.position());
    sleep(time).await;
    let mut pattern = Pattern::new(seed);
    let mut changed = 0;
    for (run, page) in pages(&runs) {
        run.copy_out(page, &mut bytes);
        changed += usize::from(!pattern.matches(&bytes));
    }
    if changed > 0 {
        return Err(Failure::new(format!("{changed} pages were changed")));
    }
    println!("held {} bytes, and they are the same", pattern.position());
    Ok(())
}

/// Every page, as its run and its place there.
fn pages(runs: &[PageRun]) -> impl Iterator<Item = (&PageRun, usize)> {
    runs.iter().flat_map(|run| (0..RUN).map(move |page| (run, page * PAGE_SIZE)))
}
