//! Permissions: who owns a node and who may read or write it.
//!
//! A node has one owner, who may do everything; rights for everybody who is not named; and rights for
//! domains that are. On the wire this is a list such as `n3 r5`: owned by domain 3, nothing for others,
//! reading for domain 5. The letter of the *first* entry is what others may do, not what the owner may.

use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use bitflags::bitflags;
use hypercall_abi::DomainId;

use super::wire::{Malformed, decimal};

bitflags! {
    /// What a domain may do with a node.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Rights: u8 {
        /// Read the value, list the children, hear of changes.
        const READ = 1;
        /// Change the value, add children, remove the node.
        const WRITE = 2;
    }
}

/// The rights of one domain that a node names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The domain.
    pub domain: DomainId,
    /// What it may do.
    pub rights: Rights,
}

/// Everything about who may do what with a node. Cheap to clone.
#[derive(Clone, PartialEq, Eq)]
pub struct Permissions {
    owner: DomainId,
    others: Rights,
    grants: Option<Rc<[Grant]>>,
}

/// On whose behalf something is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The domain that asks.
    pub domain: DomainId,
    /// A domain for which it acts, and whose rights it has too.
    pub target: Option<DomainId>,
    /// Whether rights and quotas do not apply: dom0.
    pub privileged: bool,
}

impl Caller {
    /// Dom0 itself.
    pub const DOM0: Self = Self { domain: DomainId::ZERO, target: None, privileged: true };

    /// An ordinary domain that acts for nobody else.
    pub const fn domain(domain: DomainId) -> Self {
        Self { domain, target: None, privileged: false }
    }

    /// Whether what `domain` may do, the caller may.
    fn speaks_for(&self, domain: DomainId) -> bool {
        self.domain == domain || self.target == Some(domain)
    }
}

impl Permissions {
    /// Permissions from their parts.
    pub fn new(owner: DomainId, others: Rights, grants: &[Grant]) -> Self {
        let grants = if grants.is_empty() { None } else { Some(grants.into()) };
        Self { owner, others, grants }
    }

    /// Permissions of a node that only its owner may use.
    pub fn private(owner: DomainId) -> Self {
        Self::new(owner, Rights::empty(), &[])
    }

    /// The domain that owns the node.
    pub fn owner(&self) -> DomainId {
        self.owner
    }

    /// The domains named beside the owner, in the order in which they are asked.
    pub fn grants(&self) -> &[Grant] {
        self.grants.as_deref().unwrap_or_default()
    }

    /// How many entries the list on the wire has.
    pub fn entries(&self) -> usize {
        1 + self.grants().len()
    }

    /// What `caller` may do. The first entry that fits decides.
    pub fn rights_of(&self, caller: &Caller) -> Rights {
        if self.are_owned_by(caller) {
            return Rights::all();
        }
        let grant = self.grants().iter().find(|grant| caller.speaks_for(grant.domain));
        grant.map_or(self.others, |grant| grant.rights)
    }

    /// Whether `caller` has all of `rights`.
    pub fn permit(&self, caller: &Caller, rights: Rights) -> bool {
        self.rights_of(caller).contains(rights)
    }

    /// Whether `caller` may do what only an owner may.
    pub fn are_owned_by(&self, caller: &Caller) -> bool {
        caller.privileged || caller.speaks_for(self.owner)
    }

    /// What a node that `caller` creates below a node with these permissions gets: the same, but an ordinary
    /// domain owns what it creates.
    pub(super) fn inherited_by(&self, caller: &Caller) -> Self {
        let owner = if caller.privileged { self.owner } else { caller.domain };
        Self { owner, ..self.clone() }
    }

    /// The same without any entry for `domain`, which must not be the owner.
    pub(super) fn without(&self, domain: DomainId) -> Self {
        let rest: Vec<_> = self.grants().iter().copied().filter(|grant| grant.domain != domain).collect();
        Self::new(self.owner, self.others, &rest)
    }

    /// Every domain that is named, the owner included; one may come twice.
    pub(super) fn domains(&self) -> impl Iterator<Item = DomainId> {
        core::iter::once(self.owner).chain(self.grants().iter().map(|grant| grant.domain))
    }

