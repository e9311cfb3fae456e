//! What the hypervisor counted during a round.

use alloc::collections::BTreeMap;
use core::cmp::Reverse;

use crate::toolstack::control::Counter;

/// What is counted, in the order in which it is told.
const NAMES: [&str; COUNT] = [
    "dom0 ticks",
    "hypervisor ticks",
    "guest ticks",
    "hypercalls",
    "notifications",
    "copies",
    "bytes copied",
    "grant maps",
    "device interrupts",
    "context switches",
    "address-space switches",
    "TLB flushes",
];
const COUNT: usize = 12;
/// The places of the ticks: dom0's, the hypervisor's, the guests'.
const TICKS: [usize; 3] = [0, 1, 2];

/// Where in that order the hypervisor's counter of this name belongs. What it tells for each domain is summed, but
/// ticks: dom0's are one thing, guests' another.
fn place_of(counter: &str) -> Option<usize> {
    let name = match counter.strip_prefix("domain ").and_then(|rest| rest.split_once(' ')) {
        Some(("0", "ticks")) => "dom0 ticks",
        Some((_, "ticks")) => "guest ticks",
        Some((_, "events sent")) => "notifications",
        Some((_, "grant copies")) => "copies",
        Some((_, name)) => name,
        None => counter,
    };
    NAMES.iter().position(|known| *known == name)
}

/// The counts of one round.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Counts([u64; COUNT]);

impl Counts {
    /// Those among the hypervisor's counters that matter.
    pub fn of(counters: &[Counter]) -> Self {
        let mut counts = Self::default();
        for counter in counters {
            if let Some(place) = place_of(&counter.name) {
                counts.0[place] += counter.value();
            }
        }
        counts
    }

    /// All parts together.
    pub fn sum(parts: &[Self]) -> Self {
        let mut sum = Self::default();
        for part in parts {
            sum.0.iter_mut().zip(part.0).for_each(|(sum, count)| *sum += count);
        }
        sum
    }

    /// What is left without what an empty round has too.
    pub fn without(&self, empty: &Self) -> Self {
        let mut rest = *self;
        rest.0.iter_mut().zip(empty.0).for_each(|(count, empty)| *count = count.saturating_sub(empty));
        rest
    }

    /// What most rounds are like in all that is counted but ticks; of those, the least ticks that each party needed. The
    /// first round only warms up.
    ///
    /// A device of the machine may be done before everybody has fallen asleep, or after; that is what makes rounds
    /// differ in kind. Within a kind, the kernels' ticks differ by what their heaps look like, and the hypervisor's by
    /// the timer interrupts that came while it was idle.
    pub fn typical(rounds: &[Self]) -> Self {
        let mut kinds = BTreeMap::<Self, (usize, Self)>::new();
        for round in rounds.iter().skip(1) {
            let (times, least) = kinds.entry(round.kind()).or_insert((0, *round));
            *times += 1;
            TICKS.iter().for_each(|&place| least.0[place] = least.0[place].min(round.0[place]));
        }
        let most = kinds.into_values().max_by_key(|(times, round)| (*times, Reverse(*round)));
        most.map(|(_, round)| round).unwrap_or_default()
    }

    /// All but the ticks.
    fn kind(&self) -> Self {
        let mut kind = *self;
        TICKS.iter().for_each(|&place| kind.0[place] = 0);
        kind
    }

    /// Every count with its name.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, u64)> + use<> {
        NAMES.into_iter().zip(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    fn counter((name, value): &(&str, u32)) -> Counter {
        Counter { name: (*name).into(), values: Vec::from([*value, 0]) }
    }

    fn round(dom0: u32, hypervisor: u32, hypercalls: u32) -> Counts {
        let counters =
            [("domain 0 ticks", dom0), ("hypervisor ticks", hypervisor), ("hypercalls", hypercalls)];
        Counts::of(&counters.iter().map(counter).collect::<Vec<_>>())
    }

    #[test]
    fn domains_are_summed_but_dom0_is_told_apart() {
        let counters = [
            ("hypercalls", 5),
            ("idle ticks", 100),
            ("domain 0 ticks", 7),
            ("domain 0 events sent", 1),
            ("domain 3 ticks", 20),
            ("domain 3 events sent", 2),
            ("domain 12 ticks", 30),
            ("domain 12 bytes copied", 1500),
        ];
        let counts = Counts::of(&counters.iter().map(counter).collect::<Vec<_>>());
        let value = |name| counts.named().find(|(known, _)| *known == name).map(|(_, value)| value);
        assert_eq!(value("dom0 ticks"), Some(7));
        assert_eq!(value("guest ticks"), Some(50));
        assert_eq!(value("notifications"), Some(3));
        assert_eq!(value("bytes copied"), Some(1500));
        assert_eq!(value("hypercalls"), Some(5));
        assert_eq!(value("idle ticks"), None);
    }

    #[test]
    fn parts_of_a_round_are_added_up() {
        assert_eq!(Counts::sum(&[round(1, 20, 3), round(4, 50, 6)]), round(5, 70, 9));
        assert_eq!(Counts::sum(&[]), Counts::default());
    }

    #[test]
    fn the_most_frequent_kind_decides_and_then_what_is_least() {
        let cold = round(900, 90, 1);
        let usual = [round(8, 20, 2), round(7, 30, 2)];
        assert_eq!(Counts::typical(&[cold, round(5, 1, 1), usual[0], usual[1]]), round(7, 20, 2));
        assert_eq!(
            Counts::typical(&[cold, round(7, 1, 2), round(5, 1, 1)]),
            round(5, 1, 1),
            "both once: the cheaper"
        );
        assert_eq!(Counts::typical(&[cold, usual[0], cold]), usual[0], "the first does not count");
        assert_eq!(Counts::typical(&[cold]), Counts::default());
    }

    #[test]
    fn what_an_empty_round_has_is_taken_away() {
        assert_eq!(round(9, 4, 1).without(&round(2, 5, 1)), round(7, 0, 0));
    }
}
