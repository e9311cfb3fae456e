//! How long it takes from the order for a domain to the domain's first instruction.

use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;

use pv_runtime::time::time_stamp_counter;

use super::subject::{BenchError, Subject};
use super::{figure_in, print_figure};
use crate::toolstack::{CreateError, Toolstack};

/// The least memory that is tried, in MiB.
const LEAST_MEMORY: u64 = 4;
/// The most.
const MOST_MEMORY: u64 = 64;
/// Times that a domain of each size is made; the first time only warms up.
const ROUNDS: usize = 3;

/// Measures it with the smallest domain that our guest's kernel runs in.
pub async fn measure(toolstack: &Rc<Toolstack>) -> Result<(), BenchError> {
    for memory in LEAST_MEMORY..MOST_MEMORY {
        match least_of_rounds(toolstack, memory).await {
            Ok(ticks) => {
                let name = format!("domain create to first instruction, {memory} MiB");
                print_figure(ticks, &name);
                return Ok(());
            }
            // Too small for the kernel's image, or for what it does at start-up.
            Err(BenchError::Create(CreateError::Layout(_)) | BenchError::Session(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Err(BenchError::Failed("a guest of any size does not start".into()))
}

async fn least_of_rounds(toolstack: &Rc<Toolstack>, memory: u64) -> Result<u64, BenchError> {
    let mut least = u64::MAX;
    for round in 0..ROUNDS {
        let ticks = once(toolstack, memory).await?;
        if round > 0 {
            least = least.min(ticks);
        }
    }
    Ok(least)
}

/// Makes a domain, asks it when it began, and takes it apart.
async fn once(toolstack: &Rc<Toolstack>, memory: u64) -> Result<u64, BenchError> {
    let size = format!("memory={memory}");
    let ordered = time_stamp_counter();
    let subject = Subject::make(toolstack, "bench", &[&size, "on_crash=destroy"]).await?;
    let mut output = String::new();
    let asked = subject.run("bench start", |line| output.push_str(line)).await;
    subject.end().await;
    asked?;
    let began = figure_in(&output, "first instruction");
    began.map(|began| began.wrapping_sub(ordered)).ok_or(BenchError::Failed(output))
}
