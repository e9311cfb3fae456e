//! `cargo xtask ctl`: a command for the domain 0 of a machine that runs, or its prompt.
//!
//! The exit status is the command's own: 0 for success, 1 for failure, 2 for a line that is no command, 255 if domain 0
//! could not be reached.

use std::io::{self, IsTerminal};

use anyhow::{Context, Result};
use clap::Args;

use crate::command;
use crate::consent::Consent;
use crate::remote::Remote;
use crate::workspace::Workspace;

/// Exit status: domain 0 could not be reached.
pub const UNREACHABLE: u8 = 255;

/// What to tell domain 0.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// The port of this computer that leads to the machine [default: of the one that was started last].
    #[arg(long, value_name = "PORT")]
    pub port: Option<u16>,
    /// The command and its words, behind two dashes; none for domain 0's prompt.
    #[arg(last = true, value_name = "COMMAND")]
    pub words: Vec<String>,
}

/// Runs the command; returns the exit status.
pub fn ctl(workspace: &Workspace, options: &Options, consent: Consent) -> Result<u8> {
    let remote = Remote::of(workspace);
    let port = match options.port {
        Some(port) => port,
        None => remote.running()?,
    };
    remote.ensure(consent)?;
    let mut client = remote.client(port);
    client.arg(if io::stdin().is_terminal() && io::stdout().is_terminal() { "-t" } else { "-T" });
    if !options.words.is_empty() {
        client.arg("--").arg(line(&options.words));
    }
    let status = client.status().with_context(|| format!("cannot start `{}`", command::shown(&client)))?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(UNREACHABLE))
}

/// The words as one line. A single word is a line already.
fn line(words: &[String]) -> String {
    match words {
        [line] => line.clone(),
        words => words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" "),
    }
}

/// A word in the quotes that domain 0 needs, if it needs any.
fn quoted(word: &str) -> String {
    let is_plain = |c: char| !c.is_whitespace() && !['"', '\''].contains(&c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    // What stands between two double quotes is put into single ones.
    word.split('"').map(|part| format!("\"{part}\"")).collect::<Vec<_>>().join("'\"'")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(words: &[&str]) -> String {
        line(&words.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    #[test]
    fn words_stay_whole() {
        assert_eq!(of(&["create", "web", "memory=64"]), "create web memory=64");
        assert_eq!(of(&["guest-run", "web", "disk-hash 0 1M"]), "guest-run web \"disk-hash 0 1M\"");
        assert_eq!(of(&["send", "web", "it's \"so\"", ""]), r#"send web "it's "'"'"so"'"'"" """#);
    }

    #[test]
    fn one_word_is_a_line() {
        assert_eq!(of(&["guest-run web \"info; help\""]), "guest-run web \"info; help\"");
    }
}
