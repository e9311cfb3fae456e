//! `HYPERVISOR_vcpu_op`: a guest brings its own vCPUs up and down and says where their shared data lies.

use crate::{
    arch::clock,
    direct_map, frame, guest_access,
    hypercall::{Arguments, Caller, HypercallError, HypercallResult},
    lifecycle, run_state, scheduler, time, trap,
    vcpu::{Vcpu, not_runnable},
    vcpu_context,
};
use core::{mem::offset_of, sync::atomic::Ordering};
use hypercall_abi::{
    Errno, MachineFrame, VcpuId,
    sched::SHUTDOWN_POWEROFF,
    vcpu::{
        VCPU_SSHOTTMR_FUTURE, VCPUOP_DOWN, VCPUOP_GET_RUNSTATE_INFO, VCPUOP_INITIALISE, VCPUOP_IS_UP,
        VCPUOP_REGISTER_RUNSTATE_MEMORY_AREA, VCPUOP_REGISTER_VCPU_INFO, VCPUOP_SEND_NMI,
        VCPUOP_SET_SINGLESHOT_TIMER, VCPUOP_STOP_PERIODIC_TIMER, VCPUOP_STOP_SINGLESHOT_TIMER, VCPUOP_UP,
        VcpuRegisterRunstateMemoryArea, VcpuRegisterVcpuInfo, VcpuSetSingleshotTimer,
    },
    xen::VcpuInfo,
};

/// `HYPERVISOR_vcpu_op(command, vcpu, argument)`.
///
/// # Errors
/// `ENOENT` for a vCPU that does not exist, `ENOSYS` for a command that is not there, and what the command says.
pub fn vcpu_op(caller: &mut Caller<'_>, arguments: &Arguments) -> HypercallResult {
    let vcpu = caller.domain.vcpu(VcpuId(arguments[1] as u32)).ok_or(Errno::ENOENT)?;
    let argument = arguments[2];
    match arguments[0] as u32 {
        VCPUOP_INITIALISE => vcpu_context::initialise(caller.domain, vcpu, argument)?,
        VCPUOP_UP => bring_up(caller, vcpu)?,
        VCPUOP_DOWN => take_down(caller, vcpu),
        VCPUOP_IS_UP => {
            return Ok(u64::from(vcpu.paused.load(Ordering::Acquire) & not_runnable::OFFLINE == 0));
        }
        VCPUOP_GET_RUNSTATE_INFO => guest_access::write(argument, &scheduler::run_state_of(vcpu))?,
        VCPUOP_REGISTER_RUNSTATE_MEMORY_AREA => {
            let area: VcpuRegisterRunstateMemoryArea = guest_access::read(argument)?;
            run_state::register(vcpu, area.addr)?;
        }
        VCPUOP_REGISTER_VCPU_INFO => register_info(caller, vcpu, guest_access::read(argument)?)?,
        VCPUOP_SET_SINGLESHOT_TIMER => set_one_shot_timer(caller, vcpu, guest_access::read(argument)?)?,
        VCPUOP_STOP_SINGLESHOT_TIMER => {
            own(caller, vcpu)?;
            time::set_one_shot(vcpu, time::NEVER);
        }
        // There is no periodic timer to stop, which is what every kernel asks for when it starts.
        VCPUOP_STOP_PERIODIC_TIMER => {}
        VCPUOP_SEND_NMI if argument == 0 => trap::request_nmi(vcpu),
        VCPUOP_SEND_NMI => return Err(Errno::EINVAL.into()),
        _ => return Err(Errno::ENOSYS.into()),
    }
    Ok(0)
}

/// A domain whose last vCPU goes has switched itself off. Of several that go at once, one sees that nobody is left,
/// because each is marked before it looks.
fn take_down(caller: &Caller<'_>, vcpu: &Vcpu) {
    scheduler::suspend(vcpu, not_runnable::OFFLINE);
    let is_up = |other: &Vcpu| other.paused.load(Ordering::SeqCst) & not_runnable::OFFLINE == 0;
    if !caller.domain.vcpus().any(is_up) {
        lifecycle::shut_down(caller.domain, SHUTDOWN_POWEROFF);
    }
}

fn bring_up(caller: &Caller<'_>, vcpu: &Vcpu) -> Result<(), HypercallError> {
    let _control = caller.domain.try_control()?;
    if !vcpu.initialised.load(Ordering::Acquire) {
        return Err(Errno::EINVAL.into());
    }
    scheduler::resume(vcpu, not_runnable::OFFLINE);
    Ok(())
}

/// A vCPU's timer is on the CPU that runs it, so only the vCPU itself sets it.
fn own(caller: &Caller<'_>, vcpu: &Vcpu) -> Result<(), Errno> {
    if caller.is_vcpu(vcpu.id) { Ok(()) } else { Err(Errno::EINVAL) }
}

fn set_one_shot_timer(caller: &Caller<'_>, vcpu: &Vcpu, timer: VcpuSetSingleshotTimer) -> Result<(), Errno> {
    own(caller, vcpu)?;
    if timer.flags & VCPU_SSHOTTMR_FUTURE != 0 && timer.timeout_abs_ns < clock::now() {
        return Err(Errno::ETIME);
    }
    time::set_one_shot(vcpu, timer.timeout_abs_ns);
    Ok(())
}

