//! `HYPERVISOR_vcpu_op`: a guest brings its own vCPUs up and down and says where their shared data lies.

use crate::{
    arch::clock,
    direct_map, frame, guest_access,
    hypercall::{Arguments, Caller, HypercallResult},
    run_state, scheduler, time,
    vcpu::{Vcpu, not_runnable},
    vcpu_context,
};
use core::{mem::offset_of, sync::atomic::Ordering};
use hypercall_abi::{
    Errno, MachineFrame, VcpuId,
    vcpu::{
        VCPU_SSHOTTMR_FUTURE, VCPUOP_DOWN, VCPUOP_GET_RUNSTATE_INFO, VCPUOP_INITIALISE, VCPUOP_IS_UP,
        VCPUOP_REGISTER_RUNSTATE_MEMORY_AREA, VCPUOP_REGISTER_VCPU_INFO, VCPUOP_SET_SINGLESHOT_TIMER,
        VCPUOP_STOP_PERIODIC_TIMER, VCPUOP_STOP_SINGLESHOT_TIMER, VCPUOP_UP, VcpuRegisterRunstateMemoryArea,
        VcpuRegisterVcpuInfo, VcpuSetSingleshotTimer,
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
        VCPUOP_DOWN => scheduler::suspend(vcpu, not_runnable::OFFLINE),
        VCPUOP_IS_UP => {
            return Ok(u64::from(vcpu.paused.load(Ordering::Acquire) & not_runnable::OFFLINE == 0));
        }
        VCPUOP_GET_RUNSTATE_INFO => guest_access::write(argument, &vcpu.run_state.snapshot())?,
        VCPUOP_REGISTER_RUNSTATE_MEMORY_AREA => {
            own(caller, vcpu)?;
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
        _ => return Err(Errno::ENOSYS.into()),
    }
    Ok(0)
}

fn bring_up(caller: &Caller<'_>, vcpu: &Vcpu) -> Result<(), Errno> {
    let _control = caller.domain.control.lock();
    if !vcpu.initialised.load(Ordering::Acquire) {
        return Err(Errno::EINVAL);
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
