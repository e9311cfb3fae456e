//! What a domain grants, as the hypervisor knows it: the frames of shared entries and, for grants in use, the
//! active entries.
//!
//! The readers of a grant together hold one reference to the frame, and its writers together one reference as
//! writable memory, however many there are. So a frame's counts cannot be driven up through grants.

use super::{
    MOST_GRANT_FRAMES, Refusal,
    shared::{Access, GrantKinds, SharedEntry},
};
use crate::{domain::Domain, frame, frame_object::FrameBox, layout::PAGE_SIZE};
use hypercall_abi::{
    DomainId, Errno, GrantReference, MachineFrame,
    grant_table::{
        GNTST_BAD_GNTREF, GNTST_BAD_PAGE, GNTST_EAGAIN, GNTST_GENERAL_ERROR, GNTST_NO_SPACE,
        GRANT_ENTRIES_V1_PER_PAGE, GTF_READING, GTF_WRITING,
    },
};

/// Entries in a frame, of the shared and of the active kind.
const ENTRIES: usize = GRANT_ENTRIES_V1_PER_PAGE as usize;

/// A grant as it is used; all zero when it is not.
#[derive(Clone, Copy, Default)]
struct Active {
    /// The granted frame. Version 1 entries have 32 bits for it.
    frame: u32,
    /// Who uses it; a grant is to one domain.
    grantee: DomainId,
    /// Uses for reading.
    readers: u8,
    /// Uses for writing (and reading).
    writers: u8,
}

const _: () = assert!(size_of::<[Active; ENTRIES]>() == PAGE_SIZE as usize);

impl Active {
    fn is_used(&self) -> bool {
        self.readers != 0 || self.writers != 0
    }

    fn count_mut(&mut self, access: Access) -> &mut u8 {
        match access {
            Access::Read => &mut self.readers,
            Access::Write => &mut self.writers,
        }
    }

    fn frame(&self) -> MachineFrame {
        MachineFrame(u64::from(self.frame))
    }
}

/// One frame of shared entries and their active entries, which exist from the first use on.
struct Page {
    shared: MachineFrame,
    active: Option<FrameBox<[Active; ENTRIES]>>,
}

/// The granting half of a domain's table.
pub(super) struct Granted {
    pages: [Page; MOST_GRANT_FRAMES as usize],
    /// Pages that have a shared frame now; zero again when the domain has died.
    count: u32,
    /// Pages there may be.
    maximum: u32,
}

/// Takes the reference that the first use of a kind needs.
fn hold(frame: MachineFrame, owner: DomainId, access: Access) -> Result<(), Refusal> {
    let held = match access {
        Access::Read => frame::get(frame, owner),
        Access::Write => frame::get_writable(frame, owner),
    };
    held.map_err(|errno| Refusal(if errno == Errno::EBUSY { GNTST_GENERAL_ERROR } else { GNTST_BAD_PAGE }))
}

/// Drops what [`hold`] took.
fn let_go(frame: MachineFrame, access: Access) {
    match access {
        Access::Read => frame::put(frame),
        Access::Write => frame::put_writable(frame),
    }
}

impl Granted {
    pub const fn new(maximum: u32) -> Self {
        const EMPTY: Page = Page { shared: MachineFrame(0), active: None };
        Self {
            pages: [EMPTY; MOST_GRANT_FRAMES as usize],
            count: 0,
            maximum: if maximum == 0 { 1 } else { maximum },
        }
    }

    /// Frames of shared entries. The first appears when it is first looked at, so there is never less than one.
    pub fn size(&self) -> u32 {
        self.count.max(1)
    }

    /// Frames of shared entries there may be.
    pub fn maximum(&self) -> u32 {
        self.maximum
    }

    /// Makes the table at least `count` frames large.
    pub fn grow(&mut self, domain: &Domain, count: u32) -> Result<(), Errno> {
        // Once dying, the table has given its frames back or is about to.
        if count > self.maximum || domain.is_dying() {
            return Err(Errno::EINVAL);
        }
        while self.count < count {
            self.pages[self.count as usize].shared = frame::share_new(domain)?;
            self.count += 1;
        }
        Ok(())
    }

    /// The frame at `index` of the table, if it is that large.
    pub fn shared_frame(&self, index: u32) -> Option<MachineFrame> {
        (index < self.count).then(|| self.pages[index as usize].shared)
    }

    /// Gives the shared frames back. Grants in use stay so, but their entries are not written any more.
    pub fn abandon(&mut self, domain: &Domain) {
        for page in &self.pages[..self.count as usize] {
            frame::unshare(domain, page.shared);
        }
        self.count = 0;
    }

    /// The shared entry of a reference, if it is within the table.
    fn shared_entry(&self, reference: GrantReference) -> Option<SharedEntry> {
        let frame = self.shared_frame(reference.0 / GRANT_ENTRIES_V1_PER_PAGE)?;
        Some(SharedEntry::new(frame, reference.0 as usize % ENTRIES))
    }

