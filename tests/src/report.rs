//! What came of commands that domain 0 executed.

use std::fmt;

use xtask::exec::{ALL_SUCCEEDED, Frames, Line, SOME_FAILED};
use xtask::machine::{Ending, Exit, Running};

/// A command that ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Command {
    /// The command.
    pub line: String,
    /// What it printed.
    pub output: String,
    /// Zero for success.
    pub status: u32,
}

/// What came of a machine with commands.
#[derive(Clone, Debug)]
pub struct Report {
    /// The commands that ended, in order.
    pub commands: Vec<Command>,
    /// How the machine ended.
    pub ending: Ending,
    /// All that was on the console.
    pub console: String,
}

impl Report {
    /// Follows a machine to its end.
    pub(crate) fn follow(running: &mut Running) -> Self {
        let (mut frames, mut commands, mut current) = (Frames::new(), Vec::new(), Command::default());
        let ending = loop {
            match running.next_line().map(|line| frames.next(&line)) {
                Ok(Line::Begin { command, .. }) => current.line = command,
                Ok(Line::Output(text)) => current.output += &(text + "\n"),
                Ok(Line::End { status, output, .. }) => {
                    current.output += &output;
                    current.status = status;
                    commands.push(std::mem::take(&mut current));
                }
                Ok(Line::Machine(_)) => {}
                Err(ending) => break ending,
            }
        };
        Self { commands, ending, console: running.transcript() }
    }

    /// Makes sure that every command succeeded and the machine said so.
    ///
    /// # Panics
    ///
    /// If not.
    #[track_caller]
    pub fn expect_success(&self) -> &Self {
        assert!(self.commands.iter().all(|command| command.status == 0), "a command failed\n{self}");
        assert_eq!(self.ending, Ending::Exited(Exit::Debug(ALL_SUCCEEDED)), "{self}");
        self
    }

    /// Makes sure that some command failed and the machine said so.
    ///
    /// # Panics
    ///
    /// If not.
    #[track_caller]
    pub fn expect_failure(&self) -> &Self {
        assert!(self.commands.iter().any(|command| command.status != 0), "no command failed\n{self}");
        assert_eq!(self.ending, Ending::Exited(Exit::Debug(SOME_FAILED)), "{self}");
        self
    }

    /// What the first command that begins like this printed.
    ///
    /// # Panics
    ///
    /// If none has ended.
    #[track_caller]
    pub fn output(&self, beginning: &str) -> &str {
        &self.command(beginning).output
    }

    /// The first command that begins like this.
    ///
    /// # Panics
    ///
    /// If none has ended.
    #[track_caller]
    pub fn command(&self, beginning: &str) -> &Command {
        let found = self.commands.iter().find(|command| command.line.starts_with(beginning));
        found.unwrap_or_else(|| panic!("no command {beginning:?} ended\n{self}"))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Command { line, output, status } in &self.commands {
            writeln!(f, "--- {line} (status {status})\n{output}")?;
        }
        writeln!(f, "{}\n--- the console ---\n{}", self.ending, self.console)
    }
}
