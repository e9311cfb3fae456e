//! What domain 0 prints when it was given commands to run, and how a run ends.
//!
//! Domain 0 writes one line before and one after each command's output:
//!
//! ```text
//! @exec-begin 0 xl list
//! ...the command's output...
//! @exec-end 0 0
//! ```
//!
//! The number counts the commands from zero; the last word of the end line is the command's status, zero for success.
//! After the last command domain 0 writes one byte to the debug-exit port, which ends QEMU: [`ALL_SUCCEEDED`] or
//! [`SOME_FAILED`]. The frames decide only what is shown where; success is told by that byte, which no command's
//! output can imitate.
//!
//! The hypervisor writes to the same line whenever it likes, even into the middle of what domain 0 is writing, and so
//! does domain 0's own log between a command's lines. Their messages are known by how they begin, are taken out, and
//! what they interrupted is joined again. A message that is seen a *second* time is not somebody speaking but a command
//! that shows a log.

use std::collections::HashSet;
use std::mem;

/// The value that domain 0 writes when every command succeeded.
pub const ALL_SUCCEEDED: u8 = 0x10;
/// The value that domain 0 writes when a command failed.
pub const SOME_FAILED: u8 = 0x11;
/// What the hypervisor's last words contain.
pub const PANIC: &str = "WEIR PANIC";

const BEGIN: &str = "@exec-begin ";
const END: &str = "@exec-end ";
/// How messages of a log begin: Weir's, Xen's for comparison, and domain 0's.
const MESSAGES: [&str; 4] = ["(weir) [", "(XEN) ", PANIC, "(dom0) ["];

/// What a line of the console is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// A command begins.
    Begin {
        /// Which command, from zero.
        number: u32,
        /// The command.
        command: String,
    },
    /// Something the current command printed.
    Output(String),
    /// A command ended; `output` is what it printed on this line without finishing it.
    End {
        /// Which command, from zero.
        number: u32,
        /// Zero for success.
        status: u32,
        /// An unfinished last line of output, often empty.
        output: String,
    },
    /// Something the machine said: a message of a log, or domain 0 outside of any command.
    Machine(String),
}

/// Tells commands' output from the rest of the console, line by line.
#[derive(Debug, Default)]
pub struct Frames {
    current: Option<u32>,
    /// The messages so far.
    said: HashSet<String>,
    /// The beginning of a line that a message interrupted.
    interrupted: String,
}

impl Frames {
    /// Before the first command.
    pub fn new() -> Self {
        Self::default()
    }

    /// The command that is running.
    pub fn current(&self) -> Option<u32> {
        self.current
    }

    /// Classifies the next line, given without its line break.
    pub fn next(&mut self, line: &str) -> Line {
        if let Some((before, message)) = self.interruption(line) {
            self.interrupted.push_str(before);
            self.said.insert(message.to_owned());
            return Line::Machine(message.to_owned());
        }
        let mut whole = mem::take(&mut self.interrupted);
        whole.push_str(line);
        match self.current {
            None => self.outside(whole),
            Some(number) => self.inside(number, whole),
        }
    }

    /// Splits a line at a new message.
    fn interruption<'a>(&self, line: &'a str) -> Option<(&'a str, &'a str)> {
        let start = MESSAGES.iter().filter_map(|beginning| line.find(beginning)).min()?;
        let (before, message) = line.split_at(start);
        (!self.said.contains(message)).then_some((before, message))
    }

    fn outside(&mut self, line: String) -> Line {
        let Some((number, command)) = line.strip_prefix(BEGIN).and_then(numbered) else {
            return Line::Machine(line);
        };
        self.current = Some(number);
        Line::Begin { number, command: command.to_owned() }
    }

    fn inside(&mut self, number: u32, line: String) -> Line {
        match end_of(number, &line) {
            Some((output, status)) => {
                self.current = None;
                Line::End { number, status, output: output.to_owned() }
            }
            None => Line::Output(line),
        }
    }
}

