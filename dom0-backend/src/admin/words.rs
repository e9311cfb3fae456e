//! From a typed line to words: separated by blanks, except within quotes, which may begin anywhere in a word.

use alloc::string::String;
use alloc::vec::Vec;

/// A quote has no other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unclosed(pub char);

/// Splits a line into words: `a "b c" d="e f"` is `a`, `b c`, `d=e f`.
///
/// # Errors
///
/// [`Unclosed`].
pub fn split(line: &str) -> Result<Vec<String>, Unclosed> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        match character {
            '"' | '\'' => {
                let word = word.get_or_insert_default();
                loop {
                    match characters.next() {
                        Some(next) if next == character => break,
                        Some(next) => word.push(next),
                        None => return Err(Unclosed(character)),
                    }
                }
            }
            blank if blank.is_whitespace() => words.extend(word.take()),
            other => word.get_or_insert_default().push(other),
        }
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blanks_separate_words() {
        assert_eq!(split("  list \t -l ").unwrap(), ["list", "-l"]);
        assert!(split(" \t").unwrap().is_empty());
    }

    #[test]
    fn quotes_keep_words_together() {
        assert_eq!(
            split(r#"create a cmdline="b c" 'd "e"'"#).unwrap(),
            ["create", "a", "cmdline=b c", r#"d "e""#]
        );
        assert_eq!(split(r#"a """#).unwrap(), ["a", ""]);
    }

    #[test]
    fn a_quote_must_end() {
        assert_eq!(split("a 'b"), Err(Unclosed('\'')));
        assert_eq!(split("a\""), Err(Unclosed('"')));
    }
}
