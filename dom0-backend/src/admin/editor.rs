//! Editing a line at a terminal: typing, deleting, moving, and going back to earlier lines.
//!
//! No I/O: bytes typed go in, what the terminal is to show comes out. Lines are printable ASCII.

use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::String;

use super::completion::common_beginning;

/// The longest line: as long as one of a configuration file may be.
pub const LONGEST: usize = 4096;
/// Earlier lines that are remembered.
const REMEMBERED: usize = 32;

const CONTROL_A: u8 = 0x01;
const CONTROL_C: u8 = 0x03;
const CONTROL_D: u8 = 0x04;
const CONTROL_E: u8 = 0x05;
const BACKSPACE: u8 = 0x08;
const TAB: u8 = 0x09;
const CONTROL_L: u8 = 0x0c;
const CONTROL_U: u8 = 0x15;
const CONTROL_W: u8 = 0x17;
const ESCAPE: u8 = 0x1b;
const DELETE: u8 = 0x7f;

/// Where a key's escape sequence has got to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Sequence {
    #[default]
    None,
    Escape,
    /// After `ESC [` or `ESC O`; the last parameter digit.
    Bracket(u8),
}

/// What a typed byte leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Edited {
    /// The terminal is to show this; it may be nothing.
    Show(String),
    /// The line is complete. The terminal is to go to the next line.
    Line(String),
    /// The line is complete, and has more characters than [`LONGEST`]: so many. Nothing of it is kept.
    TooLong(usize),
    /// Ctrl-D was typed where there is nothing else.
    End,
    /// What is left of the cursor is to be gone on with: see [`LineEditor::complete`].
    Complete(String),
}

/// A line in the making, and the lines before it.
#[derive(Debug, Default)]
pub struct LineEditor {
    prompt: &'static str,
    line: String,
    /// Characters that found no room in the line.
    left_out: usize,
    cursor: usize,
    sequence: Sequence,
    after_return: bool,
    history: VecDeque<String>,
    /// How far back the shown line lies; 0 is the one in the making.
    back: usize,
    /// The line in the making while an earlier one is shown.
    draft: String,
}

impl LineEditor {
    /// An empty line behind a prompt.
    pub fn new(prompt: &'static str) -> Self {
        Self { prompt, ..Self::default() }
    }

    /// What shows the prompt and the line so far, whatever the terminal showed before on this line.
    pub fn redraw(&self) -> String {
        let mut shown = format!("\r{}{}\x1b[K", self.prompt, self.line);
        let behind = self.line.len() - self.cursor;
        if behind > 0 {
            shown += &format!("\x1b[{behind}D");
        }
        shown
    }

    /// Takes a typed byte.
    pub fn push(&mut self, byte: u8) -> Edited {
        let after_return = core::mem::replace(&mut self.after_return, byte == b'\r');
        if self.sequence != Sequence::None {
            return Edited::Show(self.continue_sequence(byte));
        }
        match byte {
            b'\n' if after_return => Edited::Show(String::new()),
            b'\r' | b'\n' => self.finish(),
            b' '..=b'~' => Edited::Show(self.insert(byte)),
            CONTROL_D if self.line.is_empty() => Edited::End,
            TAB => Edited::Complete(String::from(&self.line[..self.cursor])),
            _ => Edited::Show(self.control(byte)),
        }
    }

    /// Goes on with the word at the cursor, as far as all `candidates` for it agree; shows them if they do not.
    pub fn complete(&mut self, candidates: &[String]) -> String {
        let begun = self.line[..self.cursor].rsplit(' ').next().unwrap_or_default().len();
        let more = common_beginning(candidates).get(begun..).unwrap_or_default();
        let blank = if candidates.len() == 1 { " " } else { "" };
        let shown: String = more.bytes().chain(blank.bytes()).map(|byte| self.insert(byte)).collect();
        if shown.is_empty() && candidates.len() > 1 {
            return format!("\r\n{}\r\n{}", candidates.join("  "), self.redraw());
        }
        shown
    }

