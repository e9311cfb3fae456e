//! Which ports of a domain are taken, and where their channels lie.
//!
//! Channels lie in buckets, one frame each, that appear when one of their ports is first used. The places of the first
//! buckets are part of the domain; those of the others, which only the FIFO form has, lie in leaves, frames that
//! appear with the first bucket of theirs. Beside a bucket's place is a bit for each of its ports that is taken.

use super::{Channel, PortForm};
use crate::{frame_object::FrameBox, layout::PAGE_SIZE, lock::Once};
use core::sync::atomic::{AtomicU64, Ordering};
use hypercall_abi::{
    Errno, Port,
    event_channel::{EVTCHN_2L_NR_CHANNELS, EVTCHN_FIFO_NR_CHANNELS},
};

/// Channels in one bucket, which is one frame.
const BUCKET: usize = PAGE_SIZE as usize / size_of::<Channel>();
/// Buckets there can be.
const BUCKETS: usize = EVTCHN_FIFO_NR_CHANNELS as usize / BUCKET;
/// Buckets that have their place in the domain.
const NEAR: usize = EVTCHN_2L_NR_CHANNELS as usize / BUCKET;
/// Places in a leaf, which is one frame.
const LEAF: usize = PAGE_SIZE as usize / size_of::<Place>();

const _: () =
    assert!(BUCKET.is_multiple_of(64) && BUCKETS.is_multiple_of(64) && BUCKETS.is_multiple_of(LEAF));

type Bucket = FrameBox<[Channel; BUCKET]>;

/// The place of a bucket.
struct Place {
    bucket: Once<Bucket>,
    /// A bit for each port that is taken; changed by the holder of the [`PortSet`].
    taken: [AtomicU64; BUCKET / 64],
}

impl Place {
    const fn empty() -> Self {
        Self { bucket: Once::new(), taken: [const { AtomicU64::new(0) }; BUCKET / 64] }
    }

    /// The first port of this bucket, by its place in it, that is at least `from` and taken or free as asked.
    fn first(&self, from: usize, is_taken: bool) -> Option<usize> {
        let candidates = |word: usize| {
            let bits = self.taken[word].load(Ordering::Relaxed);
            let wanted = if is_taken { bits } else { !bits };
            if word == from / 64 { wanted & u64::MAX << (from % 64) } else { wanted }
        };
        (from / 64..self.taken.len()).find_map(|word| {
            let bits = candidates(word);
            (bits != 0).then(|| word * 64 + bits.trailing_zeros() as usize)
        })
    }

    fn set_taken(&self, index: usize, is_taken: bool) {
        let (word, bit) = (&self.taken[index / 64], 1 << (index % 64));
        if is_taken {
            word.fetch_or(bit, Ordering::Relaxed)
        } else {
            word.fetch_and(!bit, Ordering::Relaxed)
        };
    }

    fn is_full(&self) -> bool {
        self.taken.iter().all(|word| word.load(Ordering::Relaxed) == u64::MAX)
    }

    fn count(&self) -> u32 {
        self.taken.iter().map(|word| word.load(Ordering::Relaxed).count_ones()).sum()
    }
}

/// Where a domain's channels lie.
pub(super) struct Directory {
    near: [Place; NEAR],
    leaves: [Once<FrameBox<[Place; LEAF]>>; BUCKETS / LEAF],
}

impl Directory {
    pub const fn new() -> Self {
        Self { near: [const { Place::empty() }; NEAR], leaves: [const { Once::new() }; BUCKETS / LEAF] }
    }

    /// The place of bucket `number`, if it has one yet.
    #[inline]
    fn place(&self, number: usize) -> Option<&Place> {
        match self.near.get(number) {
            Some(place) => Some(place),
            None => Some(&self.leaves.get(number / LEAF)?.get()?[number % LEAF]),
        }
    }

    fn place_or_new(&self, number: usize) -> Result<&Place, Errno> {
        if let Some(place) = self.near.get(number) {
            return Ok(place);
        }
        let leaf = self.leaves.get(number / LEAF).ok_or(Errno::ENOSPC)?;
        let leaf = leaf.try_call_once(|| FrameBox::try_from_fn(|_| Place::empty()).ok_or(Errno::ENOMEM))?;
        Ok(&leaf[number % LEAF])
    }

    /// The channel at `port`, if any port near it has ever been used.
    #[inline]
    pub fn channel(&self, port: Port) -> Option<&Channel> {
        let number = port.0 as usize;
        Some(&self.place(number / BUCKET)?.bucket.get()?[number % BUCKET])
    }

