//! Finding the present entries of a table, most of which are usually empty.
//!
//! Eight entries, a cache line, are looked at together: a process has a handful of tables with a few dozen entries each, and
//! making and ending it looks at all 512 of every one.

use super::Entry;
use core::sync::atomic::{AtomicU64, Ordering};

/// Entries that are looked at together.
pub const LINE: usize = 8;

fn is_present(word: &AtomicU64) -> bool {
    Entry(word.load(Ordering::Relaxed)).is_present()
}

/// Entries that are looked at together.
pub type Line = [AtomicU64; LINE];

/// True when any of these entries is present.
#[inline(always)]
fn any_present(line: &Line) -> bool {
    Entry(line.iter().fold(0, |all, word| all | word.load(Ordering::Relaxed))).is_present()
}

/// The lines of a table in which something is present, each with the index of its first entry; and what is left at the end.
#[inline(always)]
pub fn occupied(words: &[AtomicU64]) -> (impl Iterator<Item = (usize, &Line)>, &[AtomicU64]) {
    let (lines, rest) = words.as_chunks();
    let numbered = lines.iter().enumerate().filter(|(_, line)| any_present(line));
    (numbered.map(|(number, line)| (number * LINE, line)), rest)
}

/// The first present entry from `start` on, in a table of whole lines.
pub fn next_present(words: &[AtomicU64], start: usize) -> Option<usize> {
    let first_line = start.next_multiple_of(LINE).min(words.len());
    if let Some(index) = (start..first_line).find(|&index| is_present(&words[index])) {
        return Some(index);
    }
    let (mut lines, _) = occupied(words.get(first_line..)?);
    let (base, line) = lines.next()?;
    line.iter().position(is_present).map(|offset| first_line + base + offset)
}

/// The last present entry before `end`.
pub fn last_present(words: &[AtomicU64], end: usize) -> Option<usize> {
    let last_line = end / LINE * LINE;
    if let Some(index) = (last_line..end).rfind(|&index| is_present(&words[index])) {
        return Some(index);
    }
    let (lines, _) = words[..last_line].as_chunks();
    let (number, line) = lines.iter().enumerate().rfind(|(_, line)| any_present(line))?;
    line.iter().rposition(is_present).map(|offset| number * LINE + offset)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    /// A table in which these entries are present, and all others say something else.
    fn table(present: &[usize]) -> Vec<AtomicU64> {
        let word = |index| if present.contains(&index) { 0x1067 } else { 0x1066 };
        (0..512).map(|index| AtomicU64::new(word(index))).collect()
    }

    #[test]
    fn every_present_entry_is_found_from_both_ends() {
        for present in
            [&[][..], &[0], &[511], &[7, 8], &[0, 1, 2, 63, 64, 100, 510, 511], &[255, 256, 257, 300]]
        {
            let words = table(present);
            let mut forward = Vec::new();
            let mut index = 0;
            while let Some(found) = next_present(&words, index) {
                forward.push(found);
                index = found + 1;
            }
            assert_eq!(forward, present);
            let mut backward = Vec::new();
            let mut end = words.len();
            while let Some(found) = last_present(&words, end) {
                backward.push(found);
                end = found;
            }
            backward.reverse();
            assert_eq!(backward, present);
        }
    }

    #[test]
    fn it_does_not_matter_where_one_begins() {
        let words = table(&[5, 20, 21, 200]);
        for start in 0..=512 {
            let expected = [5, 20, 21, 200].into_iter().find(|&index| index >= start);
            assert_eq!(next_present(&words, start), expected, "from {start}");
            let expected = [5, 20, 21, 200].into_iter().rfind(|&index| index < start);
            assert_eq!(last_present(&words, start), expected, "before {start}");
        }
    }

    #[test]
    fn lines_are_whole_and_what_is_left_is_not_forgotten() {
        let words = table(&[3, 9, 10, 17]);
        let found = |count| {
            let (lines, rest) = occupied(&words[..count]);
            (lines.map(|(first, _)| first).collect::<Vec<_>>(), rest.len())
        };
        assert_eq!(found(512), (Vec::from([0, 8, 16]), 0));
        assert_eq!(found(18), (Vec::from([0, 8]), 2));
        assert_eq!(found(7), (Vec::new(), 7));
        assert_eq!(found(0), (Vec::new(), 0));
    }
}
