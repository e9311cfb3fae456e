//! The maptrack: what a domain has mapped of other domains' grants, by handle.
//!
//! A handle is an index and a generation. The generation of an index changes each time it is given up, so a stale
//! handle is noticed instead of undoing somebody else's mapping. An entry holds a counted reference to the
//! granter: a mapping can be undone in full even after the granter has died and its number names another.

use crate::{domain::DomainRef, frame_object::FrameBox, layout::PAGE_SIZE};
use hypercall_abi::{GrantReference, grant_table::GrantHandle};

/// Bits of a handle that are its index; no index has all of them set, so no handle is `!0`, which guests use
/// for "none".
const INDEX_BITS: u32 = 17;
/// Entries in a frame.
const BUCKET: usize = PAGE_SIZE as usize / size_of::<Entry>();
/// Frames there can be.
const BUCKETS: usize = super::MOST_MAPTRACK_FRAMES as usize;

const _: () = assert!(BUCKET * BUCKETS < 1 << INDEX_BITS);
const _: () = assert!(size_of::<Directory>() == PAGE_SIZE as usize);

/// Mapped for the processor.
pub(super) const HOST: u8 = 1 << 0;
/// Mapped for devices.
pub(super) const DEVICE: u8 = 1 << 1;
/// Not for writing.
pub(super) const READ_ONLY: u8 = 1 << 2;
/// The guest names the page-table entry by its machine address and not by a virtual address.
pub(super) const CONTAINS_PTE: u8 = 1 << 3;

/// One mapping.
pub(super) struct Mapping {
    /// Whose grant.
    pub granter: DomainRef,
    /// Machine address of the page-table entry, for host mappings; of the frame for those for devices alone.
    pub address: u64,
    /// Which grant.
    pub reference: GrantReference,
    /// [`HOST`], [`DEVICE`], [`READ_ONLY`], [`CONTAINS_PTE`].
    pub flags: u8,
}

struct Entry {
    /// What the handle stands for; `None` when it is free or being changed.
    granter: Option<DomainRef>,
    address: u64,
    /// The grant reference, or the next free index.
    reference: u32,
    generation: u16,
    flags: u8,
}

impl Entry {
    const fn free() -> Self {
        Self { granter: None, address: 0, reference: NONE, generation: 0, flags: 0 }
    }

    #[inline]
    fn set(&mut self, mapping: Mapping) {
        let Mapping { granter, address, reference, flags } = mapping;
        (self.address, self.reference, self.flags) = (address, reference.0, flags);
        self.granter = Some(granter);
    }

    #[inline]
    fn take(&mut self) -> Option<Mapping> {
        let granter = self.granter.take()?;
        Some(Mapping {
            granter,
            address: self.address,
            reference: GrantReference(self.reference),
            flags: self.flags,
        })
    }

    /// Makes handles for it stale, and `next` the next free index after it.
    #[inline]
    const fn end(&mut self, next: u32) {
        self.generation = (self.generation + 1) & (u16::MAX >> (INDEX_BITS - 16));
        self.reference = next;
    }
}

/// Ends the list of free indices.
const NONE: u32 = u32::MAX;

type Directory = [Option<FrameBox<[Entry; BUCKET]>>; BUCKETS];

/// The entry of this index, if it was ever used.
#[inline]
fn at(directory: &mut Option<FrameBox<Directory>>, index: u32) -> Option<&mut Entry> {
    let bucket = directory.as_mut()?.get_mut(index as usize / BUCKET)?.as_mut()?;
    Some(&mut bucket[index as usize % BUCKET])
}

/// All mappings of a domain.
pub(super) struct Maptrack {
    directory: Option<FrameBox<Directory>>,
    /// Head of the list of indices given up.
    free: u32,
    /// Indices from here on were never used.
    untouched: u32,
    /// Indices below this were given back when the domain died.
    released: u32,
    /// Handles that are given out.
    used: u32,
    /// Frames there may be.
    maximum: u32,
}

const fn handle_of(index: u32, generation: u16) -> GrantHandle {
    GrantHandle(index | (generation as u32) << INDEX_BITS)
}

const fn index_of(handle: GrantHandle) -> u32 {
    handle.0 & ((1 << INDEX_BITS) - 1)
}

