//! Lines on the console, each by a single system call.

use core::fmt::{self, Write};

use crate::syscall;

/// The longest line.
const LONGEST: usize = 160;
/// Standard output.
const STANDARD_OUTPUT: u32 = 1;

struct Line {
    bytes: [u8; LONGEST],
    length: usize,
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let end = self.length + text.len();
        self.bytes.get_mut(self.length..end).ok_or(fmt::Error)?.copy_from_slice(text.as_bytes());
        self.length = end;
        Ok(())
    }
}

/// Prints a line; one that is too long is cut off. There is nobody to tell if nothing can be printed.
pub fn line(text: fmt::Arguments<'_>) {
    let mut line = Line { bytes: [0; LONGEST], length: 0 };
    let _ = writeln!(line, "{text}");
    let _ = syscall::write(STANDARD_OUTPUT, &line.bytes[..line.length]);
}
