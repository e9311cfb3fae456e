//! The programs under test, which `cargo xtask test` builds and names in the environment, and where files can be put.

use std::path::PathBuf;

use xtask::build::{Images, path_in};
use xtask::scratch::Scratch;

/// A program or directory by the environment variable that names it.
///
/// # Panics
///
/// If the variable is not set.
pub fn path(variable: &str) -> PathBuf {
    path_in(variable).unwrap_or_else(|error| panic!("{error}"))
}

/// A program's content.
///
/// # Panics
///
/// If it cannot be read.
pub fn content(variable: &str) -> Vec<u8> {
    let path = path(variable);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The hypervisor and the kernels of domain 0 and of guests.
///
/// # Panics
///
/// If they are not named in the environment.
pub fn images() -> Images {
    Images::from_environment().unwrap_or_else(|error| panic!("{error}"))
}

/// A directory for a test's own files; gone when the value is.
///
/// # Panics
///
/// If it cannot be made.
pub fn scratch() -> Scratch {
    Scratch::create(&path("WEIR_WORK"), "test").unwrap_or_else(|error| panic!("{error:#}"))
}

/// Processors of machines for which a test says nothing else: `cargo xtask test --cpus` says so.
///
/// # Panics
///
/// If the environment has something else than a number.
pub fn processors() -> u32 {
    match std::env::var(xtask::test::PROCESSORS) {
        Ok(number) => {
            number.parse().unwrap_or_else(|_| panic!("{}={number} is no number", xtask::test::PROCESSORS))
        }
        Err(_) => 1,
    }
}
