//! Names of the layouts that a front end can declare for its rings (`public/io/protocols.h`).

/// Layouts as 32-bit x86 code has them.
pub const XEN_IO_PROTO_ABI_X86_32: &str = "x86_32-abi";
/// Layouts as 64-bit x86 code has them.
pub const XEN_IO_PROTO_ABI_X86_64: &str = "x86_64-abi";
/// Layouts as Arm code has them.
pub const XEN_IO_PROTO_ABI_ARM: &str = "arm-abi";
/// What a front end means that declares nothing.
pub const XEN_IO_PROTO_ABI_NATIVE: &str = XEN_IO_PROTO_ABI_X86_64;
