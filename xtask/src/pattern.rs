//! Data that looks random, can be made again from its seed, and is the same as that of the guest's commands.

/// The first `length` bytes of a seed's data: the outputs of the SplitMix64 generator, least significant byte first.
pub fn data(seed: u64, length: usize) -> Vec<u8> {
    let words = (1..=length.div_ceil(8) as u64).flat_map(|step| word(seed, step).to_le_bytes());
    words.take(length).collect()
}

/// The generator's output after some steps.
fn word(seed: u64, step: u64) -> u64 {
    let state = seed.wrapping_add(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(step));
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
        let expected: [u64; 3] = [6457827717110365317, 3203168211198807973, 9817491932198370423];
        let bytes: Vec<u8> = expected.iter().flat_map(|word| word.to_le_bytes()).collect();
        assert_eq!(data(1234567, 24), bytes);
        assert_eq!(data(1234567, 11), bytes[..11]);
    }
}
