//! Whose tables and whose frames a call is about.
//!
//! Mostly the caller's own. The builder of a domain works on that domain's tables and maps its frames while the
//! domain is under construction, and nobody else ever does: everything that names another domain comes through
//! [`Party::named`].

use crate::{
    domain::{self, Domain, DomainRef},
    page_table::Mappable,
};
use core::ops::Deref;
use hypercall_abi::{DomainId, Errno};

/// A domain that a call names: the caller, or another that it may work on.
pub enum Party<'a> {
    /// The caller itself.
    Caller(&'a Domain),
    /// A domain under construction.
    Other(DomainRef),
}

impl Deref for Party<'_> {
    type Target = Domain;

    #[inline]
    fn deref(&self) -> &Domain {
        match self {
            Self::Caller(domain) => domain,
            Self::Other(domain) => domain,
        }
    }
}

impl<'a> Party<'a> {
    /// The domain `id`, for `caller` to work on.
    ///
    /// # Errors
    /// `EPERM` unless it is the caller, or the caller is the control domain and `id` under construction; `ESRCH`
    /// when there is none.
    #[inline]
    pub fn named(caller: &'a Domain, id: DomainId) -> Result<Self, Errno> {
        if id == DomainId::SELF || id == caller.id {
            Ok(Self::Caller(caller))
        } else {
            Self::other(caller, id)
        }
    }

    #[cold]
    fn other(caller: &Domain, id: DomainId) -> Result<Self, Errno> {
        if !caller.is_privileged {
            return Err(Errno::EPERM);
        }
        let domain = domain::find(id).ok_or(Errno::ESRCH)?;
        if domain.is_under_construction() && !domain.memory.is_sealed() {
            Ok(Self::Other(domain))
        } else {
            Err(Errno::EPERM)
        }
    }
}

/// Whose frames new entries may map.
pub enum Frames<'a> {
    /// I/O space, by the caller's rights.
    Io(&'a Domain),
    /// A domain's.
    Of(Party<'a>),
}

impl<'a> Frames<'a> {
    /// The owner `id` that `caller` names.
    ///
    /// # Errors
    /// As [`Party::named`].
    #[inline]
    pub fn named(caller: &'a Domain, id: DomainId) -> Result<Self, Errno> {
        if id == DomainId::IO { Ok(Self::Io(caller)) } else { Ok(Self::Of(Party::named(caller, id)?)) }
    }

    /// What that means for tables of `tables`.
    ///
    /// # Errors
    /// `EPERM` for frames of a third domain: only the caller's tables may map what is not their owner's.
    #[inline]
    pub fn mappable_in<'b>(&'b self, tables: &'b Party<'_>) -> Result<Mappable<'b>, Errno> {
        match self {
            Self::Of(frames) if frames.id == tables.id => Ok(Mappable::Own(frames)),
            Self::Of(frames) if matches!(tables, Party::Caller(_)) => Ok(Mappable::Foreign(frames)),
            Self::Of(_) => Err(Errno::EPERM),
            Self::Io(rights) => Ok(Mappable::Io(rights)),
        }
    }

    /// The domain whose machine-to-pseudo-physical entries may be set.
    pub fn owner(&self) -> Option<DomainId> {
        match self {
            Self::Of(frames) => Some(frames.id),
            Self::Io(_) => None,
        }
    }
}
