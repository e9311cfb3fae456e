//! Who may do what with a node.

use alloc::vec::Vec;
use core::fmt::Write;

use hypercall_abi::DomainId;

use super::error::StoreError;

/// What a domain may do with a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Nothing.
    None,
    /// Read it.
    Read,
    /// Write it.
    Write,
    /// Read and write it.
    ReadWrite,
}

impl Access {
    const fn letter(self) -> char {
        match self {
            Self::None => 'n',
            Self::Read => 'r',
            Self::Write => 'w',
            Self::ReadWrite => 'b',
        }
    }

    const fn from_letter(letter: char) -> Option<Self> {
        Some(match letter {
            'n' => Self::None,
            'r' => Self::Read,
            'w' => Self::Write,
            'b' => Self::ReadWrite,
            _ => return None,
        })
    }
}

/// One entry of a node's permissions. The first entry of a node names its owner, who may do everything, and
/// says what those may who are not named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permission {
    /// Whom the entry is about.
    pub domain: DomainId,
    /// What it allows.
    pub access: Access,
}

impl Permission {
    /// The form on the wire, such as `r5`.
    pub(super) fn parse(text: &str) -> Result<Self, StoreError> {
        let letter = text.chars().next().ok_or(StoreError::Malformed)?;
        let access = Access::from_letter(letter).ok_or(StoreError::Malformed)?;
        let domain = text[letter.len_utf8()..].parse().map_err(|_| StoreError::Malformed)?;
        Ok(Self { domain: DomainId(domain), access })
    }

    /// The permissions as text, each ended by a zero.
    pub(super) fn encode(permissions: &[Self]) -> Vec<u8> {
        let mut text = alloc::string::String::new();
        for permission in permissions {
            // Writing to a string does not fail.
            let _ = write!(text, "{}{}\0", permission.access.letter(), permission.domain);
        }
        text.into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permissions_go_both_ways() {
        let list = [
            Permission { domain: DomainId(0), access: Access::None },
            Permission { domain: DomainId(17), access: Access::ReadWrite },
        ];
        assert_eq!(Permission::encode(&list), b"n0\0b17\0");
        assert_eq!(Permission::parse("b17"), Ok(list[1]));
    }

    #[test]
    fn nonsense_is_not_a_permission() {
        for text in ["", "r", "x1", "r-1", "r70000", "é1"] {
            assert_eq!(Permission::parse(text), Err(StoreError::Malformed), "{text}");
        }
    }
}
