//! A running virtual machine whose console is captured.
//!
//! One thread copies QEMU's output into a channel, another collects what QEMU itself complains about. The owner keeps
//! everything the machine ever printed and a mark up to which it was looked at; waiting moves the mark. Every wait has
//! an end: its own time limit, the machine's, the machine's end, or the hypervisor's last words. A machine that is
//! dropped is killed.

use std::fmt;
use std::io::{self, Read, Write};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::Exit;
use crate::exec::PANIC;

/// How many of the console's last lines an error shows: enough for a kernel's last words with its registers and stack.
const SHOWN_LINES: usize = 60;
/// How often to look whether a machine has ended where there is nothing to wait on.
const POLL_EVERY: Duration = Duration::from_millis(20);
/// How long the hypervisor's last words may take to arrive in full.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Why a machine stopped, or was stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It ended by itself.
    Exited(Exit),
    /// Its time was up.
    TimedOut,
    /// The hypervisor found its own state broken; its words.
    Panicked(String),
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(exit) => write!(f, "{exit}"),
            Self::TimedOut => write!(f, "the time was up"),
            Self::Panicked(words) => write!(f, "the hypervisor panicked: {words}"),
        }
    }
}

/// What was waited for did not come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsoleError {
    /// What was waited for.
    pub wanted: String,
    /// What came instead.
    pub ending: Ending,
    /// The console's last lines, and what QEMU itself complained about.
    pub context: String,
}

impl fmt::Display for ConsoleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "waited for {}, but {}\n{}", self.wanted, self.ending, self.context)
    }
}

impl std::error::Error for ConsoleError {}

/// A running machine. It is killed when dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
    input: Option<ChildStdin>,
    output: Receiver<Vec<u8>>,
    complaints: Arc<Mutex<String>>,
    transcript: Vec<u8>,
    /// Everything before this position in the transcript has been looked at.
    seen: usize,
    /// The hypervisor's last words, once it has spoken them.
    panic: Option<String>,
    deadline: Option<Instant>,
}

impl Running {
    /// Takes over a child whose standard streams are pipes, as far as it has them: QEMU, or what starts it.
    pub fn new(mut child: Child, time_limit: Option<Duration>) -> Self {
        let (sender, output) = mpsc::channel();
        if let Some(console) = child.stdout.take() {
            thread::spawn(move || pump(console, |bytes| sender.send(bytes.to_vec()).is_ok()));
        }
        let complaints = Arc::new(Mutex::new(String::new()));
        if let Some(errors) = child.stderr.take() {
            let collected = Arc::clone(&complaints);
            thread::spawn(move || pump(errors, |bytes| collect(&collected, bytes)));
        }
        let input = child.stdin.take();
        let deadline = time_limit.map(|limit| Instant::now() + limit);
        Self { child, input, output, complaints, transcript: Vec::new(), seen: 0, panic: None, deadline }
    }

    /// QEMU's process number.
    pub fn process_id(&self) -> u32 {
        self.child.id()
    }

    /// Everything the machine has printed so far, as far as it has been waited for.
    pub fn transcript(&self) -> String {
        String::from_utf8_lossy(&self.transcript).into_owned()
    }

