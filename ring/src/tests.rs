//! Tests of whole rings, and what tests of single modules share.
//!
//! * `two_ends`: a front and a back on the same memory do what a plain queue does.
//! * `hostile_peer`: memory that changes between any two reads.
//! * `wakeups`: all interleavings and reorderings of two ends that sleep and wake each other.

mod hostile_peer;
mod two_ends;
mod wakeups;

use core::sync::atomic::{AtomicU32, Ordering};
use std::sync::Arc;

use crate::memory::WORDS_PER_PAGE;

/// Memory that two ends of a test share.
pub(crate) type SharedPages = Arc<[AtomicU32]>;

/// Pages of zeros.
pub(crate) fn pages(count: usize) -> SharedPages {
    (0..count * WORDS_PER_PAGE).map(|_| AtomicU32::new(0)).collect()
}

/// The word of `req_prod`.
pub(crate) const REQ_PROD: usize = 0;
/// The word of `req_event`.
pub(crate) const REQ_EVENT: usize = 1;
/// The word of `rsp_prod`.
pub(crate) const RSP_PROD: usize = 2;
/// The word of `rsp_event`.
pub(crate) const RSP_EVENT: usize = 3;
/// The first word of slot 0.
pub(crate) const FIRST_SLOT: usize = 16;

/// Reads a word as the peer would.
pub(crate) fn peek(memory: &SharedPages, word: usize) -> u32 {
    memory[word].load(Ordering::Relaxed)
}

/// Writes a word as the peer would.
pub(crate) fn poke(memory: &SharedPages, word: usize, value: u32) {
    memory[word].store(value, Ordering::Relaxed);
}
