//! The table.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;

use anyhow::{Context, Result};

use crate::images::{Images, Place};
use crate::record::Record;

/// Rows with less than this many instructions a request are summed up.
const LEAST: f64 = 1.0;

/// Instructions by what executed them.
type Rows = HashMap<String, f64>;

/// Instructions of a request, by kernel and function, most first.
pub fn table(record: &Record, images: &Images, count: u64, lines: bool) -> Result<String> {
    let mut kernels = BTreeMap::<String, Rows>::new();
    for (number, times) in record.differences()? {
        let block = record.blocks.get(&number).with_context(|| format!("there is no block {number}"))?;
        let each = times / count as f64;
        match images.find(block) {
            Some((kernel, places)) => {
                let rows = kernels.entry(kernel.to_owned()).or_default();
                places.iter().for_each(|place| *rows.entry(row(place, lines)).or_default() += each);
            }
            None => {
                let rows = kernels.entry("code of none of the images".to_owned()).or_default();
                *rows.entry(format!("{:#x}", block.address)).or_default() += each * block.sizes.len() as f64;
            }
        }
    }
    let mut text = String::new();
    for (kernel, rows) in kernels {
        part(&mut text, &kernel, rows)?;
    }
    Ok(text)
}

fn row(place: &Place, lines: bool) -> String {
    let Place { function, file, line } = place;
    match () {
        () if file.is_empty() => function.clone(),
        () if lines => format!("{file}:{line} {function}"),
        () => format!("{file} {function}"),
    }
}

/// One kernel's part of the table.
fn part(text: &mut String, kernel: &str, rows: Rows) -> Result<()> {
    let mut rows: Vec<_> = rows.into_iter().collect();
    rows.sort_by(|(a, x), (b, y)| y.total_cmp(x).then_with(|| a.cmp(b)));
    let total: f64 = rows.iter().map(|(_, each)| each).sum();
    writeln!(text, "{total:>10.1} {kernel}")?;
    let (shown, small): (Vec<_>, Vec<_>) = rows.into_iter().partition(|(_, each)| each.abs() >= LEAST);
    for (name, each) in shown {
        writeln!(text, "{each:>14.1} {name}")?;
    }
    let rest: f64 = small.iter().map(|(_, each)| each).sum();
    writeln!(text, "{rest:>14.1} {} more, below {LEAST} each", small.len())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_in_order_and_small_ones_are_summed() {
        let mut text = String::new();
        let rows = [("small", 0.25), ("large", 20.0), ("less", -3.5), ("tiny", 0.5)];
        part(&mut text, "dom0", rows.into_iter().map(|(name, each)| (name.to_owned(), each)).collect())
            .unwrap();
        let expected = "      17.2 dom0\n          20.0 large\n          -3.5 less\n           0.8 2 more, below 1 each\n";
        assert_eq!(text, expected);
    }
}