    /// What QEMU itself has complained about so far.
    pub fn complaints(&self) -> String {
        self.complaints.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Types a line on the machine's console, with the key that ends it.
    pub fn send_line(&mut self, line: &str) -> Result<()> {
        self.send(format!("{line}\r").as_bytes())
    }

    /// Types these bytes on the machine's console.
    pub fn send(&mut self, bytes: &[u8]) -> Result<()> {
        let input = self.input.as_mut().context("the machine has no console input")?;
        input
            .write_all(bytes)
            .and_then(|()| input.flush())
            .context("the machine does not take input any more")
    }

    /// Waits until the machine prints `pattern`; returns all up to and including it that was not yet looked at.
    pub fn wait_for(&mut self, pattern: &str, limit: Duration) -> Result<String, ConsoleError> {
        let deadline = self.capped(Instant::now() + limit);
        let mut from = self.seen;
        loop {
            if let Some(position) = find(&self.transcript[from..], pattern.as_bytes()) {
                return Ok(self.take(from + position + pattern.len()));
            }
            from = self.transcript.len().saturating_sub(pattern.len()).max(self.seen);
            if let Err(ending) = self.more(Some(deadline)) {
                return Err(self.error(format!("{pattern:?}"), ending));
            }
        }
    }

    /// The machine's next complete line without its line break; when all were returned, how the machine ended.
    pub fn next_line(&mut self) -> Result<String, Ending> {
        let mut from = self.seen;
        loop {
            if let Some(position) = find(&self.transcript[from..], b"\n") {
                let line = self.take(from + position + 1);
                return Ok(line.trim_end_matches(['\r', '\n']).to_owned());
            }
            from = self.transcript.len();
            match self.more(self.deadline) {
                Ok(()) => {}
                // Lines may have come with the end, and the last may lack its line break.
                Err(_) if self.transcript.len() > from => {}
                Err(Ending::Exited(_)) if self.seen < self.transcript.len() => {
                    return Ok(self.take(self.transcript.len()));
                }
                Err(ending) => return Err(ending),
            }
        }
    }

    /// What the machine printed and was not yet looked at, as soon as there is something; when all was returned, how the
    /// machine ended.
    pub fn next_bytes(&mut self) -> Result<Vec<u8>, Ending> {
        while self.seen == self.transcript.len() {
            let more = self.more(self.deadline);
            // Something may have come with the end.
            if self.seen == self.transcript.len() {
                more?;
            }
        }
        let fresh = self.transcript[self.seen..].to_vec();
        self.seen = self.transcript.len();
        Ok(fresh)
    }

    /// Waits for the machine's end, at most until its time limit; its further output goes to the transcript.
    pub fn wait(&mut self) -> Result<Exit, ConsoleError> {
        loop {
            self.seen = self.transcript.len();
            match self.more(self.deadline) {
                Ok(()) => {}
                Err(Ending::Exited(exit)) => return Ok(exit),
                Err(ending) => return Err(self.error("the machine's end".to_owned(), ending)),
            }
        }
    }

    /// Ends the machine as if its power failed. Ending it twice does no harm.
    pub fn kill(&mut self) {
        // An error means that it has already ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Asks QEMU to end, which gives a terminal back as it was found; ends it if it does not.
    pub fn stop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // Where there is no such program, there is only the hard way.
            let _ = Command::new("kill").arg(self.child.id().to_string()).stderr(Stdio::null()).status();
        }
        self.end();
    }

    /// How the machine ended, which after its last words may be about to happen; ends it if it does not by itself.
    pub fn end(&mut self) -> Exit {
        let ended = wait_until(&mut self.child, Some(Instant::now() + LAST_WORDS));
        if !matches!(ended, Ok(Some(_))) {
            self.kill();
        }
        self.exit()
    }

    /// The console's last lines and QEMU's complaints, for a message.
    pub fn context(&self) -> String {
        let transcript = self.transcript();
        let lines: Vec<_> = transcript.lines().collect();
        let last = &lines[lines.len().saturating_sub(SHOWN_LINES)..];
        let mut text = format!("--- the console's last {} lines ---\n{}\n", last.len(), last.join("\n"));
        let complaints = self.complaints();
        if !complaints.is_empty() {
            text += &format!("--- QEMU says ---\n{complaints}");
        }
        text
    }

    fn error(&self, wanted: String, ending: Ending) -> ConsoleError {
        ConsoleError { wanted, ending, context: self.context() }
    }

    fn take(&mut self, end: usize) -> String {
        let taken = String::from_utf8_lossy(&self.transcript[self.seen..end]).into_owned();
        self.seen = end;
        taken
    }

    fn capped(&self, deadline: Instant) -> Instant {
        self.deadline.map_or(deadline, |limit| limit.min(deadline))
    }

    /// Waits for more output; an error tells why none will come.
    fn more(&mut self, deadline: Option<Instant>) -> Result<(), Ending> {
        if let Some(words) = &self.panic {
            return Err(Ending::Panicked(words.clone()));
        }
        match receive(&self.output, deadline) {
            Ok(bytes) => self.accept(&bytes),
            Err(RecvTimeoutError::Timeout) => Err(Ending::TimedOut),
            Err(RecvTimeoutError::Disconnected) => Err(Ending::Exited(self.exit())),
        }
    }

