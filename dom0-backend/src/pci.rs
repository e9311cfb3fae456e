//! PCI functions that are given to guests: which can be, and the back end that lets a guest at one's registers.
//!
//! A guest that has a function maps its memory, is told of its interrupts and drives it without domain 0. What remains
//! here is configuration space: it is shared by all functions, so each access is asked for and looked at
//! (`public/io/pciif.h`, which Linux speaks too).
//!
//! The function itself reads and writes memory by machine addresses, and nothing checks those: there is no IOMMU support.
//! So a guest with a function could have it read or write everything; that is why it has to be allowed by name.

#[cfg(target_os = "none")]
mod assigned;
#[cfg(target_os = "none")]
mod back_end;
mod functions;
mod registers;

#[cfg(target_os = "none")]
pub use back_end::PciBackEnd;
pub use functions::{PciFunctions, PciProblem, Use};
pub use registers::Registers;
