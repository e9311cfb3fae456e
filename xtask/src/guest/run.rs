//! Running a guest of the user's own: its console on ours, until it or something else ends.

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Write};

use anyhow::{Context, Result};

use super::console::{GuestConsole, PlainLines};
use crate::exec;
use crate::machine::{Ending, Exit, Machine, Running};
use crate::progress;
use crate::run::{BROKEN, COMMAND_FAILED, SUCCESS, TIMED_OUT};

/// How domain 0 begins what it says when its command failed.
const REASON: &str = "error: ";

/// Who types at the guest's console.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// A person at our own terminal.
    Terminal,
    /// Nobody.
    None,
}

impl Input {
    /// A person, if there is a terminal.
    pub fn detect() -> Self {
        if io::stdin().is_terminal() { Self::Terminal } else { Self::None }
    }
}

/// Runs the machine whose domain 0 makes the guest; returns the exit status.
pub fn run(machine: &Machine, input: Input) -> Result<u8> {
    let mut running = match input {
        Input::Terminal => {
            progress::stage("booting; Ctrl-a x ends the machine, Ctrl-a c is QEMU's monitor");
            machine.spawn_at_terminal()?
        }
        Input::None => {
            progress::stage("booting");
            machine.spawn()?
        }
    };
    let shown = show(&mut running, &mut Output::open());
    running.stop();
    let ending = shown.context("cannot write to standard output")?;
    let (status, verdict) = judge(&ending, &running.transcript());
    progress::stage(verdict);
    // On a terminal the last lines are right above.
    if status != SUCCESS && !(io::stdout().is_terminal() && io::stderr().is_terminal()) {
        eprint!("{}", running.context());
    }
    Ok(status)
}

/// Shows what the guest prints until the machine ends.
fn show(running: &mut Running, output: &mut Output) -> io::Result<Ending> {
    let mut console = GuestConsole::default();
    loop {
        match running.next_bytes() {
            Ok(bytes) => output.write(&console.take(&bytes))?,
            Err(ending) => {
                output.write(&console.finish())?;
                return Ok(ending);
            }
        }
    }
}

/// The exit status, and what to say.
fn judge(ending: &Ending, transcript: &str) -> (u8, String) {
    match ending {
        Ending::Exited(Exit::Debug(exec::ALL_SUCCEEDED)) => {
            (SUCCESS, "the guest has switched itself off".to_owned())
        }
        Ending::Exited(Exit::Debug(exec::SOME_FAILED)) => {
            (COMMAND_FAILED, format!("error: {}", reason(transcript)))
        }
        Ending::TimedOut => (TIMED_OUT, format!("error: {ending}")),
        Ending::Exited(Exit::PowerOff) => {
            (BROKEN, "error: the machine was ended before the guest switched itself off".to_owned())
        }
        _ => (BROKEN, format!("error: the machine failed: {ending}")),
    }
}

/// Why domain 0's command failed, in its own words, which are the last it says.
fn reason(transcript: &str) -> &str {
    let last = transcript.rsplit_once(REASON).and_then(|(_, reason)| reason.lines().next());
    last.unwrap_or("the guest failed")
}

/// Standard output.
enum Output {
    /// A terminal. QEMU has made the one that we share with it return at once from a write that would have to wait, so
    /// this is another way to the same.
    Terminal(File),
    /// A file or a pipe.
    Other(PlainLines),
}

impl Output {
    fn open() -> Self {
        let terminal =
            io::stdout().is_terminal().then(|| OpenOptions::new().write(true).open("/proc/self/fd/1"));
        match terminal {
            Some(Ok(terminal)) => Self::Terminal(terminal),
            _ => Self::Other(PlainLines::default()),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Terminal(terminal) => terminal.write_all(bytes),
            Self::Other(lines) => {
                let mut output = io::stdout().lock();
                output.write_all(&lines.take(bytes))?;
                output.flush()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exited(value: u8) -> Ending {
        Ending::Exited(Exit::Debug(value))
    }

    #[test]
    fn only_a_guest_that_switches_itself_off_is_a_success() {
        assert_eq!(judge(&exited(exec::ALL_SUCCEEDED), "").0, SUCCESS);
        assert_eq!(judge(&exited(0x12), "").0, BROKEN);
        assert_eq!(judge(&Ending::TimedOut, ""), (TIMED_OUT, "error: the time was up".to_owned()));
        assert_eq!(judge(&Ending::Exited(Exit::PowerOff), "").0, BROKEN);
        let panicked = judge(&Ending::Panicked("WEIR PANIC at x".to_owned()), "");
        assert_eq!(panicked.0, BROKEN);
        assert!(panicked.1.ends_with("the hypervisor panicked: WEIR PANIC at x"), "{}", panicked.1);
    }

    #[test]
    fn a_failure_is_told_in_domain_0s_words() {
        let transcript = "error: something of the guest\r\n# error: guest crashed\r\n@exec-end 0 1\r\n";
        assert_eq!(
            judge(&exited(exec::SOME_FAILED), transcript),
            (COMMAND_FAILED, "error: guest crashed".to_owned())
        );
        assert_eq!(reason(""), "the guest failed");
    }
}