impl Maptrack {
    pub const fn new(maximum: u32) -> Self {
        Self { directory: None, free: NONE, untouched: 0, released: 0, used: 0, maximum }
    }

    /// The entry of a handle of the right generation.
    #[inline]
    fn entry(&mut self, handle: GrantHandle) -> Option<&mut Entry> {
        let entry = at(&mut self.directory, index_of(handle))?;
        (u32::from(entry.generation) == handle.0 >> INDEX_BITS).then_some(entry)
    }

    /// A handle for a mapping to come, to be given to [`Self::settle`] or [`Self::give_up`]; `None` when the domain
    /// has as many as it may or memory is short.
    pub fn reserve(&mut self) -> Option<GrantHandle> {
        self.claim().map(|(handle, _)| handle)
    }

    /// A handle, and its empty entry.
    #[inline]
    fn claim(&mut self) -> Option<(GrantHandle, &mut Entry)> {
        if self.free == NONE {
            self.free = self.take_untouched()?;
        }
        let index = self.free;
        let entry = at(&mut self.directory, index)?;
        self.free = entry.reference;
        self.used += 1;
        Some((handle_of(index, entry.generation), entry))
    }

    #[cold]
    fn take_untouched(&mut self) -> Option<u32> {
        let index = self.untouched;
        let bucket = index as usize / BUCKET;
        if bucket >= self.maximum as usize {
            return None;
        }
        if self.directory.is_none() {
            self.directory = FrameBox::try_from_fn(|_| None);
        }
        let slot = &mut self.directory.as_mut()?[bucket];
        if slot.is_none() {
            *slot = Some(FrameBox::try_from_fn(|_| Entry::free())?);
        }
        self.untouched += 1;
        Some(index)
    }

    /// Says what a reserved handle stands for.
    pub fn settle(&mut self, handle: GrantHandle, mapping: Mapping) {
        if let Some(entry) = self.entry(handle) {
            entry.set(mapping);
        }
    }

    /// A handle for a mapping; gives the mapping back when there is none, as for [`Self::reserve`].
    #[inline]
    pub fn insert(&mut self, mapping: Mapping) -> Result<GrantHandle, Mapping> {
        let Some((handle, entry)) = self.claim() else { return Err(mapping) };
        entry.set(mapping);
        Ok(handle)
    }

    /// Takes the mapping of a handle out to work on it. The handle is as if reserved; nobody else can use it.
    pub fn take(&mut self, handle: GrantHandle) -> Option<Mapping> {
        self.entry(handle)?.take()
    }

    /// Takes out and ends the mapping of a handle if it is for devices alone, of the frame at this address.
    #[inline]
    pub fn remove_device(&mut self, handle: GrantHandle, address: u64) -> Option<Mapping> {
        let free = self.free;
        let entry = self.entry(handle)?;
        if entry.flags & (HOST | DEVICE) != DEVICE || entry.address != address {
            return None;
        }
        let mapping = entry.take()?;
        entry.end(free);
        self.note_free(handle);
        Some(mapping)
    }

    /// Ends a handle that was reserved or taken out.
    pub fn give_up(&mut self, handle: GrantHandle) {
        let free = self.free;
        let Some(entry) = self.entry(handle) else { return };
        entry.end(free);
        self.note_free(handle);
    }

    #[inline]
    fn note_free(&mut self, handle: GrantHandle) {
        self.free = index_of(handle);
        self.used -= 1;
    }

    /// Takes the next mapping out when a domain dies and makes no new ones; looks at no more than `budget` indices,
    /// and takes what it looked at from it. `None` with budget left means that there are no more.
    pub fn take_next(&mut self, budget: &mut u32) -> Option<(GrantHandle, Mapping)> {
        while *budget > 0 && self.released < self.untouched {
            *budget -= 1;
            let index = self.released;
            self.released += 1;
            let generation = at(&mut self.directory, index)?.generation;
            let handle = handle_of(index, generation);
            if let Some(mapping) = self.take(handle) {
                return Some((handle, mapping));
            }
        }
        None
    }

    /// Handles given out.
    pub fn used(&self) -> u32 {
        self.used
    }

    /// Frames with entries, and the one that lists them.
    pub fn frames(&self) -> u32 {
        match self.directory {
            Some(_) => 1 + self.untouched.div_ceil(BUCKET as u32),
            None => 0,
        }
    }
}
