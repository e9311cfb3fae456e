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

/// A grant as it is used, packed; all zero when it is not.
#[derive(Clone, Copy, Default)]
struct Active {
    /// The granted frame, or [`IN_DETAIL`] and the frame.
    frame: u32,
    /// Who uses it; a grant is to one domain.
    grantee: DomainId,
    /// Uses for reading.
    readers: u8,
    /// Uses for writing (and reading).
    writers: u8,
}

const _: () = assert!(size_of::<Active>() == 8);

/// In the place of a frame's highest bit, which no frame's number reaches: the grant is of no whole page.
const IN_DETAIL: u32 = 1 << 31;
const _: () = assert!(DIRECT_MAP_SIZE / PAGE_SIZE <= IN_DETAIL as u64);

/// What a grant that is of no whole page is of.
#[derive(Clone, Copy, Default)]
struct Detail {
    /// First byte that is granted.
    start: u16,
    /// Number of bytes, or [`PASSED_ON`].
    length: u16,
}

/// In the place of a length, where none is so large: the grant is another domain's, passed on.
const PASSED_ON: u16 = u16::MAX;

/// A grant as it is used.
#[derive(Clone, Copy)]
struct Use {
    /// The memory, if it is not passed on.
    part: Option<Part>,
    grantee: DomainId,
    readers: u8,
    writers: u8,
}

impl Use {
    fn is_any(&self) -> bool {
        self.readers != 0 || self.writers != 0
    }

    fn count_mut(&mut self, access: Access) -> &mut u8 {
        match access {
            Access::Read => &mut self.readers,
            Access::Write => &mut self.writers,
        }
    }

    /// True when what it is used as is among the kinds.
    fn suits(&self, kinds: GrantKinds) -> bool {
        match kinds {
            GrantKinds::WholePage => self.part.is_some_and(|part| part.is_whole()),
            GrantKinds::Own => self.part.is_some(),
            GrantKinds::Any => true,
        }
    }

    /// The detail that the packed form needs.
    fn detail(&self) -> Option<Detail> {
        match self.part {
            None => Some(Detail { start: 0, length: PASSED_ON }),
            Some(part) if part.is_whole() => None,
            Some(part) => Some(Detail { start: part.start, length: part.length }),
        }
    }

    fn pack(&self) -> Active {
        let mark = if self.detail().is_some() { IN_DETAIL } else { 0 };
        let frame = self.part.map_or(0, |part| part.frame.0 as u32);
        Active { frame: frame | mark, grantee: self.grantee, readers: self.readers, writers: self.writers }
    }
}

/// The granting half of a domain's table.
pub(super) struct Granted {
    /// Frames of shared entries.
    shared: [MachineFrame; MOST_GRANT_FRAMES as usize],
    /// Frames of status words; those that were ever needed stay.
    status: [MachineFrame; MOST_STATUS_FRAMES as usize],
    /// The active entries, which exist from the first use of one of them on.
    active: [Option<FrameBox<[Active; ENTRIES]>>; BUCKETS],
    /// Their details, which exist from the first grant of no whole page on.
    details: [Option<FrameBox<[Detail; DETAILS]>>; DETAIL_BUCKETS],
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
    fn shared_entry(&self, reference: GrantReference) -> Option<SharedEntry> {
        let in_frame = self.version.entries_in_frame();
        let frame = self.shared_frame(reference.0 / in_frame)?;
        let index = reference.0 % in_frame;
        Some(match self.version {
            Version::One => SharedEntry::version_one(frame, index),
            Version::Two => {
                let status = self.status_frame(reference.0 / STATUS_WORDS)?;
                SharedEntry::version_two(frame, index, status, reference.0 % STATUS_WORDS)
            }
        })
    }

    /// How a grant is used; unused when there is no active entry near it.
    fn use_of(&self, reference: GrantReference) -> Use {
        let number = reference.0 as usize;
        let bucket = self.active.get(number / ENTRIES).and_then(Option::as_ref);
        let active = bucket.map_or(Active::default(), |bucket| bucket[number % ENTRIES]);
        let frame = MachineFrame(u64::from(active.frame & !IN_DETAIL));
        let part = match active.frame & IN_DETAIL {
            0 => Some(Part::whole(frame)),
            _ => match self.detail_of(reference) {
                Detail { length: PASSED_ON, .. } => None,
                Detail { start, length } => Some(Part { frame, start, length }),
            },
        };
        Use { part, grantee: active.grantee, readers: active.readers, writers: active.writers }
    }

    fn detail_of(&self, reference: GrantReference) -> Detail {
        let number = reference.0 as usize;
        let bucket = self.details.get(number / DETAILS).and_then(Option::as_ref);
        bucket.map_or(Detail::default(), |bucket| bucket[number % DETAILS])
    }

