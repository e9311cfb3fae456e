//! Descriptor tables of guests: what a descriptor may say, and the frames that hold them.
//!
//! The CPU reads a guest's GDT and LDT in the hypervisor's own address range, from the guest's frames. So such a
//! frame has a type like a page table has: its contents are checked when it gets the type, and while it has it
//! nobody writes it but [`update_descriptor`]. What must never be in one is a way into ring 0: gates, task
//! segments, and segments of a lower privilege level than 3.

use crate::{
    arch, direct_map,
    domain::Domain,
    frame::{self, FrameState, FrameType, HeldWritableFrame, info},
    guest_access,
    hypercall::{Arguments, Caller, HypercallResult},
    layout::PAGE_SIZE,
    page_table::{TableSession, translate},
    vcpu::{Context, GUEST_GDT_FRAMES, LDT_FRAMES},
};
use core::sync::atomic::Ordering;
use hypercall_abi::{Errno, MachineFrame, arch_x86::FIRST_RESERVED_GDT_ENTRY};

/// Descriptors in a frame.
const PER_FRAME: usize = 512;
/// Descriptors an LDT can have.
const MAX_LDT_ENTRIES: u32 = (LDT_FRAMES * PER_FRAME) as u32;

const PRESENT: u64 = 1 << 47;
const PRIVILEGE_LEVEL_3: u64 = 3 << 45;
const CODE_OR_DATA: u64 = 1 << 44;

/// What a descriptor is to be written as: a present segment gets privilege level 3, which is the only one a guest
/// has. One that is not present only ever faults.
///
/// # Errors
/// `EINVAL` for gates and system segments.
pub fn check(descriptor: u64) -> Result<u64, Errno> {
    match (descriptor & PRESENT != 0, descriptor & CODE_OR_DATA != 0) {
        (false, _) => Ok(descriptor),
        (true, true) => Ok(descriptor | PRIVILEGE_LEVEL_3),
        (true, false) => Err(Errno::EINVAL),
    }
}

/// `HYPERVISOR_set_gdt(frames, entries)`.
///
/// # Errors
/// `EINVAL` for too many entries, `EFAULT`, or as the frames have it.
pub fn set_gdt(caller: &mut Caller<'_>, arguments: &Arguments) -> HypercallResult {
    let entries = u32::try_from(arguments[1]).map_err(|_| Errno::EINVAL)?;
    let count = gdt_frame_count(entries)?;
    let mut list = [0u64; GUEST_GDT_FRAMES];
    for (index, frame) in (0u64..).zip(&mut list[..count]) {
        *frame = guest_access::read_element(arguments[0], index)?;
    }
    let list = list.map(MachineFrame);
    let old = replace_gdt(caller.domain, caller.context, &list[..count], entries)?;
    arch::load_descriptor_tables(caller.context);
    put_all(&old);
    Ok(0)
}

/// Gives a vCPU that is not running a GDT.
///
/// # Errors
/// `EINVAL` when `frames` are not as many as `entries` need or one holds something it may not; `EBUSY` when one
/// is in use as something else.
pub fn install_gdt(
    domain: &Domain,
    context: &mut Context,
    frames: &[MachineFrame],
    entries: u32,
) -> Result<(), Errno> {
    if gdt_frame_count(entries)? != frames.len() {
        return Err(Errno::EINVAL);
    }
    put_all(&replace_gdt(domain, context, frames, entries)?);
    Ok(())
}

/// Makes the context name new frames and returns the old ones, still held.
fn replace_gdt(
    domain: &Domain,
    context: &mut Context,
    frames: &[MachineFrame],
    entries: u32,
) -> Result<[Option<MachineFrame>; GUEST_GDT_FRAMES], Errno> {
    let mut session = TableSession::open_for_pages(domain);
    let held = hold_all(&mut session, frames.iter().copied().map(Ok))?;
    context.gdt_entries = entries;
    Ok(core::mem::replace(&mut context.gdt_frames, held))
}

fn gdt_frame_count(entries: u32) -> Result<usize, Errno> {
    let entries = entries as usize;
    if entries > FIRST_RESERVED_GDT_ENTRY { Err(Errno::EINVAL) } else { Ok(entries.div_ceil(PER_FRAME)) }
}

/// `MMUEXT_SET_LDT`: the LDT's frames are those that map `entries` descriptors from `base` on right now.
///
/// # Errors
/// `EINVAL` for too many entries, an address that is not a page's or is not mapped, or bad contents.
pub fn set_ldt(
    session: &mut TableSession<'_>,
    context: &mut Context,
    base: u64,
    entries: u32,
) -> Result<(), Errno> {
    if entries > MAX_LDT_ENTRIES || !base.is_multiple_of(PAGE_SIZE) {
        return Err(Errno::EINVAL);
    }
    let root = context.kernel_page_table.ok_or(Errno::EINVAL)?;
    let frame_at = |page: u64| Ok(translate(root, base.wrapping_add(page * PAGE_SIZE))?.frame());
    let pages = u64::from(entries).div_ceil(PER_FRAME as u64);
    let held = hold_all(session, (0..pages).map(frame_at))?;
    context.ldt_entries = entries;
    let old = core::mem::replace(&mut context.ldt_frames, held);
    arch::load_descriptor_tables(context);
    put_all(&old);
    Ok(())
}

