//! Entry points of a guest's kernel, set one at a time (`callback.h`).

/// Set an entry point.
pub const CALLBACKOP_REGISTER: u32 = 0;
/// Remove an entry point.
pub const CALLBACKOP_UNREGISTER: u32 = 1;

/// Events are pending.
pub const CALLBACKTYPE_EVENT: u16 = 0;
/// A return to the guest failed.
pub const CALLBACKTYPE_FAILSAFE: u16 = 1;
/// A 64-bit program executed `syscall`.
pub const CALLBACKTYPE_SYSCALL: u16 = 2;
/// The former number of [`CALLBACKTYPE_SYSENTER`].
pub const CALLBACKTYPE_SYSENTER_DEPRECATED: u16 = 3;
/// A non-maskable interrupt.
pub const CALLBACKTYPE_NMI: u16 = 4;
/// A program executed `sysenter`.
pub const CALLBACKTYPE_SYSENTER: u16 = 5;
/// A 32-bit program executed `syscall`.
pub const CALLBACKTYPE_SYSCALL32: u16 = 7;

/// In [`CallbackRegister::flags`]: events are masked on entry.
pub const CALLBACKF_MASK_EVENTS: u16 = 1 << 0;

layout! {
    /// Argument of [`CALLBACKOP_REGISTER`] (`callback_register`).
    pub struct CallbackRegister [16] {
        /// `CALLBACKTYPE_*`.
        0 => r#type: u16,
        /// [`CALLBACKF_MASK_EVENTS`].
        2 => flags: u16,
        /// Padding.
        4 => _pad: u32,
        /// Where to enter.
        8 => address: u64,
    }

    /// Argument of [`CALLBACKOP_UNREGISTER`] (`callback_unregister`).
    pub struct CallbackUnregister [4] {
        /// `CALLBACKTYPE_*`.
        0 => r#type: u16,
        /// Unused.
        2 => _unused: u16,
    }
}
