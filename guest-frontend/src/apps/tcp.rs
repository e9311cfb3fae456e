//! Bulk data over TCP: made from a seed on one end, compared and hashed on the other.

use alloc::format;

use ip_stack::{Buffers, ConnectionError, Stack, TcpStream};
use pv_runtime::println;

use super::command::{Peer, Transfer};
use super::failure::Failure;
use super::hash::Hash;
use super::pattern::Pattern;
use super::stopwatch::Stopwatch;

/// Sends a transfer's data.
pub(super) async fn send(stack: &Stack, transfer: Transfer) -> Result<(), Failure> {
    let mut stream = open(stack, transfer).await?;
    let stopwatch = Stopwatch::start();
    let mut pattern = Pattern::new(transfer.seed);
    let mut hash = Hash::default();
    while pattern.position() < transfer.bytes {
        let rest = transfer.bytes - pattern.position();
        stream
            .send_with(|room| {
                let length = room.len().min(usize::try_from(rest).unwrap_or(usize::MAX));
                pattern.fill(&mut room[..length]);
                hash.add(&room[..length]);
                length
            })
            .await?;
    }
    stream.finish().await?;
    report("sent", transfer.bytes, hash, &stopwatch);
    Ok(())
}

/// Receives a transfer's data and compares it.
pub(super) async fn receive(stack: &Stack, transfer: Transfer) -> Result<(), Failure> {
    let mut stream = open(stack, transfer).await?;
    let stopwatch = Stopwatch::start();
    let mut pattern = Pattern::new(transfer.seed);
    let mut hash = Hash::default();
    let mut same = true;
    while pattern.position() < transfer.bytes {
        let rest = transfer.bytes - pattern.position();
        let received = stream.receive_with(|data| {
            let length = data.len().min(usize::try_from(rest).unwrap_or(usize::MAX));
            same &= pattern.matches(&data[..length]);
            hash.add(&data[..length]);
            length
        });
        if received.await?.is_none() {
            return Err(Failure::new(format!("the stream ends after {} bytes", pattern.position())));
        }
    }
    report("received", transfer.bytes, hash, &stopwatch);
    if same { Ok(()) } else { Err(Failure::new("the data is not that of the seed")) }
}

/// Connects to the other end, or lets it connect.
async fn open(stack: &Stack, transfer: Transfer) -> Result<TcpStream, ConnectionError> {
    match transfer.peer {
        Peer::Host(address) => TcpStream::connect(stack, address, transfer.port, Buffers::BULK).await,
        Peer::Listen => TcpStream::accept(stack, transfer.port, Buffers::BULK).await,
    }
}

/// Prints what went over a connection.
fn report(what: &str, bytes: u64, hash: Hash, stopwatch: &Stopwatch) {
    let elapsed = stopwatch.elapsed();
    let rate = elapsed.rate(bytes) * 8 / 1_000_000;
    println!("{what} {bytes} bytes, sha256 {}, {elapsed}, {rate} Mbit/s", hash.text());
}
