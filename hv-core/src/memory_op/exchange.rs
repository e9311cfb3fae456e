//! `XENMEM_exchange`: frames for as many others that lie better, in larger extents or where a device reaches them.
//!
//! It goes piece by piece, a piece being the larger of the two extent sizes. The new frames are taken before the
//! old ones are touched, and an old frame is taken away only if nothing but its owner's possession holds it; so a
//! piece is exchanged as a whole or not at all.

use super::{FRAMES_AT_ONCE, read, reservation};
use crate::{
    domain::Domain,
    frame,
    frame_allocator::{self, Limit},
    frame_object::FrameBox,
    guest_access,
    hypercall::{Caller, HypercallError, HypercallResult},
    page_table::TableSession,
};
use hypercall_abi::{Errno, MachineFrame, memory::*};

/// Largest piece, as a power of two: its frame numbers fill a frame.
const MAX_PIECE_ORDER: u32 = 9;

type Numbers = FrameBox<[u64; 1 << MAX_PIECE_ORDER]>;

/// Exchanges what the argument says, and writes back how many input extents that were.
///
/// # Errors
/// `EINVAL` when the two lists do not match, a frame is not the domain's or the domain is dying; `EBUSY` when a
/// frame is in use; `ENOMEM`.
pub(super) fn exchange(caller: &mut Caller<'_>, address: u64) -> HypercallResult {
    let mut argument: MemoryExchange = read(address)?;
    check(&argument)?;
    let domain = caller.target(argument.r#in.domid)?;
    let order = piece_order(&argument);
    let mut left = (FRAMES_AT_ONCE >> order).max(1);
    while argument.nr_exchanged < argument.r#in.nr_extents {
        if left == 0 {
            return Err(HypercallError::Restart);
        }
        left -= 1;
        exchange_piece(&domain, &argument)?;
        argument.nr_exchanged += 1 << (order - argument.r#in.extent_order);
        guest_access::write(address, &argument)?;
    }
    Ok(0)
}

fn piece_order(argument: &MemoryExchange) -> u32 {
    argument.r#in.extent_order.max(argument.out.extent_order)
}

/// Both lists must come to the same number of frames, in whole pieces, and so must what is done already.
fn check(argument: &MemoryExchange) -> Result<(), Errno> {
    let (old, new) = (&argument.r#in, &argument.out);
    if piece_order(argument) > MAX_PIECE_ORDER {
        return Err(Errno::EPERM);
    }
    let piece = 1u64 << piece_order(argument);
    let frames = |extents: u64, order: u32| {
        extents.checked_mul(1 << order).filter(|frames| frames.is_multiple_of(piece)).ok_or(Errno::EINVAL)
    };
    let total = frames(old.nr_extents, old.extent_order)?;
    let done = frames(argument.nr_exchanged, old.extent_order)?;
    let matching = frames(new.nr_extents, new.extent_order)? == total && old.domid == new.domid;
    if matching && done <= total { Ok(()) } else { Err(Errno::EINVAL) }
}

fn exchange_piece(domain: &Domain, argument: &MemoryExchange) -> Result<(), Errno> {
    let old = OldFrames::read(argument)?;
    let new = NewExtents::take(argument, reservation::limit(&argument.out)?)?;
    // Under this lock the domain's memory is not released, should it begin to die.
    let mut session = TableSession::open_for_pages(domain);
    if domain.is_dying() {
        return Err(Errno::EINVAL);
    }
    session.flush_stale();
    old.take_from(domain)?;
    new.give_to(domain, argument.out.extent_start)
}

/// The frames that a piece gives up.
struct OldFrames {
    frames: Numbers,
    count: usize,
}

impl OldFrames {
    /// Reads what the guest's list names.
    fn read(argument: &MemoryExchange) -> Result<Self, Errno> {
        let input = &argument.r#in;
        let count = 1 << piece_order(argument);
        let mut frames = Numbers::try_new([0; 1 << MAX_PIECE_ORDER]).ok_or(Errno::ENOMEM)?;
        for (index, frame) in (0u64..).zip(&mut frames[..count]) {
            let extent = argument.nr_exchanged + (index >> input.extent_order);
            let first: u64 = guest_access::read_element(input.extent_start, extent)?;
            *frame = first.wrapping_add(index & ((1 << input.extent_order) - 1));
        }
        Ok(Self { frames, count })
    }

    fn iter(&self) -> impl Iterator<Item = MachineFrame> {
        self.frames[..self.count].iter().copied().map(MachineFrame)
    }

    /// Takes all of them from the domain and frees them, or takes none.
    fn take_from(&self, domain: &Domain) -> Result<(), Errno> {
        for (index, frame) in self.iter().enumerate() {
            if let Err(error) = frame::take_possessed(domain, frame) {
                self.iter().take(index).for_each(|frame| frame::give_possessed(domain, frame, 1));
                return Err(error);
            }
        }
        self.iter().for_each(|frame| frame_allocator::free_from_hypervisor(frame, 0));
        Ok(())
    }
}

/// The extents that a piece gets: still the hypervisor's, and freed again unless the domain gets them.
struct NewExtents {
    /// Pseudo-physical place of each.
    places: Numbers,
    /// First frame of each.
    firsts: Numbers,
    count: usize,
    order: u32,
    /// Index of the first of them in the guest's list.
    list_index: u64,
}

impl NewExtents {
    /// Reads where the guest wants them, and takes as many as that are.
    fn take(argument: &MemoryExchange, limit: Limit) -> Result<Self, Errno> {
        let (input, out) = (&argument.r#in, &argument.out);
        let fresh = || Numbers::try_new([0; 1 << MAX_PIECE_ORDER]).ok_or(Errno::ENOMEM);
        let list_index = (argument.nr_exchanged << input.extent_order) >> out.extent_order;
        let mut extents =
            Self { places: fresh()?, firsts: fresh()?, count: 0, order: out.extent_order, list_index };
        for index in 0..1 << (piece_order(argument) - out.extent_order) {
            extents.places[index] = guest_access::read_element(out.extent_start, list_index + index as u64)?;
            let first = frame_allocator::allocate_zeroed(out.extent_order, limit).ok_or(Errno::ENOMEM)?;
            extents.firsts[index] = first.0;
            extents.count += 1;
        }
        Ok(extents)
    }

    /// Gives them to the domain, and writes their frames over their places in the guest's list.
    fn give_to(mut self, domain: &Domain, list: u64) -> Result<(), Errno> {
        let count = core::mem::take(&mut self.count);
        for index in 0..count {
            let first = MachineFrame(self.firsts[index]);
            frame::give_possessed(domain, first, 1 << self.order);
            reservation::set_places(first, self.places[index], self.order);
        }
        for index in 0..count {
            guest_access::write_element(list, self.list_index + index as u64, &self.firsts[index])?;
        }
        Ok(())
    }
}

impl Drop for NewExtents {
    fn drop(&mut self) {
        for first in &self.firsts[..self.count] {
            frame_allocator::free_from_hypervisor(MachineFrame(*first), self.order);
        }
    }
}
