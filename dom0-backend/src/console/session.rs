//! Running a command in a guest's shell from here, and getting its output and its outcome.
//!
//! Our own guests' shell runs what follows the word `@run` and frames it:
//!
//! ```text
//! @run-begin hash 0 1
//! ...what the command prints...
//! @run-end 0
//! ```
//!
//! The last word is 0 if the command went well. A guest that lies here deceives only who asked it.

use alloc::format;
use alloc::string::String;
use core::fmt;
use core::time::Duration;

use pv_runtime::executor::timeout;

use super::guest::GuestConsole;
use super::harmless_lines;

/// What a line of commands begins with.
const RUN: &str = "@run ";
const BEGIN: &str = "@run-begin ";
const END: &str = "@run-end ";

/// Why there is no outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionError {
    /// The guest does not read its console, or is gone.
    NotRead,
    /// The time was up.
    TimedOut,
    /// The guest ended meanwhile.
    Ended,
}

impl fmt::Display for SessionError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::NotRead => "the guest does not read its console",
            Self::TimedOut => "the guest's command did not end in time",
            Self::Ended => "the guest ended before its command did",
        })
    }
}

impl core::error::Error for SessionError {}

/// What is known of commands under way.
#[derive(Default)]
struct Progress {
    /// The beginning of a line.
    line: String,
    is_running: bool,
    ended: usize,
    worst: u32,
}

/// What a line was.
#[derive(Debug, PartialEq, Eq)]
enum Heard {
    Nothing,
    Output(String),
}

impl Progress {
    /// Takes a piece of what the guest printed, and passes the commands' output on.
    fn take(&mut self, text: &str, output: &mut impl FnMut(&str)) {
        for piece in text.split_inclusive('\n') {
            self.line.push_str(piece);
            if piece.ends_with('\n')
                && let Heard::Output(line) = self.finish_line()
            {
                output(&line);
            }
        }
    }

    fn finish_line(&mut self) -> Heard {
        let whole = core::mem::take(&mut self.line);
        let line = whole.trim_end_matches(['\r', '\n']);
        if !self.is_running {
            self.is_running = line.starts_with(BEGIN);
            return Heard::Nothing;
        }
        match line.strip_prefix(END).and_then(|status| status.trim().parse::<u32>().ok()) {
            Some(status) => {
                self.is_running = false;
                self.ended += 1;
                self.worst = self.worst.max(status);
                Heard::Nothing
            }
            None => Heard::Output(harmless_lines(line.as_bytes()).concat() + "\n"),
        }
    }
}

/// Has a guest's shell run `command`, several separated by semicolons; passes on what they print line by line, and
/// returns the worst status.
///
/// # Errors
///
/// [`SessionError`].
pub async fn run_command(
    console: &GuestConsole,
    command: &str,
    limit: Duration,
    mut output: impl FnMut(&str),
) -> Result<u32, SessionError> {
    let commands = command.split(';').filter(|command| !command.trim().is_empty()).count();
    let position = console.end();
    console.send(format!("{RUN}{command}\n").as_bytes()).map_err(|_| SessionError::NotRead)?;
    let session = follow(console, position, commands, &mut output);
    timeout(limit, session).await.map_err(|_| SessionError::TimedOut)?
}

async fn follow(
    console: &GuestConsole,
    mut position: u64,
    commands: usize,
    output: &mut impl FnMut(&str),
) -> Result<u32, SessionError> {
    let mut progress = Progress::default();
    loop {
        let fresh = console.since(position);
        position = console.end();
        progress.take(&String::from_utf8_lossy(&fresh), output);
        if progress.ended >= commands {
            return Ok(progress.worst);
        }
        if !console.is_open() {
            return Err(SessionError::Ended);
        }
        console.wait_beyond(position).await;
    }
}

#[cfg(test)]
mod tests {
    use super::super::guest::tests::console;
    use super::*;
    use pv_runtime::executor::testing;

    fn heard(pieces: &[&str]) -> (String, usize, u32) {
        let mut progress = Progress::default();
        let mut output = String::new();
        for piece in pieces {
            progress.take(piece, &mut |line| output.push_str(line));
        }
        (output, progress.ended, progress.worst)
    }

    #[test]
    fn only_what_commands_print_is_passed_on() {
        let text = "guest> @run echo a\r\n@run-begin echo a\r\na\r\n@run-end 0\r\nguest> ";
        assert_eq!(heard(&[text]), ("a\n".into(), 1, 0));
    }

    #[test]
    fn lines_may_come_in_pieces() {
        let text = "@run-begin x\r\nfirst\r\nsecond\r\n@run-end 1\r\n";
        for size in 1..20 {
            let pieces: alloc::vec::Vec<_> =
                text.as_bytes().chunks(size).map(|piece| core::str::from_utf8(piece).unwrap()).collect();
            assert_eq!(heard(&pieces), ("first\nsecond\n".into(), 1, 1), "in pieces of {size}");
        }
    }

    #[test]
    fn the_worst_of_several_counts() {
        let text = "@run-begin a\n@run-end 0\n@run-begin b\n@run-end 3\n@run-begin c\n@run-end 1\n";
        assert_eq!(heard(&[text]), (String::new(), 3, 3));
    }

    #[test]
    fn ends_without_a_beginning_or_a_number_count_for_nothing() {
        assert_eq!(heard(&["@run-end 0\n@run-begin a\n@run-end x\n"]), ("@run-end x\n".into(), 0, 0));
    }

    #[test]
    fn a_guest_that_is_gone_reads_nothing() {
        let outcome = testing::run(async {
            let console = console("gone");
            run_command(&console, "x", Duration::from_secs(1), |_| {}).await
        });
        assert_eq!(outcome, Err(SessionError::NotRead));
    }

    #[test]
    fn a_guest_that_ends_is_told_from_one_that_is_slow() {
        let outcome = testing::run(async {
            let console = console("dying");
            console.print("@run-begin x\nsome\n");
            let mut output = String::new();
            let outcome = follow(&console, 0, 1, &mut |line: &str| output.push_str(line)).await;
            (outcome, output)
        });
        assert_eq!(outcome, (Err(SessionError::Ended), "some\n".into()));
    }
}
