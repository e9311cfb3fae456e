//! A command's words told apart: options such as `-a` or `-d web`, and what is left.

use alloc::vec::Vec;

/// A command's words.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Arguments<'a> {
    options: Vec<(&'a str, Option<&'a str>)>,
    /// The words that are no options, in their order.
    pub operands: Vec<&'a str>,
}

impl<'a> Arguments<'a> {
    /// Tells the words apart. `flags` stand alone, behind one of `valued` comes its value; behind `--` everything
    /// is an operand. `None` if another word looks like an option, or a value is missing.
    pub fn take(words: &[&'a str], flags: &[&str], valued: &[&str]) -> Option<Self> {
        let mut arguments = Self::default();
        let mut rest = words.iter().copied();
        while let Some(word) = rest.next() {
            if word == "--" {
                arguments.operands.extend(rest.by_ref());
            } else if flags.contains(&word) {
                arguments.options.push((word, None));
            } else if valued.contains(&word) {
                arguments.options.push((word, Some(rest.next()?)));
            } else if word.len() > 1 && word.starts_with('-') {
                return None;
            } else {
                arguments.operands.push(word);
            }
        }
        Some(arguments)
    }

    /// Whether one of these options is there: `-a` and its long form, for example.
    pub fn has(&self, names: &[&str]) -> bool {
        self.options.iter().any(|(name, _)| names.contains(name))
    }

    /// The last value of one of these options.
    pub fn value(&self, names: &[&str]) -> Option<&'a str> {
        self.options.iter().rev().find(|(name, _)| names.contains(name)).and_then(|(_, value)| *value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_stand_anywhere() {
        let taken = Arguments::take(&["a", "-w", "-d", "x", "--", "-b"], &["-w"], &["-d"]).unwrap();
        assert!(taken.has(&["-w", "--wait"]) && !taken.has(&["-a"]));
        assert_eq!(taken.value(&["-d"]), Some("x"));
        assert_eq!(taken.operands, ["a", "-b"]);
    }

    #[test]
    fn what_is_no_option_of_the_command_is_refused() {
        assert_eq!(Arguments::take(&["-x"], &["-w"], &[]), None);
        assert_eq!(Arguments::take(&["-d"], &[], &["-d"]), None);
        assert_eq!(Arguments::take(&["-"], &[], &[]).unwrap().operands, ["-"]);
    }
}
