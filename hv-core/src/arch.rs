//! The machine: everything that needs privileged instructions.
//!
//! The rest of the hypervisor calls this module by names that mean the same on the host, where a double stands
//! in, so that all logic above it is tested without a machine.

#[cfg(target_os = "none")]
mod x86_64 {
    pub mod boot;
    pub mod cache;
    pub mod clock;
    pub mod cpu;
    pub mod descriptor_tables;
    pub mod entry;
    pub mod fpu;
    pub mod guest_memory;
    pub mod io_apic;
    pub mod local_apic;
    pub mod msi;
    pub mod own_registers;
    pub mod paging;
    pub mod port;
    pub mod power;
    pub mod secondary;
    pub mod serial;
    pub mod start;
    pub mod switch;
    pub mod tlb;
}

#[cfg(target_os = "none")]
pub use x86_64::{
    cache, clock, cpu,
    fpu::{
        apply_task_switched, components as kept_components, mxcsr_mask, restore as fpu_restore,
        switch_to as fpu_switch_to,
    },
    guest_memory, io_apic, local_apic, msi,
    own_registers::{available_control4, load as load_own_registers, take_debug_status},
    paging::machine_to_physical_extent,
    port, power, serial,
    start::{cpuid, physical_address_bits as machine_address_bits},
    switch::{
        enter_kernel_mode, enter_user_mode, fault_address, forget, load_descriptor_tables, load_page_tables,
        load_segment_bases, load_user_gs, set_fs_base, set_kernel_gs_base, store_segment_bases,
        store_selectors,
    },
    tlb,
};

#[cfg(not(target_os = "none"))]
mod host;

#[cfg(not(target_os = "none"))]
pub use host::*;
