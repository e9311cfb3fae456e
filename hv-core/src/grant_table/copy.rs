//! Copying between pages, each of them granted or the caller's own.
//!
//! One copy is one string instruction between two frames that are held for it. A grant that stays the same from one item
//! of a batch to the next stays held, so that a packet in pieces costs one look at it, and so does a frame of the caller's;
//! the domain at an end is looked up when it changes.

use super::{
    Counters, Refusal,
    active::{hold, let_go},
    peer::Peer,
    shared::{Access, Grant, GrantKinds, Part},
};
use crate::{
    direct_map,
    domain::{Domain, DomainRef},
    layout::PAGE_SIZE,
};
use core::sync::atomic::Ordering;
use hypercall_abi::{
    DomainId, GrantReference, MachineFrame,
    grant_table::{
        GNTCOPY_DEST_GREF, GNTCOPY_SOURCE_GREF, GNTST_BAD_COPY_ARG, GNTST_GENERAL_ERROR,
        GNTST_PERMISSION_DENIED, GnttabCopy, GnttabCopyPtr,
    },
};

/// The source or the destination of the copies in a batch. It holds at most one grant and one frame of the caller's.
struct End<'a, const IS_DESTINATION: bool> {
    caller: &'a Domain,
    /// The domain whose grant is held, or was.
    peer: Peer,
    grant: Option<HeldGrant>,
    /// Where that is passed on: the use of the grant behind it.
    behind: Option<(DomainRef, GrantReference)>,
    own: Option<MachineFrame>,
}

/// A use of a grant.
#[derive(Clone, Copy)]
struct HeldGrant {
    /// The granter, as the guest names it.
    domain: DomainId,
    reference: GrantReference,
    part: Part,
}

impl<'a, const IS_DESTINATION: bool> End<'a, IS_DESTINATION> {
    const ACCESS: Access = if IS_DESTINATION { Access::Write } else { Access::Read };

    fn new(caller: &'a Domain) -> Self {
        Self { caller, peer: Peer::default(), grant: None, behind: None, own: None }
    }

    /// The memory at a place, held until the next other place of the same kind.
    #[inline]
    fn prepare(&mut self, place: &GnttabCopyPtr, is_grant: bool) -> Result<Part, Refusal> {
        if is_grant {
            self.prepare_grant(place.domid, place.reference())
        } else {
            self.prepare_own(place.domid, MachineFrame(place.gmfn()))
        }
    }

    #[inline]
    fn prepare_grant(&mut self, domain: DomainId, reference: GrantReference) -> Result<Part, Refusal> {
        if let Some(held) = self.grant
            && held.domain == domain
            && held.reference == reference
        {
            return Ok(held.part);
        }
        self.release_grant();
        let part = self.hold_grant(domain, reference)?;
        self.grant = Some(HeldGrant { domain, reference, part });
        Ok(part)
    }

    #[inline]
    fn hold_grant(&mut self, granter: DomainId, reference: GrantReference) -> Result<Part, Refusal> {
        let granter = self.peer.find(if granter == DomainId::SELF { self.caller.id } else { granter })?;
        let mut granted = granter.grant_table.granted.lock();
        let grant = granted.acquire(granter.id, reference, self.caller.id, Self::ACCESS, GrantKinds::Any)?;
        drop(granted);
        match grant {
            Grant::Own(part) => Ok(part),
            Grant::PassedOn(behind, its_reference) => self.hold_behind(reference, behind, its_reference),
        }
    }

    /// Goes on to the grant behind one that is held and passed on, or lets go of that one.
    #[inline(never)]
    fn hold_behind(
        &mut self,
        near: GrantReference,
        behind: DomainId,
        reference: GrantReference,
    ) -> Result<Part, Refusal> {
        let Some(granter) = self.peer.last() else { return Err(Refusal(GNTST_GENERAL_ERROR)) };
        let held = hold_behind(granter, behind, reference, Self::ACCESS);
        let release = |_: &Refusal| granter.grant_table.granted.lock().release(near, Self::ACCESS);
        let (part, behind) = held.inspect_err(release)?;
        self.behind = Some((behind, reference));
        Ok(part)
    }

