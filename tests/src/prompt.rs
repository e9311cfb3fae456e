//! Domain 0's prompt, where a test types like an administrator.

use std::thread;
use std::time::{Duration, Instant};

use xtask::machine::{Exit, Machine, Running};
use xtask::scratch::Scratch;

use crate::ledger::domains;

/// What shows that a command can be typed.
const PROMPT: &str = "dom0> ";
/// The key that leaves a guest's console, and what is said about it when one is entered.
pub const LEAVE: &str = "\x1d";
const LEAVING_KEY_IS: &str = "Ctrl-] leaves it.";
/// How messages of domain 0's log begin.
const DOM0_LOG: &str = "(dom0) [";
/// How long a command may take unless told otherwise.
const LIMIT: Duration = Duration::from_secs(60);
/// How long a guest may take to end, and how often is looked whether it has.
const END_LIMIT: Duration = Duration::from_secs(180);
const PAUSE: Duration = Duration::from_millis(200);

/// A machine at whose console can be typed. It ends with this value.
pub struct Prompt {
    running: Running,
    /// Holds what the machine boots from, if that is its own.
    _files: Option<Scratch>,
}

impl Prompt {
    /// Starts a machine that boots from `files`, or from what others keep, and waits for the prompt.
    ///
    /// # Panics
    ///
    /// If there is none in time.
    pub fn start(machine: &Machine, files: Option<Scratch>) -> Self {
        let running = machine.spawn().unwrap_or_else(|error| panic!("{error:#}"));
        let mut prompt = Self { running, _files: files };
        prompt.wait_for(PROMPT);
        prompt
    }

    /// Types a command; what it printed, which is what came until the next prompt, less domain 0's own log.
    ///
    /// # Panics
    ///
    /// If there is no next prompt in time.
    #[track_caller]
    pub fn run(&mut self, command: &str) -> String {
        self.run_within(command, LIMIT)
    }

    /// Types a command that may take so long; what it printed.
    ///
    /// # Panics
    ///
    /// If there is no next prompt in time.
    #[track_caller]
    pub fn run_within(&mut self, command: &str, limit: Duration) -> String {
        self.type_line(command);
        self.wait_for("\n");
        let printed =
            self.running.wait_for(PROMPT, limit).unwrap_or_else(|error| panic!("{command}: {error}"));
        without_log(printed.strip_suffix(PROMPT).unwrap_or(&printed))
    }

    /// Types a command that is expected to succeed.
    ///
    /// # Panics
    ///
    /// If it printed an error.
    #[track_caller]
    pub fn succeed(&mut self, command: &str) -> String {
        let printed = self.run(command);
        assert!(!printed.lines().any(|line| line.starts_with("error: ")), "{command}: {printed}");
        printed
    }

    /// Enters a guest's console, waits for a text there, and leaves again; the line that begins with the text.
    ///
    /// # Panics
    ///
    /// If it does not come in time.
    #[track_caller]
    pub fn hear(&mut self, guest: &str, text: &str) -> String {
        self.hear_within(guest, text, LIMIT)
    }

    /// Enters a guest's console, waits so long for a text there, and leaves again; the line that begins with the text.
    ///
    /// # Panics
    ///
    /// If it does not come in time.
    #[track_caller]
    pub fn hear_within(&mut self, guest: &str, text: &str, limit: Duration) -> String {
        self.type_line(&format!("console {guest}"));
        self.wait_for(LEAVING_KEY_IS);
        self.running.wait_for(text, limit).unwrap_or_else(|error| panic!("{error}"));
        let line = text.to_owned() + self.wait_for("\n").trim_end();
        self.press(LEAVE);
        self.wait_for(PROMPT);
        line
    }

    /// Waits for a guest to be gone, however it ends. Domain 0's log says so too, but at a moment that may have passed.
    ///
    /// # Panics
    ///
    /// If it is still there when the time is up.
    #[track_caller]
    pub fn wait_until_gone(&mut self, guest: &str) {
        self.wait_until_gone_within(guest, END_LIMIT);
    }

    /// Waits for a guest, which may take so long, to be gone.
    ///
    /// # Panics
    ///
    /// If it is still there when the time is up.
    #[track_caller]
    #[expect(clippy::disallowed_methods, reason = "nothing tells of the end but the list")]
    pub fn wait_until_gone_within(&mut self, guest: &str, limit: Duration) {
        let begun = Instant::now();
        loop {
            let list = self.succeed("list");
            if domains(&list).iter().all(|(_, name)| name != guest) {
                return;
            }
            assert!(begun.elapsed() < limit, "{guest} is still there:\n{list}");
            thread::sleep(PAUSE);
        }
    }

    /// Types a line, with the key that ends it.
    ///
    /// # Panics
    ///
    /// If the machine has ended.
    #[track_caller]
    pub fn type_line(&mut self, line: &str) {
        self.running
            .send_line(line)
            .unwrap_or_else(|error| panic!("{line:?}: {error:#}\n{}", self.running.context()));
    }

    /// Types these keys.
    ///
    /// # Panics
    ///
    /// If the machine has ended.
    #[track_caller]
    pub fn press(&mut self, keys: &str) {
        self.running.send(keys.as_bytes()).unwrap_or_else(|error| panic!("{keys:?}: {error:#}"));
    }

    /// Waits for a text on the console; all that came before it, and it.
    ///
    /// # Panics
    ///
    /// If it does not come in time.
    #[track_caller]
    pub fn wait_for(&mut self, text: &str) -> String {
        self.running.wait_for(text, LIMIT).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Waits for the machine to end by itself.
    ///
    /// # Panics
    ///
    /// If it does not in time.
    #[track_caller]
    pub fn wait_for_end(&mut self) -> Exit {
        self.running.wait().unwrap_or_else(|error| panic!("{error}"))
    }

    /// All that was on the console.
    pub fn console(&self) -> String {
        self.running.transcript()
    }
}

/// The lines of a text that are no messages of domain 0's log.
fn without_log(text: &str) -> String {
    let lines = text.split_inclusive('\n').filter(|line| !line.starts_with(DOM0_LOG));
    lines.collect::<String>().replace('\r', "")
}
