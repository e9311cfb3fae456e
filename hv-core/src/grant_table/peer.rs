//! Finding the other domain, once for a batch of operations that name the same one.

use super::Refusal;
use crate::domain::{self, DomainRef};
use hypercall_abi::{DomainId, grant_table::GNTST_BAD_DOMAIN};

/// Remembers the domain that was named last.
#[derive(Default)]
pub(super) struct Peer {
    last: Option<DomainRef>,
}

impl Peer {
    /// The living domain of this number. A dying one grants nothing any more.
    #[inline]
    pub fn find(&mut self, id: DomainId) -> Result<&DomainRef, Refusal> {
        if self.last.as_ref().is_none_or(|last| last.id != id) {
            self.look_up(id);
        }
        self.last.as_ref().filter(|found| !found.is_dying()).ok_or(Refusal(GNTST_BAD_DOMAIN))
    }

    #[inline(never)]
    fn look_up(&mut self, id: DomainId) {
        self.last = domain::find(id);
    }
}
