//! What all back ends share.

mod copy;
#[cfg(test)]
pub(crate) mod fake;

pub use copy::GrantCopy;
