//! Version numbers, as far as "is it new enough" needs them.

use std::fmt;

/// The first two numbers of a program's version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// The first number.
    pub major: u32,
    /// The second number; zero if there is none.
    pub minor: u32,
}

impl Version {
    /// A version by its numbers.
    pub const fn new(major: u32, minor: u32) -> Self {
        Self { major, minor }
    }

    /// Reads the version at the start of `text`: `10.0.2 (Debian ...)`, `1.96.0-nightly`.
    pub fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.split(|c: char| !c.is_ascii_digit());
        let major = numbers.next()?.parse().ok()?;
        let minor = match text.trim_start_matches(|c: char| c.is_ascii_digit()).strip_prefix('.') {
            Some(_) => numbers.next().and_then(|digits| digits.parse().ok()).unwrap_or(0),
            None => 0,
        };
        Some(Self { major, minor })
    }

    /// Reads a Debian package version, which may begin with an epoch: `1:10.0.2+ds-2+deb13u1~bpo12+1`.
    pub fn of_package(text: &str) -> Option<Self> {
        Self::parse(text.split_once(':').map_or(text, |(_epoch, rest)| rest))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_two_numbers_count() {
        assert_eq!(Version::parse("10.0.2 (Debian)"), Some(Version::new(10, 0)));
        assert_eq!(Version::parse("1.96.0-nightly"), Some(Version::new(1, 96)));
        assert_eq!(Version::parse("8"), Some(Version::new(8, 0)));
        assert_eq!(Version::parse("8-rc1.5"), Some(Version::new(8, 0)));
        assert_eq!(Version::parse("none"), None);
        assert_eq!(Version::parse(""), None);
    }

    #[test]
    fn an_epoch_is_no_version() {
        assert_eq!(Version::of_package("1:7.2+dfsg-7+deb12u16"), Some(Version::new(7, 2)));
        assert_eq!(Version::of_package("1.96.0+dfsg1-1~deb12u2"), Some(Version::new(1, 96)));
    }

    #[test]
    fn ten_is_newer_than_eight() {
        assert!(Version::new(10, 0) > Version::new(8, 2));
        assert!(Version::new(1, 96) > Version::new(1, 95));
    }
}
