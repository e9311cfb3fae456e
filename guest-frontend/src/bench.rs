//! Benchmarks from inside a guest: what each thing costs, in ticks of the time stamp counter.
//!
//! Under QEMU's instruction counter a tick is an instruction and figures repeat exactly; elsewhere they are cycles of
//! a machine that does other things too. Each figure is the least of several rounds after the first, less what taking
//! the time costs, so it is the cost on a warm path.

mod memory;
mod micro;
mod peer;
mod upcall;

pub use micro::micro;

use alloc::string::String;
use alloc::vec::Vec;
use pv_runtime::println;
use pv_runtime::time::time_stamp_counter;

/// Rounds of each measurement.
const ROUNDS: usize = 8;

/// A measurement's name and result.
pub struct Row {
    /// What was measured.
    pub name: String,
    /// Ticks it took.
    pub ticks: u64,
}

/// What was measured so far.
pub struct Table {
    rows: Vec<Row>,
    /// What two readings of the counter with nothing between them take.
    overhead: u64,
}

impl Table {
    /// An empty table; measures the counter itself.
    pub fn new() -> Self {
        let mut table = Self { rows: Vec::new(), overhead: 0 };
        table.overhead = table.least(|| {});
        table
    }

    /// Ticks between two moments, less what it takes to read the counter.
    pub fn between(&self, start: u64, end: u64) -> u64 {
        end.wrapping_sub(start).saturating_sub(self.overhead)
    }

    fn least(&self, mut action: impl FnMut()) -> u64 {
        let round = |_| {
            let start = time_stamp_counter();
            action();
            self.between(start, time_stamp_counter())
        };
        (0..ROUNDS).map(round).skip(1).min().unwrap_or(0)
    }

    /// Measures `action`.
    pub fn measure(&mut self, name: &str, action: impl FnMut()) {
        let ticks = self.least(action);
        self.add(name, ticks);
    }

    /// Measures what `round` says that it took, after the first time.
    pub fn measure_by(&mut self, name: &str, mut round: impl FnMut(&Self) -> u64) {
        let ticks = (0..ROUNDS).map(|_| round(self)).skip(1).min().unwrap_or(0);
        self.add(name, ticks);
    }

    /// Enters a result.
    pub fn add(&mut self, name: &str, ticks: u64) {
        self.rows.push(Row { name: name.into(), ticks });
    }

    /// Prints every row as `bench: TICKS NAME`, which programs can read.
    pub fn print(&self) {
        for row in &self.rows {
            println!("bench: {} {}", row.ticks, row.name);
        }
    }
}

impl Default for Table {
    fn default() -> Self {
        Self::new()
    }
}
