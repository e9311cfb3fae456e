//! One copy by itself: between any two pages, or parts of pages, that the caller may use.
//!
//! It finds out what is wrong with a copy, and knows grants that are passed on, of parts of pages, or in use otherwise.

use super::{
    Refusal,
    active::{hold, let_go},
    peer::Peer,
    shared::{Access, Grant, GrantKinds, Part},
};
use crate::{
    direct_map,
    domain::{Domain, DomainRef},
    layout::PAGE_SIZE,
};
use hypercall_abi::{
    DomainId, GrantReference, MachineFrame,
    grant_table::{
        GNTCOPY_DEST_GREF, GNTCOPY_SOURCE_GREF, GNTST_BAD_COPY_ARG, GNTST_GENERAL_ERROR,
        GNTST_PERMISSION_DENIED, GnttabCopy, GnttabCopyPtr,
    },
};

/// Makes a copy on behalf of a domain.
pub(super) fn copy_one(caller: &Domain, op: &GnttabCopy) -> Result<(), Refusal> {
    if op.len == 0 {
        return Ok(());
    }
    let source = End::new(caller, &op.source, op.flags & GNTCOPY_SOURCE_GREF != 0, Access::Read)?;
    let destination = End::new(caller, &op.dest, op.flags & GNTCOPY_DEST_GREF != 0, Access::Write)?;
    if !source.part.contains(op.source.offset, op.len) || !destination.part.contains(op.dest.offset, op.len) {
        let leaves_page = leaves_page(op.source.offset, op.len) || leaves_page(op.dest.offset, op.len);
        return Err(Refusal(if leaves_page { GNTST_BAD_COPY_ARG } else { GNTST_GENERAL_ERROR }));
    }
    let (from, to) = (usize::from(op.source.offset), usize::from(op.dest.offset));
    direct_map::copy_between((source.part.frame, from), (destination.part.frame, to), op.len.into());
    Ok(())
}

/// True when a range does not lie in one page.
#[inline]
pub(super) const fn leaves_page(offset: u16, length: u16) -> bool {
    offset as u64 + length as u64 > PAGE_SIZE
}

/// The source or the destination: memory that stays until this goes.
struct End {
    part: Part,
    access: Access,
    hold: Hold,
}

/// How it is held.
enum Hold {
    /// As a frame of the caller's own.
    Own,
    /// By a use of a grant and, if that is passed on, of the one behind it.
    Granted { near: GrantUse, behind: Option<GrantUse> },
}

/// A use of a grant by one end; it is ended when that goes.
struct GrantUse {
    granter: DomainRef,
    reference: GrantReference,
}

impl GrantUse {
    fn end(&self, access: Access) {
        self.granter.grant_table.granted.lock().release(self.reference, access);
    }
}

impl End {
    fn new(caller: &Domain, place: &GnttabCopyPtr, is_grant: bool, access: Access) -> Result<Self, Refusal> {
        if is_grant {
            Self::granted(caller, place, access)
        } else {
            Self::own(caller, place.domid, MachineFrame(place.gmfn()), access)
        }
    }

    /// Only the caller's own memory may be named by frame.
    fn own(caller: &Domain, owner: DomainId, frame: MachineFrame, access: Access) -> Result<Self, Refusal> {
        if owner != DomainId::SELF {
            return Err(Refusal(GNTST_PERMISSION_DENIED));
        }
        hold(frame, caller.id, access)?;
        Ok(Self { part: Part::whole(frame), access, hold: Hold::Own })
    }

    fn granted(caller: &Domain, place: &GnttabCopyPtr, access: Access) -> Result<Self, Refusal> {
        let granter = if place.domid == DomainId::SELF { caller.id } else { place.domid };
        let (grant, near) = use_grant(granter, place.reference(), caller.id, access, GrantKinds::Any)?;
        match grant {
            Grant::Own(part) => Ok(Self { part, access, hold: Hold::Granted { near, behind: None } }),
            Grant::PassedOn(behind, reference) => {
                let held = hold_behind(near.granter.id, behind, reference, access);
                let (part, behind) = held.inspect_err(|_| near.end(access))?;
                Ok(Self { part, access, hold: Hold::Granted { near, behind: Some(behind) } })
            }
        }
    }
}

/// Begins a use of what domain `behind` granted to `granter`, which passes it on. That must be `behind`'s own memory:
/// there is no chain.
fn hold_behind(
    granter: DomainId,
    behind: DomainId,
    reference: GrantReference,
    access: Access,
) -> Result<(Part, GrantUse), Refusal> {
    if behind == granter {
        return Err(Refusal(GNTST_GENERAL_ERROR));
    }
    match use_grant(behind, reference, granter, access, GrantKinds::Own)? {
        (Grant::Own(part), behind) => Ok((part, behind)),
        (Grant::PassedOn(..), behind) => {
            behind.end(access);
            Err(Refusal(GNTST_GENERAL_ERROR))
        }
    }
}

fn use_grant(
    granter: DomainId,
    reference: GrantReference,
    grantee: DomainId,
    access: Access,
    kinds: GrantKinds,
) -> Result<(Grant, GrantUse), Refusal> {
    let granter = Peer::default().find(granter)?.clone();
    let grant = granter.grant_table.granted.lock().acquire(granter.id, reference, grantee, access, kinds)?;
    Ok((grant, GrantUse { granter, reference }))
}

impl Drop for End {
    fn drop(&mut self) {
        match &self.hold {
            Hold::Own => let_go(self.part.frame, self.access),
            Hold::Granted { near, behind } => {
                behind.iter().for_each(|behind| behind.end(self.access));
                near.end(self.access);
            }
        }
    }
}
