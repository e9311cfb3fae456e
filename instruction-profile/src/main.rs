//! Shows a [record](record) of executed instructions as a table: how many each function took for one request.
//!
//! Half of the rounds do nothing and half of them do the work that is asked about; what both have, the marks between
//! which rounds are counted, is no part of the work. Of each half, the shortest round but the first counts.

mod images;
mod record;
mod report;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, Parser};

use images::{Images, address_of};
use record::Record;

/// What was executed, function by function.
#[derive(Parser)]
enum Options {
    /// Print the address of a function, by the end of its name
    Address {
        /// A kernel's file
        file: PathBuf,
        /// Such as counters::start
        function: String,
    },
    /// Print a table of what was executed
    Report(Report),
}

#[derive(Args)]
struct Report {
    /// What the plugin wrote
    record: PathBuf,
    /// A kernel's name and file; of several whose code matches, the first one counts
    #[arg(long = "image", value_name = "NAME=FILE", value_parser = named_file, required = true)]
    images: Vec<(String, PathBuf)>,
    /// Where the source lies that functions are looked for in
    #[arg(long)]
    root: PathBuf,
    /// Requests of a round
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    count: u64,
    /// Tell source lines apart, not only functions
    #[arg(long)]
    lines: bool,
}

fn named_file(text: &str) -> Result<(String, PathBuf), String> {
    let (name, file) = text.split_once('=').ok_or("expected NAME=FILE")?;
    Ok((name.to_owned(), file.into()))
}

fn main() -> Result<()> {
    match Options::parse() {
        Options::Address { file, function } => println!("{:#x}", address_of(&file, &function)?),
        Options::Report(options) => {
            let record = Record::read(&options.record)?;
            let images = Images::open(&options.images, &options.root)?;
            print!("{}", report::table(&record, &images, options.count, options.lines)?);
        }
    }
    Ok(())
}
