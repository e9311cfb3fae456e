//! Benchmarks from inside a guest: what each thing costs, in ticks of the time stamp counter.
//!
//! Under QEMU's instruction counter a tick is an instruction and figures repeat exactly; elsewhere they are cycles of
//! a machine that does other things too. Each figure is the least of several rounds after the first, less what taking
//! the time costs, so it is the cost on a warm path.

mod counter;
mod disk;
mod frames;
pub mod io;
mod marks;
mod memory;
mod micro;
pub mod net;
mod offer;
mod peer;
mod talk;
mod upcall;
pub mod wire;

use alloc::string::String;
use alloc::vec::Vec;
use pv_runtime::println;
use pv_runtime::time::{started_at, time_stamp_counter};

use crate::apps::{Failure, machine::Machine};

/// Rounds of each measurement.
const ROUNDS: usize = 8;

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Benchmark {
    /// The hypervisor.
    Micro,
    /// When this kernel began.
    Start,
    /// Requests to the first disk, a page each.
    Disk {
        /// How often.
        rounds: u32,
        /// Requests of a round, all under way at once.
        depth: u32,
    },
    /// Requests of one kind to the first disk.
    Io {
        /// Which.
        workload: io::Workload,
        /// How often.
        rounds: u32,
    },
    /// The same requests, with every byte compared.
    Check {
        /// Which.
        workload: io::Workload,
        /// How often.
        rounds: u32,
        /// The disk's number, in the order in which disks were found.
        disk: usize,
        /// What is on it.
        seed: u64,
    },
    /// Packets to another guest, or to the network.
    Net(net::Stream),
    /// Packets from another guest, which runs the one before.
    Sink(net::Stream),
    /// Traffic of one kind over a wire of which both ends are this domain's.
    Wire {
        /// Which.
        workload: wire::Workload,
        /// How often.
        rounds: u32,
    },
}

/// Runs a benchmark.
///
/// # Errors
///
/// A [`Failure`] that says what is missing, or was refused.
pub async fn run(machine: &Machine, benchmark: Benchmark) -> Result<(), Failure> {
    match benchmark {
        Benchmark::Micro => micro::micro(machine.store.as_ref()).await?,
        Benchmark::Start => println!("bench: {} first instruction", started_at()),
        Benchmark::Disk { rounds, depth } => disk::rounds(machine, rounds, depth).await?,
        Benchmark::Io { workload, rounds } => io::count(machine, workload, rounds).await?,
        Benchmark::Check { workload, rounds, disk, seed } => {
            io::check(machine, workload, rounds, (disk, seed)).await?;
        }
        Benchmark::Net(stream) => net::rounds(machine, stream).await?,
        Benchmark::Sink(stream) => net::sink(machine, stream).await?,
        Benchmark::Wire { workload, rounds } => wire::count(machine, workload, rounds).await?,
    }
    Ok(())
}

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

    /// Enters the least of several rounds after the first.
    pub fn add_least(&mut self, name: &str, rounds: &[u64]) {
        let least = rounds.iter().skip(1).min().copied().unwrap_or(0);
        self.add(name, least);
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
