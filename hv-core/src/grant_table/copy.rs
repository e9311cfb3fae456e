//! Copying between pages, each of them granted or the caller's own.
//!
//! One copy is one string instruction between two frames that are held for it. An end that stays the same from one
//! item of a batch to the next stays held, so that a packet in pieces costs one look at the grant; the domain
//! at an end is looked up when it changes.

use super::{
    Counters, Refusal,
    peer::Peer,
    shared::{Access, Grant, GrantKinds, Part},
};
use crate::{
    direct_map,
    domain::{Domain, DomainRef},
    frame,
    layout::PAGE_SIZE,
};
use core::sync::atomic::Ordering;
use hypercall_abi::{
    DomainId, Errno, GrantReference, MachineFrame,
    grant_table::{
        GNTCOPY_DEST_GREF, GNTCOPY_SOURCE_GREF, GNTST_BAD_COPY_ARG, GNTST_BAD_PAGE, GNTST_GENERAL_ERROR,
        GNTST_PERMISSION_DENIED, GnttabCopy, GnttabCopyPtr,
    },
};

/// What an end of a copy is held by.
enum Hold {
    /// A use of a grant of the domain that the end's [`Peer`] found last.
    Grant(GrantReference),
    /// The same, and a use of the grant behind that it passes on.
    PassedOn(GrantReference, DomainRef, GrantReference),
    /// A reference to a frame of the caller's.
    Own,
}

/// An end of a copy that is held.
struct Held {
    part: Part,
    hold: Hold,
    /// The guest's words for it, to recognise it by.
    named: (DomainId, u64),
}

/// The source or the destination of the copies in a batch.
struct End<'a> {
    caller: &'a Domain,
    access: Access,
    peer: Peer,
    held: Option<Held>,
}

impl<'a> End<'a> {
    fn new(caller: &'a Domain, access: Access) -> Self {
        Self { caller, access, peer: Peer::default(), held: None }
    }

    /// The memory at a place, held until [`Self::release`] or the next other place.
    #[inline]
    fn prepare(&mut self, place: &GnttabCopyPtr, is_grant: bool) -> Result<Part, Refusal> {
        let number = if is_grant { u64::from(place.reference().0) } else { place.gmfn() };
        if let Some(held) = &self.held
            && held.named == (place.domid, number)
            && matches!(held.hold, Hold::Own) != is_grant
        {
            return Ok(held.part);
        }
        self.release();
        let (part, hold) = match is_grant {
            true => self.hold_grant(place.domid, place.reference())?,
            false => self.hold_own(place.domid, MachineFrame(number))?,
        };
        self.held = Some(Held { part, hold, named: (place.domid, number) });
        Ok(part)
    }

    fn hold_grant(&mut self, granter: DomainId, reference: GrantReference) -> Result<(Part, Hold), Refusal> {
        let granter = self.peer.find(if granter == DomainId::SELF { self.caller.id } else { granter })?;
        let table = &granter.grant_table;
        let grant = table.granted.lock().acquire(
            granter.id,
            reference,
            self.caller.id,
            self.access,
            GrantKinds::Any,
        )?;
        match grant {
            Grant::Own(part) => Ok((part, Hold::Grant(reference))),
            Grant::PassedOn(behind, its_reference) => {
                hold_behind(granter, behind, its_reference, self.access)
                    .map(|(part, behind)| (part, Hold::PassedOn(reference, behind, its_reference)))
                    .inspect_err(|_| table.granted.lock().release(reference, self.access))
            }
        }
    }

    /// Only the caller's own memory may be named by frame.
    fn hold_own(&self, owner: DomainId, frame: MachineFrame) -> Result<(Part, Hold), Refusal> {
        if owner != DomainId::SELF {
            return Err(Refusal(GNTST_PERMISSION_DENIED));
        }
        let held = match self.access {
            Access::Read => frame::get(frame, self.caller.id),
            Access::Write => frame::get_writable(frame, self.caller.id),
        };
        held.map_err(|errno| {
            Refusal(if errno == Errno::EBUSY { GNTST_GENERAL_ERROR } else { GNTST_BAD_PAGE })
        })?;
        Ok((Part::whole(frame), Hold::Own))
    }

    /// Lets go of what is held.
    fn release(&mut self) {
        let Some(held) = self.held.take() else { return };
        match held.hold {
            Hold::Grant(reference) => self.release_near(reference),
            Hold::PassedOn(reference, behind, its_reference) => {
                behind.grant_table.granted.lock().release(its_reference, self.access);
                self.release_near(reference);
            }
            Hold::Own if self.access == Access::Read => frame::put(held.part.frame),
            Hold::Own => frame::put_writable(held.part.frame),
        }
    }

    fn release_near(&self, reference: GrantReference) {
        if let Some(granter) = self.peer.last() {
            granter.grant_table.granted.lock().release(reference, self.access);
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

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.release();
    }
}

/// Copies on behalf of one domain.
pub(super) struct Copier<'a> {
    source: End<'a>,
    destination: End<'a>,
    counters: &'a Counters,
}

impl<'a> Copier<'a> {
    pub fn new(caller: &'a Domain) -> Self {
        Self {
            source: End::new(caller, Access::Read),
            destination: End::new(caller, Access::Write),
            counters: &caller.grant_table.counters,
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
        if leaves_page(op.source.offset, op.len) || leaves_page(op.dest.offset, op.len) {
            return Err(Refusal(GNTST_BAD_COPY_ARG));
        }
        if !source.contains(op.source.offset, op.len) || !destination.contains(op.dest.offset, op.len) {
            return Err(Refusal(GNTST_GENERAL_ERROR));
        }
        let length = usize::from(op.len);
        let (from, to) = (usize::from(op.source.offset), usize::from(op.dest.offset));
        direct_map::copy_between((source.frame, from), (destination.frame, to), length);
        self.counters.copies.fetch_add(1, Ordering::Relaxed);
        self.counters.bytes_copied.fetch_add(u64::from(op.len), Ordering::Relaxed);
        Ok(())
    }
}

const fn leaves_page(offset: u16, length: u16) -> bool {
    offset as u64 + length as u64 > PAGE_SIZE
}
