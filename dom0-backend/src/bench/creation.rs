//! How long it takes from the order for a domain to the domain's first instruction.

use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use pv_runtime::executor::sleep;
use pv_runtime::time::time_stamp_counter;

use super::counts::Counts;
use super::subject::{BenchError, Subject};
use super::{figure_in, print_figure};
use crate::toolstack::{CreateError, GuestConfiguration, Toolstack, control};

/// The least memory that is tried, in MiB.
const LEAST_MEMORY: u64 = 4;
/// The most.
const MOST_MEMORY: u64 = 64;
/// Guests that are there while domains are made again and again.
const OTHERS: [&str; 3] = ["bench-a", "bench-b", "bench-c"];
/// Times that a domain of each size is made; the first time only warms up.
const ROUNDS: usize = 3;
/// Times that one is made to be counted.
const COUNTED_ROUNDS: usize = 8;
/// How long the hypervisor has before each to zero the frames of the one before.
const PAUSE: Duration = Duration::from_millis(20);
/// What is counted then.
pub const COUNTED: &str = "creation of a domain of 4 MiB";

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

/// Makes a domain of the least size again and again while others are there, and prints what it took the first time, the
/// last, and now and then between.
pub async fn repeat(toolstack: &Rc<Toolstack>, count: u32) -> Result<(), BenchError> {
    let mut others = Vec::new();
    for name in OTHERS {
        others.push(Subject::make(toolstack, name, &["memory=16"]).await?);
    }
    let repeated = repeat_beside(toolstack, count).await;
    for other in others {
        other.end().await;
    }
    repeated
}

/// What the hypervisor counts from the order for a domain until it could run; and, first, without any order.
pub async fn counted(toolstack: &Rc<Toolstack>) -> Result<[Counts; 2], BenchError> {
    let mut rounds = [Vec::new(), Vec::new()];
    for _ in 0..COUNTED_ROUNDS {
        control::reset_performance_counters()?;
        rounds[0].push(Counts::of(&control::performance_counters()?));
    }
    for _ in 0..COUNTED_ROUNDS {
        sleep(PAUSE).await;
        control::reset_performance_counters()?;
        let subject = least_subject(toolstack, LEAST_MEMORY, true).await?;
        rounds[1].push(Counts::of(&control::performance_counters()?));
        subject.end().await;
    }
    Ok(rounds.map(|rounds| Counts::typical(&rounds)))
}

/// A guest with nothing but memory; paused, if it is not to do anything.
async fn least_subject(
    toolstack: &Rc<Toolstack>,
    memory: u64,
    starts_paused: bool,
) -> Result<Subject, BenchError> {
    let settings = [&*format!("memory={memory}"), "on_crash=destroy"];
    let mut configuration = GuestConfiguration::parse("bench", settings)?;
    configuration.starts_paused = starts_paused;
    Ok(Subject::existing(toolstack, toolstack.create(&configuration).await?))
}

async fn repeat_beside(toolstack: &Rc<Toolstack>, count: u32) -> Result<(), BenchError> {
    for number in 1..=count {
        let ticks = once(toolstack, LEAST_MEMORY).await?;
        if number == count || number == 10_u32.pow(number.ilog10()) {
            let others = OTHERS.len();
            print_figure(
                ticks,
                &format!("create number {number} of {LEAST_MEMORY} MiB, beside {others} guests"),
            );
        }
    }
    Ok(())
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
    sleep(PAUSE).await;
    let ordered = time_stamp_counter();
    let subject = least_subject(toolstack, memory, false).await?;
    let mut output = String::new();
    let asked = subject.run("bench start", |line| output.push_str(line)).await;
    subject.end().await;
    asked?;
    let began = figure_in(&output, "first instruction");
    began.map(|began| began.wrapping_sub(ordered)).ok_or(BenchError::Failed(output))
}
