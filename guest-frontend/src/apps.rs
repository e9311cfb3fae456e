//! What the guest does: commands, from the kernel's command line or typed at the console.
//!
//! A command is a line of words. It prints what a person or a test can compare (lengths, hashes, times), and
//! ends well or with a [`Failure`]. [`command`] knows the words, [`machine`] what there is to work on, and each
//! workload has its own module.

pub mod command;
mod control;
mod disk;
mod echo;
mod failure;
mod hash;
mod http;
mod information;
pub mod line;
pub mod machine;
mod memory;
pub mod pattern;
mod shell;
mod stopwatch;
mod tcp;

pub use control::obey_toolstack;
pub use echo::serve_echo;
pub use failure::Failure;
pub use shell::{interact, run_script};
