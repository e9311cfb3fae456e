//! Requests to a disk, of one kind and several at a time: counted, or checked against what must be on the disk.
//!
//! The same requests go to a disk whose back end is in another domain and to one that this domain drives itself. In
//! the first case dom0 counts what everybody does for them; a kernel that is alone counts for itself.
//!
//! The counted disk is full of zeroes. It is enough to see that every byte of a buffer was replaced; that the right
//! bytes come from the right place is for [`check`], on a disk where all are different.

use alloc::vec::Vec;
use core::fmt;

use hypercall_abi::Errno;
use hypercall_abi::io::blkif::SECTOR_SIZE;
use pv_runtime::executor::spawn;
use pv_runtime::println;

use super::counter::Counter;
use crate::apps::pattern::{self, Pattern};
use crate::apps::{Failure, machine::Machine};
use crate::block::{BlockError, Disk, DiskBuffer, Sector};

/// What a buffer is filled with before zeroes are read into it.
const FILLING: u8 = 0xa5;
/// Where requests that are in no order go is decided by the pattern of this seed.
const PLACES_SEED: u64 = 0x1092;

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Reads.
    Read,
    /// Writes.
    Write,
    /// Writes, and when all of the round is written, flushes.
    Flush,
}

/// Where requests go, one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// To places in no order.
    Random,
    /// Each to the place behind the one before.
    Sequential,
}

/// A kind of request, and how many of it are under way at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Workload {
    /// What is done.
    pub action: Action,
    /// Where.
    pub order: Order,
    /// Bytes of a request.
    pub bytes: usize,
    /// Requests of a round, all under way at once.
    pub depth: u32,
}

impl fmt::Display for Workload {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let action = match self.action {
            Action::Read => "read",
            Action::Write => "write",
            Action::Flush => "flush",
        };
        let order = match self.order {
            Order::Random => "random",
            Order::Sequential => "sequential",
        };
        write!(formatter, "{action} {order} {} {}", self.bytes, self.depth)
    }
}

/// Has rounds counted, on the first disk. A kernel that is alone prints what a round takes, less an empty one.
///
/// # Errors
///
/// If there is no disk, nobody who counts, or a request fails or brings the wrong bytes.
pub(super) async fn count(machine: &Machine, workload: Workload, rounds: u32) -> Result<(), Failure> {
    let disk = machine.disk(0)?;
    if machine.store.is_some() {
        let mut counter = Counter::of(machine.store.as_ref()).await?;
        return counted(&disk, workload, rounds, &mut counter).await;
    }
    let mut ticks = [0; 2];
    for (ticks, depth) in ticks.iter_mut().zip([0, workload.depth]) {
        let mut counter = Counter::own();
        counted(&disk, Workload { depth, ..workload }, rounds, &mut counter).await?;
        *ticks = counter.least(1);
    }
    let [empty, full] = ticks;
    println!("bench: {}/{} {workload}: guest ticks", full.saturating_sub(empty), workload.depth);
    Ok(())
}

async fn counted(disk: &Disk, workload: Workload, rounds: u32, counter: &mut Counter) -> Result<(), Failure> {
    let mut places = Places::on(disk, workload).await?;
    let (mut buffers, bytes) = (buffers(disk, workload)?, workload.bytes);
    for _ in 0..rounds {
        let requests: Vec<_> = buffers.drain(..).map(|buffer| (places.next(), buffer)).collect();
        let requests = with_each(requests, |_, buffer| buffer.fill_with(bytes, |piece| piece.fill(FILLING)));
        counter.begin().await?;
        buffers = round(disk, workload, requests).await?;
        counter.end().await?;
        let is_read = workload.action == Action::Read;
        if is_read && buffers.iter().any(|buffer| !is_zero(buffer, bytes)) {
            return Err(Failure::new("the disk holds something else than zeroes"));
        }
    }
    Ok(())
}

