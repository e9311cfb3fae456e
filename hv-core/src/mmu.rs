//! The memory-management hypercalls: changing page-table entries, switching address spaces, flushing.
//!
//! Each opens one [`TableSession`] on the domain whose tables it works on, and does a batch in it. A batch stops
//! at an error, or when its budget is spent; then the arguments are moved on past what is done and the guest
//! executes the same call again, which is how long batches and large trees leave room for interrupts.

mod batch;
mod extended;
mod party;
mod root;
mod update;
mod va_mapping;

#[cfg(test)]
mod tests;

pub use extended::mmuext_op;
pub use root::{install_root, release_vcpu};
pub use update::mmu_update;
pub use va_mapping::{update_va_mapping, update_va_mapping_otherdomain};

#[cfg(doc)]
use crate::page_table::TableSession;

/// Work of one hypercall, in page-table entries looked at; with it a hypercall stays well under a tenth of a
/// millisecond.
const BUDGET: u32 = 8192;
