//! Commands that the machine was started with: run one after the other, then the machine ends.
//!
//! Before and after each a line tells which one, and how it ended, so that whoever started the machine can tell
//! their output from all else on the console:
//!
//! ```text
//! @exec-begin 0 list
//! ...the command's output...
//! @exec-end 0 0
//! ```
//!
//! The machine ends through the debug-exit port, with a value that says whether all went well.

use core::time::Duration;

use pv_runtime::executor::sleep;
use pv_runtime::power::{Shutdown, shutdown};
use pv_runtime::println;

use super::Admin;
use super::machine_exit;

/// How long the machine may take to end.
const EXIT_TIME: Duration = Duration::from_secs(2);
/// All commands succeeded.
const ALL_SUCCEEDED: u8 = 0x10;
/// A command failed.
const SOME_FAILED: u8 = 0x11;

/// Runs the commands of a script, a line each, and ends the machine.
pub async fn run_script(admin: &Admin, script: &str) {
    let mut value = ALL_SUCCEEDED;
    for (number, command) in commands(script).enumerate() {
        admin.terminal.print(format_args!("@exec-begin {number} {command}\n"));
        let status = admin.run_line(command).await;
        admin.terminal.print(format_args!("@exec-end {number} {status}\n"));
        if status != 0 {
            value = SOME_FAILED;
        }
    }
    machine_exit::exit(value);
    sleep(EXIT_TIME).await;
    println!("there is no debug-exit port: switching the machine off");
    shutdown(Shutdown::PowerOff)
}

/// The lines that are commands.
fn commands(script: &str) -> impl Iterator<Item = &str> {
    script.lines().map(str::trim).filter(|line| !line.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    #[test]
    fn every_line_with_something_on_it_is_a_command() {
        assert_eq!(commands("list\n\n  info \r\n").collect::<Vec<_>>(), ["list", "info"]);
    }
}
