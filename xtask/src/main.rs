//! The `cargo xtask` program. All it does is call the library of the same name.

use std::process::ExitCode;

fn main() -> ExitCode {
    xtask::cli::main()
}
