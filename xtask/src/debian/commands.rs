//! Commands that root runs in a Debian guest while nobody is at its console.
//!
//! They travel on a small disk of their own, as a script that puts lines before and behind each of them just as domain 0
//! does (see [`exec`]). All that is typed at the guest's console is a login and the name of that disk.

use std::io::Write;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::exec::{self, Frames, Line};
use crate::machine::{ConsoleError, Ending, Exit, Machine, Running};
use crate::progress;
use crate::run::{BROKEN, COMMAND_FAILED, SUCCESS, TIMED_OUT};

/// What a disk's size is a multiple of.
const SECTOR: usize = 512;
/// How long the guest may take to ask for a login, and root's shell for a command. The machine's own time limit is
/// the one that counts.
const PATIENCE: Duration = Duration::from_secs(24 * 60 * 60);

/// How the script begins. The login comes before the network is up, which commands had better find; and the shell that
/// is logged in to may leave something at the line's beginning.
const PREPARATION: &str = "exec 2>&1
tries=0
until ip route | grep -q '^default' || [ $tries -ge 120 ]; do tries=$((tries + 1)); sleep 0.5; done
echo
";
/// And how it ends.
const END: &str = "poweroff\nexit\n";

/// The content of the disk with the commands.
pub fn disk(commands: &[String]) -> Result<Vec<u8>> {
    let mut script = PREPARATION.to_owned();
    // The number 0 is that of domain 0's command, around all of these.
    for (number, command) in (1..).zip(commands) {
        ensure!(!command.contains(['\n', '\r']), "a command must be one line: {command:?}");
        ensure!(!command.trim().is_empty(), "an empty command cannot be run");
        let shown = command.replace('\'', "'\\''");
        // The command ends with a line of its own, so that a comment in it ends there.
        script +=
            &format!("echo '@exec-begin {number} {shown}'\n({command}\n)\necho \"@exec-end {number} $?\"\n");
    }
    script += END;
    let mut bytes = script.into_bytes();
    bytes.resize(bytes.len().next_multiple_of(SECTOR), b'\n');
    Ok(bytes)
}

/// Runs the machine, and in its guest the commands on the disk that is called `disk` there; the exit status.
pub fn run(machine: &Machine, disk: &str, count: usize, verbose: bool) -> Result<u8> {
    progress::stage(format_args!("booting Debian; commands to run: {count}"));
    let mut running = machine.spawn()?;
    let mut session = Session { verbose, ..Session::default() };
    let ending = match log_in(&mut running, disk)? {
        Ok(()) => session.follow(&mut running)?,
        Err(error) => error.ending,
    };
    let status = session.judge(&ending, count);
    if matches!(status, BROKEN | TIMED_OUT) {
        let ended = session.ended;
        progress::stage(format_args!("error: {ending} ({ended} of {count} commands had ended)"));
        eprint!("{}", running.context());
    }
    Ok(status)
}

/// Logs in as root and has the shell read the disk.
fn log_in(running: &mut Running, disk: &str) -> Result<Result<(), ConsoleError>> {
    for (wanted, typed) in [("login: ", "root"), ("# ", &format!("exec sh /dev/{disk}"))] {
        if let Err(error) = running.wait_for(wanted, PATIENCE) {
            return Ok(Err(error));
        }
        running.send_line(typed)?;
    }
    Ok(Ok(()))
}

/// What is known of the commands.
#[derive(Debug, Default)]
struct Session {
    /// What domain 0 prints: all of it belongs to its one command, which makes the guest.
    machine: Frames,
    /// What the guest prints.
    guest: Frames,
    verbose: bool,
    ended: usize,
    failed: usize,
}

impl Session {
    fn follow(&mut self, running: &mut Running) -> Result<Ending> {
        // Domain 0's first line has passed already.
        self.machine.next("@exec-begin 0");
        loop {
            match running.next_line() {
                Ok(line) => {
                    self.take(&line, &mut std::io::stdout()).context("cannot write to standard output")?
                }
                Err(ending) => return Ok(ending),
            }
        }
    }

    fn take(&mut self, line: &str, output: &mut impl Write) -> std::io::Result<()> {
        if self.verbose {
            eprintln!("| {line}");
        }
        let Line::Output(line) = self.machine.next(line) else { return Ok(()) };
        match self.guest.next(&line) {
            Line::Output(text) => writeln!(output, "{text}"),
            Line::End { number, status, output: last } => {
                self.ended += 1;
                if status != 0 {
                    self.failed += 1;
                    progress::stage(format_args!("command {number} failed with status {status}"));
                }
                if last.is_empty() { Ok(()) } else { writeln!(output, "{last}") }
            }
            Line::Begin { .. } | Line::Machine(_) => Ok(()),
        }
    }

    fn judge(&self, ending: &Ending, count: usize) -> u8 {
        match ending {
            Ending::Exited(Exit::Debug(exec::ALL_SUCCEEDED)) if self.ended == count => match self.failed {
                0 => SUCCESS,
                _ => COMMAND_FAILED,
            },
            Ending::TimedOut => TIMED_OUT,
            _ => BROKEN,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    fn commands(lines: &[&str]) -> Vec<String> {
        lines.iter().map(|line| (*line).to_owned()).collect()
    }

    /// What a run of these lines shows, and its session.
    fn shown(console: &str) -> (String, Session) {
        let (mut session, mut output) = (Session::default(), Vec::new());
        for line in console.lines() {
            session.take(line, &mut output).unwrap();
        }
        (String::from_utf8(output).unwrap(), session)
    }

    #[test]
    fn the_disk_is_a_script_that_a_shell_reads() {
        let bytes = disk(&commands(&["echo \"it's\" # all", "exit 3", "printf x"])).unwrap();
        assert_eq!(bytes.len() % SECTOR, 0);
        let script = String::from_utf8(bytes).unwrap();
        let script = script.strip_prefix(PREPARATION).unwrap().replace(END, "exec 2>&1");
        let printed = Command::new("sh").args(["-c", &script]).output().unwrap();
        assert_eq!(
            String::from_utf8(printed.stdout).unwrap(),
            "@exec-begin 1 echo \"it's\" # all\nit's\n@exec-end 1 0\n@exec-begin 2 exit 3\n@exec-end 2 3\n\
             @exec-begin 3 printf x\nx@exec-end 3 0\n"
        );
    }

    #[test]
    fn commands_of_no_or_two_lines_are_refused() {
        assert!(disk(&commands(&["a\nb"])).is_err());
        assert!(disk(&commands(&[" "])).is_err());
    }

    #[test]
    fn only_what_commands_print_is_shown() {
        let (output, session) = shown(
            "@exec-begin 0 create -c guest\nroot@debian:~# exec sh /dev/xvdb\n@exec-begin 1 uname\nLinux\n\
             @exec-end 1 0\n@exec-begin 2 false\n@exec-end 2 1\nPowering off\n@exec-end 0 0\n",
        );
        assert_eq!((output.as_str(), session.ended, session.failed), ("Linux\n", 2, 1));
        let good = Ending::Exited(Exit::Debug(exec::ALL_SUCCEEDED));
        assert_eq!(session.judge(&good, 2), COMMAND_FAILED);
        assert_eq!(session.judge(&good, 3), BROKEN);
        assert_eq!(session.judge(&Ending::Exited(Exit::Debug(exec::SOME_FAILED)), 2), BROKEN);
    }
}
