//! The administrator's side: commands, typed at dom0's prompt or given in the boot archive.
//!
//! [`parse`] says which [`command`] a line means, [`editor`] how it is typed, [`usage`] what can be; all of that is
//! pure. `execute` does it. What comes of it is an [`answer`]: text for people, one line of JSON for programs, and a
//! status that is zero for success, 1 for failure, 2 for a line that is no command.

pub mod answer;
pub mod arguments;
pub mod command;
mod completion;
mod devices;
mod drill;
pub mod editor;
mod execute;
mod listing;
mod machine_exit;
pub mod output;
pub mod parse;
mod prompt;
mod script;
pub(crate) mod store_tree;
mod top;
pub mod usage;
pub mod words;

use alloc::boxed::Box;
use alloc::rc::Rc;

use pv_runtime::BootInfo;

use crate::toolstack::Toolstack;

pub use devices::DeviceReports;
pub use prompt::talk;
pub use script::run_script;

/// What commands work on.
pub struct Admin {
    toolstack: Rc<Toolstack>,
    reports: Box<dyn DeviceReports>,
    info: &'static BootInfo,
    /// Whether a person is at the terminal, so that a command may take it over.
    is_interactive: bool,
}

impl Admin {
    /// For a person at the terminal, or for a script.
    pub fn new(
        toolstack: Rc<Toolstack>,
        reports: Box<dyn DeviceReports>,
        info: &'static BootInfo,
        is_interactive: bool,
    ) -> Self {
        Self { toolstack, reports, info, is_interactive }
    }

    /// What commands work on.
    fn toolstack(&self) -> &Toolstack {
        &self.toolstack
    }
}