    fn control(&mut self, byte: u8) -> String {
        match byte {
            BACKSPACE | DELETE if self.left_out > 0 => self.left_out -= 1,
            BACKSPACE | DELETE if self.cursor > 0 => {
                self.cursor -= 1;
                self.line.remove(self.cursor);
            }
            CONTROL_A => self.cursor = 0,
            CONTROL_E => self.cursor = self.line.len(),
            CONTROL_C => {
                self.replace(String::new());
                self.back = 0;
                return format!("^C\r\n{}", self.redraw());
            }
            CONTROL_L => return format!("\x1b[H\x1b[2J{}", self.redraw()),
            CONTROL_U => {
                self.line.drain(..core::mem::take(&mut self.cursor));
                self.left_out = 0;
            }
            CONTROL_W => self.remove_word(),
            ESCAPE => {
                self.sequence = Sequence::Escape;
                return String::new();
            }
            _ => return String::new(),
        }
        self.redraw()
    }

    fn insert(&mut self, byte: u8) -> String {
        if self.line.len() >= LONGEST {
            self.left_out += 1;
            return String::new();
        }
        self.line.insert(self.cursor, char::from(byte));
        self.cursor += 1;
        if self.cursor == self.line.len() { String::from(char::from(byte)) } else { self.redraw() }
    }

    fn remove_word(&mut self) {
        let before = &self.line[..self.cursor];
        let start = before.trim_end().rfind(' ').map_or(0, |blank| blank + 1);
        self.line.drain(start..self.cursor);
        self.cursor = start;
    }

    fn continue_sequence(&mut self, byte: u8) -> String {
        let parameter = match (self.sequence, byte) {
            (Sequence::Escape, b'[' | b'O') => {
                self.sequence = Sequence::Bracket(0);
                return String::new();
            }
            (Sequence::Bracket(_), b'0'..=b'9' | b';') => {
                self.sequence = Sequence::Bracket(byte);
                return String::new();
            }
            (Sequence::Bracket(parameter), _) => parameter,
            _ => {
                self.sequence = Sequence::None;
                return String::new();
            }
        };
        self.sequence = Sequence::None;
        self.key(byte, parameter)
    }

    /// A key that sends a sequence: cursor keys, Home, End, Delete.
    fn key(&mut self, last: u8, parameter: u8) -> String {
        match (last, parameter) {
            (b'A', _) => self.go_back(self.back + 1),
            (b'B', _) if self.back > 0 => self.go_back(self.back - 1),
            (b'C', _) => self.cursor = (self.cursor + 1).min(self.line.len()),
            (b'D', _) => self.cursor = self.cursor.saturating_sub(1),
            (b'H', _) | (b'~', b'1' | b'7') => self.cursor = 0,
            (b'F', _) | (b'~', b'4' | b'8') => self.cursor = self.line.len(),
            (b'~', b'3') if self.cursor < self.line.len() => drop(self.line.remove(self.cursor)),
            _ => return String::new(),
        }
        self.redraw()
    }

    /// Shows the line that lies so far back, if there is one.
    fn go_back(&mut self, back: usize) {
        let line = match back.checked_sub(1) {
            None => core::mem::take(&mut self.draft),
            Some(index) => match self.history.get(index) {
                Some(line) => line.clone(),
                None => return,
            },
        };
        if self.back == 0 {
            self.draft = core::mem::take(&mut self.line);
        }
        self.back = back;
        self.replace(line);
    }

    fn replace(&mut self, line: String) {
        (self.cursor, self.left_out) = (line.len(), 0);
        self.line = line;
    }

