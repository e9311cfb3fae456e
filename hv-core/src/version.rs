//! `HYPERVISOR_xen_version`: which ABI this is, and its features.
//!
//! Weir reports the version of the ABI it implements, Xen 4.17's, because that is what guests test for; the extra
//! version and the compile information name Weir.

use crate::{
    command_line::CommandLine,
    guest_access,
    hypercall::{Arguments, Caller, HypercallResult},
    layout::PAGE_SIZE,
    machine::machine,
};
use hypercall_abi::{
    Errno,
    arch_x86::HYPERVISOR_VIRT_START,
    features::{XENFEAT_DOM0, XENFEAT_GNTTAB_MAP_AVAIL_BITS, XENFEAT_MMU_PT_UPDATE_PRESERVE_AD},
    version::{
        CompileInfo, FeatureInfo, PlatformParameters, XEN_CAPABILITIES_INFO_LEN, XEN_CHANGESET_INFO_LEN,
        XEN_COMMANDLINE_LEN, XEN_EXTRAVERSION_LEN, XENVER_CAPABILITIES, XENVER_CHANGESET, XENVER_COMMANDLINE,
        XENVER_COMPILE_INFO, XENVER_EXTRAVERSION, XENVER_GET_FEATURES, XENVER_GUEST_HANDLE, XENVER_PAGESIZE,
        XENVER_PLATFORM_PARAMETERS, XENVER_VERSION,
    },
};

/// Major version in the upper half, minor in the lower.
pub const ABI_VERSION: u32 = 4 << 16 | 17;

/// What follows the version number.
const EXTRA_VERSION: &str = concat!("-weir-", env!("CARGO_PKG_VERSION"));
/// The kinds of guests that can be built.
const CAPABILITIES: &str = "xen-3.0-x86_64 ";

/// `HYPERVISOR_xen_version(command, argument)`.
///
/// # Errors
/// `ENOSYS` for a command that is not there, `EFAULT` for an unusable argument.
pub fn xen_version(caller: &mut Caller<'_>, arguments: &Arguments) -> HypercallResult {
    match arguments[0] as u32 {
        // What guests call to measure, or to let an event in: it must not pay for the others' buffers.
        XENVER_VERSION => Ok(u64::from(ABI_VERSION)),
        XENVER_PAGESIZE => Ok(PAGE_SIZE),
        command => describe(caller, command, arguments[1]),
    }
}

/// The commands that write to the guest.
#[inline(never)]
fn describe(caller: &Caller<'_>, command: u32, argument: u64) -> HypercallResult {
    match command {
        XENVER_EXTRAVERSION => guest_access::write(argument, &text::<XEN_EXTRAVERSION_LEN>(EXTRA_VERSION))?,
        XENVER_COMPILE_INFO => guest_access::write(argument, &compile_info())?,
        XENVER_CAPABILITIES => {
            guest_access::write(argument, &text::<XEN_CAPABILITIES_INFO_LEN>(CAPABILITIES))?
        }
        XENVER_CHANGESET => guest_access::write(argument, &text::<XEN_CHANGESET_INFO_LEN>("unavailable"))?,
        XENVER_COMMANDLINE => {
            guest_access::write(argument, &text::<XEN_COMMANDLINE_LEN>(command_line(caller)))?
        }
        XENVER_PLATFORM_PARAMETERS => {
            guest_access::write(argument, &PlatformParameters { virt_start: HYPERVISOR_VIRT_START })?;
        }
        XENVER_GUEST_HANDLE => guest_access::write(argument, &*caller.domain.handle.lock())?,
        XENVER_GET_FEATURES => {
            let mut info: FeatureInfo = guest_access::read(argument)?;
            info.submap = features(caller, info.submap_idx)?;
            guest_access::write(argument, &info)?;
        }
        _ => return Err(Errno::ENOSYS.into()),
    }
    Ok(0)
}

fn features(caller: &Caller<'_>, submap: u32) -> Result<u32, Errno> {
    if submap != 0 {
        return Err(Errno::EINVAL);
    }
    let control_domain = if caller.domain.is_privileged { 1 << XENFEAT_DOM0 } else { 0 };
    Ok(1 << XENFEAT_MMU_PT_UPDATE_PRESERVE_AD | 1 << XENFEAT_GNTTAB_MAP_AVAIL_BITS | control_domain)
}

/// Only the control domain may read the hypervisor's command line.
fn command_line(caller: &Caller<'_>) -> &'static str {
    if !caller.domain.is_privileged {
        return "<denied>";
    }
    machine().command_line.get().map_or("", CommandLine::hypervisor)
}

fn compile_info() -> CompileInfo {
    CompileInfo {
        compiler: text("rustc"),
        compile_by: text("weir"),
        compile_domain: text(""),
        compile_date: text(""),
    }
}

/// A string in a fixed field, cut if need be and always ended by a zero.
fn text<const LENGTH: usize>(string: &str) -> [u8; LENGTH] {
    let mut field = [0; LENGTH];
    let length = string.len().min(LENGTH - 1);
    field[..length].copy_from_slice(&string.as_bytes()[..length]);
    field
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_cut_and_ended() {
        assert_eq!(text::<4>("abcdef"), *b"abc\0");
        assert_eq!(text::<4>("a"), *b"a\0\0\0");
    }
}
