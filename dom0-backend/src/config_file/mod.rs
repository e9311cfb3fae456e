//! Configuration files of guests, in the language of `xl.cfg(5)`.
//!
//! Two steps, so that each can be tried by itself: [`parse`] turns bytes into assignments, each with the line it
//! stands in, and knows nothing of guests; [`keys`] says what every key of `xl`'s means here. What a file says wrong
//! is told with its line, and no bytes, however strange, lead to anything but an error.

mod error;
pub mod keys;
mod scanner;
mod syntax;
#[cfg(test)]
mod tests;

use alloc::string::String;
use alloc::vec::Vec;

pub use error::{Located, SyntaxError};
pub use syntax::parse;

/// The longest line, in bytes.
pub const LONGEST_LINE: usize = 4096;
/// The largest file, in bytes.
pub const LARGEST_FILE: usize = 256 * 1024;
/// How deep lists may lie in lists.
pub const DEEPEST_LIST: usize = 4;

/// What a key is set to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// In quotes.
    Text(String),
    /// Digits.
    Number(u64),
    /// In brackets; each with its line.
    List(Vec<(u32, Value)>),
}

/// `key = value`, or `key += value`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// The line in which it begins, the first being 1.
    pub line: u32,
    /// The key.
    pub key: String,
    /// Whether the value is put behind what the key has already.
    pub adds: bool,
    /// The value.
    pub value: Value,
}
