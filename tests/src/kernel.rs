//! A machine in which one kernel is the control domain: what Weir alone is tested with.

use std::fs;
use std::time::Duration;

use xtask::boot::DEBUG_EXIT;
use xtask::bundle::bundle;
use xtask::machine::{Ending, Exit, Machine, Running};
use xtask::scratch::Scratch;

use crate::program;

/// How long such a machine may run.
const LIMIT: Duration = Duration::from_secs(60);

/// A machine with one kernel, in the making.
pub struct Kernel {
    machine: Machine,
    /// Holds what the machine boots from.
    scratch: Scratch,
}

impl Kernel {
    /// Weir with these modules, the first of which is the control domain's kernel.
    pub fn with_modules(modules: &[&[u8]]) -> Self {
        let scratch = program::scratch();
        let path = scratch.join("bundle");
        fs::write(&path, bundle(modules)).expect("the scratch directory takes files");
        let machine = Machine::with_kernel(program::path("WEIR_IMAGE"));
        let machine = machine.module(&path).command_line(DEBUG_EXIT).time_limit(LIMIT);
        Self { machine: machine.processors(program::processors()), scratch }
    }

    /// Weir with the kernel that checks from within that the hypervisor keeps its promises.
    pub fn selftest() -> Self {
        Self::with_modules(&[&program::content("WEIR_SELFTEST")])
    }

    /// Changes the machine.
    #[must_use]
    pub fn with(self, change: impl FnOnce(Machine) -> Machine) -> Self {
        Self { machine: change(self.machine), scratch: self.scratch }
    }

    /// What Weir is told in addition, and after ` -- ` what the kernel is told.
    #[must_use]
    pub fn words(self, words: &str) -> Self {
        self.with(|machine| machine.command_line(format!("{DEBUG_EXIT} {words}")))
    }

    /// Runs the machine to its end.
    pub fn run(self) -> Outcome {
        let mut running = self.machine.spawn().unwrap_or_else(|error| panic!("{error:#}"));
        Outcome::of(&mut running)
    }
}

/// What a machine printed, and how it ended.
#[derive(Debug, PartialEq, Eq)]
pub struct Outcome {
    /// What it printed.
    pub console: String,
    /// What there was to be told of its end.
    pub ending: Ending,
    /// How QEMU ended, even after last words.
    pub exit: Exit,
}

impl Outcome {
    /// Follows a machine to its end.
    pub fn of(running: &mut Running) -> Self {
        let ending = match running.wait() {
            Ok(exit) => Ending::Exited(exit),
            Err(error) => error.ending,
        };
        Self { console: running.transcript(), ending, exit: running.end() }
    }

    /// The first line with a text in it.
    ///
    /// # Panics
    ///
    /// If there is none.
    pub fn line_with(&self, text: &str) -> &str {
        let found = self.console.lines().find(|line| line.contains(text));
        found.unwrap_or_else(|| panic!("no line has {text:?}; {}\n{}", self.ending, self.console))
    }
}

/// Takes the notes out of a kernel, so that it looks like one that was built without paravirtual support.
///
/// # Panics
///
/// If the file is no 64-bit ELF file with a note.
pub fn remove_notes(kernel: &mut [u8]) {
    const NOTE: u32 = 4;
    let number = |bytes: &[u8], at: usize, size: usize| {
        let mut word = [0; 8];
        word[..size].copy_from_slice(&bytes[at..at + size]);
        u64::from_le_bytes(word) as usize
    };
    let (table, size, count) = (number(kernel, 32, 8), number(kernel, 54, 2), number(kernel, 56, 2));
    let headers = (0..count).map(|index| table + index * size);
    let notes: Vec<_> = headers.filter(|header| number(kernel, *header, 4) == NOTE as usize).collect();
    assert!(!notes.is_empty(), "the kernel has no notes to begin with");
    for header in notes {
        // A program header of type zero stands for nothing.
        kernel[header..header + 4].fill(0);
    }
}
