//! State that belongs to the kernel as a whole.
//!
//! A PV kernel here has one virtual CPU, and neither its event upcall nor a trap touches Rust data: nothing
//! ever runs in the middle of something else. So a global needs no lock, only a cell.
//! [`kernel_local!`](crate::kernel_local!) declares one; on a host, where tests run in many threads, the same
//! declaration makes a thread-local.

/// A global value that only the kernel's single thread uses.
#[cfg(target_os = "none")]
pub struct KernelLocal<T>(T);

#[expect(
    unsafe_code,
    reason = "a value without a lock, because the kernel has one thread and never re-enters it"
)]
#[cfg(target_os = "none")]
// SAFETY: on the bare-metal target there is exactly one thread of execution (one virtual CPU, upcalls and
// traps handled without calling into Rust data), so no two uses can be concurrent.
unsafe impl<T> Sync for KernelLocal<T> {}

#[cfg(target_os = "none")]
impl<T> KernelLocal<T> {
    /// Wraps the initial value; [`kernel_local!`](crate::kernel_local!) calls it.
    pub const fn new(value: T) -> Self {
        Self(value)
    }

    /// Hands the value to `body`, as `std::thread::LocalKey::with` does.
    #[inline(always)]
    pub fn with<R>(&'static self, body: impl FnOnce(&T) -> R) -> R {
        body(&self.0)
    }
}

/// Declares `static NAME: T = constant;`, to be used through `NAME.with(|value| …)`.
///
/// The value must be a constant expression; use a cell for what changes.
#[macro_export]
macro_rules! kernel_local {
    ($(#[$attribute:meta])* $visibility:vis static $name:ident: $type:ty = $value:expr;) => {
        #[cfg(target_os = "none")]
        $(#[$attribute])*
        $visibility static $name: $crate::kernel_local::KernelLocal<$type> =
            $crate::kernel_local::KernelLocal::new($value);
        #[cfg(not(target_os = "none"))]
        std::thread_local! {
            $(#[$attribute])*
            $visibility static $name: $type = const { $value };
        }
    };
}
