//! Who counts what rounds of requests or packets take.

use alloc::vec::Vec;

use hypercall_abi::{Errno, VcpuId};
use pv_runtime::hypercall::vcpu_runstate;
use pv_runtime::time::{ticks_per_second, time_stamp_counter};
use pv_runtime::xenbus::Store;

use super::marks::Marks;

/// Among the times of a virtual CPU's states: blocked.
const BLOCKED: usize = 2;

/// Who counts.
pub(super) enum Counter {
    /// Dom0, between two marks.
    Dom0(Marks),
    /// This kernel: its own busy ticks.
    Own { since: u64, parts: Vec<u64> },
}

impl Counter {
    /// Who can: dom0 if there is one, which must have offered it.
    ///
    /// # Errors
    ///
    /// What dom0 says.
    pub(super) async fn of(store: Option<&Store>) -> Result<Self, Errno> {
        match store {
            Some(_) => Ok(Self::Dom0(Marks::connect(store).await?)),
            None => Ok(Self::own()),
        }
    }

    /// This kernel itself.
    pub(super) const fn own() -> Self {
        Self::Own { since: 0, parts: Vec::new() }
    }

    /// Begins a part of a round.
    pub(super) async fn begin(&mut self) -> Result<(), Errno> {
        match self {
            Self::Dom0(marks) => marks.pass().await?,
            Self::Own { since, .. } => *since = busy_ticks()?,
        }
        Ok(())
    }

    /// Ends it.
    pub(super) async fn end(&mut self) -> Result<(), Errno> {
        match self {
            Self::Dom0(marks) => marks.pass().await?,
            Self::Own { since, parts } => parts.push(busy_ticks()? - *since),
        }
        Ok(())
    }

    /// The least that a round of so many parts after the first took, as far as this kernel knows.
    pub(super) fn least(&self, parts_of_a_round: usize) -> u64 {
        let Self::Own { parts, .. } = self else { return 0 };
        parts.chunks(parts_of_a_round).map(|round| round.iter().sum()).skip(1).min().unwrap_or(0)
    }
}

/// Ticks of the time stamp counter in which this kernel was not asleep.
fn busy_ticks() -> Result<u64, Errno> {
    let asleep = u128::from(vcpu_runstate(VcpuId(0))?.time[BLOCKED]);
    let ticks_asleep = asleep * u128::from(ticks_per_second()) / 1_000_000_000;
    Ok(time_stamp_counter().wrapping_sub(ticks_asleep as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_round_is_the_sum_of_its_parts_and_the_first_only_warms_up() {
        let counter = Counter::Own { since: 0, parts: Vec::from([1, 1, 7, 1, 4, 5]) };
        assert_eq!((counter.least(2), counter.least(1)), (8, 1));
        assert_eq!(Counter::own().least(2), 0);
    }
}
