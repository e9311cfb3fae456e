//! The grammar: assignments, one a line or separated by semicolons, of texts, numbers and lists.

use alloc::string::String;
use alloc::vec::Vec;

use super::error::{Located, SyntaxError};
use super::scanner::Scanner;
use super::{Assignment, DEEPEST_LIST, Value};

type Parsed<T> = Result<T, Located<SyntaxError>>;

/// The assignments of a file, in their order.
///
/// # Errors
///
/// The first mistake, with its line.
pub fn parse(bytes: &[u8]) -> Parsed<Vec<Assignment>> {
    let mut scanner = Scanner::new(bytes)?;
    let mut assignments = Vec::new();
    loop {
        scanner.skip_blanks(true);
        match scanner.peek() {
            None => return Ok(assignments),
            Some(';') => drop(scanner.take()),
            Some(_) => assignments.push(assignment(&mut scanner)?),
        }
    }
}

fn assignment(scanner: &mut Scanner<'_>) -> Parsed<Assignment> {
    let line = scanner.line();
    let key = match scanner.peek() {
        Some(first) if is_letter(first) => scanner.take_while(is_of_word),
        Some(other) => return scanner.error(SyntaxError::NoKey(other)),
        None => return scanner.error(SyntaxError::NoAssignment),
    };
    scanner.skip_blanks(false);
    let adds = scanner.take_if('+');
    if !scanner.take_if('=') {
        return scanner.error(SyntaxError::NoAssignment);
    }
    scanner.skip_blanks(false);
    let value = value(scanner, 0)?;
    scanner.skip_blanks(false);
    match scanner.peek() {
        None | Some('\n' | ';') => Ok(Assignment { line, key, adds, value }),
        Some(other) => scanner.error(SyntaxError::Trailing(other)),
    }
}

fn is_letter(character: char) -> bool {
    character.is_ascii_alphabetic() || character == '_'
}

fn is_of_word(character: char) -> bool {
    character.is_ascii_alphanumeric() || character == '_'
}

fn value(scanner: &mut Scanner<'_>, depth: usize) -> Parsed<Value> {
    match scanner.peek() {
        Some(quote @ ('"' | '\'')) => {
            scanner.take();
            text(scanner, quote).map(Value::Text)
        }
        Some('0'..='9') => number(scanner).map(Value::Number),
        Some('[') if depth >= DEEPEST_LIST => scanner.error(SyntaxError::TooDeep),
        Some('[') => list(scanner, depth + 1).map(Value::List),
        Some(letter) if is_letter(letter) => scanner.error(SyntaxError::Unquoted),
        None | Some('\n') => scanner.error(SyntaxError::NoValue(None)),
        other => scanner.error(SyntaxError::NoValue(other)),
    }
}

/// The rest of a text whose first quote is taken.
fn text(scanner: &mut Scanner<'_>, quote: char) -> Parsed<String> {
    let mut text = String::new();
    loop {
        match scanner.peek() {
            None | Some('\n') => return scanner.error(SyntaxError::OpenText),
            Some(end) if end == quote => {
                scanner.take();
                return Ok(text);
            }
            Some('\\') => {
                scanner.take();
                text.push(escaped(scanner)?);
            }
            Some(other) => {
                scanner.take();
                text.push(other);
            }
        }
    }
}

/// What stands behind a backslash.
fn escaped(scanner: &mut Scanner<'_>) -> Parsed<char> {
    let character = match scanner.peek() {
        Some('n') => '\n',
        Some('t') => '\t',
        Some('r') => '\r',
        Some(itself @ ('\\' | '"' | '\'')) => itself,
        Some('x') => {
            scanner.take();
            return hexadecimal(scanner);
        }
        _ => return scanner.error(SyntaxError::Escape),
    };
    scanner.take();
    Ok(character)
}

/// Two hexadecimal digits that make an ASCII character other than NUL.
fn hexadecimal(scanner: &mut Scanner<'_>) -> Parsed<char> {
    let mut digit = || {
        let digit = scanner.peek().and_then(|next| next.to_digit(16))?;
        scanner.take();
        Some(digit)
    };
    let code = digit().zip(digit()).map(|(high, low)| (high << 4 | low) as u8);
    match code.filter(|code| (1..0x80).contains(code)) {
        Some(code) => Ok(char::from(code)),
        None => scanner.error(SyntaxError::Escape),
    }
}

/// Decimal, or hexadecimal behind `0x`, or octal behind `0`.
fn number(scanner: &mut Scanner<'_>) -> Parsed<u64> {
    let word = scanner.take_while(is_of_word);
    let number = match (word.strip_prefix("0x"), word.strip_prefix('0')) {
        (Some(digits), _) => u64::from_str_radix(digits, 16),
        (None, Some(digits)) if !digits.is_empty() => u64::from_str_radix(digits, 8),
        _ => word.parse(),
    };
    number.or_else(|_| scanner.error(SyntaxError::Number))
}

fn list(scanner: &mut Scanner<'_>, depth: usize) -> Parsed<Vec<(u32, Value)>> {
    let begin = scanner.line();
    scanner.take();
    let mut values = Vec::new();
    loop {
        scanner.skip_blanks(true);
        match scanner.peek() {
            None => return Err(Located { line: begin, what: SyntaxError::OpenList }),
            Some(']') => {
                scanner.take();
                return Ok(values);
            }
            Some(_) => values.push((scanner.line(), value(scanner, depth)?)),
        }
        scanner.skip_blanks(true);
        match scanner.peek() {
            Some(',') => drop(scanner.take()),
            None | Some(']') => {}
            Some(other) => return scanner.error(SyntaxError::NoComma(other)),
        }
    }
}
