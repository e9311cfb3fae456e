//! What was executed, round by round.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail};

/// What to record.
pub struct Settings {
    /// The address at which a round begins.
    pub begin: u64,
    /// The address at which it ends.
    pub end: u64,
    record: PathBuf,
}

impl Settings {
    /// Reads them from the plugin's arguments.
    pub fn read(words: &[String]) -> Result<Self> {
        let (mut begin, mut end, mut record) = (None, None, None);
        for word in words {
            match word.split_once('=') {
                Some(("begin", text)) => begin = Some(address(text)?),
                Some(("end", text)) => end = Some(address(text)?),
                Some(("record", text)) => record = Some(PathBuf::from(text)),
                _ => bail!("{word:?} is none of begin=ADDRESS, end=ADDRESS, record=FILE"),
            }
        }
        Ok(Self {
            begin: begin.context("begin=ADDRESS is missing")?,
            end: end.context("end=ADDRESS is missing")?,
            record: record.context("record=FILE is missing")?,
        })
    }
}

fn address(text: &str) -> Result<u64> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    u64::from_str_radix(digits, 16).with_context(|| format!("{text:?} is no hexadecimal address"))
}

/// A straight piece of code.
pub struct Block {
    number: usize,
    address: u64,
    instructions: Vec<Vec<u8>>,
    times: AtomicU64,
}

impl Block {
    /// It was executed once.
    pub fn count_one(&self) {
        // One virtual processor: nobody else adds.
        self.times.store(self.times.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }
}

/// The blocks that a round executed, and how often.
type Round = Vec<(usize, u64)>;
/// A block's address and instructions.
type Code = (u64, Vec<Vec<u8>>);

/// Blocks and rounds.
pub struct Recorder {
    /// What to record.
    pub settings: Settings,
    /// A round is under way.
    is_counting: AtomicBool,
    /// QEMU keeps pointers to blocks, so they are never freed. One that is translated anew is the same.
    blocks: Mutex<HashMap<Code, &'static Block>>,
    rounds: Mutex<Vec<Round>>,
}

impl Recorder {
    /// A recorder that knows nothing.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            is_counting: AtomicBool::new(false),
            blocks: Mutex::default(),
            rounds: Mutex::default(),
        }
    }

    /// The block with this code.
    pub fn block(&self, address: u64, instructions: Vec<Vec<u8>>) -> &'static Block {
        let mut blocks = self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        let number = blocks.len();
        blocks.entry((address, instructions.clone())).or_insert_with(|| {
            Box::leak(Box::new(Block { number, address, instructions, times: AtomicU64::new(0) }))
        })
    }

    /// A round begins.
    pub fn begin(&self) {
        let blocks = self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        blocks.values().for_each(|block| block.times.store(0, Ordering::Relaxed));
        self.is_counting.store(true, Ordering::Relaxed);
    }

    /// A round ends, if one has begun.
    pub fn end(&self) {
        if !self.is_counting.swap(false, Ordering::Relaxed) {
            return;
        }
        let blocks = self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        let times = |block: &&Block| (block.number, block.times.load(Ordering::Relaxed));
        let round = blocks.values().map(times).filter(|(_, times)| *times > 0).collect();
        self.rounds.lock().unwrap_or_else(PoisonError::into_inner).push(round);
    }

    /// Writes the record.
    pub fn write(&self) -> Result<()> {
        let path = &self.settings.record;
        let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
        let mut out = BufWriter::new(file);
        for block in self.blocks.lock().unwrap_or_else(PoisonError::into_inner).values() {
            let sizes: Vec<_> = block.instructions.iter().map(|bytes| bytes.len().to_string()).collect();
            let bytes: String =
                block.instructions.iter().flatten().map(|byte| format!("{byte:02x}")).collect();
            writeln!(out, "block {} {:x} {} {bytes}", block.number, block.address, sizes.join(","))?;
        }
        for round in self.rounds.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            writeln!(out, "round")?;
            for (number, times) in round {
                writeln!(out, "count {number} {times}")?;
            }
        }
        out.flush().context("the record is not complete")
    }
}
