//! `HYPERVISOR_platform_op`: the control domain looks after the machine as a whole.

use crate::{
    guest_access,
    hypercall::{Arguments, Caller, HypercallResult},
    time,
};
use hypercall_abi::{
    Errno,
    platform::{PlatformOp, XENPF_INTERFACE_VERSION, XENPF_SETTIME64, XenpfSettime64},
};

const NANOSECONDS_PER_SECOND: u32 = 1_000_000_000;

/// `HYPERVISOR_platform_op(call)`.
///
/// # Errors
/// `EPERM` except for the control domain, `EACCES` for another interface version, `ENOSYS`, `EINVAL`, `EFAULT`.
pub fn platform_op(caller: &mut Caller<'_>, arguments: &Arguments) -> HypercallResult {
    if !caller.domain.is_privileged {
        return Err(Errno::EPERM.into());
    }
    let call: PlatformOp = guest_access::read(arguments[0])?;
    if call.interface_version != XENPF_INTERFACE_VERSION {
        return Err(Errno::EACCES.into());
    }
    match call.cmd {
        XENPF_SETTIME64 => set_time(call.payload_as())?,
        _ => return Err(Errno::ENOSYS.into()),
    }
    Ok(0)
}

/// Sets the wall clock.
fn set_time(time: XenpfSettime64) -> Result<(), Errno> {
    if time.mbz != 0 || time.nsecs >= NANOSECONDS_PER_SECOND {
        return Err(Errno::EINVAL);
    }
    let wall_clock = time.secs.checked_mul(u64::from(NANOSECONDS_PER_SECOND)).ok_or(Errno::EINVAL)?;
    let at_zero = (wall_clock + u64::from(time.nsecs)).checked_sub(time.system_time).ok_or(Errno::EINVAL)?;
    time::set_wall_clock(at_zero);
    Ok(())
}
