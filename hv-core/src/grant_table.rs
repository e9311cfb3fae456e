//! Grant tables: how a domain lets another one at a page of its memory.
//!
//! A domain has two halves of this. What it *grants* lies in frames it shares with the hypervisor, an array of
//! entries it writes itself (`shared`); beside each entry in use the hypervisor keeps an *active* entry of its
//! own (`active`). What it has *mapped* of others is in its maptrack (`maptrack`), by handle.
//!
//! The idea to hold: a shared entry is a claim, read once, at the moment a grant is first used. From then until
//! the last use ends the active entry says which frame and which domain, and holds the references that keep the
//! frame in existence and, for writers, keep it from becoming a page table. What the granter does to its entry
//! meanwhile changes nothing, and the flags tell it when the use has ended.
//!
//! Locks: a domain's `granted` half and its maptrack have a lock each. No code waits for one of them while it holds
//! another, of one domain or of two, so there is no order to keep. Under `granted` only frame references are taken and dropped and
//! frames allocated; under the maptrack, frames are allocated. No page-table work is done under either.
//!
//! A table has entries of version 1 or 2, as its domain chooses. Transfers are not built; nor are cache attributes of
//! mappings, so a granted page is always mapped cached.

mod active;
mod cache;
mod copy;
mod copy_one;
mod hypercall;
mod map;
mod maptrack;
mod peer;
mod shared;
mod table;
mod unmap;

#[cfg(test)]
mod tests;

pub use hypercall::grant_table_op;
pub use shared::Version;
pub use table::frame_for_index;
pub use unmap::release_all;

use crate::lock::Mutex;
use active::Granted;
use core::sync::atomic::{AtomicU64, Ordering};
use hypercall_abi::grant_table::GNTST_OKAY;
use maptrack::Maptrack;

/// Most frames of shared entries a domain can have, which makes 32,768 grants.
pub const MOST_GRANT_FRAMES: u32 = 64;
/// Most frames of the maptrack a domain can have.
pub const MOST_MAPTRACK_FRAMES: u32 = 512;

/// Why an operation was not done: one of `GNTST_*`, never `GNTST_OKAY`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Refusal(i16);

/// The status a guest finds in its structure.
fn status(result: Result<(), Refusal>) -> i16 {
    match result {
        Ok(()) => GNTST_OKAY,
        Err(Refusal(status)) => status,
    }
}

/// How often a domain did what, for benchmarks.
pub struct Counters {
    /// Copies done.
    pub copies: AtomicU64,
    /// Bytes they moved.
    pub bytes_copied: AtomicU64,
    /// Grants mapped.
    pub maps: AtomicU64,
    /// Mappings undone.
    pub unmaps: AtomicU64,
}

impl Counters {
    const fn new() -> Self {
        Self {
            copies: AtomicU64::new(0),
            bytes_copied: AtomicU64::new(0),
            maps: AtomicU64::new(0),
            unmaps: AtomicU64::new(0),
        }
    }

    /// Sets all to zero.
    pub fn reset(&self) {
        for counter in [&self.copies, &self.bytes_copied, &self.maps, &self.unmaps] {
            counter.store(0, Ordering::Relaxed);
        }
    }
}

/// What a domain grants and what it has mapped. Takes no frame before it is used.
pub struct GrantTable {
    granted: Mutex<Granted>,
    maptrack: Mutex<Maptrack>,
    /// What the domain did with grants.
    pub counters: Counters,
}

impl GrantTable {
    /// A table that may grow to these numbers of frames (of `XEN_DOMCTL_createdomain`), within
    /// [`MOST_GRANT_FRAMES`] and [`MOST_MAPTRACK_FRAMES`]. It has at least one frame of entries, of version 1 until the
    /// domain chooses another, which may be `newest` at most.
    pub const fn new(grant_frames: u32, maptrack_frames: u32, newest: Version) -> Self {
        Self {
            granted: Mutex::new(Granted::new(at_most(grant_frames, MOST_GRANT_FRAMES), newest)),
            maptrack: Mutex::new(Maptrack::new(at_most(maptrack_frames, MOST_MAPTRACK_FRAMES))),
            counters: Counters::new(),
        }
    }

    /// Grants of the domain that somebody uses now.
    pub fn used_grants(&self) -> usize {
        self.granted.lock().used()
    }

    /// Mappings of others' grants that the domain has now.
    pub fn mappings(&self) -> u32 {
        self.maptrack.lock().used()
    }

    /// Frames of the hypervisor's in which the domain's mappings are recorded. They stay with the domain until it dies:
    /// one that had many mappings at a time will have as many again.
    pub fn maptrack_frames(&self) -> u32 {
        self.maptrack.lock().frames()
    }
}

const fn at_most(wanted: u32, most: u32) -> u32 {
    if wanted > most { most } else { wanted }
}
