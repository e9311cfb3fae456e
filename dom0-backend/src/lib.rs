#![cfg_attr(not(test), no_std)]
//! The initial domain's kernel: the drivers, the back ends, the store, the toolstack and the admin commands.

extern crate alloc;

pub mod backend;
pub mod block;
pub mod driver;
pub mod store;
