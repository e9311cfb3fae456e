//! What the hypervisor says about itself (`version.h`).
//!
//! Texts are arrays of fixed length, padded with zeroes.

/// Major version in the high half of the result, minor in the low.
pub const XENVER_VERSION: u32 = 0;
/// The rest of the version, [`ExtraVersion`].
pub const XENVER_EXTRAVERSION: u32 = 1;
/// Who compiled it, [`CompileInfo`].
pub const XENVER_COMPILE_INFO: u32 = 2;
/// What kinds of guest it runs, [`CapabilitiesInfo`].
pub const XENVER_CAPABILITIES: u32 = 3;
/// What it was compiled from, [`ChangesetInfo`].
pub const XENVER_CHANGESET: u32 = 4;
/// Where it lives, [`PlatformParameters`].
pub const XENVER_PLATFORM_PARAMETERS: u32 = 5;
/// What it can do, [`FeatureInfo`].
pub const XENVER_GET_FEATURES: u32 = 6;
/// The size of a page.
pub const XENVER_PAGESIZE: u32 = 7;
/// The calling domain's handle, 16 bytes.
pub const XENVER_GUEST_HANDLE: u32 = 8;
/// Its command line, [`Commandline`].
pub const XENVER_COMMANDLINE: u32 = 9;
/// A fingerprint of the build, [`BuildId`] and the bytes after it.
pub const XENVER_BUILD_ID: u32 = 10;

/// Bytes of [`ExtraVersion`].
pub const XEN_EXTRAVERSION_LEN: usize = 16;
/// Bytes of [`CapabilitiesInfo`].
pub const XEN_CAPABILITIES_INFO_LEN: usize = 1024;
/// Bytes of [`ChangesetInfo`].
pub const XEN_CHANGESET_INFO_LEN: usize = 64;
/// Bytes of [`Commandline`].
pub const XEN_COMMANDLINE_LEN: usize = 1024;

/// Answer of [`XENVER_EXTRAVERSION`] (`xen_extraversion_t`).
pub type ExtraVersion = [u8; XEN_EXTRAVERSION_LEN];
/// Answer of [`XENVER_CAPABILITIES`] (`xen_capabilities_info_t`): words such as `xen-3.0-x86_64`.
pub type CapabilitiesInfo = [u8; XEN_CAPABILITIES_INFO_LEN];
/// Answer of [`XENVER_CHANGESET`] (`xen_changeset_info_t`).
pub type ChangesetInfo = [u8; XEN_CHANGESET_INFO_LEN];
/// Answer of [`XENVER_COMMANDLINE`] (`xen_commandline_t`).
pub type Commandline = [u8; XEN_COMMANDLINE_LEN];

layout! {
    /// Answer of [`XENVER_COMPILE_INFO`] (`xen_compile_info`).
    pub struct CompileInfo [144] {
        /// The compiler.
        0 => compiler: [u8; 64],
        /// Who ran it.
        64 => compile_by: [u8; 16],
        /// Where.
        80 => compile_domain: [u8; 32],
        /// When.
        112 => compile_date: [u8; 32],
    }

    /// Answer of [`XENVER_PLATFORM_PARAMETERS`] (`xen_platform_parameters`).
    pub struct PlatformParameters [8] {
        /// Where the hypervisor's part of the address space begins.
        0 => virt_start: u64,
    }

    /// Argument and answer of [`XENVER_GET_FEATURES`] (`xen_feature_info`).
    pub struct FeatureInfo [8] {
        /// In: which 32 features.
        0 => submap_idx: u32,
        /// Out: one bit a feature, [`crate::features`].
        4 => submap: u32,
    }

    /// Head of the answer of [`XENVER_BUILD_ID`] (`xen_build_id`); the bytes follow it.
    pub struct BuildId [4] {
        /// In: room for bytes. Out: how many there are.
        0 => len: u32,
    }
}