/// Takes the descriptor tables of a vCPU away that will not run again.
pub fn release(context: &mut Context) {
    put_all(&core::mem::take(&mut context.gdt_frames));
    put_all(&core::mem::take(&mut context.ldt_frames));
    (context.gdt_entries, context.ldt_entries) = (0, 0);
}

/// `HYPERVISOR_update_descriptor(machine address, descriptor)`.
///
/// # Errors
/// `EINVAL` when the descriptor is refused, or the address is not of a descriptor in memory of the caller that is
/// a descriptor table or could be written by the caller itself.
pub fn update_descriptor(caller: &mut Caller<'_>, arguments: &Arguments) -> HypercallResult {
    let [address, descriptor, ..] = *arguments;
    let descriptor = check(descriptor)?;
    let frame = MachineFrame::containing(address);
    if !address.is_multiple_of(8) || frame::owner(frame) != Some(caller.domain.id) {
        return Err(Errno::EINVAL.into());
    }
    let write = || {
        let words = direct_map::words(frame);
        words[(address % PAGE_SIZE / 8) as usize].store(descriptor, Ordering::Relaxed);
    };
    if get_in_use(frame, caller.domain).is_ok() {
        write();
        put(frame);
    } else {
        let _held = HeldWritableFrame::get(frame, caller.domain.id).map_err(|_| Errno::EINVAL)?;
        write();
    }
    Ok(0)
}

/// Holds up to `N` frames as descriptor tables, or none if one of them cannot be.
fn hold_all<const N: usize>(
    session: &mut TableSession<'_>,
    frames: impl Iterator<Item = Result<MachineFrame, Errno>>,
) -> Result<[Option<MachineFrame>; N], Errno> {
    let mut held = [None; N];
    for (slot, frame) in held.iter_mut().zip(frames) {
        match frame.and_then(|frame| get(session, frame).map(|()| frame)) {
            Ok(frame) => *slot = Some(frame),
            Err(error) => {
                put_all(&held);
                return Err(error);
            }
        }
    }
    Ok(held)
}

/// One more use of what already is a descriptor table.
fn get_in_use(frame: MachineFrame, domain: &Domain) -> Result<(), Errno> {
    let info = info(frame).ok_or(Errno::EINVAL)?;
    let owner = domain.id;
    let more = |state: FrameState| {
        if state.owner() == owner { state.with_use_as(FrameType::Descriptors) } else { None }
    };
    info.change(more).map(|_| ()).map_err(|_| Errno::EBUSY)
}

/// Takes a use of a frame as descriptor table, checking its contents if it is the first.
fn get(session: &mut TableSession<'_>, frame: MachineFrame) -> Result<(), Errno> {
    let domain = session.domain();
    if frame::owner(frame) != Some(domain.id) {
        return Err(Errno::EINVAL);
    }
    if get_in_use(frame, domain).is_ok() {
        return Ok(());
    }
    let begin = |state: FrameState| {
        if state.owner() == domain.id { state.begun_as(FrameType::Descriptors) } else { None }
    };
    info(frame).ok_or(Errno::EINVAL)?.change(begin).map_err(|_| Errno::EBUSY)?;
    // It may have been mapped writable a moment ago.
    session.flush_stale();
    let outcome = check_all(frame);
    match outcome {
        Ok(()) => session.set_state(frame, FrameState::finished),
        Err(_) => frame::drop_reference(frame, |state| Some(state.without_type())),
    }
    outcome
}

/// Checks a whole frame and writes each descriptor as it is to be.
fn check_all(frame: MachineFrame) -> Result<(), Errno> {
    for word in direct_map::words(frame) {
        let descriptor = word.load(Ordering::Relaxed);
        let checked = check(descriptor)?;
        if checked != descriptor {
            word.store(checked, Ordering::Relaxed);
        }
    }
    Ok(())
}

fn put_all(frames: &[Option<MachineFrame>]) {
    frames.iter().flatten().for_each(|frame| put(*frame));
}

/// Gives a use back; the type goes with the last one.
fn put(frame: MachineFrame) {
    frame::drop_reference(frame, |state| state.without_use().or(Some(state.without_type())));
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLAT_CODE_RING_0: u64 = 0x00af_9b00_0000_ffff;

    #[test]
    fn segments_get_privilege_level_3() {
        assert_eq!(check(FLAT_CODE_RING_0), Ok(0x00af_fb00_0000_ffff));
        assert_eq!(check(0), Ok(0));
    }

    #[test]
    fn gates_and_system_segments_are_refused() {
        let call_gate = 0x0000_ec00_0008_0000;
        let task_segment = 0x0000_8900_0000_0067;
        assert_eq!(check(call_gate), Err(Errno::EINVAL));
        assert_eq!(check(task_segment), Err(Errno::EINVAL));
        assert_eq!(check(call_gate & !PRESENT), Ok(call_gate & !PRESENT));
    }
}
