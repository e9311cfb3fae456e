//! The guest's part of what the machine prints.
//!
//! Domain 0 puts a line before what comes from the guest and one behind it (see [`exec`](crate::exec)). Both are taken
//! out, and so is what came before; everything else passes as it comes, byte for byte, because a prompt has no line break
//! at its end. Only what may still become the last line is held back.

const BEGIN: &[u8] = b"@exec-begin 0 ";
const END: &[u8] = b"@exec-end 0 ";

/// Takes the machine's output apart.
#[derive(Debug, Default)]
pub struct GuestConsole {
    /// Bytes that are not decided on.
    held: Vec<u8>,
    has_begun: bool,
}

impl GuestConsole {
    /// Takes the next bytes that the machine printed; those that are the guest's.
    pub fn take(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.held.extend_from_slice(bytes);
        if !self.has_begun && !self.begin() {
            return Vec::new();
        }
        let sure = self.held.len() - possible_end(&self.held);
        self.held.drain(..sure).collect()
    }

    /// When the machine has ended: what was held back and is the guest's after all.
    pub fn finish(&mut self) -> Vec<u8> {
        let held = std::mem::take(&mut self.held);
        let is_end = self.has_begun && held.starts_with(END) && held.ends_with(b"\n");
        if is_end || !self.has_begun { Vec::new() } else { held }
    }

    /// Drops everything up to the line that begins the guest's output, if it is there.
    fn begin(&mut self) -> bool {
        let start = self.held.windows(BEGIN.len()).position(|window| window == BEGIN);
        let line_break = start
            .and_then(|start| self.held[start..].iter().position(|byte| *byte == b'\n').map(|at| start + at));
        if let Some(line_break) = line_break {
            self.held.drain(..=line_break);
            self.has_begun = true;
        }
        self.has_begun
    }
}

/// How many of the last bytes may be, or become, the line that ends everything.
fn possible_end(bytes: &[u8]) -> usize {
    // The status and the line break have a few bytes.
    let longest = bytes.len().min(END.len() + 16);
    (1..=longest).rev().find(|length| may_be_end(&bytes[bytes.len() - length..])).unwrap_or(0)
}

fn may_be_end(tail: &[u8]) -> bool {
    let Some(status) = tail.strip_prefix(END) else { return END.starts_with(tail) };
    let digits = status.iter().take_while(|byte| byte.is_ascii_digit()).count();
    matches!(&status[digits..], b"" | b"\r" | b"\r\n" | b"\n")
}

/// Line breaks as files have them: drops carriage returns that stand before line feeds.
#[derive(Debug, Default)]
pub struct PlainLines {
    /// Carriage returns not yet decided on.
    returns: usize,
}

impl PlainLines {
    /// Takes the next bytes; the same with plain line breaks.
    pub fn take(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut plain = Vec::with_capacity(bytes.len());
        for &byte in bytes {
            match byte {
                b'\r' => self.returns += 1,
                b'\n' => {
                    self.returns = 0;
                    plain.push(byte);
                }
                _ => {
                    plain.resize(plain.len() + std::mem::take(&mut self.returns), b'\r');
                    plain.push(byte);
                }
            }
        }
        plain
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is shown of `text` when it comes in pieces of this size.
    fn shown(text: &str, size: usize) -> String {
        let mut console = GuestConsole::default();
        let mut all = Vec::new();
        for piece in text.as_bytes().chunks(size) {
            all.extend(console.take(piece));
        }
        all.extend(console.finish());
        String::from_utf8(all).unwrap()
    }

    #[test]
    fn what_domain_0_says_around_it_is_taken_out() {
        let text =
            "booting\r\n@exec-begin 0 create -c guest\r\nlogin: root\r\n# @exec-en\r\n@exec-end 0 0\r\n";
        for size in 1..40 {
            assert_eq!(shown(text, size), "login: root\r\n# @exec-en\r\n", "in pieces of {size}");
        }
    }

    #[test]
    fn a_prompt_is_shown_at_once() {
        let mut console = GuestConsole::default();
        assert_eq!(console.take(b"@exec-begin 0 x\r\nlogin: "), b"login: ");
        assert_eq!(console.take(b"a@"), b"a");
        assert_eq!(console.take(b"b"), b"@b");
    }

    #[test]
    fn a_guest_that_prints_the_last_line_itself_is_shown_all_the_same() {
        let text = "@exec-begin 0 x\r\n@exec-end 0 0\r\nstill here\r\n@exec-end 0 1\r\n";
        for size in 1..40 {
            assert_eq!(shown(text, size), "@exec-end 0 0\r\nstill here\r\n", "in pieces of {size}");
        }
    }

    #[test]
    fn a_machine_that_ends_before_the_guest_begins_shows_nothing() {
        assert_eq!(shown("booting\nWEIR PANIC\n", 4), "");
        assert_eq!(shown("@exec-begin 0 x\nhello @exec", 4), "hello @exec");
    }

    #[test]
    fn files_get_plain_line_breaks() {
        let mut lines = PlainLines::default();
        let pieces: [&[u8]; 4] = [b"a\r\r", b"\nb\rc", b"\r", b"\n"];
        let plain: Vec<_> = pieces.into_iter().flat_map(|piece| lines.take(piece)).collect();
        assert_eq!(plain, b"a\nb\rc\n");
    }
}
