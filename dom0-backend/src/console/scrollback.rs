//! The last bytes of what a guest printed, and positions in all that it ever printed.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

/// Bytes that are kept.
const KEPT: usize = 64 * 1024;

/// The last bytes of a stream. Positions count from its beginning.
#[derive(Debug, Default)]
pub struct Scrollback {
    bytes: VecDeque<u8>,
    /// Position of the first byte that is kept.
    start: u64,
}

impl Scrollback {
    /// Adds what was printed.
    pub fn push(&mut self, text: &[u8]) {
        let fresh = &text[text.len().saturating_sub(KEPT)..];
        let excess = (self.bytes.len() + fresh.len()).saturating_sub(KEPT);
        self.bytes.drain(..excess);
        self.bytes.extend(fresh);
        self.start += (excess + text.len() - fresh.len()) as u64;
    }

    /// The position behind the last byte.
    pub fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }

    /// What is kept from a position on.
    pub fn since(&self, position: u64) -> Vec<u8> {
        let skipped = position.saturating_sub(self.start).min(self.bytes.len() as u64);
        self.bytes.range(skipped as usize..).copied().collect()
    }

    /// The last lines, at most `count`. An unfinished last line counts as one.
    pub fn last_lines(&self, count: usize) -> Vec<u8> {
        let all = self.since(self.start);
        let finished = all.len().saturating_sub(1);
        let breaks = all[..finished].iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n');
        let start = match count.checked_sub(1) {
            None => all.len(),
            Some(skipped) => breaks.map(|(index, _)| index + 1).nth(skipped).unwrap_or(0),
        };
        all[start..].to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &[u8]) -> Scrollback {
        let mut scrollback = Scrollback::default();
        scrollback.push(text);
        scrollback
    }

    #[test]
    fn readers_go_on_where_they_were() {
        let mut scrollback = of(b"one ");
        let position = scrollback.end();
        scrollback.push(b"two");
        assert_eq!(scrollback.since(position), b"two");
        assert_eq!(scrollback.since(0), b"one two");
        assert_eq!(scrollback.since(99), b"");
    }

    #[test]
    fn only_the_last_bytes_are_kept() {
        for piece in [1, 1000, KEPT - 1, KEPT, KEPT + 1, 3 * KEPT] {
            let mut scrollback = Scrollback::default();
            let stream: Vec<u8> = (0..2 * KEPT + piece).map(|index| index as u8).collect();
            stream.chunks(piece).for_each(|chunk| scrollback.push(chunk));
            assert_eq!(scrollback.end(), stream.len() as u64, "in pieces of {piece}");
            assert_eq!(scrollback.since(0), &stream[stream.len() - KEPT..], "in pieces of {piece}");
        }
    }

    #[test]
    fn a_reader_that_is_too_slow_misses_what_is_gone() {
        let mut scrollback = of(b"old");
        scrollback.push(&[b'x'; KEPT]);
        let rest = scrollback.since(1);
        assert_eq!(rest.len(), KEPT);
        assert!(rest.iter().all(|byte| *byte == b'x'));
    }

    #[test]
    fn the_last_lines_are_whole_ones() {
        let scrollback = of(b"a\nbb\nccc\n");
        assert_eq!(scrollback.last_lines(1), b"ccc\n");
        assert_eq!(scrollback.last_lines(2), b"bb\nccc\n");
        assert_eq!(scrollback.last_lines(9), b"a\nbb\nccc\n");
        assert_eq!(scrollback.last_lines(0), b"");
        assert_eq!(of(b"a\nb").last_lines(1), b"b");
        assert_eq!(of(b"").last_lines(3), b"");
        assert_eq!(of(b"\n\n").last_lines(1), b"\n");
    }
}
