//! Data on disks: written from a seed, read, hashed. Several requests are always under way.

use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::String;

use hypercall_abi::io::blkif::SECTOR_SIZE;
use pv_runtime::executor::{JoinHandle, spawn};
use pv_runtime::grant::Grant;
use pv_runtime::println;

use super::command::Extent;
use super::failure::Failure;
use super::hash::Hash;
use super::pattern::Pattern;
use super::stopwatch::Stopwatch;
use crate::block::{BlockError, Disk, DiskBuffer, Outcome, Sector};

/// Bytes of a request.
const CHUNK: u64 = 256 << 10;
/// Requests under way.
const DEPTH: usize = 8;
/// The most bytes that are printed.
const MOST_PRINTED: u64 = 4096;
/// Bytes in a printed line.
const BYTES_A_LINE: usize = 16;

/// Requests under way, oldest first.
struct Pipeline {
    disk: Disk,
    under_way: VecDeque<(usize, JoinHandle<Outcome<Grant>>)>,
}

impl Pipeline {
    fn new(disk: &Disk) -> Self {
        Self { disk: disk.clone(), under_way: VecDeque::new() }
    }

    fn is_full(&self) -> bool {
        self.under_way.len() == DEPTH
    }

    fn read(&mut self, start: Sector, buffer: DiskBuffer, length: usize) {
        let disk = self.disk.clone();
        self.under_way.push_back((length, spawn(async move { disk.read(start, buffer, length).await })));
    }

    fn write(&mut self, start: Sector, buffer: DiskBuffer, length: usize) {
        let disk = self.disk.clone();
        self.under_way.push_back((length, spawn(async move { disk.write(start, buffer, length).await })));
    }

    /// Waits for the oldest request. Returns its buffer and length, or `None` if there is no request.
    async fn next(&mut self) -> Result<Option<(DiskBuffer, usize)>, Failure> {
        let Some((length, request)) = self.under_way.pop_front() else { return Ok(None) };
        let Outcome { buffer, result } = request.join().await;
        result?;
        let buffer = buffer.ok_or(BlockError::Gone)?;
        Ok(Some((buffer, length)))
    }
}

/// Cuts an extent into requests.
fn chunks(extent: Extent) -> Result<impl Iterator<Item = (Sector, usize)>, Failure> {
    let Extent { offset, length, .. } = extent;
    let is_aligned = |number: u64| number.is_multiple_of(SECTOR_SIZE as u64);
    if !is_aligned(offset) || !is_aligned(length) {
        return Err(BlockError::Unaligned.into());
    }
    let end = offset.checked_add(length).ok_or(BlockError::OutOfRange)?;
    Ok((offset..end)
        .step_by(CHUNK as usize)
        .map(move |start| (Sector(start / SECTOR_SIZE as u64), (end - start).min(CHUNK) as usize)))
}

/// Writes the data of a seed, and flushes.
pub(super) async fn write(disk: &Disk, seed: u64, extent: Extent) -> Result<(), Failure> {
    let stopwatch = Stopwatch::start();
    let mut pattern = Pattern::new(seed);
    let mut hash = Hash::default();
    let mut pipeline = Pipeline::new(disk);
    for (sector, length) in chunks(extent)? {
        let reused = if pipeline.is_full() { pipeline.next().await? } else { None };
        let mut buffer = match reused {
            Some((buffer, _)) => buffer,
            None => disk.buffer(CHUNK as usize)?,
        };
        buffer.fill_with(length, |piece| {
            pattern.fill(piece);
            hash.add(piece);
        });
        pipeline.write(sector, buffer, length);
    }
    while pipeline.next().await?.is_some() {}
    disk.flush().await?;
    report("wrote", extent.length, hash, &stopwatch);
    Ok(())
}

/// Reads an extent in order, several requests ahead of what `visit` is given.
async fn read_each(disk: &Disk, extent: Extent, mut visit: impl FnMut(&[u8])) -> Result<(), Failure> {
    let mut pipeline = Pipeline::new(disk);
    for (sector, length) in chunks(extent)? {
        let mut reused = None;
        if pipeline.is_full()
            && let Some((buffer, length)) = pipeline.next().await?
        {
            buffer.visit(length, &mut visit);
            reused = Some(buffer);
        }
        let buffer = match reused {
            Some(buffer) => buffer,
            None => disk.buffer(CHUNK as usize)?,
        };
        pipeline.read(sector, buffer, length);
    }
    while let Some((buffer, length)) = pipeline.next().await? {
        buffer.visit(length, &mut visit);
    }
    Ok(())
}

/// Prints the hash of what is on the disk.
pub(super) async fn hash(disk: &Disk, extent: Extent) -> Result<(), Failure> {
    let stopwatch = Stopwatch::start();
    let mut hash = Hash::default();
    read_each(disk, extent, |data| hash.add(data)).await?;
    report("read", extent.length, hash, &stopwatch);
    Ok(())
}

/// Prints what is on the disk.
pub(super) async fn print(disk: &Disk, extent: Extent) -> Result<(), Failure> {
    if extent.length > MOST_PRINTED {
        return Err(Failure::new(format!("more than {MOST_PRINTED} bytes are too many to print")));
    }
    let mut offset = extent.offset;
    read_each(disk, extent, |data| {
        for line in data.chunks(BYTES_A_LINE) {
            let bytes: String = line.iter().map(|byte| format!(" {byte:02x}")).collect();
            println!("{offset:08x} {bytes}");
            offset += line.len() as u64;
        }
    })
    .await
}

/// Prints what was done.
fn report(what: &str, bytes: u64, hash: Hash, stopwatch: &Stopwatch) {
    let elapsed = stopwatch.elapsed();
    let rate = elapsed.rate(bytes) >> 20;
    println!("{what} {bytes} bytes, sha256 {}, {elapsed}, {rate} MiB/s", hash.text());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(offset: u64, length: u64) -> Vec<(u64, usize)> {
        let chunks = chunks(Extent { disk: 0, offset, length }).expect("the extent is aligned");
        chunks.map(|(sector, length)| (sector.0, length)).collect()
    }

    #[test]
    fn an_extent_is_cut_into_requests_without_gap_or_overlap() {
        assert_eq!(cut(512, 1024), [(1, 1024)]);
        assert_eq!(cut(0, CHUNK), [(0, CHUNK as usize)]);
        assert_eq!(cut(512, CHUNK + 512), [(1, CHUNK as usize), (1 + CHUNK / 512, 512)]);
        assert_eq!(cut(0, 0), []);
    }

    #[test]
    fn what_is_not_whole_sectors_is_refused() {
        for (offset, length) in [(1, 512), (0, 511), (u64::MAX - 511, 1024)] {
            assert!(chunks(Extent { disk: 0, offset, length }).is_err());
        }
    }
}
