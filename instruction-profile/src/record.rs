//! The record that the plugin writes.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

/// A straight piece of code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// Where it begins.
    pub address: u64,
    /// The lengths of its instructions.
    pub sizes: Vec<u64>,
    /// Its code.
    pub bytes: Vec<u8>,
}

/// How often each block was executed.
pub type Round = HashMap<usize, u64>;

/// Blocks by number, and rounds in the order of time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// The blocks.
    pub blocks: HashMap<usize, Block>,
    /// The rounds.
    pub rounds: Vec<Round>,
}

impl Record {
    /// Reads a record.
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(&text).with_context(|| path.display().to_string())
    }

    fn parse(text: &str) -> Result<Self> {
        let mut record = Self::default();
        for (number, line) in text.lines().enumerate() {
            record.add(line).with_context(|| format!("line {}: {line:.60}", number + 1))?;
        }
        Ok(record)
    }

    fn add(&mut self, line: &str) -> Result<()> {
        let words: Vec<_> = line.split(' ').collect();
        match words[..] {
            ["block", number, address, sizes, bytes] => {
                let sizes = sizes.split(',').map(str::parse).collect::<Result<_, _>>()?;
                let block = Block { address: u64::from_str_radix(address, 16)?, sizes, bytes: unhex(bytes)? };
                self.blocks.insert(number.parse()?, block);
            }
            ["round"] => self.rounds.push(Round::new()),
            ["count", number, times] => {
                let round = self.rounds.last_mut().context("no round has begun")?;
                round.insert(number.parse()?, times.parse()?);
            }
            _ => bail!("neither block, round nor count"),
        }
        Ok(())
    }

    /// For each block, how often it was executed in the shortest round with work more than in the shortest one without.
    /// Of an odd number of rounds the first only made ready for the others.
    pub fn differences(&self) -> Result<HashMap<usize, f64>> {
        let rounds = &self.rounds[self.rounds.len() % 2..];
        if rounds.len() < 4 {
            bail!("there are {} rounds; two without work and two with work are needed", self.rounds.len());
        }
        let (empty, full) = rounds.split_at(rounds.len() / 2);
        let mut sums = HashMap::new();
        for (half, sign) in [(&empty[1..], -1.0), (&full[1..], 1.0)] {
            for (number, times) in self.shortest(half) {
                *sums.entry(*number).or_insert(0.0) += sign * *times as f64;
            }
        }
        Ok(sums)
    }

    /// The round with the fewest instructions: others do work for later ones too, such as allocating memory.
    fn shortest<'a>(&self, rounds: &'a [Round]) -> impl Iterator<Item = (&'a usize, &'a u64)> {
        rounds.iter().min_by_key(|round| self.instructions(round)).into_iter().flatten()
    }

    /// The number of instructions in a round.
    fn instructions(&self, round: &Round) -> u64 {
        let length = |number| self.blocks.get(number).map_or(0, |block| block.sizes.len() as u64);
        round.iter().map(|(number, times)| times * length(number)).sum()
    }
}

fn unhex(text: &str) -> Result<Vec<u8>> {
    let digits = text.as_bytes().chunks(2);
    digits.map(|pair| Ok(u8::from_str_radix(std::str::from_utf8(pair)?, 16)?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "block 7 ffff 1,2 90ebfe\nround\nround\ncount 7 1\nround\nround\ncount 7 5\n";

    #[test]
    fn a_record_is_read() {
        let record = Record::parse(TEXT).unwrap();
        let block = Block { address: 0xffff, sizes: vec![1, 2], bytes: vec![0x90, 0xeb, 0xfe] };
        assert_eq!(record.blocks, HashMap::from([(7, block)]));
        assert_eq!(record.rounds.len(), 4);
        assert_eq!(record.differences().unwrap(), HashMap::from([(7, 4.0)]));
    }

    #[test]
    fn the_shortest_round_counts_and_the_first_never() {
        let round = |times: u64| format!("round\ncount 7 {times}\n");
        let rounds: String = [0, 3, 1, 2, 0, 9, 30, 10].map(round).concat();
        let record = Record::parse(&(TEXT.lines().next().unwrap().to_owned() + "\n" + &rounds)).unwrap();
        assert_eq!(record.differences().unwrap(), HashMap::from([(7, 8.0)]));
    }

    #[test]
    fn a_round_that_made_ready_is_left_out() {
        let round = |times: u64| format!("round\ncount 7 {times}\n");
        let rounds: String = [50, 0, 1, 9, 5].map(round).concat();
        let record = Record::parse(&(TEXT.lines().next().unwrap().to_owned() + "\n" + &rounds)).unwrap();
        assert_eq!(record.differences().unwrap(), HashMap::from([(7, 4.0)]));
    }

    #[test]
    fn nonsense_is_named() {
        for (text, error) in [
            ("count 7 1", "line 1: count 7 1"),
            ("round\nblock 7 fffg 1 90", "line 2: block 7 fffg 1 90"),
            ("block 7 ffff x 90", "line 1: block 7 ffff x 90"),
            ("block 7 ffff 1 9x", "line 1: block 7 ffff 1 9x"),
            ("what", "line 1: what"),
            ("", "there are 0 rounds"),
            ("round\nround\nround", "there are 3 rounds"),
        ] {
            let told = Record::parse(text).and_then(|record| record.differences()).unwrap_err().to_string();
            assert!(told.starts_with(error), "{text}: {told}");
        }
    }
}
