//! What a case is, and how it says what it found.

use alloc::format;
use alloc::string::{String, ToString};
use core::fmt::Display;

use hypercall_abi::Errno;
use pv_runtime::traps::Fault;

use crate::attacker::Attacker;

/// What a case found wrong, in words.
pub type Outcome = Result<(), String>;

/// A case: a few attempts that belong together.
pub struct Case {
    /// Its module and what it tries.
    pub name: &'static str,
    /// Makes the attempts.
    pub run: fn(&Attacker) -> Outcome,
}

/// Declares the cases of a module: functions from the attacker to an outcome.
macro_rules! cases {
    ($module:literal: $($case:ident),* $(,)?) => {
        /// The cases of this module.
        pub const CASES: &[$crate::report::Case] = &[$(
            $crate::report::Case { name: concat!($module, "::", stringify!($case)), run: $case }
        ),*];
    };
}
pub(crate) use cases;

/// Fails with a text unless something holds.
pub fn expect(holds: bool, otherwise: impl Display) -> Outcome {
    if holds { Ok(()) } else { Err(otherwise.to_string()) }
}

/// What must succeed; its result.
pub fn accepted<T>(what: impl Display, answer: Result<T, Errno>) -> Result<T, String> {
    answer.map_err(|errno| format!("{what} was refused: {errno}"))
}

/// What must fail, for whatever reason.
pub fn refused<T>(what: impl Display, answer: Result<T, Errno>) -> Outcome {
    match answer {
        Ok(_) => Err(format!("{what} was accepted")),
        Err(_) => Ok(()),
    }
}

/// What must fail for one of these reasons.
pub fn refused_as<T>(what: impl Display, expected: &[Errno], answer: Result<T, Errno>) -> Outcome {
    match answer {
        Err(errno) if expected.contains(&errno) => Ok(()),
        Err(errno) => Err(format!("{what} was refused otherwise than expected: {errno}")),
        Ok(_) => Err(format!("{what} was accepted")),
    }
}

/// What must raise one of these exceptions.
pub fn faulted(what: impl Display, expected: &[u64], result: Result<(), Fault>) -> Outcome {
    match result {
        Err(fault) if expected.contains(&fault.vector) => Ok(()),
        Err(fault) => Err(format!("{what} raised exception {} ({:#x})", fault.vector, fault.error_code)),
        Ok(()) => Err(format!("{what} raised no exception")),
    }
}

/// What must raise no exception.
pub fn unharmed(what: impl Display, result: Result<(), Fault>) -> Outcome {
    result.map_err(|fault| format!("{what} raised exception {} ({:#x})", fault.vector, fault.error_code))
}
