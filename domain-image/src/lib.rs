#![no_std]
#![forbid(unsafe_code)]
//! From a paravirtual kernel's file to a domain that can take its first step.
//!
//! The hypervisor builds dom0 and dom0 builds every other domain; both do it here. Three steps, none of which
//! allocates: [`Image::parse`] reads what the kernel asks for in its ELF notes, [`Layout::plan`] says what lies where
//! in the domain's memory, and [`build()`] writes it through a [`DomainMemory`], which is all that the two builders do
//! differently.
//!
//! ```text
//! virt_base + 0   kernel's segments, where the file wants them
//!                 module (initial RAM disk or boot archive)
//!                 list of machine frames, one word a page        "p2m"
//!                 start_info                                     one page
//!                 store and console pages                        two pages, not for dom0
//!                 nothing, if the rest would not be in the last 4 MiB
//!                 page tables                                    read-only
//!                 boot stack                                     one page
//!                 at least 512 KiB of nothing, up to a multiple of 4 MiB
//! ```

#[cfg(test)]
extern crate std;

mod build;
mod image;
mod layout;
#[cfg(test)]
mod tests;

pub use build::{DomainMemory, Entry, StartInfoFields, build};
pub use image::{Image, ImageError, Segment};
pub use layout::{Layout, LayoutError, Plan};
