//! The prompt, and talking to a guest through it.

use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;

use hypercall_abi::Errno;
use pv_runtime::executor::{Either, select};

use super::answer::{Failure, MISUSED, SUCCEEDED};
use super::completion::{Names, candidates};
use super::editor::{Edited, LONGEST, LineEditor};
use super::{Admin, Terminal};
use crate::console::GuestConsole;
use crate::toolstack::{Fate, Guest};

/// What shows that a command can be typed.
const PROMPT: &str = "dom0> ";
/// Ctrl-], which leaves a guest's console.
const LEAVE: u8 = 0x1d;
/// Lines that are shown when a guest's console is entered.
const SHOWN: usize = 20;

/// What ends the talk at a terminal that can be left.
const FAREWELLS: [&str; 2] = ["exit", "logout"];
/// The longest line that is read where there is no screen.
const LONGEST_LINE: usize = 4096;

/// Takes commands that are typed key by key, until the terminal is left or gone; the status of the last of them.
pub async fn talk(admin: &Admin) -> u32 {
    let terminal = &*admin.terminal;
    let mut editor = LineEditor::new(PROMPT);
    let mut typed = [0; 64];
    let mut status = SUCCEEDED;
    terminal.write(PROMPT.as_bytes());
    loop {
        let Ok(count @ 1..) = terminal.read(&mut typed).await else { return status };
        for byte in &typed[..count] {
            match editor.push(*byte) {
                Edited::Show(text) => terminal.write(text.as_bytes()),
                Edited::Complete(begun) => {
                    let shown = editor.complete(&candidates(&begun, &admin.names()));
                    terminal.write(shown.as_bytes());
                }
                Edited::Line(line) if terminal.can_be_left() && FAREWELLS.contains(&line.trim()) => {
                    terminal.write(b"\n");
                    return status;
                }
                Edited::TooLong(length) => {
                    let message = format!("the line has {length} characters; {LONGEST} are the most");
                    terminal.print(format_args!("\nerror: {message}\n{PROMPT}"));
                    status = MISUSED;
                }
                Edited::Line(line) => {
                    terminal.write(b"\n");
                    status = admin.run_line(&line).await;
                    terminal.write(PROMPT.as_bytes());
                }
                Edited::End if terminal.can_be_left() => {
                    terminal.write(b"\n");
                    return status;
                }
                Edited::End => {}
            }
        }
    }
}

/// Takes commands that come as lines, to the end of them; the status of the last of them.
pub async fn read_lines(admin: &Admin) -> u32 {
    let terminal = &*admin.terminal;
    let mut line = Vec::new();
    let mut piece = [0; 64];
    let mut status = SUCCEEDED;
    loop {
        let Ok(count) = terminal.read(&mut piece).await else { return status };
        for byte in &piece[..count] {
            match byte {
                b'\n' => status = run_bytes(admin, &core::mem::take(&mut line)).await,
                _ if line.len() < LONGEST_LINE => line.push(*byte),
                _ => {
                    terminal.print(format_args!("error: a line has more than {LONGEST_LINE} bytes\n"));
                    return MISUSED;
                }
            }
        }
        if count == 0 {
            return if line.is_empty() { status } else { run_bytes(admin, &line).await };
        }
    }
}

async fn run_bytes(admin: &Admin, line: &[u8]) -> u32 {
    admin.run_line(String::from_utf8_lossy(line).trim_end()).await
}

/// Why a console is no longer talked to.
enum Left {
    /// Ctrl-] was typed.
    ByKey,
    /// The guest is gone.
    AtTheEnd,
}

/// The terminal, connected to a guest's console.
struct Talk<'a> {
    terminal: &'a dyn Terminal,
    console: &'a GuestConsole,
    /// Where what was not shown yet begins.
    position: u64,
    /// The key that ends the talk; without one, only the guest's end does.
    leave: Option<u8>,
}

