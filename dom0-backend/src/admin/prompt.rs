//! The prompt, and talking to a guest through it.

use hypercall_abi::Errno;
use pv_runtime::console::Console;
use pv_runtime::executor::{Either, select};
use pv_runtime::{print, println};

use super::Admin;
use super::editor::{Edited, LineEditor};
use super::execute::Failure;
use crate::console::GuestConsole;

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
                Edited::Line(line) => {
                    println!();
                    admin.run_line(&line).await;
                    print!("{PROMPT}");
                }
            }
        }
    }
}

impl Admin {
    /// Connects the terminal to a guest's console until Ctrl-] is typed or the guest is gone.
    pub(super) async fn attach(&self, console: &GuestConsole) -> Result<(), Failure> {
        println!("This is {}'s console; Ctrl-] leaves it.", console.name());
        Console.write(&console.last_lines(SHOWN));
        let mut position = console.end();
        let mut typed = [0; 64];
        loop {
            Console.write(&console.since(position));
            position = console.end();
            if !console.is_open() {
                println!("\n{} is gone.", console.name());
                return Ok(());
            }
            match select(Console.read(&mut typed), console.wait_beyond(position)).await {
                Either::First(count) => {
                    let bytes = &typed[..count?];
                    let leaves = bytes.iter().position(|byte| *byte == LEAVE);
                    // What the guest does not read in time is lost, as at any terminal.
                    let _ = console.send(&bytes[..leaves.unwrap_or(bytes.len())]);
                    if leaves.is_some() {
                        println!();
                        return Ok(());
                    }
                }
                Either::Second(()) => {}
            }
        }
    }
}
