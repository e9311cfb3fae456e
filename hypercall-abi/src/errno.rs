//! Error numbers (`errno.h`).
//!
//! A hypercall answers with one integer: zero or a count when it succeeds, a negated error number when it
//! fails. [`Errno`] is the failure alone, always positive, so that `Result<_, Errno>` cannot hold a failure
//! that means success. The set is open: a hypervisor may answer with a number this list does not know.

use core::fmt;
use core::num::NonZeroU16;

/// The largest error number; a return value below `-MAX_ERRNO` is a large result and not a failure.
pub const MAX_ERRNO: u16 = 4095;

/// Why a hypercall failed: a number in `1..=4095`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Errno(NonZeroU16);

macro_rules! errnos {
    ($($name:ident = $number:literal, $meaning:literal;)*) => {
        impl Errno {
            $(
                #[doc = concat!("Error ", $number, ": ", $meaning, ".")]
                pub const $name: Self = Self(NonZeroU16::new($number).unwrap());
            )*

            /// Every error that has a name.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// The C name, such as `EINVAL`; `None` for a number without one.
            pub const fn name(self) -> Option<&'static str> {
                match self.0.get() {
                    $($number => Some(stringify!($name)),)*
                    _ => None,
                }
            }

            /// What the error means, in a few words; `None` for a number without a name.
            pub const fn meaning(self) -> Option<&'static str> {
                match self.0.get() {
                    $($number => Some($meaning),)*
                    _ => None,
                }
            }
        }
    };
}

errnos! {
    EPERM = 1, "the caller may not do this";
    ENOENT = 2, "there is no such entry";
    ESRCH = 3, "there is no such domain or process";
    EINTR = 4, "interrupted (used only inside a hypervisor)";
    EIO = 5, "the device or medium failed";
    ENXIO = 6, "there is nothing at that address";
    E2BIG = 7, "the argument list is too long";
    ENOEXEC = 8, "not an executable image";
    EBADF = 9, "not a valid handle";
    ECHILD = 10, "there are no children";
    EAGAIN = 11, "not now, try again";
    ENOMEM = 12, "out of memory";
    EACCES = 13, "access denied";
    EFAULT = 14, "an address could not be read or written";
    EBUSY = 16, "in use";
    EEXIST = 17, "exists already";
    EXDEV = 18, "crosses from one device to another";
    ENODEV = 19, "there is no such device";
    ENOTDIR = 20, "not a directory";
    EISDIR = 21, "a directory";
    EINVAL = 22, "an argument makes no sense";
    ENFILE = 23, "the table of open files is full";
    EMFILE = 24, "too many files are open";
    ENOSPC = 28, "no room left";
    EROFS = 30, "read-only";
    EMLINK = 31, "too many links";
    EDOM = 33, "outside the function's domain";
    ERANGE = 34, "the result cannot be represented";
    EDEADLK = 35, "would wait forever";
    ENAMETOOLONG = 36, "the name is too long";
    ENOLCK = 37, "no locks left";
    ENOSYS = 38, "not implemented";
    ENOTEMPTY = 39, "not empty";
    ENODATA = 61, "no data there";
    ETIME = 62, "the timer ran out";
    EBADMSG = 74, "not a message of the expected kind";
    EOVERFLOW = 75, "too large for its type";
    EILSEQ = 84, "an invalid sequence of bytes";
    ERESTART = 85, "to be started again (used only inside a hypervisor)";
    ENOTSOCK = 88, "not a socket";
    EMSGSIZE = 90, "the message is too long";
    EOPNOTSUPP = 95, "not supported";
    EADDRINUSE = 98, "the address is taken";
    EADDRNOTAVAIL = 99, "the address cannot be had";
    ENOBUFS = 105, "no buffers left";
    EISCONN = 106, "connected already";
    ENOTCONN = 107, "not connected";
    ETIMEDOUT = 110, "took too long";
    ECONNREFUSED = 111, "the other side refused";
}

impl Errno {
    /// Another name of [`Errno::EAGAIN`].
    pub const EWOULDBLOCK: Self = Self::EAGAIN;
    /// Another name of [`Errno::EDEADLK`].
    pub const EDEADLOCK: Self = Self::EDEADLK;

    /// The error with a given positive number; `None` outside `1..=4095`.
    pub const fn from_number(number: i32) -> Option<Self> {
        if number < 1 || number > MAX_ERRNO as i32 {
            return None;
        }
        match NonZeroU16::new(number as u16) {
            Some(number) => Some(Self(number)),
            None => None,
        }
    }

    /// The error with a given C name, such as `"EINVAL"`.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|errno| errno.name() == Some(name))
    }

    /// The positive number.
    pub const fn number(self) -> i32 {
        self.0.get() as i32
    }

    /// Splits what a hypercall returned into its result and its error.
    ///
    /// # Errors
    ///
    /// The error named by a value in `-4095..=-1`.
    pub const fn from_return(value: i64) -> Result<u64, Self> {
        if value < -(MAX_ERRNO as i64) || value >= 0 {
            return Ok(value as u64);
        }
        match Self::from_number(-value as i32) {
            Some(errno) => Err(errno),
            None => Ok(value as u64),
        }
    }

    /// The negated number, as a hypercall returns it.
    pub const fn to_return(self) -> i64 {
        -(self.0.get() as i64)
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.name(), self.meaning()) {
            (Some(name), Some(meaning)) => write!(f, "{name} ({meaning})"),
            _ => write!(f, "error {}", self.0),
        }
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "Errno({})", self.0),
        }
    }
}

impl core::error::Error for Errno {}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::format;

    use super::*;

    #[test]
    fn every_error_survives_a_return_value() {
        for &errno in Errno::ALL {
            assert_eq!(Errno::from_return(errno.to_return()), Err(errno));
            assert_eq!(Errno::from_number(errno.number()), Some(errno));
            assert_eq!(Errno::from_name(errno.name().unwrap()), Some(errno));
        }
    }

    #[test]
    fn results_are_not_mistaken_for_errors() {
        assert_eq!(Errno::from_return(0), Ok(0));
        assert_eq!(Errno::from_return(i64::MAX), Ok(i64::MAX as u64));
        assert_eq!(Errno::from_return(-4096), Ok(-4096_i64 as u64));
        assert_eq!(Errno::from_return(i64::MIN), Ok(1 << 63));
    }

    #[test]
    fn an_unknown_error_keeps_its_number() {
        let errno = Errno::from_return(-4095).unwrap_err();
        assert_eq!((errno.number(), errno.name()), (4095, None));
        assert_eq!(format!("{errno}"), "error 4095");
    }

    #[test]
    fn numbers_outside_the_range_are_refused() {
        for number in [i32::MIN, -22, 0, 4096, i32::MAX] {
            assert_eq!(Errno::from_number(number), None);
        }
    }

    #[test]
    fn display_gives_name_and_meaning() {
        assert_eq!(format!("{}", Errno::EINVAL), "EINVAL (an argument makes no sense)");
        assert_eq!(format!("{:?}", Errno::EWOULDBLOCK), "EAGAIN");
    }
}
