//! What the integration tests are told with: machines to boot, a place to type, peers to talk to.
//!
//! A test describes a machine, starts it, and says what it expects to see. Three kinds of machine:
//!
//! - [`Kernel`]: one kernel as the control domain, nothing else;
//! - [`Dom0`] with commands to execute: their outputs and the end are what counts, a [`Report`];
//! - [`Dom0`] with its [`Prompt`]: the test types, and meanwhile talks to guests from outside.
//!
//! Every machine has a time limit and ends with the value that holds it. The only network is this computer's own
//! loopback; [`service`] has the peers. Tests that fail panic with what was on the console.

pub mod call;
pub mod dom0;
pub mod kernel;
pub mod ledger;
pub mod pattern;
pub mod program;
pub mod prompt;
pub mod qemu_control;
pub mod remote;
pub mod report;
pub mod service;
pub mod stock;
pub mod wire;

pub use dom0::Dom0;
pub use kernel::Kernel;
pub use ledger::Ledger;
pub use prompt::Prompt;
pub use qemu_control::QemuControl;
pub use report::Report;
pub use stock::Stock;
