//! A table as a whole: its size, its frames, its version.

use super::{Refusal, Version, status};
use crate::{
    domain::{Domain, DomainRef},
    guest_access::{read, write, write_element},
    hypercall::Caller,
};
use hypercall_abi::{
    DomainId, Errno, MachineFrame,
    grant_table::{
        GNTST_BAD_DOMAIN, GNTST_BAD_VIRT_ADDR, GNTST_GENERAL_ERROR, GNTST_PERMISSION_DENIED,
        GnttabGetStatusFrames, GnttabGetVersion, GnttabQuerySize, GnttabSetVersion, GnttabSetupTable,
    },
};

/// The shared frame at `index` of a domain's table, which grows to have it.
///
/// # Errors
/// `EINVAL` beyond the largest the table may be and for a dying domain, `ENOMEM`.
pub fn frame_for_index(domain: &Domain, index: u32) -> Result<MachineFrame, Errno> {
    let mut granted = domain.grant_table.granted.lock();
    granted.grow(domain, index.checked_add(1).ok_or(Errno::EINVAL)?)?;
    granted.shared_frame(index).ok_or(Errno::EINVAL)
}

/// The domain an operation on a table names.
fn target(caller: &Caller<'_>, id: DomainId) -> Result<DomainRef, Refusal> {
    caller.target(id).map_err(|errno| {
        Refusal(if errno == Errno::EPERM { GNTST_PERMISSION_DENIED } else { GNTST_BAD_DOMAIN })
    })
}

/// `GNTTABOP_setup_table`: makes the table as large as asked and lists its frames.
pub(super) fn setup_table(caller: &Caller<'_>, pointer: u64) -> Result<(), Errno> {
    let mut op: GnttabSetupTable = read(pointer)?;
    op.status = status(list_frames(caller, &op));
    write(pointer, &op)
}

fn list_frames(caller: &Caller<'_>, op: &GnttabSetupTable) -> Result<(), Refusal> {
    let domain = target(caller, op.dom)?;
    if op.nr_frames > 0 {
        frame_for_index(&domain, op.nr_frames - 1).map_err(|_| Refusal(GNTST_GENERAL_ERROR))?;
    }
    for index in 0..op.nr_frames {
        let frame = frame_for_index(&domain, index).map_err(|_| Refusal(GNTST_GENERAL_ERROR))?;
        write_element(op.frame_list, u64::from(index), &frame).map_err(|_| Refusal(GNTST_BAD_VIRT_ADDR))?;
    }
    Ok(())
}

/// `GNTTABOP_query_size`.
pub(super) fn query_size(caller: &Caller<'_>, pointer: u64) -> Result<(), Errno> {
    let mut op: GnttabQuerySize = read(pointer)?;
    op.status = status(target(caller, op.dom).map(|domain| {
        let granted = domain.grant_table.granted.lock();
        (op.nr_frames, op.max_nr_frames) = (granted.size(), granted.maximum());
    }));
    write(pointer, &op)
}

/// `GNTTABOP_set_version`: changes the form of the caller's own table. Also says which it is.
pub(super) fn set_version(caller: &Caller<'_>, pointer: u64) -> Result<(), Errno> {
    let wanted = read::<GnttabSetVersion>(pointer)?.version;
    let wanted = Version::from_number(wanted).ok_or(Errno::EINVAL);
    let mut granted = caller.domain.grant_table.granted.lock();
    let result = wanted.and_then(|wanted| granted.set_version(caller.domain, wanted));
    let version = granted.version() as u32;
    drop(granted);
    write(pointer, &GnttabSetVersion { version })?;
    result
}

/// `GNTTABOP_get_version`.
pub(super) fn get_version(caller: &Caller<'_>, pointer: u64) -> Result<(), Errno> {
    let op: GnttabGetVersion = read(pointer)?;
    let domain = caller.target(op.dom)?;
    let version = domain.grant_table.granted.lock().version() as u32;
    write(pointer, &GnttabGetVersion { version, ..op })
}

/// `GNTTABOP_get_status_frames`: lists the frames of the flags of version 2.
pub(super) fn get_status_frames(caller: &Caller<'_>, pointer: u64) -> Result<(), Errno> {
    let mut op: GnttabGetStatusFrames = read(pointer)?;
    op.status = status(list_status_frames(caller, &op));
    write(pointer, &op)
}

fn list_status_frames(caller: &Caller<'_>, op: &GnttabGetStatusFrames) -> Result<(), Refusal> {
    let domain = target(caller, op.dom)?;
    for index in 0..op.nr_frames {
        let frame = domain.grant_table.granted.lock().status_frame(index);
        let frame = frame.ok_or(Refusal(GNTST_GENERAL_ERROR))?;
        write_element(op.frame_list, u64::from(index), &frame).map_err(|_| Refusal(GNTST_BAD_VIRT_ADDR))?;
    }
    Ok(())
}