    /// Only the caller's own memory may be named by frame.
    #[inline]
    fn prepare_own(&mut self, owner: DomainId, frame: MachineFrame) -> Result<Part, Refusal> {
        if owner != DomainId::SELF {
            return Err(Refusal(GNTST_PERMISSION_DENIED));
        }
        if self.own != Some(frame) {
            self.release_own();
            hold(frame, self.caller.id, Self::ACCESS)?;
            self.own = Some(frame);
        }
        Ok(Part::whole(frame))
    }

    #[inline(always)]
    fn release_own(&mut self) {
        if let Some(frame) = self.own.take() {
            let_go(frame, Self::ACCESS);
        }
    }

    #[inline(always)]
    fn release_grant(&mut self) {
        let Some(held) = self.grant.take() else { return };
        if self.behind.is_some() {
            self.release_behind();
        }
        if let Some(granter) = self.peer.last() {
            granter.grant_table.granted.lock().release(held.reference, Self::ACCESS);
        }
    }

    #[inline(never)]
    fn release_behind(&mut self) {
        if let Some((behind, reference)) = self.behind.take() {
            behind.grant_table.granted.lock().release(reference, Self::ACCESS);
        }
    }
}

/// Begins a use of what domain `behind` granted to `granter`, which passes it on. That must be `behind`'s own memory:
/// there is no chain.
fn hold_behind(
    granter: &Domain,
    behind: DomainId,
    reference: GrantReference,
    access: Access,
) -> Result<(Part, DomainRef), Refusal> {
    if behind == granter.id {
        return Err(Refusal(GNTST_GENERAL_ERROR));
    }
    let behind = Peer::default().find(behind)?.clone();
    let grant = behind.grant_table.granted.lock().acquire(
        behind.id,
        reference,
        granter.id,
        access,
        GrantKinds::Own,
    )?;
    match grant {
        Grant::Own(part) => Ok((part, behind)),
        Grant::PassedOn(..) => {
            behind.grant_table.granted.lock().release(reference, access);
            Err(Refusal(GNTST_GENERAL_ERROR))
        }
    }
}

impl<const IS_DESTINATION: bool> Drop for End<'_, IS_DESTINATION> {
    fn drop(&mut self) {
        self.release_grant();
        self.release_own();
    }
}

/// Copies on behalf of one domain.
pub(super) struct Copier<'a> {
    source: End<'a, false>,
    destination: End<'a, true>,
    counters: &'a Counters,
    copies: u64,
    bytes: u64,
}

impl<'a> Copier<'a> {
    pub fn new(caller: &'a Domain) -> Self {
        Self {
            source: End::new(caller),
            destination: End::new(caller),
            counters: &caller.grant_table.counters,
            copies: 0,
            bytes: 0,
        }
    }

    /// Carries out one item.
    #[inline]
    pub fn copy(&mut self, op: &GnttabCopy) -> Result<(), Refusal> {
        if op.len == 0 {
            return Ok(());
        }
        let source = self.source.prepare(&op.source, op.flags & GNTCOPY_SOURCE_GREF != 0)?;
        let destination = self.destination.prepare(&op.dest, op.flags & GNTCOPY_DEST_GREF != 0)?;
        if !source.contains(op.source.offset, op.len) || !destination.contains(op.dest.offset, op.len) {
            let leaves_page = leaves_page(op.source.offset, op.len) || leaves_page(op.dest.offset, op.len);
            return Err(Refusal(if leaves_page { GNTST_BAD_COPY_ARG } else { GNTST_GENERAL_ERROR }));
        }
        let length = usize::from(op.len);
        let (from, to) = (usize::from(op.source.offset), usize::from(op.dest.offset));
        direct_map::copy_between((source.frame, from), (destination.frame, to), length);
        self.copies += 1;
        self.bytes += u64::from(op.len);
        Ok(())
    }
}

impl Drop for Copier<'_> {
    fn drop(&mut self) {
        self.counters.copies.fetch_add(self.copies, Ordering::Relaxed);
        self.counters.bytes_copied.fetch_add(self.bytes, Ordering::Relaxed);
    }
}

const fn leaves_page(offset: u16, length: u16) -> bool {
    offset as u64 + length as u64 > PAGE_SIZE
}
