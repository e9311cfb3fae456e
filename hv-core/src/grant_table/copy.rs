//! Copying between pages, each of them granted or the caller's own.
//!
//! One copy is one string instruction between two frames that are held for it. Copies come in batches, mostly from one
//! domain or to one. So a batch is worked on in *runs*: while copies name the same granter on each side, its table stays
//! locked, uses of its grants are brief ones that need no account, and what stays the same from one copy to the next
//! stays held. A copy of any other kind, or one that fails, is made by itself (`copy_one`).
//!
//! A run holds the locks on two tables. It only tries to get them, and holds none while it waits for another.

use super::{
    active::{BriefUse, Granted, hold, let_go},
    copy_one::{copy_one, leaves_page},
    shared::Access,
    status,
};
use crate::{
    direct_map,
    domain::{self, Domain, DomainRef},
};
use core::sync::atomic::Ordering;
use hypercall_abi::{
    DomainId, MachineFrame,
    grant_table::{GNTCOPY_DEST_GREF, GNTCOPY_SOURCE_GREF, GNTST_OKAY, GnttabCopy, GnttabCopyPtr},
};

/// Bytes after which a batch is interrupted.
const BYTES: usize = 128 << 10;

/// Makes copies on behalf of a domain, at least one if there are some, and says how many operations that took.
pub(super) fn copy_batch(caller: &Domain, ops: &mut [GnttabCopy]) -> usize {
    let (mut done, mut copies, mut bytes) = (0, 0, 0);
    while done < ops.len() && bytes < BYTES {
        let rest = &mut ops[done..];
        let (in_run, moved) = match copy_run(caller, rest, BYTES - bytes) {
            (0, _) => (0, copy_alone(caller, &mut rest[0])),
            run => run,
        };
        done += in_run.max(1);
        copies += in_run.max(usize::from(moved != 0));
        bytes += moved;
    }
    let counters = &caller.grant_table.counters;
    counters.copies.fetch_add(copies as u64, Ordering::Relaxed);
    counters.bytes_copied.fetch_add(bytes as u64, Ordering::Relaxed);
    done
}

/// Makes one copy of any kind, and says how many bytes it moved.
#[inline(never)]
fn copy_alone(caller: &Domain, op: &mut GnttabCopy) -> usize {
    op.status = status(copy_one(caller, op));
    if op.status == GNTST_OKAY { usize::from(op.len) } else { 0 }
}

/// Makes copies as long as they are of one run, until it has moved so many bytes. Says how many there were, which may be
/// none, and how many bytes they moved.
#[inline(never)]
fn copy_run(caller: &Domain, ops: &mut [GnttabCopy], most_bytes: usize) -> (usize, usize) {
    let Some(&GnttabCopy { source, dest, flags, .. }) = ops.first() else { return (0, 0) };
    let granters = [
        granter(caller, &source, flags & GNTCOPY_SOURCE_GREF != 0),
        granter(caller, &dest, flags & GNTCOPY_DEST_GREF != 0),
    ];
    let [from, to] = granters.each_ref().map(Option::as_ref);
    let is_one = from.zip(to).is_some_and(|(from, to)| from.id == to.id);
    let tables = [from, to.filter(|_| !is_one)].map(|granter| granter?.grant_table.granted.try_lock());
    let [from_table, to_table] = tables.each_ref().map(Option::as_deref);
    let to_table = if is_one { from_table } else { to_table };
    let mut source = End::<false>::new(caller, source.domid, from.zip(from_table));
    let mut destination = End::<true>::new(caller, dest.domid, to.zip(to_table));
    let (mut copies, mut bytes) = (0, 0);
    for op in ops {
        if bytes >= most_bytes || (is_one && op.source.reference() == op.dest.reference()) {
            break;
        }
        if source.copy(&mut destination, op).is_none() {
            break;
        }
        if is_one {
            // The next copy may be from where this one went: a grant is used by one end only.
            source.release_grant();
            destination.release_grant();
        }
        op.status = GNTST_OKAY;
        copies += 1;
        bytes += usize::from(op.len);
    }
    (copies, bytes)
}

