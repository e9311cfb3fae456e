//! Who agreed to a change of this machine.
//!
//! Installing a package is the user's decision. On a terminal we ask; where nobody can answer (a build server, a
//! pipe) or `--yes` was given, calling the command is the consent, and what is done is still printed first.

use std::env;
use std::io::{self, BufRead, IsTerminal, Write};

use anyhow::{Result, bail};

/// Whether to ask before the machine is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consent {
    /// Go ahead and say so.
    Given,
    /// Ask on the terminal.
    Ask,
}

impl Consent {
    /// Asks only when there is somebody to ask: a terminal, no `--yes` (`yes`) and no `CI=true`.
    pub fn detect(yes: bool) -> Self {
        let build_server = env::var_os("CI").is_some_and(|value| value == "true");
        let somebody = io::stdin().is_terminal() && io::stderr().is_terminal();
        Self::from_facts(yes, build_server, somebody)
    }

    fn from_facts(yes: bool, build_server: bool, somebody: bool) -> Self {
        if yes || build_server || !somebody { Self::Given } else { Self::Ask }
    }

    /// Returns if the user agrees to `action` ("install 3 packages"); an error says that it was declined.
    pub fn obtain(self, action: &str) -> Result<()> {
        if self == Self::Given {
            return Ok(());
        }
        eprint!("      May I {action}? [Y/n] ");
        io::stderr().flush()?;
        let mut answer = String::new();
        let length = io::stdin().lock().read_line(&mut answer)?;
        if length == 0 || !is_yes(&answer) {
            bail!("declined to {action}; nothing was changed");
        }
        Ok(())
    }
}

fn is_yes(answer: &str) -> bool {
    matches!(answer.trim().to_ascii_lowercase().as_str(), "" | "y" | "yes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_terminal_without_yes_and_without_build_server_is_asked() {
        assert_eq!(Consent::from_facts(false, false, true), Consent::Ask);
        assert_eq!(Consent::from_facts(true, false, true), Consent::Given);
        assert_eq!(Consent::from_facts(false, true, true), Consent::Given);
        assert_eq!(Consent::from_facts(false, false, false), Consent::Given);
    }

    #[test]
    fn enter_means_yes_and_anything_odd_means_no() {
        assert!(is_yes("\n") && is_yes("Y\n") && is_yes(" yes \n"));
        assert!(!is_yes("n\n") && !is_yes("what?\n"));
    }
}
