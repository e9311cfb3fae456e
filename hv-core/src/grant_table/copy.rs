//! Copying between pages, each of them granted or the caller's own.
//!
//! One copy is one string instruction between two frames that are held for it. An end that stays the same from one
//! item of a batch to the next stays held, so that a packet in pieces costs one look at the grant; the domain
//! at an end is looked up when it changes.

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

/// The guest's words for a place, to recognise it by.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Name {
    domain: DomainId,
    is_grant: bool,
    /// The grant reference, or the frame.
    number: u64,
}

impl Name {
    #[inline]
    fn of(place: &GnttabCopyPtr, is_grant: bool) -> Self {
        let number = if is_grant { u64::from(place.reference().0) } else { place.gmfn() };
        Self { domain: place.domid, is_grant, number }
    }

    #[inline]
    const fn reference(self) -> GrantReference {
        GrantReference(self.number as u32)
    }
}

/// The source or the destination of the copies in a batch.
struct End<'a, const IS_DESTINATION: bool> {
    caller: &'a Domain,
    /// The domain whose grant is held, or was.
    peer: Peer,
    /// What is held: a use of a grant, or a reference to a frame of the caller's.
    held: Option<Name>,
    /// The memory of that.
    part: Part,
    /// Where the grant is passed on: the use of the grant behind it.
    behind: Option<(DomainRef, GrantReference)>,
}

impl<'a, const IS_DESTINATION: bool> End<'a, IS_DESTINATION> {
    const ACCESS: Access = if IS_DESTINATION { Access::Write } else { Access::Read };

    fn new(caller: &'a Domain) -> Self {
        let part = Part::whole(MachineFrame(0));
        Self { caller, peer: Peer::default(), held: None, part, behind: None }
    }

    /// The memory at a place, held until [`Self::release`] or the next other place.
    #[inline]
    fn prepare(&mut self, place: &GnttabCopyPtr, is_grant: bool) -> Result<Part, Refusal> {
        let name = Name::of(place, is_grant);
        if self.held != Some(name) {
            self.release();
            self.part = if is_grant { self.hold_grant(name)? } else { self.hold_own(name)? };
            self.held = Some(name);
        }
        Ok(self.part)
    }

    #[inline]
    fn hold_grant(&mut self, name: Name) -> Result<Part, Refusal> {
        let granter = if name.domain == DomainId::SELF { self.caller.id } else { name.domain };
        let granter = self.peer.find(granter)?;
        let (reference, grantee) = (name.reference(), self.caller.id);
        let mut granted = granter.grant_table.granted.lock();
        let grant = granted.acquire(granter.id, reference, grantee, Self::ACCESS, GrantKinds::Any)?;
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
    fn hold_own(&self, name: Name) -> Result<Part, Refusal> {
        if name.domain != DomainId::SELF {
            return Err(Refusal(GNTST_PERMISSION_DENIED));
        }
        let frame = MachineFrame(name.number);
        hold(frame, self.caller.id, Self::ACCESS)?;
        Ok(Part::whole(frame))
    }

    /// Lets go of what is held.
    #[inline(always)]
    fn release(&mut self) {
        let Some(name) = self.held.take() else { return };
        if !name.is_grant {
            return let_go(self.part.frame, Self::ACCESS);
        }
        if self.behind.is_some() {
            self.release_behind();
        }
        if let Some(granter) = self.peer.last() {
            granter.grant_table.granted.lock().release(name.reference(), Self::ACCESS);
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
        self.release();
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
