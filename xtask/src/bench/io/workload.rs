//! The kinds of disk requests and network traffic that are compared.

/// What a kind of request or packet needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Means {
    /// A disk.
    Disk,
    /// A network interface, and a card at the other end of its wire.
    Wire,
    /// Two guests.
    Pair,
}

/// A kind of request, packet or stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Workload {
    /// As a person calls it.
    pub name: &'static str,
    /// What it needs.
    pub means: Means,
    /// As commands call it. Of a disk, what is done (`read`, `write`, or `flush`, which is a write and a flush behind it)
    /// and where (`random` or `sequential`).
    kind: &'static str,
    /// Bytes of a request, or of a packet or segment without its headers.
    pub bytes: u32,
    /// How many are under way at once.
    pub depth: u32,
    /// How often so many are made.
    pub rounds: u32,
    /// The most that the proxy should take, as hundredths of what the bare machine takes.
    pub goal_percent: Option<u64>,
}

impl Workload {
    /// As commands call it.
    pub fn words(&self) -> String {
        format!("{} {} {}", self.kind, self.bytes, self.depth)
    }
}

const fn disk(
    name: &'static str,
    kind: &'static str,
    (bytes, depth): (u32, u32),
    rounds: u32,
    goal_percent: Option<u64>,
) -> Workload {
    Workload { name, means: Means::Disk, kind, bytes, depth, rounds, goal_percent }
}

/// Rounds of network traffic. Nothing in them depends on this computer, so there need not be many.
const NETWORK_ROUNDS: u32 = 16;

const fn network(
    name: &'static str,
    means: Means,
    kind: &'static str,
    (bytes, depth): (u32, u32),
) -> Workload {
    Workload { name, means, kind, bytes, depth, rounds: NETWORK_ROUNDS, goal_percent: None }
}

const KIB: u32 = 1 << 10;
const MIB: u32 = 1 << 20;
/// Packets of a stream that are handed over together: half a ring's.
const PACKETS: u32 = 128;
/// What a TCP segment carries, and as many as a window without scaling has room for.
const SEGMENT: u32 = 1460;
const SEGMENTS: u32 = 44;

/// All of them.
pub const WORKLOADS: [Workload; 18] = [
    disk("4 KiB random read", "read random", (4 * KIB, 1), 128, Some(200)),
    disk("4 KiB random read, 32 at once", "read random", (4 * KIB, 32), 128, Some(130)),
    disk("4 KiB write and flush", "flush sequential", (4 * KIB, 1), 128, None),
    disk("128 KiB sequential read", "read sequential", (128 * KIB, 1), 64, Some(110)),
    disk("128 KiB sequential write", "write sequential", (128 * KIB, 1), 64, None),
    disk("1 MiB sequential read", "read sequential", (MIB, 1), 32, None),
    disk("1 MiB sequential write", "write sequential", (MIB, 1), 32, None),
    network("64-byte packets out", Means::Wire, "send", (64, PACKETS)),
    network("64-byte packets in", Means::Wire, "receive", (64, PACKETS)),
    network("64-byte packets both ways, each pair", Means::Wire, "both", (64, PACKETS)),
    network("1,500-byte packets out", Means::Wire, "send", (1500, PACKETS)),
    network("1,500-byte packets in", Means::Wire, "receive", (1500, PACKETS)),
    network("1,500-byte packets both ways, each pair", Means::Wire, "both", (1500, PACKETS)),
    network("TCP stream out, each segment", Means::Wire, "tcp-send", (SEGMENT, SEGMENTS)),
    network("TCP stream in, each segment", Means::Wire, "tcp-receive", (SEGMENT, SEGMENTS)),
    network("TCP request and answer of 64 bytes", Means::Wire, "request", (64, 1)),
    network("64-byte packets, guest to guest", Means::Pair, "guests", (64, PACKETS)),
    network("1,500-byte packets, guest to guest", Means::Pair, "guests", (1500, PACKETS)),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_words_of_its_own() {
        let words: std::collections::BTreeSet<_> = WORKLOADS.iter().map(Workload::words).collect();
        assert_eq!(words.len(), WORKLOADS.len());
        assert_eq!(WORKLOADS[1].words(), "read random 4096 32");
    }
}
