//! How this crate declares a structure: every field stands beside its offset.
//!
//! A layout written by hand is only as good as its check. The macro takes the size and the offsets that a C
//! compiler gives for the public headers and refuses to compile if ours differ. Padding is always a named
//! field, so that no structure carries uninitialised bytes to another domain.

/// Declares a C-layout structure whose size (in brackets) and field offsets (`offset => field: Type`) are
/// asserted while compiling. `Default` is all zeroes.
macro_rules! layout {
    ($(
        $(#[$meta:meta])*
        pub struct $name:ident [$size:literal] {
            $($(#[$field_meta:meta])* $offset:literal => $field:ident : $type:ty),* $(,)?
        }
    )*) => {$(
        $(#[$meta])*
        #[repr(C)]
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq,
            ::zerocopy::FromBytes, ::zerocopy::IntoBytes, ::zerocopy::KnownLayout, ::zerocopy::Immutable,
        )]
        pub struct $name {
            $($(#[$field_meta])* pub $field: $type,)*
        }

        const _: () = {
            assert!(::core::mem::size_of::<$name>() == $size);
            $(assert!(::core::mem::offset_of!($name, $field) == $offset);)*
        };

        impl Default for $name {
            fn default() -> Self {
                ::zerocopy::FromZeros::new_zeroed()
            }
        }
    )*};
}
