//! What the integration tests are told with: machines to boot, a place to type, peers to talk to.
//!
//! A test describes a machine, starts it, and says what it expects to see. Every machine has a time limit and ends
//! with the value that holds it.

pub mod kernel;
pub mod pattern;
pub mod program;

pub use kernel::Kernel;
