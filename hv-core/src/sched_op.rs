//! `HYPERVISOR_sched_op`: a guest gives up its CPU, for a moment, until an event, or for good.

use crate::{
    arch::clock,
    event_channel, guest_access,
    hypercall::{Arguments, Caller, HypercallResult},
    lifecycle, scheduler, time,
    vcpu::not_runnable,
};
use core::sync::atomic::Ordering;
use hypercall_abi::{
    DomainId, Errno, Port,
    sched::{
        SCHEDOP_BLOCK, SCHEDOP_POLL, SCHEDOP_REMOTE_SHUTDOWN, SCHEDOP_SHUTDOWN, SCHEDOP_SHUTDOWN_CODE,
        SCHEDOP_YIELD, SchedPoll, SchedRemoteShutdown, SchedShutdown,
    },
};

/// Most ports one poll may name.
const MOST_POLLED_PORTS: u32 = 128;

/// `HYPERVISOR_sched_op(command, argument)`.
///
/// # Errors
/// `ENOSYS` for a command that is not there, `EFAULT` for an unreadable argument, and what the command says.
pub fn sched_op(caller: &mut Caller<'_>, arguments: &Arguments) -> HypercallResult {
    let argument = arguments[1];
    match arguments[0] as u32 {
        SCHEDOP_YIELD => scheduler::yield_now(caller.vcpu),
        SCHEDOP_BLOCK => block(caller),
        SCHEDOP_POLL => poll(caller, guest_access::read(argument)?)?,
        SCHEDOP_SHUTDOWN => {
            let shutdown: SchedShutdown = guest_access::read(argument)?;
            lifecycle::shut_down(caller.domain, shutdown.reason);
        }
        SCHEDOP_SHUTDOWN_CODE => {
            let shutdown: SchedShutdown = guest_access::read(argument)?;
            caller.domain.shutdown_reason.store(shutdown.reason, Ordering::Relaxed);
        }
        SCHEDOP_REMOTE_SHUTDOWN => remote_shutdown(caller, guest_access::read(argument)?)?,
        _ => return Err(Errno::ENOSYS.into()),
    }
    Ok(0)
}

/// Waits for an event, with upcalls unmasked; an event that is already there ends the wait before it begins.
fn block(caller: &mut Caller<'_>) {
    let Some(info) = caller.vcpu.info() else { return };
    info.upcall_mask().store(0, Ordering::Relaxed);
    scheduler::suspend(caller.vcpu, not_runnable::BLOCKED);
    if info.upcall_pending().load(Ordering::Acquire) != 0 {
        scheduler::wake(caller.vcpu);
    }
}

/// Waits until one of the ports is pending, masked or not, or until the deadline.
fn poll(caller: &mut Caller<'_>, poll: SchedPoll) -> Result<(), Errno> {
    if poll.nr_ports > MOST_POLLED_PORTS {
        return Err(Errno::EINVAL);
    }
    let single = if poll.nr_ports == 1 { Some(guest_access::read(poll.ports)?) } else { None };
    scheduler::suspend(caller.vcpu, not_runnable::POLLING);
    event_channel::start_polling(caller.vcpu, single);
    let found = any_pending(caller, &poll);
    let is_late = poll.timeout != 0 && poll.timeout <= clock::now();
    if found != Ok(false) || is_late {
        event_channel::stop_polling(caller.vcpu);
        scheduler::resume(caller.vcpu, not_runnable::POLLING);
        return found.map(|_| ());
    }
    // The deadline of an earlier poll that an event ended may still be set.
    time::set_poll_deadline(caller.vcpu, if poll.timeout == 0 { time::NEVER } else { poll.timeout });
    Ok(())
}

fn any_pending(caller: &Caller<'_>, poll: &SchedPoll) -> Result<bool, Errno> {
    for index in 0..u64::from(poll.nr_ports) {
        let port: Port = guest_access::read_element(poll.ports, index)?;
        if event_channel::is_pending(caller.domain, port) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn remote_shutdown(caller: &Caller<'_>, shutdown: SchedRemoteShutdown) -> Result<(), Errno> {
    if shutdown.domain_id == DomainId::SELF || shutdown.domain_id == caller.domain.id {
        return Err(Errno::EINVAL);
    }
    let domain = caller.target(shutdown.domain_id)?;
    lifecycle::shut_down(&domain, shutdown.reason);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        arch::cpu::this_cpu,
        test_support::{ARGUMENTS, Guest, machine_of, vcpu},
    };

    /// Has the guest poll no port at all until `timeout`, or for ever if it is zero.
    fn poll_until(guest: &Guest, timeout: u64) {
        guest.write_arguments(&[SchedPoll { timeout, ..zerocopy::FromZeros::new_zeroed() }]);
        guest.execute(sched_op, [u64::from(SCHEDOP_POLL), ARGUMENTS, 0]).0.expect("a good poll");
    }

    #[test]
    fn the_deadline_of_a_poll_that_ended_early_does_not_end_the_next() {
        let _machine = machine_of(256);
        let guest = Guest::new(1);
        let polling = vcpu(guest.domain(), 0);
        let is_polling = || polling.paused.load(Ordering::Relaxed) & not_runnable::POLLING != 0;
        clock::set(100);
        poll_until(&guest, 200);
        scheduler::wake(polling);
        assert!(!is_polling());
        poll_until(&guest, 0);
        clock::set(300);
        time::run_timers(this_cpu());
        assert!(is_polling(), "nothing it waits for has come");
        scheduler::wake(polling);
        poll_until(&guest, 400);
        clock::set(500);
        time::run_timers(this_cpu());
        assert!(!is_polling(), "its own deadline has come");
    }
}
