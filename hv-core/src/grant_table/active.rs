//! What a domain grants, as the hypervisor knows it: the frames of shared entries and, for grants in use, the
//! active entries.
//!
//! The readers of a grant together hold one reference to the frame, and its writers together one reference as
//! writable memory, however many there are. So a frame's counts cannot be driven up through grants. The users of a
//! grant that is passed on hold nothing here; each has its own hold on the grant behind it.

use super::{
    MOST_GRANT_FRAMES, Refusal,
    shared::{Access, Grant, GrantKinds, Part, PlainEntry, STATUS_WORDS, SharedEntry, Version},
};
use crate::{
    direct_map,
    domain::Domain,
    frame,
    frame_object::FrameBox,
    layout::{DIRECT_MAP_SIZE, PAGE_SIZE},
};
use hypercall_abi::{
    DomainId, Errno, GrantReference, MachineFrame,
    grant_table::{
        GNTST_BAD_GNTREF, GNTST_BAD_PAGE, GNTST_EAGAIN, GNTST_GENERAL_ERROR, GNTST_NO_SPACE,
        GNTTAB_NR_RESERVED_ENTRIES, GRANT_ENTRIES_V1_PER_PAGE, GRANT_ENTRIES_V2_PER_PAGE, GTF_READING,
        GTF_WRITING,
    },
};

/// Active entries in a frame.
const ENTRIES: usize = PAGE_SIZE as usize / size_of::<Active>();
/// Frames of active entries there can be.
const BUCKETS: usize = (MOST_GRANT_FRAMES * GRANT_ENTRIES_V1_PER_PAGE) as usize / ENTRIES;
/// Details in a frame.
const DETAILS: usize = PAGE_SIZE as usize / size_of::<Detail>();
/// Frames of details there can be; only version 2 has some.
const DETAIL_BUCKETS: usize = (MOST_GRANT_FRAMES * GRANT_ENTRIES_V2_PER_PAGE) as usize / DETAILS;
/// Frames of status words there can be.
const MOST_STATUS_FRAMES: u32 = (MOST_GRANT_FRAMES * GRANT_ENTRIES_V2_PER_PAGE).div_ceil(STATUS_WORDS);

/// A grant as it is used; all zero when it is not.
#[derive(Clone, Copy, Default)]
struct Active {
    /// The granted frame, with [`IN_DETAIL`] if only a part of it is granted; or [`PASSED_ON`].
    frame: u32,
    /// Who uses it; a grant is to one domain.
    grantee: DomainId,
    /// Uses for reading.
    readers: u8,
    /// Uses for writing (and reading).
    writers: u8,
}

const _: () = assert!(size_of::<Active>() == 8);

/// In the place of a frame's highest bit, which no frame's number reaches: which part it is stands in the detail.
const IN_DETAIL: u32 = 1 << 31;
/// In the place of a frame, where no frame's number is so high: the grant is another domain's, passed on.
const PASSED_ON: u32 = u32::MAX;
const _: () = assert!(DIRECT_MAP_SIZE / PAGE_SIZE < IN_DETAIL as u64);

/// Which part of a page is granted.
#[derive(Clone, Copy, Default)]
struct Detail {
    /// First byte.
    start: u16,
    /// Number of bytes.
    length: u16,
}

impl Active {
    #[inline]
    const fn is_any(&self) -> bool {
        self.readers != 0 || self.writers != 0
    }

    #[inline]
    const fn count_mut(&mut self, access: Access) -> &mut u8 {
        match access {
            Access::Read => &mut self.readers,
            Access::Write => &mut self.writers,
        }
    }

    /// The granted frame, if it is not passed on.
    #[inline]
    fn frame(&self) -> Option<MachineFrame> {
        (self.frame != PASSED_ON).then_some(MachineFrame(u64::from(self.frame & !IN_DETAIL)))
    }

    /// True when what it is used as is among the kinds.
    const fn suits(&self, kinds: GrantKinds) -> bool {
        match kinds {
            GrantKinds::WholePage => self.frame & IN_DETAIL == 0,
            GrantKinds::Own => self.frame != PASSED_ON,
            GrantKinds::Any => true,
        }
    }
}

