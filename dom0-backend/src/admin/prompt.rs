//! The prompt, and talking to a guest through it.

use alloc::format;
use alloc::rc::Rc;

use hypercall_abi::Errno;
use pv_runtime::console::Console;
use pv_runtime::executor::{Either, select};
use pv_runtime::{print, println};

use super::Admin;
use super::answer::Failure;
use super::completion::{Names, candidates};
use super::editor::{Edited, LONGEST, LineEditor};
use crate::console::GuestConsole;
use crate::toolstack::{Fate, Guest};

/// What shows that a command can be typed.
const PROMPT: &str = "dom0> ";
/// Ctrl-], which leaves a guest's console.
const LEAVE: u8 = 0x1d;
/// Lines that are shown when a guest's console is entered.
const SHOWN: usize = 20;

/// Takes commands from the terminal, for ever.
///
/// # Errors
///
/// If the terminal cannot be read.
pub async fn talk(admin: &Admin) -> Result<(), Errno> {
    let mut editor = LineEditor::new(PROMPT);
    let mut typed = [0; 64];
    print!("{PROMPT}");
    loop {
        let count = Console.read(&mut typed).await?;
        for byte in &typed[..count] {
            match editor.push(*byte) {
                Edited::Show(text) => Console.write(text.as_bytes()),
                Edited::Complete(begun) => {
                    let shown = editor.complete(&candidates(&begun, &admin.names()));
                    Console.write(shown.as_bytes());
                }
                Edited::TooLong(length) => {
                    println!("\nerror: the line has {length} characters; {LONGEST} are the most");
                    print!("{PROMPT}");
                }
                Edited::Line(line) => {
                    println!();
                    admin.run_line(&line).await;
                    print!("{PROMPT}");
                }
            }
        }
    }
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
    console: &'a GuestConsole,
    /// Where what was not shown yet begins.
    position: u64,
    /// The key that ends the talk; without one, only the guest's end does.
    leave: Option<u8>,
}

impl Talk<'_> {
    /// Shows what the guest printed and what was not shown yet.
    fn show(&mut self) {
        Console.write(&self.console.since(self.position));
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
            let printed = self.console.wait_beyond(self.position);
            if let Either::First(count) = select(Console.read(&mut typed), printed).await {
                let bytes = &typed[..count?];
                let leaves = bytes.iter().position(|byte| Some(*byte) == self.leave);
                // What the guest does not read in time is lost, as at any terminal.
                let _ = self.console.send(&bytes[..leaves.unwrap_or(bytes.len())]);
                if leaves.is_some() {
                    println!();
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

    /// Connects the terminal to a guest's console until Ctrl-] is typed or the guest is gone.
    pub(super) async fn attach(&self, console: &GuestConsole) -> Result<(), Failure> {
        announce(console);
        Console.write(&console.last_lines(SHOWN));
        let mut talk = Talk { console, position: console.end(), leave: Some(LEAVE) };
        if let Left::AtTheEnd = talk.go_on().await? {
            println!("\n{} is gone.", console.name());
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
        if self.is_interactive {
            announce(&console);
        }
        let mut talk = Talk { console: &console, position: 0, leave: self.is_interactive.then_some(LEAVE) };
        let fate = match select(talk.go_on(), guest.fate.take()).await {
            Either::First(left) => match left? {
                Left::ByKey => return Ok(None),
                Left::AtTheEnd => guest.fate.take().await,
            },
            Either::Second(fate) => fate,
        };
        talk.show();
        if !console.last_lines(1).ends_with(b"\n") {
            println!();
        }
        Ok(Some(fate))
    }
}

fn announce(console: &GuestConsole) {
    println!("This is {}'s console; Ctrl-] leaves it.", console.name());
}
