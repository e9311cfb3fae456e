//! On which CPUs a vCPU may run, and CPUs that one has to itself.
//!
//! A vCPU that has a CPU to itself is bound to it, nobody else may be, and those that may run everywhere may not run there.
//! So nobody ever waits for that CPU, its vCPU's turn has no end, and while the guest asks for nothing the hypervisor
//! executes nothing there.

use super::{change, queue::Queue, request, run_queue};
use crate::{
    arch,
    cpu::{CpuSet, work},
    vcpu::Vcpu,
};
use core::sync::atomic::Ordering;
use hypercall_abi::Errno;

/// On which CPUs a vCPU may and should run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Affinity {
    /// It runs on no other.
    pub hard: CpuSet,
    /// It takes one of these, if one idles.
    pub soft: CpuSet,
    /// Nobody else runs on the only CPU in `hard`.
    pub is_dedicated: bool,
}

/// All CPUs that there are.
fn present() -> CpuSet {
    arch::cpu::all().fold(0, |set, cpu| set | cpu.bit())
}

/// Where a vCPU may and should run.
pub fn affinity_of(vcpu: &Vcpu) -> Affinity {
    let queue = run_queue();
    let hard = vcpu.schedule.hard.load(Ordering::Relaxed);
    let soft = vcpu.schedule.soft.load(Ordering::Relaxed);
    Affinity {
        hard: hard & present(),
        soft: soft & present(),
        is_dedicated: queue.dedicated() & own(vcpu) != 0,
    }
}

/// Says where a vCPU may and should run from now on. If it runs elsewhere it leaves that CPU at once.
///
/// # Errors
/// `EINVAL` if none of the CPUs is there, or one to itself is not one, or takes the devices' interrupts; `EBUSY` for a CPU that
/// another vCPU has to itself, or is bound to if it is to be dedicated.
pub fn set_affinity(vcpu: &Vcpu, wanted: Affinity) -> Result<(), Errno> {
    let (hard, soft) = (wanted.hard & present(), wanted.soft & present());
    if hard == 0 || soft == 0 {
        return Err(Errno::EINVAL);
    }
    let mut result = Ok(());
    change(vcpu, |queue| {
        result = check(queue, vcpu, hard, wanted.is_dedicated);
        if result.is_ok() {
            release(queue, vcpu);
            bind(queue, vcpu, hard, wanted.is_dedicated);
            vcpu.schedule.soft.store(if soft == present() { CpuSet::MAX } else { soft }, Ordering::Relaxed);
        }
    });
    result
}

/// The set of CPUs that the vCPU is bound to; empty if it may run everywhere.
fn own(vcpu: &Vcpu) -> CpuSet {
    match vcpu.schedule.hard.load(Ordering::Relaxed) {
        CpuSet::MAX => 0,
        some => some,
    }
}

/// Whether a vCPU can be bound to these CPUs.
fn check(queue: &Queue, vcpu: &Vcpu, hard: CpuSet, is_dedicated: bool) -> Result<(), Errno> {
    let others = queue.dedicated() & !own(vcpu);
    if !is_dedicated {
        let is_bound = hard != present();
        return if is_bound && hard & others != 0 { Err(Errno::EBUSY) } else { Ok(()) };
    }
    let boot_cpu = arch::cpu::by_number(0).bit();
    if !hard.is_power_of_two() || hard == boot_cpu {
        return Err(Errno::EINVAL);
    }
    let bound_here = u32::from(own(vcpu) & hard != 0);
    if queue.pinned[hard.trailing_zeros() as usize] > bound_here { Err(Errno::EBUSY) } else { Ok(()) }
}

/// Binds a vCPU that is bound to nothing and in no line.
fn bind(queue: &mut Queue, vcpu: &Vcpu, hard: CpuSet, is_dedicated: bool) {
    if hard == present() && !is_dedicated {
        return;
    }
    vcpu.schedule.hard.store(hard, Ordering::Relaxed);
    for cpu in arch::cpu::all().filter(|cpu| cpu.bit() & hard != 0) {
        queue.pinned[cpu.id as usize] += 1;
        if is_dedicated {
            queue.dedicate(cpu, true);
            // Whoever is there has to go.
            request(cpu, work::RESCHEDULE);
        }
    }
}

/// Unbinds a vCPU that is in no line; a CPU that it had to itself is everybody's again.
pub(super) fn release(queue: &mut Queue, vcpu: &Vcpu) {
    let own = own(vcpu);
    for cpu in arch::cpu::all().filter(|cpu| cpu.bit() & own != 0) {
        queue.pinned[cpu.id as usize] -= 1;
        if queue.dedicated() & cpu.bit() != 0 {
            queue.dedicate(cpu, false);
            request(cpu, work::RESCHEDULE);
        }
    }
    vcpu.schedule.hard.store(CpuSet::MAX, Ordering::Relaxed);
}