impl Talk<'_> {
    /// Shows what the guest printed and what was not shown yet.
    fn show(&mut self) {
        self.terminal.write(&self.console.since(self.position));
        self.position = self.console.end();
    }

    /// Passes on what is printed and what is typed.
    async fn go_on(&mut self) -> Result<Left, Errno> {
        let mut typed = [0; 64];
        loop {
            self.show();
            if !self.console.is_open() {
                return Ok(Left::AtTheEnd);
            }
            self.terminal.drained().await?;
            let printed = self.console.wait_beyond(self.position);
            if let Either::First(count) = select(self.terminal.read(&mut typed), printed).await {
                let bytes = &typed[..count?];
                let leaves = bytes.iter().position(|byte| Some(*byte) == self.leave);
                // What the guest does not read in time is lost, as at any terminal.
                let _ = self.console.send(&bytes[..leaves.unwrap_or(bytes.len())]);
                if leaves.is_some() || bytes.is_empty() {
                    self.terminal.write(b"\n");
                    return Ok(Left::ByKey);
                }
            }
        }
    }
}

impl Admin {
    /// The names that a line can be completed with.
    fn names(&self) -> Names {
        let toolstack = self.toolstack();
        Names {
            guests: toolstack.guests().iter().map(|guest| guest.name()).collect(),
            files: toolstack.archive().names().map(Into::into).collect(),
        }
    }

    /// Connects the terminal to a guest's console until Ctrl-] is typed, nothing more can be, or the guest is gone.
    pub(super) async fn attach(&self, console: &GuestConsole) -> Result<(), Failure> {
        let terminal = &*self.terminal;
        announce(terminal, console);
        terminal.write(&console.last_lines(SHOWN));
        let mut talk = Talk { terminal, console, position: console.end(), leave: Some(LEAVE) };
        if let Left::AtTheEnd = talk.go_on().await? {
            terminal.print(format_args!("\n{} is gone.\n", console.name()));
        }
        Ok(())
    }

    /// Connects the terminal to the console of a guest that was just made, and of every guest that it is started anew
    /// as, until the last of them has ended. A person may leave it before by Ctrl-].
    ///
    /// # Errors
    ///
    /// That it did not end as it should.
    pub(super) async fn attend(&self, mut guest: Rc<Guest>) -> Result<(), Failure> {
        loop {
            let Some(fate) = self.attend_one(&guest).await? else { return Ok(()) };
            let name = guest.name();
            return match fate {
                Fate::Ended => Ok(()),
                Fate::Crashed(how) => Err(Failure::new("crashed", format!("{name} {how}"))),
                Fate::NotRestarted(error) => {
                    Err(Failure::new("not-restarted", format!("{name} cannot be started anew: {error}")))
                }
                Fate::Destroyed => Err(Failure::new("destroyed", format!("{name} was destroyed"))),
                Fate::Restarted(next) => {
                    guest = next;
                    continue;
                }
            };
        }
    }

    /// The same with one guest; nothing if a person has left it.
    async fn attend_one(&self, guest: &Guest) -> Result<Option<Fate>, Failure> {
        let Some(console) = self.toolstack.consoles().of(guest.domain) else {
            return Ok(Some(guest.fate.take().await));
        };
        let terminal = &*self.terminal;
        if terminal.is_interactive() {
            announce(terminal, &console);
        }
        let leave = terminal.is_interactive().then_some(LEAVE);
        let mut talk = Talk { terminal, console: &console, position: 0, leave };
        let fate = match select(talk.go_on(), guest.fate.take()).await {
            Either::First(left) => match left? {
                Left::ByKey => return Ok(None),
                Left::AtTheEnd => guest.fate.take().await,
            },
            Either::Second(fate) => fate,
        };
        talk.show();
        if !console.last_lines(1).ends_with(b"\n") {
            terminal.write(b"\n");
        }
        Ok(Some(fate))
    }
}

fn announce(terminal: &dyn Terminal, console: &GuestConsole) {
    terminal.print(format_args!("This is {}'s console; Ctrl-] leaves it.\n", console.name()));
}
