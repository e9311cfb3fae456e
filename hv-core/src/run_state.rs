//! How a vCPU spends its life: running, waiting for a CPU, waiting for an event, or offline.
//!
//! Times are kept always and cost a few instructions at each change. A guest that wants to know what was taken from it
//! ("steal time") registers an area of its own, which is written whenever the vCPU gets the CPU: only then can the guest
//! read it, and only then is its address space in force.

use crate::{
    arch::clock,
    guest_access, scheduler,
    vcpu::{Context, Vcpu, not_runnable},
};
use core::{
    mem::offset_of,
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
};
use hypercall_abi::{
    Errno,
    vcpu::{
        RUNSTATE_BLOCKED, RUNSTATE_OFFLINE, RUNSTATE_RUNNABLE, RUNSTATE_RUNNING, VcpuRunstateInfo,
        XEN_RUNSTATE_UPDATE,
    },
    xen::VMASST_TYPE_RUNSTATE_UPDATE_FLAG,
};

/// A vCPU's state and how long it has been in each.
pub struct RunState {
    state: AtomicU32,
    since: AtomicU64,
    /// Nanoseconds in each state, by `RUNSTATE_*`, without the present one.
    time: [AtomicU64; 4],
    /// Guest virtual address of the registered area; zero for none.
    area: AtomicU64,
}

impl RunState {
    /// Offline from now on.
    pub fn new() -> Self {
        Self {
            state: AtomicU32::new(RUNSTATE_OFFLINE),
            since: AtomicU64::new(clock::now()),
            time: [const { AtomicU64::new(0) }; 4],
            area: AtomicU64::new(0),
        }
    }

    /// Changes to `state` at system time `now`. Only whoever holds the run queue's lock does this.
    #[inline]
    fn enter(&self, state: u32, now: u64) {
        let previous = self.state.swap(state, Ordering::Relaxed);
        let since = self.since.swap(now, Ordering::Relaxed);
        let time = &self.time[previous as usize % 4];
        time.store(time.load(Ordering::Relaxed) + now.saturating_sub(since), Ordering::Relaxed);
    }

    /// It gets the CPU.
    #[inline]
    pub fn run(&self, now: u64) {
        self.enter(RUNSTATE_RUNNING, now);
    }

    /// It waits for the CPU.
    #[inline]
    pub fn queue(&self, now: u64) {
        self.enter(RUNSTATE_RUNNABLE, now);
    }

    /// It cannot run for the reasons in `paused` (see [`not_runnable`]).
    pub fn stop(&self, paused: u32, now: u64) {
        let offline = paused & not_runnable::KEPT_OFF != 0;
        self.enter(if offline { RUNSTATE_OFFLINE } else { RUNSTATE_BLOCKED }, now);
    }

    /// State and times up to now, as the ABI has them; by whoever changes it, or under the run queue's lock
    /// ([`scheduler::run_state_of`]).
    pub fn snapshot(&self) -> VcpuRunstateInfo {
        let state = self.state.load(Ordering::Relaxed);
        let since = self.since.load(Ordering::Relaxed);
        let mut time = core::array::from_fn(|index| self.time[index].load(Ordering::Relaxed));
        time[state as usize % 4] += clock::now().saturating_sub(since);
        VcpuRunstateInfo { state, _pad: 0, state_entry_time: since, time }
    }
}

impl Default for RunState {
    fn default() -> Self {
        Self::new()
    }
}

/// Registers the caller's area, or none for address 0, and writes it for the first time.
///
/// # Errors
/// `EFAULT` when it cannot be written.
pub fn register(vcpu: &Vcpu, address: u64) -> Result<(), Errno> {
    if address != 0 {
        guest_access::write(address, &scheduler::run_state_of(vcpu))?;
    }
    vcpu.run_state.area.store(address, Ordering::Relaxed);
    Ok(())
}

/// Writes the area of a vCPU that has just got the CPU. An area that has become unwritable is the guest's loss.
pub fn publish(vcpu: &Vcpu, context: &mut Context) {
    let address = vcpu.run_state.area.load(Ordering::Relaxed);
    if address == 0 {
        return;
    }
    let marks = vcpu.domain().vm_assist.load(Ordering::Relaxed) & 1 << VMASST_TYPE_RUNSTATE_UPDATE_FLAG != 0;
    // User mode's address space may not have the area.
    let _ = guest_access::in_kernel_space(context, || write(address, &vcpu.run_state.snapshot(), marks));
}

/// Writes the area; with the update flag a reader on another vCPU can tell that it is being written.
fn write(address: u64, info: &VcpuRunstateInfo, marks: bool) -> Result<(), Errno> {
    if !marks {
        return guest_access::write(address, info);
    }
    let entry_time = address.wrapping_add(offset_of!(VcpuRunstateInfo, state_entry_time) as u64);
    let marked = info.state_entry_time | XEN_RUNSTATE_UPDATE;
    guest_access::write(entry_time, &marked)?;
    guest_access::write(address, &VcpuRunstateInfo { state_entry_time: marked, ..*info })?;
    guest_access::write(entry_time, &info.state_entry_time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_add_up_to_all_the_time_there_was() {
        clock::set(100);
        let state = RunState::new();
        state.queue(150);
        state.run(160);
        state.stop(not_runnable::BLOCKED, 200);
        clock::set(230);
        let info = state.snapshot();
        assert_eq!((info.state, info.state_entry_time), (RUNSTATE_BLOCKED, 200));
        assert_eq!(info.time, [40, 10, 30, 50]);
        assert_eq!(info.time.iter().sum::<u64>(), 130);
    }
}
