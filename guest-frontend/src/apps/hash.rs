//! Hashes as text.

use alloc::format;
use alloc::string::String;

use sha2::{Digest, Sha256};

/// A SHA-256 being computed.
#[derive(Clone, Default)]
pub(super) struct Hash(Sha256);

impl Hash {
    /// Adds data.
    pub(super) fn add(&mut self, data: &[u8]) {
        self.0.update(data);
    }

    /// The hash of all data, as 64 hexadecimal digits.
    pub(super) fn text(self) -> String {
        self.0.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_of_abc_is_the_published_one() {
        let mut hash = Hash::default();
        hash.add(b"a");
        hash.add(b"bc");
        assert_eq!(hash.text(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}
