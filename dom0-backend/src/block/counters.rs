//! What a disk's back end has done, for whoever watches it.

use core::cell::Cell;

use hypercall_abi::io::blkif::{BLKIF_OP_READ, BLKIF_OP_WRITE, BLKIF_RSP_OKAY};

use super::request::Request;
use crate::backend::Cost;

/// Numbers since the guest connected.
#[derive(Debug, Default)]
pub struct BlockCounters {
    /// Requests that read.
    pub reads: Cell<u64>,
    /// Requests that write.
    pub writes: Cell<u64>,
    /// Flushes and barriers.
    pub flushes: Cell<u64>,
    /// Bytes read.
    pub bytes_read: Cell<u64>,
    /// Bytes written.
    pub bytes_written: Cell<u64>,
    /// Requests that were answered with an error.
    pub errors: Cell<u64>,
    /// Pages that devices were let at, or that were copied.
    pub pages: Cell<u64>,
    /// What its rounds cost. Each maps, unmaps, submits and answers at most once, whatever the number of requests.
    pub cost: Cost,
}

impl BlockCounters {
    /// Requests of all kinds.
    pub fn requests(&self) -> u64 {
        self.reads.get() + self.writes.get() + self.flushes.get()
    }

    /// Counts a request that was well-formed.
    #[inline]
    pub fn note_accepted<L>(&self, request: &Request<L>) {
        let (count, bytes) = match request.operation {
            BLKIF_OP_READ => (&self.reads, &self.bytes_read),
            BLKIF_OP_WRITE => (&self.writes, &self.bytes_written),
            _ => (&self.flushes, &self.bytes_written),
        };
        add(count, 1);
        add(bytes, request.length);
        add(&self.pages, request.grants.len() as u64);
    }

    /// Counts an answer.
    #[inline]
    pub fn note_answered<L>(&self, request: &Request<L>) {
        if request.status != BLKIF_RSP_OKAY {
            add(&self.errors, 1);
        }
    }
}

/// Adds to a counter.
#[inline]
pub fn add(counter: &Cell<u64>, amount: u64) {
    counter.set(counter.get().wrapping_add(amount));
}
