#![cfg_attr(target_os = "none", no_std)]
//! The Weir hypervisor.
//!
//! Four ideas carry everything here. *Frames have types*: a machine frame is writable memory, or a page table,
//! or a descriptor table, never two of these at once ([`frame`], [`page_table`]). *Domains talk by invitation*:
//! an event channel or a grant reference is the only way to reach another domain ([`event_channel`],
//! [`grant_table`]). *Guests run in ring 3* and enter through one door, [`hypercall`], or through an exception.
//! *The hypervisor is never preempted*: it runs with interrupts off on one stack per CPU, does a bounded piece
//! of work, and goes back to a guest or to sleep.
//!
//! All logic builds and is tested on the host; [`arch`] is the only door to privileged instructions.

pub mod arch;
pub mod boot_info;
pub mod calendar;
pub mod command_line;
pub mod console;
pub mod counters;
pub mod cpu;
pub mod cpu_bitmap;
pub mod cpuid;
pub mod debug_registers;
pub mod descriptor;
pub mod direct_map;
pub mod dom0_builder;
pub mod domain;
pub mod domctl;
pub mod emulate;
pub mod event_channel;
pub mod extended_state;
pub mod firmware;
pub mod flush_requests;
pub mod frame;
pub mod frame_allocator;
pub mod frame_object;
pub mod grant_table;
pub mod guest_access;
pub mod guest_control;
pub mod hypercall;
pub mod hypercall_page;
pub mod indexed_heap;
pub mod interrupt;
pub mod io_rights;
pub mod layout;
pub mod lifecycle;
pub mod lock;
pub mod machine;
pub mod memory_op;
pub mod mmu;
pub mod multicall;
pub mod own_registers;
pub mod page_table;
pub mod pci_config;
pub mod physdev;
pub mod platform_op;
pub mod run_state;
pub mod sched_op;
pub mod scheduler;
pub mod sysctl;
#[cfg(test)]
mod test_support;
pub mod time;
pub mod time_scale;
pub mod trap;
pub mod trap_table;
pub mod vcpu;
pub mod vcpu_context;
pub mod vcpu_op;
pub mod version;
