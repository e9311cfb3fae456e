//! The tutorial, `docs/tutorial.md`: its own commands, run as they stand there.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tests::call::text;
use tests::ledger::domains;
use tests::program;
use xtask::debian::Debian;
use xtask::machine::Running;
use xtask::remote;
use xtask::workspace::Workspace;

/// How long a block of commands may take, in seconds, and how long the machine may run.
const BLOCK_LIMIT: &str = "600";
const MACHINE_LIMIT: u32 = 2400;
/// How long a guest may take to do something, its start included.
const GUEST_LIMIT: Duration = Duration::from_secs(900);
const PAUSE: Duration = Duration::from_secs(2);
/// What one does at the machine itself, and what from elsewhere.
const RUN: &str = "cargo xtask run";
const CTL: &str = "cargo xtask ctl";

/// The fenced blocks of a page: the language of each, and its text.
fn blocks(page: &str) -> Vec<(String, String)> {
    let mut blocks = Vec::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        if let Some(language) = line.strip_prefix("```") {
            let text: Vec<_> = lines.by_ref().take_while(|line| *line != "```").collect();
            blocks.push((language.to_owned(), text.join("\n")));
        }
    }
    blocks
}

/// A shell at the root of the workspace, that is given these commands.
fn shell(commands: &str) -> Command {
    let mut shell = Command::new("timeout");
    shell.args([BLOCK_LIMIT, "sh", "-eu", "-c", commands]);
    shell.current_dir(Workspace::locate().root());
    shell
}

/// Runs a block that is expected to succeed; what it printed.
#[track_caller]
fn succeed(commands: &str) -> String {
    let output = shell(commands).stdin(Stdio::null()).output().expect("there is a shell");
    assert!(output.status.success(), "{commands}\n{}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

/// The machine, which is gone with this value.
struct Machine(Child);

impl Drop for Machine {
    fn drop(&mut self) {
        // An error means that it has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_tutorials_commands_do_what_it_says() {
    let workspace = Workspace::locate();
    // It takes a mirror of Debian, and minutes: not unasked for.
    if !Debian::of(&workspace).disk.is_file() && std::env::var_os("CI").is_none() {
        eprintln!("skipped: there is no small Debian yet; `cargo xtask setup --debian` makes one");
        return;
    }
    let scratch = program::scratch();
    let port = remote::free_port().expect("a port is free");
    let page = fs::read_to_string(workspace.root().join("docs/tutorial.md")).expect("there is the page");
    let mut machine = None;
    for (language, block) in blocks(&page) {
        // A directory and a port of the test's own: a reader's own tutorial stays as it is.
        let block = block.replace("work/tutorial", &scratch.path().display().to_string());
        let block = block.replace(CTL, &format!("{CTL} --port {port}"));
        match language.as_str() {
            "sh" if block.contains(RUN) => machine = Some(start(&block, port, scratch.path())),
            "sh" => drop(succeed(&block)),
            _ => block.lines().for_each(|line| type_in_guest(line, port)),
        }
    }
    let mut machine = machine.expect("the page starts a machine");
    assert!(machine.0.wait().expect("it ends").success());
}

/// Starts the machine, and waits until its guests are there.
#[expect(clippy::disallowed_methods, reason = "nothing tells of the guests but the list")]
fn start(block: &str, port: u16, directory: &Path) -> Machine {
    let command = format!("exec {block} --ssh-port {port} --timeout {MACHINE_LIMIT}");
    let log = fs::File::create(directory.join("console")).expect("a file can be made");
    let mut shell = Command::new("sh");
    shell.args(["-c", &command]).current_dir(Workspace::locate().root());
    shell.stdin(Stdio::piped()).stdout(log.try_clone().expect("a file has two names")).stderr(log);
    let mut machine = Machine(shell.spawn().expect("there is a shell"));
    let begun = Instant::now();
    loop {
        let list = shell_output(&format!("{CTL} --port {port} -- list"));
        if ["web", "db"].iter().all(|guest| domains(&list).iter().any(|(_, name)| name == guest)) {
            return machine;
        }
        let console = || fs::read_to_string(directory.join("console")).unwrap_or_default();
        assert!(begun.elapsed() < GUEST_LIMIT, "{}", console());
        assert!(matches!(machine.0.try_wait(), Ok(None)), "{}", console());
        thread::sleep(PAUSE);
    }
}

/// What commands print, whether or not they succeed.
fn shell_output(commands: &str) -> String {
    text(&shell(commands).stdin(Stdio::null()).output().expect("there is a shell").stdout)
}

/// Logs in at a guest's console, types what stands behind its name, and waits for its success.
fn type_in_guest(line: &str, port: u16) {
    let (guest, command) = line.split_once("# ").unwrap_or_else(|| panic!("{line:?} is for no guest"));
    let mut client = Command::new("sh");
    client.args(["-c", &format!("exec {CTL} --port {port} -- console {guest}")]);
    client.current_dir(Workspace::locate().root());
    client.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut console = Running::new(client.spawn().expect("there is a shell"), Some(GUEST_LIMIT));
    let wait = |console: &mut Running, pattern: &str| {
        console.wait_for(pattern, GUEST_LIMIT).unwrap_or_else(|error| panic!("{line}: {error}"))
    };
    wait(&mut console, "Ctrl-] leaves it.");
    wait(&mut console, "login: ");
    console.send(b"root\r").expect("it is read");
    wait(&mut console, "# ");
    console.send(format!("{command}; echo ended: $?.\r").as_bytes()).expect("it is read");
    wait(&mut console, "ended: 0.");
    // The next one finds a login again.
    console.send(b"exit\r").expect("it is read");
    wait(&mut console, "login: ");
    console.send(b"\x1d").expect("it is read");
    console.wait().unwrap_or_else(|error| panic!("{line}: {error}"));
}

#[test]
fn blocks_are_found_with_their_language() {
    let page = "a\n```sh\none\ntwo\n```\nb\n```text\nthree\n```\n";
    let expected = [("sh", "one\ntwo"), ("text", "three")];
    assert_eq!(blocks(page), expected.map(|(language, text)| (language.to_owned(), text.to_owned())));
}
