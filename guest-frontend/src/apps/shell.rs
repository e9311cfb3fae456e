//! Commands one after the other: from a script on the command line, or typed at the console.

use core::time::Duration;

use pv_runtime::console::Console;
use pv_runtime::executor::{now, sleep};
use pv_runtime::power::{Shutdown, shutdown};
use pv_runtime::{print, println};

use super::command::{Command, HELP};
use super::failure::Failure;
use super::line::{Line, Typed};
use super::machine::Machine;
use super::{disk, echo, http, information, memory, tcp};
use crate::bench;

/// What shows that a command can be typed.
const PROMPT: &str = "guest> ";

/// What a typed line begins with to be run as a script.
const SCRIPTED: &str = "@run ";

/// Runs commands separated by semicolons. Before and after each, a line says so: `@run-begin COMMAND`, and
/// `@run-end` with 0 if it went well, 1 if not.
pub async fn run_script(machine: &Machine, script: &str) {
    for line in script.split(';').map(str::trim).filter(|line| !line.is_empty()) {
        println!("@run-begin {line}");
        let outcome = run_line(machine, line).await;
        println!("@run-end {}", u8::from(outcome.is_err()));
    }
}

/// Reads commands from the console and runs them, for ever.
pub async fn interact(machine: &Machine) {
    let mut line = Line::default();
    let mut bytes = [0; 64];
    print!("{PROMPT}");
    while let Ok(count) = Console.read(&mut bytes).await {
        for byte in &bytes[..count] {
            match line.push(*byte) {
                Typed::Nothing => {}
                Typed::Echo(text) => print!("{text}"),
                Typed::EchoCharacter(character) => print!("{character}"),
                Typed::GivenUp => print!("\n{PROMPT}"),
                Typed::Line(text) => {
                    println!();
                    run_typed(machine, &text).await;
                    print!("{PROMPT}");
                }
            }
        }
    }
}

/// Runs what was typed. Behind the word `@run` it is a script, so that dom0 can type commands and tell how they went.
async fn run_typed(machine: &Machine, line: &str) {
    match line.strip_prefix(SCRIPTED) {
        Some(script) => run_script(machine, script).await,
        // The outcome is on the screen.
        None => drop(run_line(machine, line).await),
    }
}

/// Runs one command, and prints why it failed if it did.
async fn run_line(machine: &Machine, line: &str) -> Result<(), Failure> {
    let outcome = match Command::parse(line) {
        Ok(Some(command)) => run(machine, command).await,
        Ok(None) => Ok(()),
        Err(failure) => Err(failure),
    };
    if let Err(failure) = &outcome {
        println!("error: {failure}");
    }
    outcome
}

async fn run(machine: &Machine, command: Command) -> Result<(), Failure> {
    match command {
        Command::Help => println!("{HELP}"),
        Command::Info => information::print(machine),
        Command::EchoServer(port) => echo::serve_echo(machine.network()?, port),
        Command::HttpGet(url) => http::get(machine.network()?, &url).await?,
        Command::TcpSend(transfer) => tcp::send(machine.network()?, transfer).await?,
        Command::TcpReceive(transfer) => tcp::receive(machine.network()?, transfer).await?,
        Command::DiskWrite { seed, extent } => disk::write(&machine.disk(extent.disk)?, seed, extent).await?,
        Command::DiskRead(extent) => disk::print(&machine.disk(extent.disk)?, extent).await?,
        Command::DiskHash(extent) => disk::hash(&machine.disk(extent.disk)?, extent).await?,
        Command::Bench(benchmark) => bench::run(machine, benchmark).await?,
        Command::HoldMemory { seconds, seed } => memory::hold(Duration::from_secs(seconds), seed).await?,
        Command::Sleep(seconds) => sleep(Duration::from_secs(seconds)).await,
        Command::Spin(seconds) => spin(Duration::from_secs(seconds)),
        Command::Shutdown => shutdown(Shutdown::PowerOff),
        Command::Reboot => shutdown(Shutdown::Reboot),
        Command::Crash => shutdown(Shutdown::Crash),
    }
    Ok(())
}

/// Keeps the virtual CPU busy: whoever else wants this domain to do something waits.
fn spin(time: Duration) {
    let end = now() + time;
    while now() < end {
        core::hint::spin_loop();
    }
}
