//! Data that looks random, can be made again from its seed, and is the same as that of the guest's commands.

use std::hash::{BuildHasher, Hasher, RandomState};

use sha2::{Digest, Sha256};

pub use xtask::pattern::data;

/// A seed that is another one each time.
pub fn seed() -> u64 {
    RandomState::new().build_hasher().finish() >> 16
}

/// The SHA-256 of bytes, in hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_that_of_the_standard() {
        assert_eq!(sha256(b"abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}
