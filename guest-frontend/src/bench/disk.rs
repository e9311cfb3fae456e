//! Reads of a page each, several at a time, for dom0 to count what they take.

use alloc::vec::Vec;

use hypercall_abi::PAGE_SIZE;
use hypercall_abi::io::blkif::SECTOR_SIZE;
use pv_runtime::executor::spawn;

use super::marks::Marks;
use crate::apps::{Failure, machine::Machine};
use crate::block::{BlockError, Disk, DiskBuffer, Sector};

/// Sectors of a page.
const SECTORS: u64 = (PAGE_SIZE / SECTOR_SIZE) as u64;

/// Does rounds of `depth` reads. Every round reads the same, one page after the other from the disk's start.
///
/// # Errors
///
/// If there is no disk, nobody who counts, or a read fails.
pub(super) async fn rounds(machine: &Machine, rounds: u32, depth: u32) -> Result<(), Failure> {
    let disk = machine.disk(0)?;
    let marks = Marks::connect(machine.store.as_ref()).await?;
    let mut buffers = (0..depth).map(|_| disk.buffer(PAGE_SIZE)).collect::<Result<Vec<_>, _>>()?;
    for _ in 0..rounds {
        marks.pass().await?;
        buffers = round(&disk, buffers).await?;
        marks.pass().await?;
    }
    Ok(())
}

/// Reads into all buffers at once, and gives them back.
async fn round(disk: &Disk, buffers: Vec<DiskBuffer>) -> Result<Vec<DiskBuffer>, BlockError> {
    let begin = |(place, buffer): (u64, DiskBuffer)| {
        let disk = disk.clone();
        spawn(async move { disk.read(Sector(place * SECTORS), buffer, PAGE_SIZE).await })
    };
    let under_way: Vec<_> = (0..).zip(buffers).map(begin).collect();
    let mut back = Vec::with_capacity(under_way.len());
    for read in under_way {
        let outcome = read.join().await;
        outcome.result?;
        back.push(outcome.buffer.ok_or(BlockError::Gone)?);
    }
    Ok(back)
}