/// The domain that granted one end of a copy, if it lives.
fn granter(caller: &Domain, place: &GnttabCopyPtr, is_grant: bool) -> Option<DomainRef> {
    let id = if place.domid == DomainId::SELF { caller.id } else { place.domid };
    if is_grant { domain::find(id).filter(|granter| !granter.is_dying()) } else { None }
}

/// The source or the destination of a run. It holds at most one grant and one frame of the caller's.
struct End<'a, const IS_DESTINATION: bool> {
    caller: DomainId,
    /// How the operations name the granter.
    name: DomainId,
    /// The granter and its table, which is locked.
    granter: Option<(DomainId, &'a Granted)>,
    grant: Option<BriefUse>,
    own: Option<MachineFrame>,
}

impl<'a, const IS_DESTINATION: bool> End<'a, IS_DESTINATION> {
    const ACCESS: Access = if IS_DESTINATION { Access::Write } else { Access::Read };

    fn new(caller: &Domain, name: DomainId, granter: Option<(&DomainRef, &'a Granted)>) -> Self {
        let granter = granter.map(|(granter, granted)| (granter.id, granted));
        Self { caller: caller.id, name, granter, grant: None, own: None }
    }

    /// The memory at a place, held until the next other place of the same kind. `None` if the place is not one for this
    /// run.
    #[inline(always)]
    fn prepare(&mut self, place: &GnttabCopyPtr, is_grant: bool) -> Option<MachineFrame> {
        if is_grant { self.prepare_grant(place) } else { self.prepare_own(place) }
    }

    #[inline(always)]
    fn prepare_grant(&mut self, place: &GnttabCopyPtr) -> Option<MachineFrame> {
        let (id, granted) = self.granter.filter(|_| place.domid == self.name)?;
        let reference = place.reference();
        if let Some(held) = &self.grant
            && held.reference == reference
        {
            return Some(held.frame);
        }
        self.release_grant();
        self.grant = granted.use_briefly(id, reference, self.caller, Self::ACCESS);
        self.grant.as_ref().map(|held| held.frame)
    }

    /// Only the caller's own memory may be named by frame.
    #[inline(always)]
    fn prepare_own(&mut self, place: &GnttabCopyPtr) -> Option<MachineFrame> {
        let frame = MachineFrame(place.gmfn());
        if place.domid != DomainId::SELF {
            return None;
        }
        if self.own != Some(frame) {
            self.release_own();
            hold(frame, self.caller, Self::ACCESS).ok()?;
            self.own = Some(frame);
        }
        Some(frame)
    }

    #[inline(always)]
    fn release_grant(&mut self) {
        if let (Some((_, granted)), Some(held)) = (self.granter, self.grant.take()) {
            granted.end_briefly(&held, Self::ACCESS);
        }
    }

    #[inline(always)]
    fn release_own(&mut self) {
        if let Some(frame) = self.own.take() {
            let_go(frame, Self::ACCESS);
        }
    }
}

impl End<'_, false> {
    /// Makes one copy, if it is one for this run and nothing is wrong with it.
    #[inline(always)]
    fn copy(&mut self, destination: &mut End<'_, true>, op: &GnttabCopy) -> Option<()> {
        if op.len == 0 || leaves_page(op.source.offset, op.len) || leaves_page(op.dest.offset, op.len) {
            return None;
        }
        let from = self.prepare(&op.source, op.flags & GNTCOPY_SOURCE_GREF != 0)?;
        let to = destination.prepare(&op.dest, op.flags & GNTCOPY_DEST_GREF != 0)?;
        let (source, destination) = (usize::from(op.source.offset), usize::from(op.dest.offset));
        direct_map::copy_between((from, source), (to, destination), op.len.into());
        Some(())
    }
}

impl<const IS_DESTINATION: bool> Drop for End<'_, IS_DESTINATION> {
    fn drop(&mut self) {
        self.release_grant();
        self.release_own();
    }
}
