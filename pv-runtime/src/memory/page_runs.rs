//! Which pages of a range are free: a bitmap, searched for runs of neighbours.
//!
//! Used twice: for the domain's own memory and for the addresses at which other frames get mapped. Searching
//! starts at the lowest page that can be free and goes by words of 64 pages.

/// A bitmap of free pages over words that the owner provides; a set bit means free.
pub(crate) struct PageRuns<W> {
    words: W,
    pages: usize,
    free: usize,
    /// No page below this one is free.
    lowest: usize,
}

/// How many 64-bit words a bitmap of `pages` needs.
pub(crate) const fn words_for(pages: usize) -> usize {
    pages.div_ceil(64)
}

impl<W: AsRef<[u64]> + AsMut<[u64]>> PageRuns<W> {
    /// A range of `pages`, all taken.
    ///
    /// # Panics
    ///
    /// If `words` are too few.
    pub(crate) fn new(mut words: W, pages: usize) -> Self {
        assert!(words.as_ref().len() >= words_for(pages), "bitmap too small");
        words.as_mut().fill(0);
        Self { words, pages, free: 0, lowest: pages }
    }

    /// How many pages are free.
    pub(crate) fn free_pages(&self) -> usize {
        self.free
    }

    fn is_free(&self, page: usize) -> bool {
        self.words.as_ref()[page / 64] >> (page % 64) & 1 == 1
    }

    /// Gives `count` pages from `first` on back.
    ///
    /// # Panics
    ///
    /// If one of them is free already or out of range: the owner's books are wrong.
    pub(crate) fn release(&mut self, first: usize, count: usize) {
        let end = first.checked_add(count).filter(|end| *end <= self.pages);
        let end = end.expect("released beyond the end");
        for_each_word(first, end, |index, mask| {
            let word = &mut self.words.as_mut()[index];
            assert!(*word & mask == 0, "page released twice");
            *word |= mask;
        });
        self.free += count;
        self.lowest = self.lowest.min(first);
    }

    /// Takes the lowest run of `count` free pages.
    pub(crate) fn take(&mut self, count: usize) -> Option<usize> {
        self.take_if(count, |_| true)
    }

    /// The same, but each page after the first of the run must also follow the one before it in the sense of
    /// `follows`.
    pub(crate) fn take_if(&mut self, count: usize, follows: impl Fn(usize) -> bool) -> Option<usize> {
        if count == 0 || count > self.free {
            return None;
        }
        let first = self.find(count, follows)?;
        let words = self.words.as_mut();
        for_each_word(first, first + count, |index, mask| words[index] &= !mask);
        self.free -= count;
        if first == self.lowest {
            self.lowest = first + count;
        }
        Some(first)
    }

    fn find(&mut self, count: usize, follows: impl Fn(usize) -> bool) -> Option<usize> {
        let mut first = self.next_free(self.lowest)?;
        self.lowest = first;
        loop {
            if first + count > self.pages {
                return None;
            }
            let broken =
                (first..first + count).find(|&page| !self.is_free(page) || (page > first && !follows(page)));
            match broken {
                None => return Some(first),
                // A page that is free but does not follow may itself be the start of a run.
                Some(page) => first = self.next_free(page)?,
            }
        }
    }

    /// The first free page from `start` on.
    fn next_free(&self, start: usize) -> Option<usize> {
        let words = self.words.as_ref();
        let mut index = start / 64;
        let mut word = words.get(index)? & (u64::MAX << (start % 64));
        while word == 0 {
            index += 1;
            word = *words.get(index)?;
        }
        Some(index * 64 + word.trailing_zeros() as usize)
    }
}

/// Calls `visit` with each word that covers part of `first..end`, and the bits of that part.
fn for_each_word(first: usize, end: usize, mut visit: impl FnMut(usize, u64)) {
    let mut page = first;
    while page < end {
        let bits = (64 - page % 64).min(end - page);
        visit(page / 64, (u64::MAX >> (64 - bits)) << (page % 64));
        page += bits;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use alloc::vec::Vec;

    fn runs(pages: usize) -> PageRuns<Vec<u64>> {
        let mut runs = PageRuns::new(vec![0; words_for(pages)], pages);
        runs.release(0, pages);
        runs
    }

    #[test]
    fn hands_out_every_page_once() {
        let mut runs = runs(200);
        let taken: Vec<_> = core::iter::from_fn(|| runs.take(1)).collect();
        assert_eq!(taken, (0..200).collect::<Vec<_>>());
        assert_eq!(runs.free_pages(), 0);
    }

    #[test]
    fn finds_a_run_across_words_and_skips_short_ones() {
        let mut runs = runs(256);
        assert_eq!(runs.take(3), Some(0));
        assert_eq!(runs.take(130), Some(3));
        assert_eq!(runs.take(16), Some(133));
        assert_eq!(runs.take(108), None);
        runs.release(3, 130);
        runs.release(0, 1);
        assert_eq!(runs.take(130), Some(3));
        assert_eq!(runs.take(1), Some(0));
        assert_eq!(runs.take(107), Some(149));
    }

    #[test]
    fn a_freed_page_is_found_again() {
        let mut runs = runs(64);
        while runs.take(1).is_some() {}
        runs.release(5, 1);
        assert_eq!(runs.take(1), Some(5));
        assert_eq!(runs.take(1), None);
    }

    #[test]
    fn never_hands_out_what_is_beyond_the_end() {
        let mut runs = runs(65);
        assert_eq!(runs.take(65), Some(0));
        assert_eq!(runs.take(1), None);
    }

    #[test]
    fn a_run_breaks_where_a_page_does_not_follow() {
        let mut runs = runs(64);
        let follows = |page: usize| !page.is_multiple_of(10);
        assert_eq!(runs.take_if(4, follows), Some(0));
        assert_eq!(runs.take_if(8, follows), Some(10));
        assert_eq!(runs.take_if(6, follows), Some(4));
        assert_eq!(runs.take_if(11, follows), None);
    }

    #[test]
    #[should_panic(expected = "released twice")]
    fn a_double_release_is_noticed() {
        runs(8).release(3, 1);
    }

    #[test]
    #[should_panic(expected = "beyond the end")]
    fn a_release_beyond_the_end_is_noticed() {
        runs(8).release(usize::MAX, 2);
    }
}
