//! The administrator's side: commands, typed at dom0's prompt or given in the boot archive.
//!
//! [`command`] says what a line means, [`editor`] how it is typed, [`output`] how answers look; all of that is
//! pure. `execute` does it. A command prints, and ends with a status that is zero for success.

pub mod command;
mod devices;
pub mod editor;
mod execute;
mod machine_exit;
pub mod output;
mod prompt;
mod script;
mod store_tree;
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
}
