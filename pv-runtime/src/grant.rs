//! Grants: letting another domain at a page, and getting at the pages of others.
//!
//! Giving is writing an entry into a table shared with the hypervisor ([`grant_access`]); the other domain
//! then names the entry. Getting is one of three: mapping ([`map`], for rings), a device's address
//! ([`map_device`], for payload that a device moves), and copying by the hypervisor ([`CopyBatch`], for other
//! payload).

mod copy;
mod counters;
mod error;
mod mapping;
mod table;

pub use copy::{CopyBatch, CopyEnd};
pub use counters::{GrantCounters, grant_counters};
pub use error::GrantError;
pub use mapping::{DeviceBatch, DeviceMapping, GrantMapping, map, map_device, map_pages};
pub use table::{Grant, grant_access, grants_in_use};

/// What a grant allows, or what is wanted of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GrantAccess {
    /// Reading only.
    ReadOnly,
    /// Reading and writing.
    ReadWrite,
}