    fn finish(&mut self) -> Edited {
        let (line, left_out) = (core::mem::take(&mut self.line), core::mem::take(&mut self.left_out));
        (self.cursor, self.back) = (0, 0);
        self.draft.clear();
        if left_out > 0 {
            return Edited::TooLong(line.len() + left_out);
        }
        if !line.trim().is_empty() && self.history.front() != Some(&line) {
            self.history.push_front(line.clone());
            self.history.truncate(REMEMBERED);
        }
        Edited::Line(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    const UP: &str = "\x1b[A";
    const DOWN: &str = "\x1b[B";
    const LEFT: &str = "\x1b[D";

    fn typed(editor: &mut LineEditor, text: &str) -> Vec<String> {
        let lines = text.bytes().filter_map(|byte| match editor.push(byte) {
            Edited::Line(line) => Some(line),
            Edited::Show(_) | Edited::Complete(_) | Edited::TooLong(_) | Edited::End => None,
        });
        lines.collect()
    }

    fn lines(text: &str) -> Vec<String> {
        typed(&mut LineEditor::new("> "), text)
    }

    #[test]
    fn control_d_ends_only_where_nothing_is_typed() {
        let mut editor = LineEditor::new("> ");
        assert_eq!(editor.push(CONTROL_D), Edited::End);
        editor.push(b'a');
        assert_ne!(editor.push(CONTROL_D), Edited::End);
    }

    #[test]
    fn a_line_ends_with_either_line_break_or_both() {
        assert_eq!(lines("a\rb\nc\r\nd\n"), ["a", "b", "c", "d"]);
    }

    #[test]
    fn typing_errors_can_be_corrected() {
        assert_eq!(lines("lisst\x7f\x7ft\r"), ["list"]);
        assert_eq!(lines("\x7fa\r"), ["a"], "nothing to delete");
        assert_eq!(lines("wrong\x15right\r"), ["right"]);
        assert_eq!(lines("one two  \x17three\r"), ["one three"]);
        assert_eq!(lines("half\x03list\r"), ["list"]);
    }

    #[test]
    fn the_cursor_moves() {
        assert_eq!(lines(&alloc::format!("lst{LEFT}{LEFT}i\r")), ["list"]);
        assert_eq!(lines("ist\x01l\x05!\r"), ["list!"]);
        assert_eq!(lines("xlist\x1b[H\x1b[3~\r"), ["list"]);
        assert_eq!(lines("ab\x1b[C\x1b[1;5Cc\r"), ["abc"], "not beyond the end");
    }

    #[test]
    fn earlier_lines_come_back() {
        let mut editor = LineEditor::new("> ");
        typed(&mut editor, "one\rtwo\rtwo\r\r");
        assert_eq!(typed(&mut editor, &alloc::format!("{UP}\r")), ["two"]);
        assert_eq!(typed(&mut editor, &alloc::format!("{UP}{UP}\r")), ["one"]);
        assert_eq!(
            typed(&mut editor, &alloc::format!("{UP}{UP}{UP}{UP}{UP}\r")),
            ["one"],
            "stays at the oldest"
        );
        assert_eq!(typed(&mut editor, &alloc::format!("draft{UP}{DOWN}\r")), ["draft"]);
        assert_eq!(typed(&mut editor, &alloc::format!("{DOWN}x\r")), ["x"]);
    }

    #[test]
    fn what_is_shown_is_the_line() {
        let mut editor = LineEditor::new("> ");
        assert_eq!(editor.push(b'a'), Edited::Show("a".into()));
        assert_eq!(editor.push(DELETE), Edited::Show("\r> \x1b[K".into()));
        typed(&mut editor, &alloc::format!("abc{LEFT}"));
        assert_eq!(editor.redraw(), "\r> abc\x1b[K\x1b[1D");
    }

    #[test]
    fn a_word_is_completed_as_far_as_is_clear() {
        let mut editor = LineEditor::new("> ");
        typed(&mut editor, "destroy w");
        assert_eq!(editor.push(TAB), Edited::Complete("destroy w".into()));
        let both = ["web".into(), "web-2".into()];
        assert_eq!(editor.complete(&both), "eb");
        assert_eq!(editor.complete(&both), "\r\nweb  web-2\r\n\r> destroy web\x1b[K");
        assert_eq!(editor.complete(&both[1..]), "-2 ");
        assert_eq!(editor.complete(&[]), "");
        assert_eq!(typed(&mut editor, "\r"), ["destroy web-2 "]);
    }

    #[test]
    fn rubbish_is_passed_over() {
        assert_eq!(lines("a\x00\x1bX\x1b[99z\u{e4}b\r"), ["ab"]);
    }

    #[test]
    fn a_line_that_is_too_long_is_refused_as_a_whole() {
        let mut editor = LineEditor::new("> ");
        assert_eq!(typed(&mut editor, &("x".repeat(LONGEST) + "\r")), ["x".repeat(LONGEST)]);
        assert_eq!(typed(&mut editor, &"y".repeat(LONGEST + 3)), [""; 0]);
        assert_eq!(editor.push(b'\r'), Edited::TooLong(LONGEST + 3));
        assert_eq!(typed(&mut editor, "list\r"), ["list"], "nothing of it is left");
        assert_eq!(
            typed(&mut editor, &alloc::format!("{UP}{UP}\r")),
            ["x".repeat(LONGEST)],
            "nor remembered"
        );
        for taken_back in ["\x7f\x7f\x7f\r", "\x15\r", "\x03\r"] {
            typed(&mut editor, &"z".repeat(LONGEST + 3));
            assert_eq!(typed(&mut editor, taken_back).len(), 1, "{taken_back:?}");
        }
    }
}
