//! How a virtual machine ended, read from QEMU's exit status.

use std::fmt;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

/// How QEMU ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The machine powered off, or wanted to restart.
    PowerOff,
    /// The machine wrote this value to the debug-exit port.
    Debug(u8),
    /// QEMU itself failed.
    Failure(i32),
    /// QEMU was ended by this signal.
    Signal(i32),
}

impl From<ExitStatus> for Exit {
    fn from(status: ExitStatus) -> Self {
        match status.code() {
            Some(0) => Self::PowerOff,
            // QEMU itself fails with status 1, which is also what the value 0 would give: so 0 is not used.
            Some(1) => Self::Failure(1),
            Some(code)
                if code & 1 == 1
                    && let Ok(value) = u8::try_from(code >> 1) =>
            {
                Self::Debug(value)
            }
            Some(code) => Self::Failure(code),
            None => Self::Signal(status.signal().unwrap_or_default()),
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PowerOff => write!(f, "the machine powered off or restarted"),
            Self::Debug(value) => write!(f, "the machine wrote {value:#x} to the debug-exit port"),
            Self::Failure(code) => write!(f, "QEMU failed with status {code}"),
            Self::Signal(signal) => write!(f, "QEMU was ended by signal {signal}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exit(code: i32) -> Exit {
        Exit::from(ExitStatus::from_raw(code << 8))
    }

    #[test]
    fn a_value_on_the_port_is_told_from_other_ends() {
        assert_eq!(exit(33), Exit::Debug(0x10));
        assert_eq!(exit(35), Exit::Debug(0x11));
        assert_eq!(exit(255), Exit::Debug(0x7f));
        assert_eq!(exit(0), Exit::PowerOff);
        assert_eq!(exit(1), Exit::Failure(1));
        assert_eq!(exit(2), Exit::Failure(2));
        assert_eq!(Exit::from(ExitStatus::from_raw(9)), Exit::Signal(9));
    }
}
