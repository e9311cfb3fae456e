//! The shared memory as the rings see it: a row of 32-bit words that somebody else may change at any time.
//!
//! Whoever owns the pages hands them over as a slice of atomics: every `AsRef<[AtomicU32]>` is a
//! [`RingMemory`], be it a page type of a kernel or, in a test, an `Arc<[AtomicU32]>`. Reading such a word
//! twice may give two values, so the rings above read each word of a message once, into a private copy.
//!
//! Words rather than bytes, because one access then is one instruction on both sides, because an index must
//! not be seen half written, and because atomics of different sizes must not be mixed on the same bytes.

use core::ops::Deref;
use core::sync::atomic::{AtomicU32, Ordering, fence};

use hypercall_abi::io::ring::XEN_PAGE_SIZE;

/// Bytes in a word.
pub const WORD_SIZE: usize = 4;

/// Words in a page.
pub const WORDS_PER_PAGE: usize = XEN_PAGE_SIZE / WORD_SIZE;

/// Shared memory, addressed by word.
///
/// An implementation for real pages needs no more than `AsRef<[AtomicU32]>`. Implement the trait itself for
/// memory that behaves unusually, such as in tests.
///
/// # Panics
///
/// An implementation may panic on a word that is not there. The rings ask for no such word: they compute
/// positions from [`size_words`](Self::size_words) and never from what the memory holds.
pub trait RingMemory {
    /// How many words there are. This must not change.
    fn size_words(&self) -> usize;

    /// Reads one word, once.
    fn load(&self, word: usize, ordering: Ordering) -> u32;

    /// Writes one word.
    fn store(&self, word: usize, value: u32, ordering: Ordering);

    /// Lets everything stored before be seen by all before anything after is loaded.
    #[inline]
    fn full_fence(&self) {
        fence(Ordering::SeqCst);
    }

    /// Copies bytes out, from the start of `word` on, reading each word once.
    #[inline]
    fn copy_out(&self, word: usize, into: &mut [u8]) {
        for (offset, bytes) in into.chunks_mut(WORD_SIZE).enumerate() {
            let value = self.load(word + offset, Ordering::Relaxed).to_ne_bytes();
            bytes.copy_from_slice(&value[..bytes.len()]);
        }
    }

    /// Copies whole words of bytes in, from the start of `word` on. `from` must be a multiple of
    /// [`WORD_SIZE`] long; a rest is not written.
    #[inline]
    fn copy_in(&self, word: usize, from: &[u8]) {
        for (offset, bytes) in from.as_chunks().0.iter().enumerate() {
            self.store(word + offset, u32::from_ne_bytes(*bytes), Ordering::Relaxed);
        }
    }
}

impl<T: AsRef<[AtomicU32]>> RingMemory for T {
    #[inline]
    fn size_words(&self) -> usize {
        self.as_ref().len()
    }

    #[inline]
    fn load(&self, word: usize, ordering: Ordering) -> u32 {
        self.as_ref()[word].load(ordering)
    }

    #[inline]
    fn store(&self, word: usize, value: u32, ordering: Ordering) {
        self.as_ref()[word].store(value, ordering);
    }

    #[inline]
    fn copy_out(&self, word: usize, into: &mut [u8]) {
        let (words, last) =
            self.as_ref()[word..][..into.len().div_ceil(WORD_SIZE)].split_at(into.len() / WORD_SIZE);
        let (whole, rest) = into.as_chunks_mut();
        for (bytes, word) in whole.iter_mut().zip(words) {
            *bytes = word.load(Ordering::Relaxed).to_ne_bytes();
        }
        if let [last] = last {
            rest.copy_from_slice(&last.load(Ordering::Relaxed).to_ne_bytes()[..rest.len()]);
        }
    }

    #[inline]
    fn copy_in(&self, word: usize, from: &[u8]) {
        let chunks = from.as_chunks().0;
        for (bytes, word) in chunks.iter().zip(&self.as_ref()[word..][..chunks.len()]) {
            word.store(u32::from_ne_bytes(*bytes), Ordering::Relaxed);
        }
    }
}

/// Pages that lie apart, as one area: for a ring of several pages that were mapped one by one.
///
/// `L` is any list of pages, such as a `Vec` of mappings. Each must have exactly [`WORDS_PER_PAGE`] words.
#[derive(Clone, Debug)]
pub struct PageList<L> {
    pages: L,
}

impl<P, L> PageList<L>
where
    P: AsRef<[AtomicU32]>,
    L: Deref<Target = [P]>,
{
    /// Takes the pages in the order in which they follow each other, or gives them back if one of them
    /// does not have the size of a page.
    pub fn new(pages: L) -> Result<Self, L> {
        if pages.iter().all(|page| page.as_ref().len() == WORDS_PER_PAGE) {
            Ok(Self { pages })
        } else {
            Err(pages)
        }
    }

    /// Gives the pages back.
    pub fn into_pages(self) -> L {
        self.pages
    }
}

impl<P, L> RingMemory for PageList<L>
where
    P: AsRef<[AtomicU32]>,
    L: Deref<Target = [P]>,
{
    #[inline]
    fn size_words(&self) -> usize {
        self.pages.len() * WORDS_PER_PAGE
    }

    #[inline]
    fn load(&self, word: usize, ordering: Ordering) -> u32 {
        self.pages[word / WORDS_PER_PAGE].as_ref()[word % WORDS_PER_PAGE].load(ordering)
    }

    #[inline]
    fn store(&self, word: usize, value: u32, ordering: Ordering) {
        self.pages[word / WORDS_PER_PAGE].as_ref()[word % WORDS_PER_PAGE].store(value, ordering);
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::*;
    use crate::tests::{SharedPages, pages, peek, poke};

    #[test]
    fn a_list_of_pages_reads_and_writes_like_one_area() {
        let (whole, parts) = (pages(2), [pages(1), pages(1)]);
        let list = PageList::new(&parts[..]).unwrap();
        assert_eq!(list.size_words(), whole.size_words());
        let bytes: Vec<u8> = (0..40).collect();
        let mut copies = [[0; 40]; 2];
        whole.copy_in(WORDS_PER_PAGE - 5, &bytes);
        whole.copy_out(WORDS_PER_PAGE - 5, &mut copies[0]);
        list.copy_in(WORDS_PER_PAGE - 5, &bytes);
        list.copy_out(WORDS_PER_PAGE - 5, &mut copies[1]);
        assert_eq!((&copies[0][..], &copies[1][..]), (&bytes[..], &bytes[..]));
        assert_eq!(peek(&parts[1], 0), peek(&whole, WORDS_PER_PAGE));
    }

    #[test]
    fn a_list_refuses_what_is_not_a_page() {
        let memory = pages(1);
        let parts = [&memory[..], &memory[1..]];
        assert_eq!(PageList::new(&parts[..]).unwrap_err().len(), 2);
    }

    #[test]
    fn bytes_that_end_within_a_word_come_out() {
        let memory: SharedPages = pages(1);
        poke(&memory, 3, u32::from_ne_bytes(*b"abcd"));
        poke(&memory, 4, u32::from_ne_bytes(*b"efgh"));
        let mut bytes = [0; 6];
        memory.copy_out(3, &mut bytes);
        assert_eq!(&bytes, b"abcdef");
    }
}
