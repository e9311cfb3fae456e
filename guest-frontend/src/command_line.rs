//! Options of the kernel's command line whose values have spaces in them.

/// The value of the last `name=value` on the command line, where the value may be in double or single quotes.
/// A quote that does not end goes on to the end of the line.
pub fn quoted_option<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let mut found = None;
    let mut rest = line.trim_start();
    while !rest.is_empty() {
        let (word, after) = rest.split_at(word_length(rest));
        if let Some(value) = word.strip_prefix(name).and_then(|word| word.strip_prefix('=')) {
            found = Some(unquoted(value));
        }
        rest = after.trim_start();
    }
    found
}

/// The length of the word at the start of a text, up to a space that is not within quotes.
fn word_length(text: &str) -> usize {
    let mut quote = None;
    for (index, character) in text.char_indices() {
        match (quote, character) {
            (None, '"' | '\'') => quote = Some(character),
            (Some(open), close) if open == close => quote = None,
            (None, space) if space.is_whitespace() => return index,
            _ => {}
        }
    }
    text.len()
}

/// A value without the quotes around it.
fn unquoted(value: &str) -> &str {
    for quote in ['"', '\''] {
        if let Some(inner) = value.strip_prefix(quote) {
            return inner.strip_suffix(quote).unwrap_or(inner);
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_may_be_quoted() {
        let line = r#"console=hvc0 run="info; disk-hash 0 1M" noecho ip='a b' x=1"#;
        assert_eq!(quoted_option(line, "run"), Some("info; disk-hash 0 1M"));
        assert_eq!(quoted_option(line, "ip"), Some("a b"));
        assert_eq!(quoted_option(line, "x"), Some("1"));
        assert_eq!(quoted_option(line, "noecho"), None);
        assert_eq!(quoted_option(line, "un"), None);
    }

    #[test]
    fn what_is_within_quotes_is_no_option() {
        assert_eq!(quoted_option(r#"a="run=x" b"#, "run"), None);
    }

    #[test]
    fn the_last_one_counts_and_an_open_quote_ends_with_the_line() {
        assert_eq!(quoted_option("run=a run=b", "run"), Some("b"));
        assert_eq!(quoted_option(r#"run="info; help"#, "run"), Some("info; help"));
        assert_eq!(quoted_option("run=", "run"), Some(""));
    }
}
