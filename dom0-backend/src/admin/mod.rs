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
mod pci;
mod processors;
mod prompt;
mod script;
mod store_quota;
pub(crate) mod store_tree;
mod terminal;
mod top;
pub mod usage;
pub mod words;

use alloc::rc::Rc;

use pv_runtime::BootInfo;

use crate::toolstack::Toolstack;

pub use devices::DeviceReports;
pub use prompt::{read_lines, talk};
pub use script::run_script;
pub use terminal::{MachineConsole, Terminal};

/// What commands work on, and where they are given.
pub struct Admin {
    toolstack: Rc<Toolstack>,
    reports: Rc<dyn DeviceReports>,
    info: &'static BootInfo,
    terminal: Rc<dyn Terminal>,
}

impl Admin {
    /// For who is at a terminal.
    pub fn new(
        toolstack: Rc<Toolstack>,
        reports: Rc<dyn DeviceReports>,
        info: &'static BootInfo,
        terminal: Rc<dyn Terminal>,
    ) -> Self {
        Self { toolstack, reports, info, terminal }
    }

    /// The same for who is at another terminal.
    pub fn at(&self, terminal: Rc<dyn Terminal>) -> Self {
        let (toolstack, reports) = (Rc::clone(&self.toolstack), Rc::clone(&self.reports));
        Self { toolstack, reports, info: self.info, terminal }
    }

    /// What commands work on.
    fn toolstack(&self) -> &Toolstack {
        &self.toolstack
    }
}