    /// Records how a grant is used, in new frames if need be.
    fn set_use(&mut self, reference: GrantReference, now: &Use) -> Result<(), Refusal> {
        if let Some(detail) = now.detail() {
            *element_of(&mut self.details, reference)? = detail;
        }
        *element_of(&mut self.active, reference)? = now.pack();
        Ok(())
    }

    /// Begins a use of a grant by `grantee` and says what is granted. Until [`Self::release`] with the same `access`
    /// a frame of the granter's stays, and stays writable memory if `access` is to write. For a grant that is passed
    /// on, the caller goes on to the domain behind.
    pub fn acquire(
        &mut self,
        granter: DomainId,
        reference: GrantReference,
        grantee: DomainId,
        access: Access,
        kinds: GrantKinds,
    ) -> Result<Grant, Refusal> {
        let shared = self.shared_entry(reference).ok_or(Refusal(GNTST_BAD_GNTREF))?;
        let mut now = self.use_of(reference);
        if now.is_any() && (now.grantee != grantee || !now.suits(kinds)) {
            return Err(Refusal(GNTST_GENERAL_ERROR));
        }
        let before = *now.count_mut(access);
        let after = before.checked_add(1).ok_or(Refusal(GNTST_GENERAL_ERROR))?;
        if before == 0 {
            now = first_use(&now, shared, granter, grantee, access, kinds)?;
        }
        *now.count_mut(access) = after;
        if let Err(refusal) = self.set_use(reference, &now) {
            // There is no frame to record it in, so it was the first use.
            *now.count_mut(access) = 0;
            end_use(&now, Some(shared), access);
            return Err(refusal);
        }
        Ok(now.part.map_or_else(|| shared.passed_on(), Grant::Own))
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
    pub fn release(&mut self, reference: GrantReference, access: Access) {
        let mut now = self.use_of(reference);
        let count = now.count_mut(access);
        debug_assert!(*count > 0, "a use is ended twice");
        *count = count.saturating_sub(1);
        let is_last = *count == 0;
        // The frames are there: the use was recorded when it began.
        let recorded = self.set_use(reference, &now);
        debug_assert!(recorded.is_ok());
        if is_last {
            end_use(&now, self.shared_entry(reference), access);
        }
    }

    /// The frame of a grant in use.
    pub fn frame_in_use(&self, reference: GrantReference) -> Option<MachineFrame> {
        let now = self.use_of(reference);
        if now.is_any() { now.part.map(|part| part.frame) } else { None }
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
            .filter(|(_, active)| active.readers != 0 || active.writers != 0)
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

/// The element for a reference in an array that lies in frames, made if there is none.
fn element_of<T: Default, const N: usize>(
    buckets: &mut [Option<FrameBox<[T; N]>>],
    reference: GrantReference,
) -> Result<&mut T, Refusal> {
    let number = reference.0 as usize;
    let bucket = buckets.get_mut(number / N).ok_or(Refusal(GNTST_BAD_GNTREF))?;
    if bucket.is_none() {
        *bucket = FrameBox::try_from_fn(|_| T::default());
    }
    Ok(&mut bucket.as_mut().ok_or(Refusal(GNTST_NO_SPACE))?[number % N])
}

/// The first use of its kind: checks the shared entry, announces the use there, and takes hold of the frame.
fn first_use(
    before: &Use,
    shared: SharedEntry,
    granter: DomainId,
    grantee: DomainId,
    access: Access,
    kinds: GrantKinds,
) -> Result<Use, Refusal> {
    let in_use = before.is_any();
    // A reader beside a writer finds its flag up already.
    let flags = match in_use && access == Access::Read {
        true => 0,
        false => shared.announce(grantee, access, in_use, kinds)?,
    };
    let part = match in_use {
        true => before.part,
        false => match shared.grant(flags) {
            Grant::Own(part) => Some(part),
            Grant::PassedOn(..) => None,
        },
    };
    if let Some(part) = part {
        hold(part.frame, granter, access).inspect_err(|_| withdraw_unused(before, shared, access))?;
    }
    Ok(Use { part, grantee, ..*before })
}

/// The last use of its kind has ended, and `left` are the others. The frame is let go before the granter can see that
/// its grant is not used any more.
fn end_use(left: &Use, shared: Option<SharedEntry>, ended: Access) {
    if let Some(part) = left.part {
        let_go(part.frame, ended);
    }
    if let Some(shared) = shared {
        withdraw_unused(left, shared, ended);
    }
}

/// Takes down the flags of a use that has ended, as far as no other use needs them.
fn withdraw_unused(left: &Use, shared: SharedEntry, ended: Access) {
    if !left.is_any() {
        shared.withdraw(GTF_READING | GTF_WRITING);
    } else if ended == Access::Write {
        shared.withdraw(GTF_WRITING);
    }
}
