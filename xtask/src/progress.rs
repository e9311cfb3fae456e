//! What the person in front of the terminal is told while work goes on.
//!
//! Everything goes to standard error: standard output belongs to what was asked for.

use std::fmt::Display;

/// Says which stage begins, in one line.
pub fn stage(text: impl Display) {
    eprintln!("weir: {text}");
}

/// Says something that belongs to the stage before it.
pub fn detail(text: impl Display) {
    for line in text.to_string().lines() {
        eprintln!("      {line}");
    }
}