    fn accept(&mut self, bytes: &[u8]) -> Result<(), Ending> {
        let from = self.transcript.len().saturating_sub(PANIC.len());
        self.transcript.extend_from_slice(bytes);
        if find(&self.transcript[from..], PANIC.as_bytes()).is_none() {
            return Ok(());
        }
        let until = Instant::now() + LAST_WORDS;
        while let Ok(bytes) = receive(&self.output, Some(until)) {
            self.transcript.extend_from_slice(&bytes);
        }
        let words = self.last_words();
        self.panic = Some(words.clone());
        Err(Ending::Panicked(words))
    }

    fn last_words(&self) -> String {
        let transcript = self.transcript();
        let line = transcript.lines().find(|line| line.contains(PANIC));
        line.unwrap_or(PANIC).trim().to_owned()
    }

    fn exit(&mut self) -> Exit {
        // Waiting for our own child fails only if somebody else already did.
        self.child.wait().map_or(Exit::Failure(-1), Exit::from)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Waits for a machine that has our terminal, at most until its time limit.
pub(super) fn wait_on_terminal(mut child: Child, time_limit: Option<Duration>) -> Result<Ending> {
    let deadline = time_limit.map(|limit| Instant::now() + limit);
    if let Some(status) = wait_until(&mut child, deadline)? {
        return Ok(Ending::Exited(Exit::from(status)));
    }
    child.kill()?;
    child.wait()?;
    Ok(Ending::TimedOut)
}

/// Waits for a child's end until a moment, if there is one.
#[expect(
    clippy::disallowed_methods,
    reason = "the standard library has no wait for a child with a time limit"
)]
fn wait_until(child: &mut Child, deadline: Option<Instant>) -> io::Result<Option<ExitStatus>> {
    loop {
        let ended = child.try_wait()?;
        if ended.is_some() || deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            return Ok(ended);
        }
        thread::sleep(POLL_EVERY);
    }
}

fn receive(output: &Receiver<Vec<u8>>, deadline: Option<Instant>) -> Result<Vec<u8>, RecvTimeoutError> {
    match deadline {
        Some(deadline) => output.recv_timeout(deadline.saturating_duration_since(Instant::now())),
        None => output.recv().map_err(|_| RecvTimeoutError::Disconnected),
    }
}

/// Passes everything `source` yields to `sink`, until either is done.
fn pump(mut source: impl Read, mut sink: impl FnMut(&[u8]) -> bool) {
    let mut buffer = [0; 4096];
    while let Ok(length @ 1..) = source.read(&mut buffer) {
        if !sink(&buffer[..length]) {
            return;
        }
    }
}

fn collect(into: &Mutex<String>, bytes: &[u8]) -> bool {
    into.lock().unwrap_or_else(PoisonError::into_inner).push_str(&String::from_utf8_lossy(bytes));
    true
}

