//! What domain 0 and its guests print when they measure.
//!
//! ```text
//! bench: 141 null hypercall (xen_version)
//! bench: 38954/32 read of 4 KiB, 32 at a time: dom0 ticks
//! ```

use anyhow::{Context, Result};

use super::ensure_some;

/// What each such line begins with.
pub const START: &str = "bench: ";

/// What is missing where no traffic was measured.
const TRAFFIC: &str = "figures of disk or network";

/// What single things cost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Single {
    /// What was done.
    pub name: String,
    /// Its instructions.
    pub ticks: u64,
}

/// What a kind of traffic costs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Traffic {
    /// What went to and fro.
    pub name: String,
    /// How many of it were counted together.
    pub count: u64,
    /// What was counted, and how much for all of them.
    pub totals: Vec<(String, u64)>,
}

impl Traffic {
    /// The total of what is called so; zero if it is not there.
    pub fn total(&self, what: &str) -> u64 {
        self.totals.iter().find(|(name, _)| name == what).map_or(0, |(_, total)| *total)
    }
}

/// All that was measured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Single things.
    pub singles: Vec<Single>,
    /// Kinds of traffic.
    pub traffic: Vec<Traffic>,
}

impl Figures {
    /// Reads them from what was printed; other lines are passed over.
    pub fn read(lines: &[String]) -> Result<Self> {
        let figures = Self::parse(lines)?;
        ensure_some(&figures.singles, "figures")?;
        ensure_some(&figures.traffic, TRAFFIC)?;
        Ok(figures)
    }

    /// Reads what traffic costs from what was printed.
    pub fn of_traffic(lines: &[String]) -> Result<Vec<Traffic>> {
        let traffic = Self::parse(lines)?.traffic;
        ensure_some(&traffic, TRAFFIC)?;
        Ok(traffic)
    }

    fn parse(lines: &[String]) -> Result<Self> {
        let mut figures = Self::default();
        for text in lines.iter().filter_map(|line| line.strip_prefix(START)) {
            figures.add(text).with_context(|| format!("domain 0 printed {text:?}"))?;
        }
        Ok(figures)
    }

    fn add(&mut self, text: &str) -> Result<()> {
        let (number, name) = text.split_once(' ').context("there is no name")?;
        let Some((total, count)) = number.split_once('/') else {
            self.singles.push(Single { name: name.to_owned(), ticks: number.parse()? });
            return Ok(());
        };
        let (name, what) = name.rsplit_once(": ").context("there is nothing that was counted")?;
        let entry = (what.to_owned(), total.parse()?);
        match self.traffic.last_mut().filter(|last| last.name == name) {
            Some(traffic) => traffic.totals.push(entry),
            None => {
                let (name, count) = (name.to_owned(), count.parse()?);
                self.traffic.push(Traffic { name, count, totals: vec![entry] });
            }
        }
        Ok(())
    }
}

/// Single figures among what was printed; other lines are passed over.
pub fn singles(lines: &[String]) -> Result<Vec<Single>> {
    let mut figures = Figures::default();
    for text in lines.iter().filter_map(|line| line.trim_end().strip_prefix(START)) {
        figures.add(text).with_context(|| format!("the guest printed {text:?}"))?;
    }
    Ok(figures.singles)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Figures> {
        Figures::read(&text.lines().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn singles_and_traffic_are_told_apart() {
        let text = "hello\nbench: 86 null\nbench: 64/32 a, b: dom0 ticks\nbench: 6/32 a, b: hypercalls\n\
            bench: 1/1 c: dom0 ticks\n";
        let figures = read(text).unwrap();
        assert_eq!(figures.singles, [Single { name: "null".to_owned(), ticks: 86 }]);
        assert_eq!(figures.traffic.len(), 2);
        let Traffic { name, count, .. } = &figures.traffic[0];
        assert_eq!((name.as_str(), *count), ("a, b", 32));
        assert_eq!((figures.traffic[0].total("hypercalls"), figures.traffic[0].total("x")), (6, 0));
    }

    #[test]
    fn what_makes_no_sense_is_an_error() {
        for text in
            ["", "bench: 86 null", "bench: 1/1 a: b", "bench: x null\nbench: 1/1 a: b", "bench: 1/1 a"]
        {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