/// Moves a vCPU's `vcpu_info` to a frame of the guest's, once; the frame stays the guest's and is held.
fn register_info(caller: &Caller<'_>, vcpu: &Vcpu, place: VcpuRegisterVcpuInfo) -> Result<(), Errno> {
    let frame = MachineFrame(place.mfn);
    let offset = place.offset as usize;
    if offset > 4096 - size_of::<VcpuInfo>() || !offset.is_multiple_of(align_of::<u64>()) {
        return Err(Errno::EINVAL);
    }
    if vcpu.own_info.load(Ordering::Acquire) {
        return Err(Errno::EINVAL);
    }
    frame::get_writable(frame, caller.domain.id)?;
    if vcpu.own_info.swap(true, Ordering::AcqRel) {
        frame::put_writable(frame);
        return Err(Errno::EINVAL);
    }
    move_info(vcpu, frame, offset);
    Ok(())
}

/// Copies what the guest set so far, then marks everything pending, so that an event sent meanwhile is not lost.
fn move_info(vcpu: &Vcpu, frame: MachineFrame, offset: usize) {
    if let Some(old) = vcpu.info() {
        let mask = direct_map::atomic::<u8>(frame, offset + offset_of!(VcpuInfo, evtchn_upcall_mask));
        mask.store(old.upcall_mask().load(Ordering::Relaxed), Ordering::Relaxed);
    }
    vcpu.set_info(frame, offset);
    let Some(info) = vcpu.info() else { return };
    info.pending_selector().store(!0, Ordering::Relaxed);
    info.upcall_pending().store(1, Ordering::Release);
    time::publish_system_time(info);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::{ARGUMENTS, Guest, errno, machine_of};
    use hypercall_abi::vcpu::{RUNSTATE_OFFLINE, VcpuRunstateInfo};

    /// A guest with two vCPUs, of which the first is up.
    fn guest_of_two() -> Guest {
        let guest = Guest::new(1);
        lifecycle::create_vcpus(guest.domain(), 2).unwrap();
        guest.as_caller(|caller| caller.vcpu.paused.fetch_and(!not_runnable::OFFLINE, Ordering::Relaxed));
        guest
    }

    fn op(guest: &Guest, command: u32, vcpu: u64, argument: u64) -> HypercallResult {
        guest.execute(vcpu_op, [u64::from(command), vcpu, argument]).0
    }

    #[test]
    fn one_vcpu_says_where_another_keeps_its_run_state() {
        let _machine = machine_of(256);
        let guest = guest_of_two();
        // What the call writes first lies behind its own argument.
        let mut words = [ARGUMENTS + 64, 0, 0, 0, 0, 0, 0, 0, u64::MAX];
        let mut area = [words[0]];
        guest.write_arguments(&words);
        assert_eq!(op(&guest, VCPUOP_REGISTER_RUNSTATE_MEMORY_AREA, 1, ARGUMENTS), Ok(0));
        guest.read_arguments(&mut words);
        assert_eq!(words[8] as u32, RUNSTATE_OFFLINE);
        area[0] = 0xffff_8000_0000_0000;
        guest.write_arguments(&area);
        assert_eq!(errno(op(&guest, VCPUOP_REGISTER_RUNSTATE_MEMORY_AREA, 1, ARGUMENTS)), Errno::EFAULT);
        let mut state = [VcpuRunstateInfo::default()];
        assert_eq!(op(&guest, VCPUOP_GET_RUNSTATE_INFO, 1, ARGUMENTS), Ok(0));
        guest.read_arguments(&mut state);
        assert_eq!(state[0].state, RUNSTATE_OFFLINE);
    }

    #[test]
    fn the_last_vcpu_that_goes_down_takes_the_domain_along() {
        let _machine = machine_of(256);
        let guest = guest_of_two();
        let other = guest.domain().vcpu(VcpuId(1)).unwrap();
        other.paused.fetch_and(!not_runnable::OFFLINE, Ordering::Relaxed);
        assert_eq!(op(&guest, VCPUOP_DOWN, 1, 0), Ok(0));
        assert_eq!(op(&guest, VCPUOP_IS_UP, 1, 0), Ok(0));
        assert!(!guest.domain().is_shut_down.load(Ordering::Relaxed));
        assert_eq!(op(&guest, VCPUOP_DOWN, 0, 0), Ok(0));
        assert!(guest.domain().is_shut_down.load(Ordering::Relaxed));
        assert_eq!(guest.domain().shutdown_reason.load(Ordering::Relaxed), SHUTDOWN_POWEROFF);
    }

    #[test]
    fn a_non_maskable_interrupt_takes_no_argument() {
        let _machine = machine_of(256);
        let guest = guest_of_two();
        assert_eq!(errno(op(&guest, VCPUOP_SEND_NMI, 1, ARGUMENTS)), Errno::EINVAL);
        assert!(!guest.domain().vcpu(VcpuId(1)).unwrap().nmi_pending.load(Ordering::Relaxed));
        assert_eq!(op(&guest, VCPUOP_SEND_NMI, 1, 0), Ok(0));
        assert!(guest.domain().vcpu(VcpuId(1)).unwrap().nmi_pending.load(Ordering::Relaxed));
    }
}
