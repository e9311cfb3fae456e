//! How long a command takes, and how much of that this domain was running.
//!
//! On a machine where one instruction takes one nanosecond, as QEMU's can be made to be, the time running is a
//! count of instructions that does not depend on who else was busy.

use core::fmt;
use core::time::Duration;

use hypercall_abi::VcpuId;
use hypercall_abi::vcpu::RUNSTATE_RUNNING;
use pv_runtime::executor::now;
use pv_runtime::hypercall::vcpu_runstate;

/// A moment to count from.
pub(super) struct Stopwatch {
    start: Duration,
    running: Option<Duration>,
}

/// The time since a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Elapsed {
    /// All of it.
    total: Duration,
    /// The part in which this domain was running, if the hypervisor says so.
    running: Option<Duration>,
}

impl Stopwatch {
    /// Starts to count.
    pub(super) fn start() -> Self {
        Self { start: now(), running: running_time() }
    }

    /// Says how much time has passed.
    pub(super) fn elapsed(&self) -> Elapsed {
        let running = running_time().zip(self.running).map(|(end, start)| end.saturating_sub(start));
        Elapsed { total: now().saturating_sub(self.start), running }
    }
}

impl Elapsed {
    /// How many of something were done in a second.
    pub(super) fn rate(&self, count: u64) -> u64 {
        let rate = u128::from(count) * 1_000_000 / self.total.as_micros().max(1);
        u64::try_from(rate).unwrap_or(u64::MAX)
    }
}

impl fmt::Display for Elapsed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} ms", self.total.as_millis())?;
        match self.running {
            Some(running) => write!(formatter, " ({} us running)", running.as_micros()),
            None => Ok(()),
        }
    }
}

/// How long this domain has been running since it started.
fn running_time() -> Option<Duration> {
    let info = vcpu_runstate(VcpuId(0)).ok()?;
    Some(Duration::from_nanos(info.time[RUNSTATE_RUNNING as usize]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_by_the_second() {
        let elapsed = |total| Elapsed { total, running: None };
        assert_eq!(elapsed(Duration::from_millis(500)).rate(1000), 2000);
        assert_eq!(elapsed(Duration::from_secs(4)).rate(100 << 20), 25 << 20);
        assert_eq!(elapsed(Duration::ZERO).rate(7), 7_000_000);
    }
}
