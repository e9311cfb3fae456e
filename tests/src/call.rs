//! Calls of `cargo xtask`, as a person or a script makes them.

use std::path::Path;
use std::process::{Command, Output};

use xtask::toolchain::cargo;

/// `cargo xtask run`, up to its options.
pub fn run() -> Command {
    let mut run = xtask();
    run.arg("run");
    run
}

/// `cargo xtask`, up to the name of what it is to do.
pub fn xtask() -> Command {
    let mut xtask = Command::new(cargo());
    xtask.args(["run", "--quiet", "--package", "xtask", "--"]);
    xtask.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")));
    xtask
}

/// The exit status.
///
/// # Panics
///
/// If a signal ended it.
#[track_caller]
pub fn status(output: &Output) -> i32 {
    output.status.code().unwrap_or_else(|| panic!("{output:?}"))
}

/// What was printed.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
