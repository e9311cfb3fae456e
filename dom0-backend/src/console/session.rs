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

use alloc::collections::VecDeque;
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

/// What is known of commands under way. The guest may be busy with commands of others before.
struct Progress {
    /// The beginning of a line.
    line: String,
    /// Commands that have not ended.
    left: VecDeque<String>,
    is_running: bool,
    worst: u32,
}

/// What a line was.
#[derive(Debug, PartialEq, Eq)]
enum Heard {
    Nothing,
    Output(String),
}

impl Progress {
    /// Nothing is known yet of `commands`, which are separated by semicolons.
    fn new(commands: &str) -> Self {
        let commands = commands.split(';').map(str::trim).filter(|command| !command.is_empty());
        Self { line: String::new(), left: commands.map(String::from).collect(), is_running: false, worst: 0 }
    }

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
            self.is_running = line.strip_prefix(BEGIN).is_some_and(|command| self.is_next(command));
            return Heard::Nothing;
        }
        match line.strip_prefix(END).and_then(|status| status.trim().parse::<u32>().ok()) {
            Some(status) => {
                self.is_running = false;
                self.left.pop_front();
                self.worst = self.worst.max(status);
                Heard::Nothing
            }
            None => Heard::Output(harmless_lines(line.as_bytes()).concat() + "\n"),
        }
    }

    fn is_next(&self, command: &str) -> bool {
        self.left.front().is_some_and(|next| next == command.trim())
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
    let position = console.end();
    console.send(format!("{RUN}{command}\n").as_bytes()).map_err(|_| SessionError::NotRead)?;
    let session = follow(console, position, Progress::new(command), &mut output);
    timeout(limit, session).await.map_err(|_| SessionError::TimedOut)?
}

async fn follow(
    console: &GuestConsole,
    mut position: u64,
    mut progress: Progress,
    output: &mut impl FnMut(&str),
) -> Result<u32, SessionError> {
    loop {
        let fresh = console.since(position);
        position = console.end();
        progress.take(&String::from_utf8_lossy(&fresh), output);
        if progress.left.is_empty() {
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

    /// What was printed, how many commands are left, and the worst status.
    fn heard(commands: &str, pieces: &[&str]) -> (String, usize, u32) {
        let mut progress = Progress::new(commands);
        let mut output = String::new();
        for piece in pieces {
            progress.take(piece, &mut |line| output.push_str(line));
        }
        (output, progress.left.len(), progress.worst)
    }

    #[test]
    fn only_what_commands_print_is_passed_on() {
        let text = "guest> @run echo a\r\n@run-begin echo a\r\na\r\n@run-end 0\r\nguest> ";
        assert_eq!(heard("echo a", &[text]), ("a\n".into(), 0, 0));
    }

    #[test]
    fn lines_may_come_in_pieces() {
        let text = "@run-begin x\r\nfirst\r\nsecond\r\n@run-end 1\r\n";
        for size in 1..20 {
            let pieces: alloc::vec::Vec<_> =
                text.as_bytes().chunks(size).map(|piece| core::str::from_utf8(piece).unwrap()).collect();
            assert_eq!(heard("x", &pieces), ("first\nsecond\n".into(), 0, 1), "in pieces of {size}");
        }
    }

    #[test]
    fn the_worst_of_several_counts() {
        let text = "@run-begin a\n@run-end 0\n@run-begin b\n@run-end 3\n@run-begin c\n@run-end 1\n";
        assert_eq!(heard("a; b;c", &[text]), (String::new(), 0, 3));
    }

    #[test]
    fn commands_that_the_guest_was_busy_with_are_not_ours() {
        let text = "script\n@run-end 1\n@run-begin other\nx\n@run-end 1\n@run-begin ours\ny\n@run-end 0\n";
        assert_eq!(heard("ours", &[text]), ("y\n".into(), 0, 0));
    }

    #[test]
    fn ends_without_a_beginning_or_a_number_count_for_nothing() {
        assert_eq!(heard("a", &["@run-end 0\n@run-begin a\n@run-end x\n"]), ("@run-end x\n".into(), 1, 0));
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
            let outcome =
                follow(&console, 0, Progress::new("x"), &mut |line: &str| output.push_str(line)).await;
            (outcome, output)
        });
        assert_eq!(outcome, (Err(SessionError::Ended), "some\n".into()));
    }
}
