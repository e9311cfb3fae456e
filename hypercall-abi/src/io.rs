//! The headers under `public/io`: what front ends and back ends say to each other.
//!
//! The hypervisor knows none of this. It moves grants and events; everything here is agreed between two
//! domains, in pages they share and in keys they write to the store. So each type is something the *peer*
//! may have written: copy it out of shared memory first, and believe no field before checking it.
//!
//! Padding is spelled out as fields, so that a value is exactly its bytes and reading or writing a slot
//! needs no `unsafe`. Write zero there and ignore what comes in. Fields whose C name is a Rust keyword are
//! renamed, and say so.

pub mod blkif;
pub mod console;
pub mod netif;
pub mod pciif;
pub mod protocols;
pub mod ring;
pub mod xenbus;
pub mod xs_wire;
