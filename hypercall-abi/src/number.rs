//! The numbers that name things, each with a type of its own.
//!
//! A machine frame and a pseudo-physical frame are both 64-bit integers in the C headers, and mixing them up
//! is the classic mistake of paravirtual code. Here they do not convert into each other: whoever has a table
//! that relates the two does the conversion and says so. The inner field is public, because these types
//! promise a *kind*, never validity: a `Port` may be closed, a `DomainId` may name nobody.

use crate::xen;

/// Base-two logarithm of [`PAGE_SIZE`].
pub const PAGE_SHIFT: u32 = 12;

/// Bytes in a page and in a frame.
pub const PAGE_SIZE: usize = 1 << PAGE_SHIFT;

/// Declares numbers that only their own kind compares with, and how each is displayed.
macro_rules! number {
    ($($(#[$meta:meta])* $name:ident($inner:ty), $format:literal;)*) => {$(
        $(#[$meta])*
        #[repr(transparent)]
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash,
            ::zerocopy::FromBytes, ::zerocopy::IntoBytes, ::zerocopy::KnownLayout, ::zerocopy::Immutable,
        )]
        pub struct $name(pub $inner);

        impl $name {
            /// Wraps a number; says nothing about whether it names anything.
            pub const fn new(number: $inner) -> Self {
                Self(number)
            }

            /// The bare number.
            pub const fn get(self) -> $inner {
                self.0
            }
        }

        impl ::core::fmt::Display for $name {
            fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
                write!(f, $format, self.0)
            }
        }
    )*};
}

number! {
    /// A domain, or one of the reserved names above [`DomainId::FIRST_RESERVED`] (`domid_t`).
    DomainId(u16), "{}";
    /// An event channel, as its owner counts them (`evtchn_port_t`).
    Port(u32), "{}";
    /// An index into the granting domain's grant table (`grant_ref_t`).
    GrantReference(u32), "{}";
    /// A frame of the machine's physical address space (Xen's "mfn").
    MachineFrame(u64), "{:#x}";
    /// A frame in a domain's own gapless numbering of its memory (Xen's "pfn").
    PseudoPhysicalFrame(u64), "{:#x}";
    /// A virtual CPU, counted within its domain.
    VcpuId(u32), "{}";
    /// A physical interrupt as a domain names it (Xen's "pirq").
    PhysicalIrq(u32), "{}";
}

impl DomainId {
    /// The first domain, which owns the devices and runs the toolstack.
    pub const ZERO: Self = Self(0);
    /// Where the reserved names begin; no domain has this number or a higher one.
    pub const FIRST_RESERVED: Self = Self(xen::DOMID_FIRST_RESERVED);
    /// The calling domain.
    pub const SELF: Self = Self(xen::DOMID_SELF);
    /// The owner of device memory.
    pub const IO: Self = Self(xen::DOMID_IO);
    /// The owner of hypervisor pages that are shown to guests.
    pub const XEN: Self = Self(xen::DOMID_XEN);
    /// The owner of pages shared copy-on-write.
    pub const COW: Self = Self(xen::DOMID_COW);
    /// Nobody.
    pub const INVALID: Self = Self(xen::DOMID_INVALID);
    /// The idle domain, which only diagnostics ever mention.
    pub const IDLE: Self = Self(xen::DOMID_IDLE);

    /// Whether the number may belong to a real domain.
    pub const fn is_ordinary(self) -> bool {
        self.0 < xen::DOMID_FIRST_RESERVED
    }
}

impl MachineFrame {
    /// The frame that holds a physical address; the offset within the frame is dropped.
    pub const fn containing(physical_address: u64) -> Self {
        Self(physical_address >> PAGE_SHIFT)
    }

    /// The physical address of the frame's first byte. Frame numbers of 2^52 and above have none, and lose
    /// their high bits here.
    pub const fn physical_address(self) -> u64 {
        self.0 << PAGE_SHIFT
    }

    /// The frame `frames` further on, or `None` if the number would overflow.
    pub const fn checked_add(self, frames: u64) -> Option<Self> {
        match self.0.checked_add(frames) {
            Some(number) => Some(Self(number)),
            None => None,
        }
    }
}

impl PseudoPhysicalFrame {
    /// The frame `frames` further on, or `None` if the number would overflow.
    pub const fn checked_add(self, frames: u64) -> Option<Self> {
        match self.0.checked_add(frames) {
            Some(number) => Some(Self(number)),
            None => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_and_its_address_go_both_ways() {
        let frame = MachineFrame(0x1234);
        assert_eq!(frame.physical_address(), 0x123_4000);
        assert_eq!(MachineFrame::containing(0x123_4fff), frame);
    }

    #[test]
    fn frame_arithmetic_refuses_to_wrap() {
        assert_eq!(MachineFrame(u64::MAX).checked_add(1), None);
        assert_eq!(PseudoPhysicalFrame(7).checked_add(3), Some(PseudoPhysicalFrame(10)));
    }

    #[test]
    fn reserved_names_are_not_ordinary_domains() {
        assert!(DomainId(0x7fef).is_ordinary());
        for reserved in [DomainId::SELF, DomainId::IO, DomainId::XEN, DomainId::COW, DomainId::INVALID] {
            assert!(!reserved.is_ordinary());
        }
    }
}
