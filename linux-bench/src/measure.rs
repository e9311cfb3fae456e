//! Rounds of something, of which the least counts.

use crate::clock;
use crate::output;
use crate::syscall::Error;

/// Rounds of each figure.
const ROUNDS: u32 = 12;

/// What two readings of the clock with nothing in between differ by.
fn reading() -> u64 {
    (0..ROUNDS)
        .map(|_| {
            let before = clock::now();
            clock::now() - before
        })
        .min()
        .unwrap_or(0)
}

/// Prints what one of the `count` things costs that `action` does, in the fastest round.
pub fn least(name: &str, count: u64, mut action: impl FnMut() -> Result<(), Error>) -> Result<(), Error> {
    least_by(name, count, || {
        let before = clock::now();
        action()?;
        Ok(clock::now() - before)
    })
}

/// The same where the action itself says how long it took.
pub fn least_by(name: &str, count: u64, mut action: impl FnMut() -> Result<u64, Error>) -> Result<(), Error> {
    let mut least = u64::MAX;
    for _ in 0..ROUNDS {
        least = least.min(action()?);
    }
    let each = least.saturating_sub(reading()) / count;
    output::line(format_args!("bench: {each} {name}"));
    Ok(())
}