    /// The channel at `port`, in a new bucket if need be; `ENOMEM` when there is no frame for it.
    pub fn channel_or_new(&self, port: Port) -> Result<&Channel, Errno> {
        let number = port.0 as usize;
        let bucket = self
            .place_or_new(number / BUCKET)?
            .bucket
            .try_call_once(|| FrameBox::try_from_fn(|_| Channel::free()).ok_or(Errno::ENOMEM))?;
        Ok(&bucket[number % BUCKET])
    }
}

/// Which ports are taken; the lock around it is what guards the bits in the [`Directory`].
pub(super) struct PortSet {
    /// A bit for each bucket of which every port is taken.
    full: [u64; BUCKETS / 64],
    /// Buckets from here on have never had a port taken.
    untouched: usize,
    /// Ports from here on may not be used in the present form.
    limit: u32,
    /// The highest port that may be used in any form.
    highest: u32,
    /// The domain is dying: no more ports.
    pub is_closed: bool,
}

impl PortSet {
    pub const fn new(highest: u32) -> Self {
        let mut ports = Self { full: [0; BUCKETS / 64], untouched: 0, limit: 0, highest, is_closed: false };
        ports.set_form(PortForm::TwoLevel);
        ports
    }

    /// Allows as many ports as the form has.
    pub const fn set_form(&mut self, form: PortForm) {
        let ports = match form {
            PortForm::TwoLevel => EVTCHN_2L_NR_CHANNELS,
            PortForm::Fifo => EVTCHN_FIFO_NR_CHANNELS,
        };
        self.limit = if self.highest < ports { self.highest + 1 } else { ports };
    }

    /// The lowest free port that is at least `from`, and never port 0, which guests use for "none": `EINVAL` when the
    /// domain is dying, `ENOSPC` when there is none that it may use.
    pub fn first_free(&self, directory: &Directory, from: Port) -> Result<Port, Errno> {
        if self.is_closed {
            return Err(Errno::EINVAL);
        }
        let mut from = from.0.max(1) as usize;
        while from < self.limit as usize {
            let bucket = from / BUCKET;
            if let Some(index) = self.free_in(directory, bucket, from % BUCKET) {
                let port = (bucket * BUCKET + index) as u32;
                return if port < self.limit { Ok(Port(port)) } else { Err(Errno::ENOSPC) };
            }
            from = self.next_with_room(bucket + 1) * BUCKET;
        }
        Err(Errno::ENOSPC)
    }

    fn free_in(&self, directory: &Directory, bucket: usize, from: usize) -> Option<usize> {
        // A bucket without a place has no port taken.
        directory.place(bucket).map_or(Some(from), |place| place.first(from, false))
    }

    /// The first bucket from `bucket` on that is not full.
    fn next_with_room(&self, bucket: usize) -> usize {
        let has_room = |number: &usize| self.full[number / 64] & 1 << (number % 64) == 0;
        (bucket..BUCKETS).find(has_room).unwrap_or(BUCKETS)
    }

    /// Takes a port whose channel exists.
    pub fn take(&mut self, directory: &Directory, port: Port) {
        self.mark(directory, port, true);
        self.untouched = self.untouched.max(port.0 as usize / BUCKET + 1);
    }

    pub fn release(&mut self, directory: &Directory, port: Port) {
        self.mark(directory, port, false);
    }

    fn mark(&mut self, directory: &Directory, port: Port, is_taken: bool) {
        let (bucket, index) = (port.0 as usize / BUCKET, port.0 as usize % BUCKET);
        let Some(place) = directory.place(bucket) else { return };
        place.set_taken(index, is_taken);
        let (word, bit) = (&mut self.full[bucket / 64], 1 << (bucket % 64));
        // In the first bucket port 0 is never taken, so that one is never full, which costs one look more.
        *word = if place.is_full() { *word | bit } else { *word & !bit };
    }

    /// The lowest taken port that is at least `from`.
    pub fn first_taken(&self, directory: &Directory, from: Port) -> Option<Port> {
        let first = from.0 as usize / BUCKET;
        (first..self.untouched).find_map(|bucket| {
            let start = if bucket == first { from.0 as usize % BUCKET } else { 0 };
            let index = directory.place(bucket)?.first(start, true)?;
            Some(Port((bucket * BUCKET + index) as u32))
        })
    }

    /// Number of ports taken.
    pub fn count(&self, directory: &Directory) -> u32 {
        (0..self.untouched).filter_map(|bucket| directory.place(bucket)).map(Place::count).sum()
    }
}
