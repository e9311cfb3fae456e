//! The union at the end of every control call.
//!
//! `domctl`, `sysctl` and `platform_op` each take one structure: a header that says which command, and a
//! union of 128 bytes whose arm the command chooses. Here the union is sixteen words, and each arm is a
//! structure of its own that is copied out of them or into them.

use core::mem::size_of;

use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Words in the union of a control call.
pub(crate) const PAYLOAD_WORDS: usize = 16;

/// Copies one arm out of the union.
pub(crate) fn read<T: FromBytes + IntoBytes>(words: &[u64; PAYLOAD_WORDS]) -> T {
    const { assert!(size_of::<T>() <= size_of::<[u64; PAYLOAD_WORDS]>()) };
    let mut payload = T::new_zeroed();
    payload.as_mut_bytes().copy_from_slice(&words.as_bytes()[..size_of::<T>()]);
    payload
}

/// Copies one arm into the union; what lies beyond it stays.
pub(crate) fn write<T: IntoBytes + Immutable>(words: &mut [u64; PAYLOAD_WORDS], payload: &T) {
    const { assert!(size_of::<T>() <= size_of::<[u64; PAYLOAD_WORDS]>()) };
    words.as_mut_bytes()[..size_of::<T>()].copy_from_slice(payload.as_bytes());
}

/// Gives a control call's structure its two ways to reach the union, its field `u`.
macro_rules! payload_accessors {
    ($name:ident) => {
        impl $name {
            /// Copies one arm out of the union. Which one holds is said by the command; any other is
            /// nonsense, but never unsafe. A type that does not fit does not compile.
            pub fn payload_as<T: ::zerocopy::FromBytes + ::zerocopy::IntoBytes>(&self) -> T {
                crate::payload::read(&self.u)
            }

            /// Copies one arm into the union; what lies beyond it stays. A type that does not fit does not
            /// compile.
            pub fn set_payload<T: ::zerocopy::IntoBytes + ::zerocopy::Immutable>(&mut self, payload: &T) {
                crate::payload::write(&mut self.u, payload);
            }

            /// The same call with one arm of the union set.
            pub fn with_payload<T: ::zerocopy::IntoBytes + ::zerocopy::Immutable>(
                mut self,
                payload: &T,
            ) -> Self {
                self.set_payload(payload);
                self
            }
        }
    };
}
