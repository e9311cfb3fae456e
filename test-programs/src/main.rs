#![no_std]
#![no_main]
//! `trial NAME`: one thing that a processor must do for a user program of Linux, tried.
//!
//! Each trial says what it found on standard output and ends with status 0 if that is right; a wrong outcome panics. The
//! program is linked with nothing and talks to the kernel by system calls, so what is tried is the processor as kernel and
//! hypervisor present it, and nothing a library makes of it.

extern crate alloc;

mod bases;
mod clock;
mod heap;
mod local_table;
mod ports;
mod process;
mod stepping;
mod system;
mod thirty_two;
mod time_stamp;
mod vectors;
mod watching;

use core::panic::PanicInfo;

use system::{Arguments, exit};

/// A trial: takes the words after its name.
type Trial = fn(&Arguments);

/// The trials by name.
const TRIALS: [(&str, Trial); 11] = [
    ("bases", bases::kept_apart),
    ("clock", clock::agrees),
    ("ldt", local_table::segments),
    ("ldt-code", local_table::code),
    ("ports", ports::by_right),
    ("step", stepping::counts),
    ("thirty-two", thirty_two::calls),
    ("time-stamp", time_stamp::can_be_denied),
    ("vectors", vectors::kept_apart),
    ("watch", watching::data),
    ("watch-code", watching::code),
];

/// Where the program begins, with what the kernel put on the stack.
pub(crate) fn main(arguments: &Arguments) -> i32 {
    let wanted = arguments.text(1);
    match TRIALS.iter().find(|(name, _)| Some(*name) == wanted) {
        Some((name, trial)) => {
            trial(arguments);
            say!("{name}: good");
            0
        }
        None => {
            say!("trials: {:?}", TRIALS.map(|(name, _)| name));
            2
        }
    }
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    say!("trial failed: {info}");
    exit(1)
}
