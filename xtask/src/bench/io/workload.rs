//! The kinds of disk requests that are compared.

/// A kind of request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Workload {
    /// As a person calls it.
    pub name: &'static str,
    /// What is done: `read`, `write`, or `flush`, which is a write and a flush behind it.
    action: &'static str,
    /// Where: `random` or `sequential`.
    order: &'static str,
    /// Bytes of a request.
    pub bytes: u32,
    /// Requests under way at once.
    pub depth: u32,
    /// How often so many are made.
    pub rounds: u32,
    /// The most that the proxy should take, as hundredths of what the bare machine takes.
    pub goal_percent: Option<u64>,
}

impl Workload {
    /// As the guest's command calls it.
    pub fn words(&self) -> String {
        format!("{} {} {} {}", self.action, self.order, self.bytes, self.depth)
    }
}

const fn workload(
    name: &'static str,
    (action, order): (&'static str, &'static str),
    (bytes, depth): (u32, u32),
    rounds: u32,
    goal_percent: Option<u64>,
) -> Workload {
    Workload { name, action, order, bytes, depth, rounds, goal_percent }
}

const KIB: u32 = 1 << 10;
const MIB: u32 = 1 << 20;

/// All of them.
pub const WORKLOADS: [Workload; 7] = [
    workload("4 KiB random read", ("read", "random"), (4 * KIB, 1), 128, Some(200)),
    workload("4 KiB random read, 32 at once", ("read", "random"), (4 * KIB, 32), 128, Some(130)),
    workload("4 KiB write and flush", ("flush", "sequential"), (4 * KIB, 1), 128, None),
    workload("128 KiB sequential read", ("read", "sequential"), (128 * KIB, 1), 64, Some(110)),
    workload("128 KiB sequential write", ("write", "sequential"), (128 * KIB, 1), 64, None),
    workload("1 MiB sequential read", ("read", "sequential"), (MIB, 1), 32, None),
    workload("1 MiB sequential write", ("write", "sequential"), (MIB, 1), 32, None),
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
