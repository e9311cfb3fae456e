//! What is wrong with a file, and where.

use core::fmt;

use super::{DEEPEST_LIST, LARGEST_FILE, LONGEST_LINE};

/// Something about a line of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located<T> {
    /// The line, the first being 1.
    pub line: u32,
    /// What is to be said of it.
    pub what: T,
}

impl<T: fmt::Display> fmt::Display for Located<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "line {}: {}", self.line, self.what)
    }
}

impl<T: fmt::Debug + fmt::Display> core::error::Error for Located<T> {}

/// Why bytes are no configuration file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyntaxError {
    /// The file has so many bytes.
    TooLarge(usize),
    /// The line has so many bytes.
    LongLine(usize),
    /// A byte that no text has.
    NoText {
        /// The byte.
        byte: u8,
        /// Where in the line, the first being 1.
        column: usize,
    },
    /// A statement begins with something else than a key.
    NoKey(char),
    /// Behind a key comes neither `=` nor `+=`.
    NoAssignment,
    /// Behind `=`, or in a list, comes no value.
    NoValue(Option<char>),
    /// A word without quotes.
    Unquoted,
    /// Digits that make no number of 64 bits.
    Number,
    /// A text has no end in its line.
    OpenText,
    /// What follows a backslash makes no character.
    Escape,
    /// A list has no end.
    OpenList,
    /// In a list, between two values, comes something else than a comma.
    NoComma(char),
    /// Lists lie too deep in lists.
    TooDeep,
    /// Something stands behind a value.
    Trailing(char),
}

impl fmt::Display for SyntaxError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge(size) => {
                write!(formatter, "the file has {size} bytes; {LARGEST_FILE} are the most")
            }
            Self::LongLine(length) => {
                write!(formatter, "the line has {length} bytes; {LONGEST_LINE} are the most")
            }
            Self::NoText { byte, column } => {
                write!(formatter, "byte {byte:#04x} in column {column} is no text")
            }
            Self::NoKey(found) => write!(formatter, "a key is expected, not {found:?}"),
            Self::NoAssignment => formatter.write_str("behind a key, = or += is expected"),
            Self::NoValue(None) => formatter.write_str("a value is expected, not the end of the line"),
            Self::NoValue(Some(found)) => write!(formatter, "a value is expected, not {found:?}"),
            Self::Unquoted => formatter.write_str("a text stands in quotes, as in name = \"web\""),
            Self::Number => formatter.write_str("that is no number"),
            Self::OpenText => formatter.write_str("a text is not closed"),
            Self::Escape => formatter.write_str("no character is written so, with a backslash"),
            Self::OpenList => formatter.write_str("the list that begins here is not closed"),
            Self::NoComma(found) => write!(formatter, "in a list, a comma or ] is expected, not {found:?}"),
            Self::TooDeep => write!(formatter, "lists lie more than {DEEPEST_LIST} deep in each other"),
            Self::Trailing(found) => {
                write!(formatter, "behind a value, the end of the line is expected, not {found:?}")
            }
        }
    }
}
