//! The console ring (`public/io/console.h`).
//!
//! Two streams of bytes in one page: `in` flows to the guest, `out` from it. The four indexes count bytes
//! since the ring was made and wrap at 2^32; the byte meant is at `index % size` of its buffer.

use core::mem::{offset_of, size_of};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Bytes in the buffer of input to the guest.
pub const XENCONS_IN_SIZE: usize = 1024;
/// Bytes in the buffer of output from the guest.
pub const XENCONS_OUT_SIZE: usize = 2048;

/// The start of a console's page (`struct xencons_interface`).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct XenconsInterface {
    /// Bytes on their way to the guest; the header calls it `in`.
    pub input: [u8; XENCONS_IN_SIZE],
    /// Bytes on their way from the guest; the header calls it `out`.
    pub output: [u8; XENCONS_OUT_SIZE],
    /// Bytes of input that the guest has taken. Written by the guest.
    pub in_cons: u32,
    /// Bytes of input that were put in. Written by the back end.
    pub in_prod: u32,
    /// Bytes of output that the back end has taken. Written by the back end.
    pub out_cons: u32,
    /// Bytes of output that were put in. Written by the guest.
    pub out_prod: u32,
}

const _: () = {
    assert!(size_of::<XenconsInterface>() == 3088);
    assert!(offset_of!(XenconsInterface, output) == 1024);
    assert!(offset_of!(XenconsInterface, in_cons) == 3072);
    assert!(offset_of!(XenconsInterface, in_prod) == 3076);
    assert!(offset_of!(XenconsInterface, out_cons) == 3080);
    assert!(offset_of!(XenconsInterface, out_prod) == 3084);
};