/// Does rounds on a disk that holds the data of `seed`, and compares every byte that is read. What is written is the
/// same data, so that the disk is as before.
///
/// # Errors
///
/// If there is no such disk, or a request fails or brings the wrong bytes.
pub(super) async fn check(
    machine: &Machine,
    workload: Workload,
    rounds: u32,
    (disk, seed): (usize, u64),
) -> Result<(), Failure> {
    let disk = machine.disk(disk)?;
    let mut places = Places::on(&disk, workload).await?;
    let mut buffers = buffers(&disk, workload)?;
    let is_read = workload.action == Action::Read;
    for _ in 0..rounds {
        let requests: Vec<_> = buffers.drain(..).map(|buffer| (places.next(), buffer)).collect();
        let chosen: Vec<u64> = requests.iter().map(|(place, _)| *place).collect();
        let requests = with_each(requests, |place, buffer| {
            let mut pattern = Pattern::at(seed, place);
            buffer.fill_with(workload.bytes, |piece| match is_read {
                true => piece.fill(FILLING),
                false => pattern.fill(piece),
            });
        });
        buffers = round(&disk, workload, requests).await?;
        let mut read = chosen.iter().zip(&buffers).filter(|_| is_read);
        if read.any(|(place, buffer)| !holds(buffer, workload.bytes, Pattern::at(seed, *place))) {
            return Err(Failure::new("wrong data was read"));
        }
    }
    println!("checked {} requests: {workload}", u64::from(rounds) * u64::from(workload.depth));
    Ok(())
}

fn buffers(disk: &Disk, workload: Workload) -> Result<Vec<DiskBuffer>, Errno> {
    (0..workload.depth).map(|_| disk.buffer(workload.bytes)).collect()
}

fn with_each(
    mut requests: Vec<(u64, DiskBuffer)>,
    mut body: impl FnMut(u64, &mut DiskBuffer),
) -> Vec<(u64, DiskBuffer)> {
    requests.iter_mut().for_each(|(place, buffer)| body(*place, buffer));
    requests
}

/// Whether the first bytes of a buffer are all zero.
fn is_zero(buffer: &DiskBuffer, bytes: usize) -> bool {
    let mut all = 0;
    buffer.visit(bytes, |piece| all |= piece.iter().fold(0, |all, byte| all | byte));
    all == 0
}

/// Whether the first bytes of a buffer are those of the pattern.
fn holds(buffer: &DiskBuffer, bytes: usize, mut pattern: Pattern) -> bool {
    let mut same = true;
    buffer.visit(bytes, |piece| same &= pattern.matches(piece));
    same
}

/// Makes all requests at once, and gives the buffers back in the same order.
async fn round(
    disk: &Disk,
    workload: Workload,
    requests: Vec<(u64, DiskBuffer)>,
) -> Result<Vec<DiskBuffer>, BlockError> {
    let begin = |(place, buffer): (u64, DiskBuffer)| {
        let (disk, start) = (disk.clone(), Sector(place / SECTOR_SIZE as u64));
        spawn(async move {
            match workload.action {
                Action::Read => disk.read(start, buffer, workload.bytes).await,
                Action::Write | Action::Flush => disk.write(start, buffer, workload.bytes).await,
            }
        })
    };
    let under_way: Vec<_> = requests.into_iter().map(begin).collect();
    let mut back = Vec::with_capacity(under_way.len());
    for request in under_way {
        let outcome = request.join().await;
        outcome.result?;
        back.push(outcome.buffer.ok_or(BlockError::Gone)?);
    }
    if workload.action == Action::Flush && !back.is_empty() {
        disk.flush().await?;
    }
    Ok(back)
}

/// Where requests go, in bytes from the disk's start.
struct Places {
    order: Order,
    bytes: u64,
    count: u64,
    next: u64,
}

impl Places {
    async fn on(disk: &Disk, workload: Workload) -> Result<Self, Failure> {
        let sectors = disk.geometry().await?.sectors;
        let bytes = workload.bytes as u64;
        if bytes == 0 || !bytes.is_multiple_of(SECTOR_SIZE as u64) {
            return Err(BlockError::Unaligned.into());
        }
        let count = sectors * SECTOR_SIZE as u64 / bytes;
        if count < u64::from(workload.depth.max(1)) {
            return Err(BlockError::OutOfRange.into());
        }
        Ok(Self { order: workload.order, bytes, count, next: 0 })
    }

    fn next(&mut self) -> u64 {
        let number = self.next;
        self.next += 1;
        let place = match self.order {
            Order::Sequential => number,
            Order::Random => pattern::word(PLACES_SEED, number),
        };
        place % self.count * self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(order: Order, count: u64) -> Vec<u64> {
        let mut places = Places { order, bytes: 4096, count, next: 0 };
        (0..2 * count).map(|_| places.next()).collect()
    }

    #[test]
    fn places_lie_on_the_disk_and_in_order_if_they_are_to() {
        assert_eq!(places(Order::Sequential, 3), [0, 4096, 8192, 0, 4096, 8192]);
        let random = places(Order::Random, 64);
        assert!(random.iter().all(|place| place % 4096 == 0 && *place < 64 * 4096));
        let distinct: alloc::collections::BTreeSet<_> = random.iter().collect();
        assert!(distinct.len() > 40, "{distinct:?}");
    }
}
