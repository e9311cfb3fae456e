//! Weir in QEMU, seen from outside: one module a topic, one test a promise.
//!
//! `cargo xtask test` builds what is booted here and names it in the environment.

mod administration;
mod assignment;
mod bad_disks;
mod bench;
mod boot;
mod disc;
mod disk;
mod execution;
mod guests;
mod isolation;
mod linux;
mod network;
mod nonsense;
mod nvme;
mod own_kernel;
mod peer;
mod processors;
mod prompt;
mod remote;
mod scheduling;
mod toolstack;
mod trials;
mod tutorial;
