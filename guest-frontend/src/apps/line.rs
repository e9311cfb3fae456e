//! A line being typed at a terminal.

use alloc::string::String;

/// The longest line, in bytes.
const LONGEST: usize = 1024;

/// What a typed byte leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Typed {
    /// Nothing.
    Nothing,
    /// The terminal is to show this.
    Echo(&'static str),
    /// The terminal is to show this character.
    EchoCharacter(char),
    /// The line is complete.
    Line(String),
    /// The line was given up.
    GivenUp,
}

/// A line being typed: printable ASCII, with a backspace that works. Escape sequences, such as of cursor keys,
/// are passed over.
#[derive(Clone, Debug, Default)]
pub struct Line {
    text: String,
    escape: Escape,
    /// The last byte was a carriage return, so a line feed right after it belongs to it.
    after_return: bool,
}

/// How far into an escape sequence the typing is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Escape {
    #[default]
    None,
    Started,
    Parameters,
}

impl Line {
    /// Takes a typed byte.
    pub fn push(&mut self, byte: u8) -> Typed {
        let after_return = core::mem::replace(&mut self.after_return, byte == b'\r');
        if self.escape != Escape::None {
            self.pass_over(byte);
            return Typed::Nothing;
        }
        match byte {
            b'\n' if after_return => Typed::Nothing,
            b'\r' | b'\n' => Typed::Line(core::mem::take(&mut self.text)),
            // Control-C, Control-U.
            0x03 | 0x15 => {
                self.text.clear();
                Typed::GivenUp
            }
            0x08 | 0x7f => match self.text.pop() {
                Some(_) => Typed::Echo("\u{8} \u{8}"),
                None => Typed::Nothing,
            },
            0x1b => {
                self.escape = Escape::Started;
                Typed::Nothing
            }
            b' '..=b'~' if self.text.len() < LONGEST => {
                self.text.push(byte.into());
                Typed::EchoCharacter(byte.into())
            }
            _ => Typed::Nothing,
        }
    }

    /// Follows an escape sequence to its end.
    fn pass_over(&mut self, byte: u8) {
        self.escape = match (self.escape, byte) {
            (Escape::Started, b'[' | b'O') => Escape::Parameters,
            (Escape::Parameters, b' '..=b'?') => Escape::Parameters,
            _ => Escape::None,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Types bytes, and returns the lines they make.
    fn lines(bytes: &[u8]) -> Vec<String> {
        let mut line = Line::default();
        let typed = bytes.iter().map(|byte| line.push(*byte));
        typed.filter_map(|typed| if let Typed::Line(line) = typed { Some(line) } else { None }).collect()
    }

    #[test]
    fn every_kind_of_line_end_ends_one_line() {
        assert_eq!(lines(b"a\rb\nc\r\nd\r\r"), ["a", "b", "c", "d", ""]);
    }

    #[test]
    fn backspace_takes_the_last_character_and_stops_at_the_start() {
        assert_eq!(lines(b"ix\x7fnfq\x08o\r"), ["info"]);
        assert_eq!(lines(b"\x7f\x7fa\r"), ["a"]);
        assert_eq!(Line::default().push(0x7f), Typed::Nothing);
    }

    #[test]
    fn cursor_keys_and_control_characters_leave_no_trace() {
        assert_eq!(lines(b"in\x1b[A\x1b[1;5C\x1bOPfo\t\x01\xff\r"), ["info"]);
    }

    #[test]
    fn a_line_can_be_given_up() {
        assert_eq!(lines(b"crash\x03info\r"), ["info"]);
    }

    #[test]
    fn a_line_has_an_end() {
        let mut typed = vec![b'x'; 3 * LONGEST];
        typed.push(b'\r');
        assert_eq!(lines(&typed)[0].len(), LONGEST);
    }
}
