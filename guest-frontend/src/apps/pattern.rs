//! Pseudo-random data that can be made again from its seed, from any position on.
//!
//! The stream is cut into words of eight bytes. The word at index *i* is the output of the SplitMix64 generator
//! after *i* + 1 steps, least significant byte first, so it needs no words before it.

/// What the generator's state grows by with each step.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
/// Bytes in a word.
const WORD: usize = size_of::<u64>();

/// A position in the stream of a seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pattern {
    seed: u64,
    position: u64,
}

impl Pattern {
    /// The start of the stream of a seed.
    pub const fn new(seed: u64) -> Self {
        Self { seed, position: 0 }
    }

    /// A place in the stream of a seed, so many bytes from its start.
    pub const fn at(seed: u64, position: u64) -> Self {
        Self { seed, position }
    }

    /// Bytes from the stream's start to here.
    pub const fn position(&self) -> u64 {
        self.position
    }

    /// Calls `visit` with each run of at most eight bytes of `0..length`, and the stream's bytes there.
    fn each_word(&mut self, length: usize, mut visit: impl FnMut(usize, &[u8])) {
        let mut done = 0;
        while done < length {
            let skip = (self.position % WORD as u64) as usize;
            let count = (WORD - skip).min(length - done);
            let word = word(self.seed, self.position / WORD as u64).to_le_bytes();
            visit(done, &word[skip..skip + count]);
            done += count;
            self.position += count as u64;
        }
    }

    /// Writes the next bytes of the stream.
    pub fn fill(&mut self, into: &mut [u8]) {
        self.each_word(into.len(), |start, bytes| into[start..start + bytes.len()].copy_from_slice(bytes));
    }

    /// Compares with the next bytes of the stream. Returns whether they are the same.
    #[must_use]
    pub fn matches(&mut self, data: &[u8]) -> bool {
        let mut difference = false;
        self.each_word(data.len(), |start, bytes| difference |= data[start..start + bytes.len()] != *bytes);
        !difference
    }
}

/// The word at an index of a seed's stream.
pub(crate) fn word(seed: u64, index: u64) -> u64 {
    let state = seed.wrapping_add(STEP.wrapping_mul(index.wrapping_add(1)));
    let state = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let state = (state ^ state >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    state ^ state >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_are_those_of_the_published_generator() {
        // The first outputs of SplitMix64 with seed 1234567, as its author's program prints them.
        let expected = [6457827717110365317, 3203168211198807973, 9817491932198370423];
        let mut bytes = [0; 24];
        Pattern::new(1234567).fill(&mut bytes);
        let words: Vec<_> =
            bytes.chunks(8).map(|word| u64::from_le_bytes(word.try_into().unwrap())).collect();
        assert_eq!(words, expected);
    }

    #[test]
    fn pieces_of_any_size_make_the_same_stream() {
        let mut whole = [0; 1000];
        Pattern::new(7).fill(&mut whole);
        let mut pieces = [0; 1000];
        let mut pattern = Pattern::new(7);
        let mut start = 0;
        for size in [1, 2, 3, 8, 13, 64, 7, 902] {
            pattern.fill(&mut pieces[start..start + size]);
            start += size;
        }
        assert_eq!((start, pattern.position()), (1000, 1000));
        let mut middle = [0; 77];
        Pattern::at(7, 123).fill(&mut middle);
        assert_eq!(middle, whole[123..200]);
        assert_eq!(whole, pieces);
    }

    #[test]
    fn one_wrong_bit_is_found_wherever_it_is() {
        let mut data = [0; 100];
        Pattern::new(3).fill(&mut data);
        assert!(Pattern::new(3).matches(&data));
        assert!(!Pattern::new(4).matches(&data));
        for index in 0..data.len() {
            data[index] ^= 1 << (index % 8);
            assert!(!Pattern::new(3).matches(&data));
            data[index] ^= 1 << (index % 8);
        }
    }
}
