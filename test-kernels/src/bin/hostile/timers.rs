//! Deadlines in the past, at the end of time, and polls of ports that are none.

use alloc::format;
use core::time::Duration;

use hypercall_abi::Errno;
use hypercall_abi::sched::{SCHEDOP_POLL, SchedPoll};
use hypercall_abi::xen::{HYPERVISOR_SCHED_OP, HYPERVISOR_SET_TIMER_OP};
use pv_runtime::time::nanoseconds;

use crate::attacker::Attacker;
use crate::report::{Outcome, accepted, cases, expect, refused_as};

cases!("timers": deadlines_anywhere, polls_of_nothing, polls_of_bad_ports, polls_that_are_over);

const MILLISECOND: u64 = 1_000_000;
/// More events than can come while a case waits: the timer's, the console's, the store's.
const EVENTS_AT_ONCE: usize = 5;

/// Waits until one of the ports is pending, or until a time.
pub fn poll(attacker: &Attacker, ports: u64, nr_ports: u32, timeout: u64) -> Result<u64, Errno> {
    let mut argument = SchedPoll { ports, nr_ports, timeout, ..Default::default() };
    attacker.command(HYPERVISOR_SCHED_OP, SCHEDOP_POLL, &mut argument)
}

/// A poll of no port waits for the deadline, or for any event; so the clock and the timer still work.
fn time_passes(attacker: &Attacker) -> Outcome {
    let start = nanoseconds();
    for _ in 0..EVENTS_AT_ONCE {
        if nanoseconds() < start + MILLISECOND {
            accepted("waiting", poll(attacker, 0, 0, start + MILLISECOND))?;
        }
    }
    let waited = Duration::from_nanos(nanoseconds() - start);
    expect(waited >= Duration::from_millis(1), format!("a millisecond took {waited:?}"))?;
    expect(waited < Duration::from_secs(5), format!("a millisecond took {waited:?}"))
}

fn deadlines_anywhere(attacker: &Attacker) -> Outcome {
    let set = |deadline: u64| attacker.call(HYPERVISOR_SET_TIMER_OP, &[deadline]);
    time_passes(attacker)?;
    for deadline in [1, 2, nanoseconds(), u64::MAX, u64::MAX - 1, 1 << 63, (1 << 63) - 1, u64::MAX / 1000, 0]
    {
        accepted(format!("deadline {deadline}"), set(deadline))?;
        time_passes(attacker)?;
    }
    for _ in 0..10_000 {
        accepted("a deadline in the past", set(1))?;
    }
    accepted("no deadline", set(0))?;
    time_passes(attacker)
}

fn polls_of_nothing(attacker: &Attacker) -> Outcome {
    for pointer in [0, 1 << 63, 0xffff_8000_0000_0000, u64::MAX] {
        accepted(
            format!("no ports at {pointer:#x}"),
            poll(attacker, pointer, 0, nanoseconds() + MILLISECOND),
        )?;
    }
    Ok(())
}

fn polls_of_bad_ports(attacker: &Attacker) -> Outcome {
    let ports = [0u32, 1, 4095, 4096, 100_000, u32::MAX];
    for port in ports {
        let mut list = [port];
        let answer = poll(attacker, list.as_mut_ptr() as u64, 1, nanoseconds() + MILLISECOND);
        expect(matches!(answer, Ok(0) | Err(Errno::EINVAL)), format!("port {port} gave {answer:?}"))?;
    }
    for count in [129, 4096, 1 << 31, u32::MAX] {
        let mut list = [1u32; 4];
        let answer = poll(attacker, list.as_mut_ptr() as u64, count, nanoseconds() + MILLISECOND);
        refused_as(format!("{count} ports"), &[Errno::EINVAL], answer)?;
    }
    time_passes(attacker)
}

fn polls_that_are_over(attacker: &Attacker) -> Outcome {
    for timeout in [1, nanoseconds() - MILLISECOND, nanoseconds()] {
        accepted(format!("a poll until {timeout}"), poll(attacker, 0, 0, timeout))?;
    }
    for _ in 0..10_000 {
        accepted("a poll that is over", poll(attacker, 0, 0, 1))?;
    }
    time_passes(attacker)
}
