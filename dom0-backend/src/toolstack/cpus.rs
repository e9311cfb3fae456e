//! Sets of the machine's CPUs, as `xl` writes them: `0-3,5`, `all`, `0-7,^2`.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;
use core::str::FromStr;

/// CPUs that can be told of: more than any machine has here.
const MOST_CPUS: u32 = 64;

/// A set of CPUs. It may have some that the machine has not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuSet(pub u64);

/// Why a text is no set of CPUs, or a set none to run on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CpuSetError {
    /// It is not written like one.
    Text(String),
    /// It has no CPU.
    Empty,
    /// The machine has no CPU of this number; those that it has.
    NotThere(u32, CpuSet),
}

impl fmt::Display for CpuSetError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => {
                write!(formatter, "{text:?} is no list of CPUs, such as 0-3,5 or all or all,^1")
            }
            Self::Empty => formatter.write_str("the list leaves no CPU to run on"),
            Self::NotThere(cpu, present) => {
                write!(formatter, "there is no CPU {cpu}; the machine has {}", present.numbers())
            }
        }
    }
}

impl core::error::Error for CpuSetError {}

impl CpuSet {
    /// Every CPU, however many there are.
    pub const ALL: Self = Self(u64::MAX);

    /// CPUs 0 to `count` - 1.
    pub fn first(count: u32) -> Self {
        Self(u64::MAX.checked_shr(MOST_CPUS.saturating_sub(count)).unwrap_or(0))
    }

    /// The only CPU in it, if it has one only.
    pub fn only(self) -> Option<u32> {
        (self.0.count_ones() == 1).then(|| self.0.trailing_zeros())
    }

    /// Whether two sets have a CPU in common.
    pub fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// The set, if the machine has all of it. [`Self::ALL`], less some of it, means those that there are.
    ///
    /// # Errors
    ///
    /// The first CPU that is missing; if none is left.
    pub fn among(self, present: Self) -> Result<Self, CpuSetError> {
        let is_open = self.0 >> (MOST_CPUS - 1) != 0;
        let missing = self.0 & !present.0;
        if missing != 0 && !is_open {
            return Err(CpuSetError::NotThere(missing.trailing_zeros(), present));
        }
        let left = Self(self.0 & present.0);
        if left.0 == 0 { Err(CpuSetError::Empty) } else { Ok(left) }
    }

    /// As `xl` shows it on a machine with these CPUs.
    pub fn text(self, present: Self) -> String {
        if present.0 & !self.0 == 0 { "all".to_string() } else { Self(self.0 & present.0).numbers() }
    }

    /// How many there are.
    pub fn count(self) -> u32 {
        self.0.count_ones()
    }

    /// The numbers, with a dash between the first and the last of several that follow each other.
    pub fn numbers(self) -> String {
        let mut runs: Vec<(u32, u32)> = Vec::new();
        for cpu in (0..MOST_CPUS).filter(|cpu| self.0 & 1 << cpu != 0) {
            match runs.last_mut() {
                Some((_, last)) if *last + 1 == cpu => *last = cpu,
                _ => runs.push((cpu, cpu)),
            }
        }
        let text = |(first, last): &(u32, u32)| match first == last {
            true => format!("{first}"),
            false => format!("{first}-{last}"),
        };
        runs.iter().map(text).collect::<Vec<_>>().join(",")
    }

    /// What one word of a list means.
    fn of_word(word: &str) -> Option<Self> {
        if word == "all" {
            return Some(Self::ALL);
        }
        let (first, last) = word.split_once('-').unwrap_or((word, word));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        // The highest number stands for all that there may be.
        let is_range = first <= last && last < MOST_CPUS - 1;
        is_range.then(|| Self(Self::first(last + 1).0 & !Self::first(first).0))
    }
}

impl FromStr for CpuSet {
    type Err = CpuSetError;

    fn from_str(text: &str) -> Result<Self, CpuSetError> {
        // A list that only takes away takes away from all.
        let mut set = if text.starts_with('^') { Self::ALL } else { Self(0) };
        for word in text.split(',').map(str::trim) {
            let (word, takes) = word.strip_prefix('^').map_or((word, false), |word| (word, true));
            let cpus = Self::of_word(word).ok_or_else(|| CpuSetError::Text(text.to_string()))?;
            set.0 = if takes { set.0 & !cpus.0 } else { set.0 | cpus.0 };
        }
        if set.0 == 0 { Err(CpuSetError::Empty) } else { Ok(set) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Result<String, String> {
        let set = text.parse::<CpuSet>().and_then(|set| set.among(CpuSet::first(8)));
        set.map(|set| set.text(CpuSet::first(8))).map_err(|error| error.to_string())
    }

    #[test]
    fn lists_are_read_and_written_as_xl_does() {
        for (text, expected) in [
            ("0", "0"),
            ("0-3,5", "0-3,5"),
            ("5,0-3", "0-3,5"),
            ("all", "all"),
            ("0-7", "all"),
            ("0-7,^2", "0-1,3-7"),
            ("all,^1-6", "0,7"),
            ("^1", "0,2-7"),
            ("0, 2", "0,2"),
        ] {
            assert_eq!(of(text), Ok(expected.into()), "{text}");
        }
    }

    #[test]
    fn what_is_no_list_or_leaves_nothing_is_refused() {
        for text in ["", "x", "1-", "-1", "3-1", "1,,2", "99", "0;1", "^", "63"] {
            let message = format!("{text:?} is no list of CPUs, such as 0-3,5 or all or all,^1");
            assert_eq!(of(text), Err(message));
        }
        for text in ["0,^0", "all,^all", "all,^0-7"] {
            assert_eq!(of(text), Err("the list leaves no CPU to run on".into()), "{text}");
        }
        assert_eq!(of("6-9"), Err("there is no CPU 8; the machine has 0-7".into()));
    }

    #[test]
    fn a_set_may_have_one_cpu_only() {
        assert_eq!((CpuSet(4).only(), CpuSet(5).only(), CpuSet(0).only()), (Some(2), None, None));
        assert_eq!((CpuSet::first(64), CpuSet::first(0)), (CpuSet::ALL, CpuSet(0)));
    }
}