fn find(text: &[u8], pattern: &[u8]) -> Option<usize> {
    text.windows(pattern.len().max(1)).position(|window| window == pattern)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    /// A shell script in the machine's place: the same pipes, no QEMU.
    fn start(script: &str, time_limit: Option<Duration>) -> Running {
        let mut shell = Command::new("sh");
        shell.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Running::new(shell.spawn().unwrap(), time_limit)
    }

    #[test]
    fn waiting_returns_what_came_before_and_moves_on() {
        let mut machine = start("printf 'one two'; printf ' three> '; exec sleep 60", None);
        assert_eq!(machine.wait_for("two", SOON).unwrap(), "one two");
        assert_eq!(machine.wait_for("> ", SOON).unwrap(), " three> ");
    }

    #[test]
    fn a_pattern_that_arrives_in_pieces_is_found() {
        let mut machine = start("printf 'do'; sleep 0.2; printf 'm0'; exec sleep 60", None);
        assert_eq!(machine.wait_for("dom0", SOON).unwrap(), "dom0");
    }

    #[test]
    fn a_line_can_be_typed() {
        let mut machine = start("read -r line; echo \"got $line\"", None);
        machine.send(b"hello\n").unwrap();
        assert_eq!(machine.wait_for("got hello", SOON).unwrap(), "got hello");
    }

    #[test]
    fn the_time_limit_ends_every_wait() {
        let mut machine = start("exec sleep 60", Some(Duration::from_millis(100)));
        assert_eq!(machine.wait_for("never", SOON).unwrap_err().ending, Ending::TimedOut);
        assert_eq!(machine.next_line().unwrap_err(), Ending::TimedOut);
        assert_eq!(machine.wait().unwrap_err().ending, Ending::TimedOut);
    }

    #[test]
    fn an_end_while_waiting_is_told_with_the_last_lines() {
        let mut machine = start("echo last; echo oops >&2; exit 35", None);
        let error = machine.wait_for("never", SOON).unwrap_err();
        assert_eq!(error.ending, Ending::Exited(Exit::Debug(0x11)));
        assert!(error.to_string().contains("last"), "{error}");
    }

    #[test]
    fn a_panic_is_recognised_with_what_follows() {
        let mut machine =
            start("echo fine; echo 'WEIR PANIC at frame.rs:7'; echo stack; exec sleep 60", None);
        let error = machine.wait_for("never", SOON).unwrap_err();
        assert_eq!(error.ending, Ending::Panicked("WEIR PANIC at frame.rs:7".to_owned()));
        assert!(error.context.contains("stack"));
    }

    #[test]
    fn a_machine_that_ended_after_its_last_words_keeps_its_status() {
        let mut machine = start("echo 'WEIR PANIC: no module'; exit 37", None);
        assert_eq!(machine.wait().unwrap_err().ending, Ending::Panicked("WEIR PANIC: no module".to_owned()));
        assert_eq!(machine.end(), Exit::Debug(0x12));
        assert_eq!(start("exec sleep 60", None).end(), Exit::Signal(9));
    }

    #[test]
    fn lines_around_a_panic_are_not_lost() {
        let mut machine = start("printf '@exec-begin 0 x\\nWEIR PANIC\\nstack\\n'; exec sleep 60", None);
        for line in ["@exec-begin 0 x", "WEIR PANIC", "stack"] {
            assert_eq!(machine.next_line().unwrap(), line);
        }
        assert_eq!(machine.next_line().unwrap_err(), Ending::Panicked("WEIR PANIC".to_owned()));
    }

    #[test]
    fn lines_come_without_their_breaks_and_the_last_may_have_none() {
        let mut machine = start("printf 'a\\r\\nb\\nrest'; exit 33", None);
        assert_eq!(machine.next_line().unwrap(), "a");
        assert_eq!(machine.next_line().unwrap(), "b");
        assert_eq!(machine.next_line().unwrap(), "rest");
        assert_eq!(machine.next_line().unwrap_err(), Ending::Exited(Exit::Debug(0x10)));
        assert_eq!(machine.wait().unwrap(), Exit::Debug(0x10));
    }

    #[test]
    fn bytes_come_as_soon_as_they_are_there() {
        let mut machine = start("printf 'login: '; read -r name; printf \"$name WEIR PANIC\"; exit 33", None);
        assert_eq!(machine.next_bytes().unwrap(), b"login: ");
        machine.send(b"root\n").unwrap();
        let mut rest = Vec::new();
        let ending = loop {
            match machine.next_bytes() {
                Ok(bytes) => rest.extend(bytes),
                Err(ending) => break ending,
            }
        };
        assert_eq!(rest, b"root WEIR PANIC");
        assert!(matches!(ending, Ending::Panicked(_)), "{ending}");
    }

    #[test]
    fn a_machine_that_is_asked_to_stop_may_tidy_up() {
        let mut machine = start("trap 'echo tidy; exit 0' TERM; echo up; while :; do sleep 0.05; done", None);
        machine.wait_for("up", SOON).unwrap();
        machine.stop();
        machine.wait_for("tidy", SOON).unwrap();
    }

    #[test]
    fn a_dropped_machine_is_gone() {
        let machine = start("exec sleep 60", None);
        let entry = format!("/proc/{}", machine.process_id());
        assert!(std::path::Path::new(&entry).exists());
        drop(machine);
        assert!(!std::path::Path::new(&entry).exists());
    }

    #[test]
    fn what_qemu_complains_about_is_kept() {
        let mut machine = start("echo 'vtd: fault' >&2; sleep 0.1; exit 1", None);
        assert_eq!(machine.wait().unwrap(), Exit::Failure(1));
        assert!(machine.complaints().contains("vtd: fault"));
    }
}
