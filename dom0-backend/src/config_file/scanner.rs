//! Going through a file's characters, and knowing in which line one is.

use alloc::string::String;
use core::str::Chars;

use super::error::{Located, SyntaxError};
use super::{LARGEST_FILE, LONGEST_LINE};

/// A place in a text.
pub struct Scanner<'a> {
    rest: Chars<'a>,
    line: u32,
}

impl<'a> Scanner<'a> {
    /// The beginning of a file.
    ///
    /// # Errors
    ///
    /// The first byte that is no text, the first line that is too long, or a file that is too large.
    pub fn new(bytes: &'a [u8]) -> Result<Self, Located<SyntaxError>> {
        if bytes.len() > LARGEST_FILE {
            return Err(Located { line: 1, what: SyntaxError::TooLarge(bytes.len()) });
        }
        for (line, text) in (1..).zip(bytes.split(|byte| *byte == b'\n')) {
            check_line(text).map_err(|what| Located { line, what })?;
        }
        let text = core::str::from_utf8(bytes).unwrap_or_default();
        Ok(Self { rest: text.chars(), line: 1 })
    }

    /// The line of the next character.
    pub fn line(&self) -> u32 {
        self.line
    }

    /// The next character, which stays.
    pub fn peek(&self) -> Option<char> {
        self.rest.clone().next()
    }

    /// Takes the next character.
    pub fn take(&mut self) -> Option<char> {
        let next = self.rest.next();
        if next == Some('\n') {
            self.line += 1;
        }
        next
    }

    /// Takes the next character if it is this one.
    pub fn take_if(&mut self, wanted: char) -> bool {
        let is_next = self.peek() == Some(wanted);
        if is_next {
            self.take();
        }
        is_next
    }

    /// Takes characters as long as they fit.
    pub fn take_while(&mut self, fits: impl Fn(char) -> bool) -> String {
        let mut taken = String::new();
        while let Some(next) = self.peek().filter(|next| fits(*next)) {
            taken.push(next);
            self.take();
        }
        taken
    }

    /// Passes over blanks, and a comment; in a list also over the ends of lines.
    pub fn skip_blanks(&mut self, also_lines: bool) {
        loop {
            match self.peek() {
                Some(' ' | '\t' | '\r') => drop(self.take()),
                Some('\n') if also_lines => drop(self.take()),
                Some('#') => drop(self.take_while(|next| next != '\n')),
                _ => return,
            }
        }
    }

    /// An error in this line.
    pub fn error<T>(&self, what: SyntaxError) -> Result<T, Located<SyntaxError>> {
        Err(Located { line: self.line, what })
    }
}

fn check_line(text: &[u8]) -> Result<(), SyntaxError> {
    if text.len() > LONGEST_LINE {
        return Err(SyntaxError::LongLine(text.len()));
    }
    let is_wrong = |byte: u8| byte.is_ascii_control() && byte != b'\t' && byte != b'\r';
    let control = text.iter().position(|byte| is_wrong(*byte));
    let broken = core::str::from_utf8(text).err().map(|error| error.valid_up_to());
    let first = control.into_iter().chain(broken).min();
    match first.and_then(|index| Some((index, *text.get(index)?))) {
        Some((index, byte)) => Err(SyntaxError::NoText { byte, column: index + 1 }),
        None => Ok(()),
    }
}