/// The output before, and the status in, an end line of command `number`.
fn end_of(number: u32, line: &str) -> Option<(&str, u32)> {
    let (output, end) = line.split_at(line.rfind(END)?);
    let (ended, status) = numbered(&end[END.len()..])?;
    (ended == number).then_some((output, status.parse().ok()?))
}

/// Splits `7 rest` into its number and the rest.
fn numbered(text: &str) -> Option<(u32, &str)> {
    let (number, rest) = text.split_once(' ').unwrap_or((text, ""));
    Some((number.parse().ok()?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lines that a run of `console` would show on standard output.
    fn shown(console: &str) -> Vec<String> {
        let mut frames = Frames::new();
        let mut shown = Vec::new();
        for line in console.lines() {
            match frames.next(line) {
                Line::Output(text) => shown.push(text),
                Line::End { output, .. } if !output.is_empty() => shown.push(output),
                _ => {}
            }
        }
        shown
    }

    #[test]
    fn only_what_commands_print_is_shown() {
        let console = "booting\n@exec-begin 0 xl list\nName ID\nDomain-0 0\n@exec-end 0 0\nnoise\n\
            @exec-begin 1 uptime\n12 s\n@exec-end 1 0\nbye\n";
        assert_eq!(shown(console), ["Name ID", "Domain-0 0", "12 s"]);
    }

    #[test]
    fn begin_and_end_carry_command_and_status() {
        let mut frames = Frames::new();
        assert_eq!(
            frames.next("@exec-begin 3 xl create a b"),
            Line::Begin { number: 3, command: "xl create a b".to_owned() }
        );
        assert_eq!(frames.current(), Some(3));
        assert_eq!(frames.next("@exec-end 3 1"), Line::End { number: 3, status: 1, output: String::new() });
        assert_eq!(frames.current(), None);
    }

    #[test]
    fn output_without_a_last_line_break_is_kept() {
        assert_eq!(shown("@exec-begin 0 echo -n hi\nhi@exec-end 0 0\n"), ["hi"]);
    }

    #[test]
    fn the_hypervisor_may_speak_in_between() {
        let console = "@exec-begin 0 x\na\n(weir) [0001.000000] domain 1 crashed\nb\n@exec-end 0 0\n";
        assert_eq!(shown(console), ["a", "b"]);
    }

    #[test]
    fn domain_0s_log_is_no_commands_output() {
        let console =
            "@exec-begin 0 destroy a\n(dom0) [    0.605433] INFO  toolstack: a is gone\nok\n@exec-end 0 0\n";
        assert_eq!(shown(console), ["ok"]);
    }

    #[test]
    fn the_hypervisor_may_interrupt_a_line() {
        let console = "@exec-be(weir) [0001.000000] one\ngin 0 x\nhel(weir) [0002.000000] two\n\
            (weir) [0003.000000] three\nlo\n@exec-end(weir) [0004.000000] four\n 0 0\n";
        assert_eq!(shown(console), ["hello"]);
    }

    #[test]
    fn a_command_may_show_the_hypervisors_log() {
        let console = "(weir) [0001.000000] one\n(weir) [0002.000000] two\n@exec-begin 0 xl dmesg\n\
            (weir) [0001.000000] one\n(weir) [0003.000000] three\n(weir) [0002.000000] two\n@exec-end 0 0\n";
        assert_eq!(shown(console), ["(weir) [0001.000000] one", "(weir) [0002.000000] two"]);
    }

    #[test]
    fn frames_of_another_number_are_output() {
        assert_eq!(
            shown("@exec-begin 0 x\n@exec-end 1 0\n@exec-begin 5 y\n@exec-end 0 0\n"),
            ["@exec-end 1 0", "@exec-begin 5 y"]
        );
    }

    #[test]
    fn a_malformed_end_is_output() {
        assert_eq!(
            shown("@exec-begin 0 x\n@exec-end 0 zero\n@exec-end\n@exec-end 0 0\n"),
            ["@exec-end 0 zero", "@exec-end"]
        );
    }

    #[test]
    fn an_end_without_a_beginning_is_the_machines() {
        let mut frames = Frames::new();
        assert_eq!(frames.next("@exec-end 0 0"), Line::Machine("@exec-end 0 0".to_owned()));
    }
}