    /// The permissions that a list of entries from the wire says.
    pub(super) fn parse<'a>(mut entries: impl Iterator<Item = &'a [u8]>) -> Result<Self, Malformed> {
        let first = Grant::parse(entries.next().ok_or(Malformed::Arguments)?)?;
        let grants: Vec<_> = entries.map(Grant::parse).collect::<Result<_, _>>()?;
        Ok(Self::new(first.domain, first.rights, &grants))
    }

    /// The list as the wire has it, each entry with a NUL behind it.
    pub(super) fn to_wire(&self) -> String {
        let first = Grant { domain: self.owner, rights: self.others };
        let entries = core::iter::once(&first).chain(self.grants());
        entries.map(|grant| format!("{grant}\0")).collect()
    }
}

impl Grant {
    /// An entry such as `r5`.
    fn parse(text: &[u8]) -> Result<Self, Malformed> {
        let (letter, number) = text.split_first().ok_or(Malformed::Permission)?;
        let rights = match letter {
            b'r' => Rights::READ,
            b'w' => Rights::WRITE,
            b'b' => Rights::READ | Rights::WRITE,
            b'n' => Rights::empty(),
            _ => return Err(Malformed::Permission),
        };
        let domain = decimal(number).map_err(|_| Malformed::Permission)?;
        Ok(Self { domain: DomainId(domain), rights })
    }
}

impl fmt::Display for Grant {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letter = match (self.rights.contains(Rights::READ), self.rights.contains(Rights::WRITE)) {
            (true, true) => 'b',
            (true, false) => 'r',
            (false, true) => 'w',
            (false, false) => 'n',
        };
        write!(formatter, "{letter}{}", self.domain.0)
    }
}

impl fmt::Debug for Permissions {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.to_wire().trim_end_matches('\0'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn permissions(entries: &[&str]) -> Result<Permissions, Malformed> {
        Permissions::parse(entries.iter().map(|entry| entry.as_bytes()))
    }

    fn rights(entries: &[&str], caller: Caller) -> Rights {
        permissions(entries).unwrap().rights_of(&caller)
    }

    #[test]
    fn the_list_reads_back_as_written() {
        for entries in [&["n0"][..], &["b7"], &["r1", "w2", "b3", "n4"]] {
            let wire: String = entries.iter().map(|entry| format!("{entry}\0")).collect();
            assert_eq!(permissions(entries).unwrap().to_wire(), wire);
        }
    }

    #[test]
    fn broken_entries_are_refused() {
        for entry in ["", "r", "x1", "R1", "r-1", "r1 ", "r65536", "r99999999999999999999"] {
            assert_eq!(permissions(&[entry]), Err(Malformed::Permission), "{entry:?}");
            assert_eq!(permissions(&["n0", entry]), Err(Malformed::Permission), "{entry:?}");
        }
        assert_eq!(permissions(&[]), Err(Malformed::Arguments));
    }

    #[test]
    fn the_owner_and_dom0_may_do_everything() {
        assert_eq!(rights(&["n3"], Caller::domain(DomainId(3))), Rights::all());
        assert_eq!(rights(&["n3"], Caller::DOM0), Rights::all());
        assert_eq!(rights(&["n3"], Caller::domain(DomainId(4))), Rights::empty());
    }

    #[test]
    fn the_first_entry_that_fits_decides() {
        let four = Caller::domain(DomainId(4));
        assert_eq!(rights(&["r3", "w4", "b4"], four), Rights::WRITE);
        assert_eq!(rights(&["r3", "b5"], four), Rights::READ);
        assert_eq!(rights(&["b3", "n4"], four), Rights::empty());
    }

    #[test]
    fn who_acts_for_another_has_its_rights() {
        let for_three = Caller { target: Some(DomainId(3)), ..Caller::domain(DomainId(9)) };
        assert_eq!(rights(&["n3"], for_three), Rights::all());
        assert!(permissions(&["n3"]).unwrap().are_owned_by(&for_three));
        assert_eq!(rights(&["n0", "r3"], for_three), Rights::READ);
    }

    #[test]
    fn what_a_domain_creates_it_owns() {
        let parent = permissions(&["r0", "b3"]).unwrap();
        assert_eq!(parent.inherited_by(&Caller::domain(DomainId(3))), permissions(&["r3", "b3"]).unwrap());
        assert_eq!(parent.inherited_by(&Caller::DOM0), parent);
    }

    #[test]
    fn a_domain_can_be_taken_out() {
        let all = permissions(&["n0", "r3", "b4", "w3"]).unwrap();
        assert_eq!(all.without(DomainId(3)), permissions(&["n0", "b4"]).unwrap());
        assert_eq!(all.without(DomainId(3)).without(DomainId(4)), permissions(&["n0"]).unwrap());
    }
}