    /// The active entry of a reference, when any near it has ever been used.
    fn active_mut(&mut self, reference: GrantReference) -> Option<&mut Active> {
        let number = reference.0 as usize;
        Some(&mut self.pages.get_mut(number / ENTRIES)?.active.as_mut()?[number % ENTRIES])
    }

    fn active_or_new(&mut self, reference: GrantReference) -> Result<&mut Active, Refusal> {
        let number = reference.0 as usize;
        let page = self.pages.get_mut(number / ENTRIES).ok_or(Refusal(GNTST_BAD_GNTREF))?;
        if page.active.is_none() {
            page.active = FrameBox::try_from_fn(|_| Active::default());
        }
        Ok(&mut page.active.as_mut().ok_or(Refusal(GNTST_NO_SPACE))?[number % ENTRIES])
    }

    /// Begins a use of a grant by `grantee` and returns the frame. Until [`Self::release`] with the same `access`
    /// the frame stays, and stays writable memory if `access` is to write.
    pub fn acquire(
        &mut self,
        granter: DomainId,
        reference: GrantReference,
        grantee: DomainId,
        access: Access,
        kinds: GrantKinds,
    ) -> Result<MachineFrame, Refusal> {
        let shared = self.shared_entry(reference).ok_or(Refusal(GNTST_BAD_GNTREF))?;
        let active = self.active_or_new(reference)?;
        let in_use = active.is_used();
        if in_use && active.grantee != grantee {
            return Err(Refusal(GNTST_GENERAL_ERROR));
        }
        let before = *active.count_mut(access);
        let after = before.checked_add(1).ok_or(Refusal(GNTST_GENERAL_ERROR))?;
        if before == 0 {
            first_use(active, shared, granter, grantee, access, kinds)?;
        }
        *active.count_mut(access) = after;
        Ok(active.frame())
    }

    /// Ends a use. The frame is let go before the granter can see that its grant is not used any more.
    pub fn release(&mut self, reference: GrantReference, access: Access) {
        let shared = self.shared_entry(reference);
        let Some(active) = self.active_mut(reference) else { return };
        let count = active.count_mut(access);
        debug_assert!(*count > 0, "a use is ended twice");
        *count = count.saturating_sub(1);
        if *count > 0 {
            return;
        }
        let_go(active.frame(), access);
        if let Some(shared) = shared {
            withdraw_unused(active, shared, access);
        }
    }

    /// The frame of a grant in use.
    pub fn frame_in_use(&mut self, reference: GrantReference) -> Option<MachineFrame> {
        self.active_mut(reference).filter(|active| active.is_used()).map(|active| active.frame())
    }

    /// Exchanges two shared entries; neither may be in use.
    pub fn swap(&mut self, first: GrantReference, second: GrantReference) -> Result<(), Refusal> {
        let first_entry = self.shared_entry(first).ok_or(Refusal(GNTST_BAD_GNTREF))?;
        let second_entry = self.shared_entry(second).ok_or(Refusal(GNTST_BAD_GNTREF))?;
        if first == second {
            return Ok(());
        }
        if self.frame_in_use(first).or(self.frame_in_use(second)).is_some() {
            return Err(Refusal(GNTST_EAGAIN));
        }
        first_entry.swap(second_entry);
        Ok(())
    }

    /// Number of grants in use; looks at all of them.
    pub fn used(&self) -> usize {
        let all = self.pages.iter().filter_map(|page| page.active.as_ref()).flat_map(|page| page.iter());
        all.filter(|active| active.is_used()).count()
    }
}

/// The first use of its kind: checks the shared entry, announces the use there, and takes hold of the frame.
fn first_use(
    active: &mut Active,
    shared: SharedEntry,
    granter: DomainId,
    grantee: DomainId,
    access: Access,
    kinds: GrantKinds,
) -> Result<(), Refusal> {
    let in_use = active.is_used();
    // A reader beside a writer finds its flag up already.
    if !(in_use && access == Access::Read) {
        shared.announce(grantee, access, in_use, kinds)?;
    }
    let number = if in_use { active.frame } else { shared.granted_frame() };
    if let Err(refusal) = hold(MachineFrame(u64::from(number)), granter, access) {
        withdraw_unused(active, shared, access);
        return Err(refusal);
    }
    active.frame = number;
    active.grantee = grantee;
    Ok(())
}

/// Takes down the flags of a use that has ended, as far as no other use needs them.
fn withdraw_unused(active: &Active, shared: SharedEntry, ended: Access) {
    if !active.is_used() {
        shared.withdraw(GTF_READING | GTF_WRITING);
    } else if ended == Access::Write {
        shared.withdraw(GTF_WRITING);
    }
}