/// A use of a grant for as long as the granter's table is locked.
pub(super) struct BriefUse {
    entry: SharedEntry,
    /// The grant.
    pub reference: GrantReference,
    /// What it grants.
    pub frame: MachineFrame,
}

/// Elements for all references, in frames that exist from the first use of one of their elements on.
type Buckets<T, const N: usize, const COUNT: usize> = [Option<FrameBox<[T; N]>>; COUNT];

/// The granting half of a domain's table.
pub(super) struct Granted {
    /// Frames of shared entries.
    shared: [MachineFrame; MOST_GRANT_FRAMES as usize],
    /// Frames of status words; those that were ever needed stay.
    status: [MachineFrame; MOST_STATUS_FRAMES as usize],
    /// The active entries.
    active: Buckets<Active, ENTRIES, BUCKETS>,
    /// What is granted by those that grant parts of pages.
    details: Buckets<Detail, DETAILS, DETAIL_BUCKETS>,
    version: Version,
    /// The newest version the domain may choose.
    newest: Version,
    /// Shared frames there are now; zero again when the domain has died.
    count: u32,
    /// Status frames there are now.
    status_count: u32,
    /// Shared frames there may be.
    maximum: u32,
}

/// Takes the reference that the first use of a kind needs.
#[inline(always)]
pub(super) fn hold(frame: MachineFrame, owner: DomainId, access: Access) -> Result<(), Refusal> {
    let held = match access {
        Access::Read => frame::get(frame, owner),
        Access::Write => frame::get_writable(frame, owner),
    };
    held.map_err(|errno| Refusal(if errno == Errno::EBUSY { GNTST_GENERAL_ERROR } else { GNTST_BAD_PAGE }))
}

/// Drops what [`hold`] took.
#[inline(always)]
pub(super) fn let_go(frame: MachineFrame, access: Access) {
    match access {
        Access::Read => frame::put(frame),
        Access::Write => frame::put_writable(frame),
    }
}

