#![no_std]
#![forbid(unsafe_code)]
//! Xen's public ABI for x86-64 paravirtual guests, as numbers and layouts.
//!
//! One module per public header; names follow the headers (`EVTCHNOP_send` is
//! [`event_channel::EVTCHNOP_SEND`], `struct evtchn_send` is [`event_channel::EvtchnSend`]), so a reader who
//! knows Xen needs no dictionary. There is hardly any logic here: a type says what lies where, nothing says
//! what to do with it. Offsets and sizes are asserted while compiling.
//!
//! Two habits of the headers are translated throughout. A guest handle (a pointer into the caller's memory)
//! is a plain `u64` virtual address: holding one proves nothing until the hypervisor has checked it. A C
//! union is either an integer wide enough for all its arms with accessors that name them, or an opaque
//! payload beside one structure per arm. Offsets into shared structures come from [`core::mem::offset_of!`]
//! on the public fields.

#[macro_use]
mod layout;
#[macro_use]
mod number;
#[macro_use]
mod payload;

pub mod arch_x86;
pub mod callback;
pub mod domctl;
pub mod elfnote;
pub mod errno;
pub mod event_channel;
pub mod features;
pub mod grant_table;
pub mod hvm_start_info;
pub mod io;
pub mod memory;
pub mod physdev;
pub mod platform;
pub mod sched;
pub mod sysctl;
pub mod vcpu;
pub mod version;
pub mod xen;

pub use errno::Errno;
pub use number::{
    DomainId, GrantReference, MachineFrame, PAGE_SHIFT, PAGE_SIZE, PhysicalIrq, Port, PseudoPhysicalFrame,
    VcpuId,
};
