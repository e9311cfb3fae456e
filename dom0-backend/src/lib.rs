#![cfg_attr(not(test), no_std)]
//! The initial domain's kernel: the drivers, the back ends, the store, the toolstack and the admin commands.

extern crate alloc;

pub mod admin;
pub mod archive;
pub mod backend;
pub mod bench;
pub mod block;
pub mod config_file;
pub mod console;
pub mod file_system;
#[cfg(target_os = "none")]
pub mod machine;
pub mod net;
pub mod pci;
#[cfg(target_os = "none")]
mod random;
pub mod remote;
pub mod store;
pub mod store_service;
pub mod toolstack;