impl Granted {
    pub const fn new(maximum: u32, newest: Version) -> Self {
        Self {
            shared: [MachineFrame(0); MOST_GRANT_FRAMES as usize],
            status: [MachineFrame(0); MOST_STATUS_FRAMES as usize],
            active: [const { None }; BUCKETS],
            details: [const { None }; DETAIL_BUCKETS],
            version: Version::One,
            newest,
            count: 0,
            status_count: 0,
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

    /// The form of the entries.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Makes the table at least `count` frames large.
    pub fn grow(&mut self, domain: &Domain, count: u32) -> Result<(), Errno> {
        // Once dying, the table has given its frames back or is about to.
        if count > self.maximum || domain.is_dying() {
            return Err(Errno::EINVAL);
        }
        while self.count < count {
            if self.version == Version::Two {
                self.grow_status(domain, self.count + 1)?;
            }
            self.shared[self.count as usize] = frame::share_new(domain)?;
            self.count += 1;
        }
        Ok(())
    }

    /// Makes status words for `count` frames of entries.
    fn grow_status(&mut self, domain: &Domain, count: u32) -> Result<(), Errno> {
        while self.status_count < status_frames(count) {
            self.status[self.status_count as usize] = frame::share_new(domain)?;
            self.status_count += 1;
        }
        Ok(())
    }

    /// The frame at `index` of the table, if it is that large.
    pub fn shared_frame(&self, index: u32) -> Option<MachineFrame> {
        (index < self.count).then(|| self.shared[index as usize])
    }

    /// The frame of status words at `index`, if the table has status words and is that large.
    pub fn status_frame(&self, index: u32) -> Option<MachineFrame> {
        let exists = self.version == Version::Two && index < status_frames(self.count);
        exists.then(|| self.status[index as usize])
    }

    /// Changes the form of the entries. All of them are empty then, but for the reserved ones, which a builder has
    /// made and which others may use.
    pub fn set_version(&mut self, domain: &Domain, wanted: Version) -> Result<(), Errno> {
        if wanted == self.version {
            return Ok(());
        }
        if wanted > self.newest {
            return Err(Errno::ENOSYS);
        }
        if self.uses().any(|reference| reference.0 >= GNTTAB_NR_RESERVED_ENTRIES) {
            return Err(Errno::EBUSY);
        }
        let reserved = self.reserved_entries()?;
        if wanted == Version::Two {
            self.grow_status(domain, self.count)?;
        }
        let status = &self.status[..self.status_count as usize];
        self.shared[..self.count as usize].iter().chain(status).copied().for_each(direct_map::zero);
        self.version = wanted;
        for (number, entry) in (0..).zip(&reserved) {
            if let Some(shared) = self.shared_entry(GrantReference(number)) {
                shared.set_plain(entry);
            }
        }
        Ok(())
    }

    /// The reserved entries; `ERANGE` when one is of a kind that only one version has.
    fn reserved_entries(&self) -> Result<[PlainEntry; GNTTAB_NR_RESERVED_ENTRIES as usize], Errno> {
        let mut entries = [PlainEntry::default(); GNTTAB_NR_RESERVED_ENTRIES as usize];
        for (number, entry) in (0..).zip(&mut entries) {
            if let Some(shared) = self.shared_entry(GrantReference(number)) {
                *entry = shared.plain().ok_or(Errno::ERANGE)?;
            }
        }
        Ok(entries)
    }

    /// Gives the shared frames back. Grants in use stay so, but their entries are not written any more.
    pub fn abandon(&mut self, domain: &Domain) {
        let status = &self.status[..self.status_count as usize];
        for frame in self.shared[..self.count as usize].iter().chain(status) {
            frame::unshare(domain, *frame);
        }
        (self.count, self.status_count) = (0, 0);
    }

    /// The shared entry of a reference, if it is within the table.
    #[inline]
    fn shared_entry(&self, reference: GrantReference) -> Option<SharedEntry> {
        if self.version == Version::Two {
            self.shared_entry_two(reference)
        } else {
            self.entry_one(reference)
        }
    }

    #[inline(always)]
    fn entry_one(&self, reference: GrantReference) -> Option<SharedEntry> {
        let frame = self.shared_frame(reference.0 / GRANT_ENTRIES_V1_PER_PAGE)?;
        Some(SharedEntry::version_one(frame, reference.0 % GRANT_ENTRIES_V1_PER_PAGE))
    }

    #[inline(never)]
    fn shared_entry_two(&self, reference: GrantReference) -> Option<SharedEntry> {
        let frame = self.shared_frame(reference.0 / GRANT_ENTRIES_V2_PER_PAGE)?;
        let status = self.status_frame(reference.0 / STATUS_WORDS)?;
        let (index, word) = (reference.0 % GRANT_ENTRIES_V2_PER_PAGE, reference.0 % STATUS_WORDS);
        Some(SharedEntry::version_two(frame, index, status, word))
    }

    /// How a grant is used; unused when there is no active entry near it.
    fn use_of(&self, reference: GrantReference) -> Active {
        find(&self.active, reference).copied().unwrap_or_default()
    }

    /// Begins a use of a grant that ends, by [`Self::end_briefly`], before the lock on the table is let go: nobody but the
    /// granter, in the flags, ever sees it, so there is no account of it. Only for a whole page that is not used otherwise,
    /// and a table of version 1. `None` for all others; [`Self::acquire`] says what is wrong, if anything is.
    #[inline(always)]
    pub fn use_briefly(
        &self,
        granter: DomainId,
        reference: GrantReference,
        grantee: DomainId,
        access: Access,
    ) -> Option<BriefUse> {
        let entry = self.entry_one(reference).filter(|_| self.version == Version::One)?;
        if find(&self.active, reference).is_some_and(Active::is_any) {
            return None;
        }
        let Grant::Own(part) = entry.announce(grantee, access, GrantKinds::WholePage).ok()? else {
            return None;
        };
        let held =
            hold(part.frame, granter, access).inspect_err(|_| entry.withdraw(GTF_READING | GTF_WRITING));
        held.ok().map(|()| BriefUse { entry, reference, frame: part.frame })
    }

    /// Ends a use that [`Self::use_briefly`] began.
    #[inline(always)]
    pub fn end_briefly(&self, ended: &BriefUse, access: Access) {
        let_go(ended.frame, access);
        ended.entry.withdraw(GTF_READING | GTF_WRITING);
    }

    /// Begins a use of a grant by `grantee` and says what is granted. Until [`Self::release`] with the same `access`
    /// a frame of the granter's stays, and stays writable memory if `access` is to write. For a grant that is passed
    /// on, the caller goes on to the domain behind.
    #[inline(always)]
    pub fn acquire(
        &mut self,
        granter: DomainId,
        reference: GrantReference,
        grantee: DomainId,
        access: Access,
        kinds: GrantKinds,
    ) -> Result<Grant, Refusal> {
        let shared = self.shared_entry(reference).ok_or(Refusal(GNTST_BAD_GNTREF))?;
        let active = match find_mut(&mut self.active, reference) {
            Some(active) => active,
            None if shared.would_grant(grantee, access, kinds) => make(&mut self.active, reference)?,
            None => return Err(Refusal(GNTST_GENERAL_ERROR)),
        };
        if active.is_any() {
            return self.join(shared, granter, reference, grantee, access, kinds);
        }
        let grant = shared.announce(grantee, access, kinds)?;
        let frame = match grant {
            Grant::Own(part) => take_hold(&mut self.details, reference, part, granter, access)
                .inspect_err(|_| shared.withdraw(GTF_READING | GTF_WRITING))?,
            Grant::PassedOn(..) => PASSED_ON,
        };
        *active = Active { frame, grantee, readers: 0, writers: 0 };
        *active.count_mut(access) = 1;
        Ok(grant)
    }

    /// Begins another use of a grant in use.
    #[inline(never)]
    fn join(
        &mut self,
        shared: SharedEntry,
        granter: DomainId,
        reference: GrantReference,
        grantee: DomainId,
        access: Access,
        kinds: GrantKinds,
    ) -> Result<Grant, Refusal> {
        let refusal = Refusal(GNTST_GENERAL_ERROR);
        let active = find_mut(&mut self.active, reference).ok_or(refusal)?;
        if active.grantee != grantee || !active.suits(kinds) {
            return Err(refusal);
        }
        let grant = match active.frame() {
            None => shared.passed_on().ok_or(refusal)?,
            Some(frame) if active.frame & IN_DETAIL == 0 => Grant::Own(Part::whole(frame)),
            Some(frame) => {
                let Detail { start, length } = *find(&self.details, reference).ok_or(refusal)?;
                Grant::Own(Part { frame, start, length })
            }
        };
        let others = *active;
        let count = active.count_mut(access);
        let after = count.checked_add(1).ok_or(refusal)?;
        if *count == 0 {
            first_of_its_kind(&others, shared, granter, access)?;
        }
        *count = after;
        Ok(grant)
    }

    /// [`Self::acquire`] for a whole page.
    pub fn acquire_page(
        &mut self,
        granter: DomainId,
        reference: GrantReference,
        grantee: DomainId,
        access: Access,
    ) -> Result<MachineFrame, Refusal> {
        match self.acquire(granter, reference, grantee, access, GrantKinds::WholePage)? {
            Grant::Own(part) => Ok(part.frame),
            Grant::PassedOn(..) => {
                self.release(reference, access);
                Err(Refusal(GNTST_GENERAL_ERROR))
            }
        }
    }

    /// Ends a use.
    #[inline(always)]
    pub fn release(&mut self, reference: GrantReference, access: Access) {
        let Some(active) = find_mut(&mut self.active, reference) else { return };
        let count = active.count_mut(access);
        debug_assert!(*count > 0, "a use is ended twice");
        *count = count.saturating_sub(1);
        if *count > 0 {
            return;
        }
        let left = *active;
        // The frame is let go before the granter can see that its grant is not used any more.
        if let Some(frame) = left.frame() {
            let_go(frame, access);
        }
        if let Some(shared) = self.shared_entry(reference) {
            withdraw_unused(&left, shared, access);
        }
    }

    /// The frame of a grant in use.
    pub fn frame_in_use(&self, reference: GrantReference) -> Option<MachineFrame> {
        let now = self.use_of(reference);
        if now.is_any() { now.frame() } else { None }
    }

    /// Exchanges two shared entries; neither may be in use.
    pub fn swap(&mut self, first: GrantReference, second: GrantReference) -> Result<(), Refusal> {
        let first_entry = self.shared_entry(first).ok_or(Refusal(GNTST_BAD_GNTREF))?;
        let second_entry = self.shared_entry(second).ok_or(Refusal(GNTST_BAD_GNTREF))?;
        if first == second {
            return Ok(());
        }
        if self.use_of(first).is_any() || self.use_of(second).is_any() {
            return Err(Refusal(GNTST_EAGAIN));
        }
        first_entry.swap(second_entry);
        Ok(())
    }

    /// The grants in use; looks at all of them.
    fn uses(&self) -> impl Iterator<Item = GrantReference> {
        let buckets = (0u32..).step_by(ENTRIES).zip(&self.active);
        let all = buckets.filter_map(|(first, bucket)| Some((first, bucket.as_ref()?)));
        all.flat_map(|(first, bucket)| (first..).zip(bucket.iter()))
            .filter(|(_, active)| active.is_any())
            .map(|(reference, _)| GrantReference(reference))
    }

    /// Number of grants in use; looks at all of them.
    pub fn used(&self) -> usize {
        self.uses().count()
    }
}

/// Frames of status words that `frames` frames of entries need.
const fn status_frames(frames: u32) -> u32 {
    (frames * GRANT_ENTRIES_V2_PER_PAGE).div_ceil(STATUS_WORDS)
}

/// The element for a reference, if its frame exists.
#[inline]
fn find<T, const N: usize, const COUNT: usize>(
    buckets: &Buckets<T, N, COUNT>,
    reference: GrantReference,
) -> Option<&T> {
    let number = reference.0 as usize;
    buckets.get(number / N)?.as_ref().map(|bucket| &bucket[number % N])
}

/// [`find`], to change it.
#[inline]
fn find_mut<T, const N: usize, const COUNT: usize>(
    buckets: &mut Buckets<T, N, COUNT>,
    reference: GrantReference,
) -> Option<&mut T> {
    let number = reference.0 as usize;
    buckets.get_mut(number / N)?.as_mut().map(|bucket| &mut bucket[number % N])
}

/// The element for a reference, in a new frame if need be.
#[inline(never)]
fn make<T: Default, const N: usize, const COUNT: usize>(
    buckets: &mut Buckets<T, N, COUNT>,
    reference: GrantReference,
) -> Result<&mut T, Refusal> {
    let number = reference.0 as usize;
    let bucket = buckets.get_mut(number / N).ok_or(Refusal(GNTST_BAD_GNTREF))?;
    if bucket.is_none() {
        *bucket = FrameBox::try_from_fn(|_| T::default());
    }
    Ok(&mut bucket.as_mut().ok_or(Refusal(GNTST_NO_SPACE))?[number % N])
}

/// Takes hold of what is granted, and says what the active entry needs to remember of it.
#[inline(always)]
fn take_hold(
    details: &mut Buckets<Detail, DETAILS, DETAIL_BUCKETS>,
    reference: GrantReference,
    part: Part,
    granter: DomainId,
    access: Access,
) -> Result<u32, Refusal> {
    hold(part.frame, granter, access)?;
    // It exists, so its number is small.
    let frame = part.frame.0 as u32;
    if part.is_whole() {
        return Ok(frame);
    }
    note_detail(details, reference, part).inspect_err(|_| let_go(part.frame, access))?;
    Ok(frame | IN_DETAIL)
}

#[inline(never)]
fn note_detail(
    details: &mut Buckets<Detail, DETAILS, DETAIL_BUCKETS>,
    reference: GrantReference,
    part: Part,
) -> Result<(), Refusal> {
    *make(details, reference)? = Detail { start: part.start, length: part.length };
    Ok(())
}

/// The first use for reading beside writers, or for writing beside readers: announces it if need be, and takes hold
/// of the frame.
fn first_of_its_kind(
    others: &Active,
    shared: SharedEntry,
    granter: DomainId,
    access: Access,
) -> Result<(), Refusal> {
    // A reader beside a writer finds its flag up already.
    if access == Access::Write {
        shared.announce_again(access)?;
    }
    let Some(frame) = others.frame() else { return Ok(()) };
    hold(frame, granter, access).inspect_err(|_| withdraw_unused(others, shared, access))
}

/// Takes down the flags of a use that has ended, as far as no other use needs them.
#[inline(always)]
fn withdraw_unused(left: &Active, shared: SharedEntry, ended: Access) {
    if !left.is_any() {
        shared.withdraw(GTF_READING | GTF_WRITING);
    } else if ended == Access::Write {
        shared.withdraw(GTF_WRITING);
    }
}
