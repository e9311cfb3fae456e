#![cfg_attr(target_os = "none", no_std)]
#![cfg_attr(not(target_os = "none"), expect(dead_code, reason = "start-up, and what only start-up calls"))]
//! What every paravirtual kernel of the project shares: start-up, memory, events, grants, tasks, the store.
//!
//! A PV kernel is one address space and one virtual CPU in ring 3, with asynchronous tasks and no user
//! programs. The same image boots on Xen and on Weir, as the initial domain or as a guest. It is written
//! against three ideas:
//!
//! 1. **Nothing interrupts a task.** Events are masked at all times but while the virtual CPU is blocked; the
//!    executor looks for them between tasks ([`executor`], [`event_channel`]). So there are no locks and no
//!    data shared with an interrupt.
//! 2. **Owned pages have one address,** in a linear window; machine frames are a look-up ([`memory`]).
//! 3. **What others can change is never a Rust reference,** but atomics and copies
//!    ([`memory::SharedMemory`]).
//!
//! A kernel crate is a binary with `#![no_std] #![no_main]`, the linker script of this crate, and
//!
//! ```ignore
//! pv_runtime::entry!(main);
//!
//! async fn main(info: &'static pv_runtime::BootInfo) {
//!     pv_runtime::println!("{} pages of memory", info.memory_pages);
//! }
//! ```
//!
//! When `main` returns, the domain powers off. On a host the crate compiles too: pages come from the host's
//! allocator, tasks run in virtual time ([`executor`]), and every hypercall fails with `ENOSYS`.

extern crate alloc;

pub mod boot;
pub mod console;
pub mod event_channel;
pub mod executor;
pub mod grant;
pub mod hypercall;
pub mod kernel_local;
pub mod memory;
pub mod power;
mod shared_info;
#[cfg(target_os = "none")]
mod start;
pub mod time;
pub mod traps;
pub mod xenbus;

pub use boot::BootInfo;

/// Names the kernel's main function: `async fn(&'static BootInfo)`.
#[macro_export]
macro_rules! entry {
    ($main:path) => {
        #[allow(unsafe_code, reason = "start-up finds the kernel's main function by this symbol")]
        #[unsafe(no_mangle)]
        fn pv_kernel_main(
            info: &'static $crate::BootInfo,
        ) -> ::core::pin::Pin<$crate::entry_types::Box<dyn ::core::future::Future<Output = ()>>> {
            $crate::entry_types::Box::pin($main(info))
        }
    };
}

#[doc(hidden)]
pub mod entry_types {
    pub use alloc::boxed::Box;
}
