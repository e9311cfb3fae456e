//! Grants of a guest that stay mapped, found by their references.
//!
//! A guest that says `feature-persistent` uses the same pages again and again, by the same references. So what a
//! reference was mapped to is kept, and its page costs the hypervisor nothing from then on:
//!
//! ```text
//!   reference ──► place ──► slot: the mapping, and when it was last used
//! ```
//!
//! A mapping holds the page it was made of. A guest that gives a reference another page meanwhile has broken its promise
//! and reads or writes the old one, which is its own.
//!
//! There are at most so many of a ring, and of all rings together ([`Budget`]). Those used longest ago make room for new
//! ones, unless a request on its way may be using them; if none can, the new ones are not kept.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::Cell;
use core::cmp::Reverse;

use hypercall_abi::GrantReference;

/// References from here on are not kept, so that the list of places stays within bounds.
const REFERENCES: usize = 1 << 15;
/// What stands for the place of a reference that is not kept.
const NOWHERE: u16 = u16::MAX;
/// When room is made, one of so many slots is emptied at least: looking for those used longest ago takes a while.
const SHARE: usize = 16;

/// How many more mappings all rings together may keep.
#[derive(Clone, Debug)]
pub struct Budget(Rc<Cell<usize>>);

impl Budget {
    /// So many.
    pub fn new(mappings: usize) -> Self {
        Self(Rc::new(Cell::new(mappings)))
    }

    fn take_one(&self) -> bool {
        let left = self.0.get().checked_sub(1);
        self.0.set(left.unwrap_or(0));
        left.is_some()
    }

    fn give_back(&self, count: usize) {
        self.0.set(self.0.get() + count);
    }
}

/// A stretch of time, as [`KeptGrants::begin`] counts them.
pub type Epoch = u64;

/// Since when requests may be on their way: they belong to the present epoch or to the one before.
#[derive(Debug)]
struct Epochs {
    now: Epoch,
    /// Requests on their way, of even and of odd epochs.
    requests: [usize; 2],
}

impl Epochs {
    fn requests_of(&mut self, epoch: Epoch) -> &mut usize {
        &mut self.requests[(epoch % 2) as usize]
    }

    /// Begins the next epoch, once nothing is left of the one before this.
    fn advance(&mut self) {
        if *self.requests_of(self.now + 1) == 0 {
            self.now += 1;
        }
    }

    /// The oldest epoch that a request on its way can belong to.
    fn oldest_in_use(&mut self) -> Epoch {
        if *self.requests_of(self.now + 1) == 0 { self.now } else { self.now - 1 }
    }
}

#[derive(Debug)]
struct Slot<M> {
    mapping: M,
    reference: GrantReference,
    last_used: Epoch,
}

/// The mappings that are kept of one ring's guest.
#[derive(Debug)]
pub struct KeptGrants<M> {
    /// The place among the slots of each reference up to the highest that was kept.
    places: Vec<u16>,
    slots: Vec<Slot<M>>,
    most: usize,
    budget: Budget,
    epochs: Epochs,
}

impl<M> KeptGrants<M> {
    /// Keeps at most `most` mappings, fewer than 65,535. With none, everything is as if there were no such thing.
    pub fn new(most: u16, budget: Budget) -> Self {
        let epochs = Epochs { now: 1, requests: [0; 2] };
        Self { places: Vec::new(), slots: Vec::new(), most: most.into(), budget, epochs }
    }

    /// Begins something that uses mappings; `requests` of them are on their way until [`end`](Self::end) is told so.
    #[inline]
    pub fn begin(&mut self, requests: usize) -> Epoch {
        self.epochs.advance();
        let now = self.epochs.now;
        *self.epochs.requests_of(now) += requests;
        now
    }

    /// One request of an epoch is no longer on its way.
    #[inline]
    pub fn end(&mut self, epoch: Epoch) {
        *self.epochs.requests_of(epoch) -= 1;
    }

    /// What is kept of a reference.
    #[inline]
    pub fn find(&mut self, reference: GrantReference) -> Option<&M> {
        let place = *self.places.get(reference.0 as usize)?;
        let slot = self.slots.get_mut(usize::from(place))?;
        slot.last_used = self.epochs.now;
        Some(&slot.mapping)
    }

    /// Keeps what a reference was mapped to.
    ///
    /// # Errors
    ///
    /// The mapping, if there is no room for it or another one of that reference is kept.
    pub fn keep(&mut self, reference: GrantReference, mapping: M) -> Result<(), M> {
        let index = reference.0 as usize;
        let is_kept = self.places.get(index).is_some_and(|place| *place != NOWHERE);
        if is_kept || index >= REFERENCES || self.slots.len() == self.most || !self.budget.take_one() {
            return Err(mapping);
        }
        if self.places.len() <= index {
            self.places.resize(index + 1, NOWHERE);
        }
        self.places[index] = self.slots.len() as u16;
        self.slots.push(Slot { mapping, reference, last_used: self.epochs.now });
        Ok(())
    }

    /// Makes room for `wanted` more, as far as that is possible, by giving up those that were used longest ago.
    pub fn make_room(&mut self, wanted: usize, let_go: impl FnMut(M)) {
        let room = self.budget.0.get().min(self.most - self.slots.len());
        let lacking = wanted.saturating_sub(room);
        if lacking == 0 || self.most == 0 {
            return;
        }
        let mut unused = self.unused();
        let count = lacking.max(self.most / SHARE).min(unused.len());
        if count == 0 {
            return;
        }
        unused.select_nth_unstable(count - 1);
        unused.truncate(count);
        // The last place first: the slot that moves into the gap is not one of the others then.
        unused.sort_unstable_by_key(|(_, place)| Reverse(*place));
        unused.into_iter().map(|(_, place)| self.take_out(place)).for_each(let_go);
    }

    /// The slots that no request can be using: when they were used, and their places.
    fn unused(&mut self) -> Vec<(Epoch, usize)> {
        let oldest = self.epochs.oldest_in_use();
        let uses = self.slots.iter().map(|slot| slot.last_used).zip(0..);
        uses.filter(|(last_used, _)| *last_used < oldest).collect()
    }

    fn take_out(&mut self, place: usize) -> M {
        let Slot { mapping, reference, .. } = self.slots.swap_remove(place);
        self.places[reference.0 as usize] = NOWHERE;
        if let Some(moved) = self.slots.get(place) {
            self.places[moved.reference.0 as usize] = place as u16;
        }
        self.budget.give_back(1);
        mapping
    }

    /// Gives up all of them. No request may be on its way.
    pub fn give_up_all(&mut self, let_go: impl FnMut(M)) {
        self.places.clear();
        self.budget.give_back(self.slots.len());
        self.slots.drain(..).map(|slot| slot.mapping).for_each(let_go);
    }
}

impl<M> Drop for KeptGrants<M> {
    fn drop(&mut self) {
        self.give_up_all(drop);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeMap;
    use alloc::vec;
    use proptest::prelude::*;

    fn table(most: u16) -> KeptGrants<u32> {
        KeptGrants::new(most, Budget::new(1000))
    }

    /// Uses a reference as a request of one page does that is done at once: returns whether it was kept already.
    fn use_once(table: &mut KeptGrants<u32>, reference: u32) -> bool {
        let epoch = table.begin(1);
        let found = table.find(GrantReference(reference)).is_some();
        if !found {
            table.make_room(1, drop);
            let _ = table.keep(GrantReference(reference), reference);
        }
        table.end(epoch);
        found
    }

    #[test]
    fn what_is_kept_is_found_and_nothing_else() {
        let mut table = table(4);
        for reference in [8, 9, 500] {
            assert!(!use_once(&mut table, reference));
            assert!(use_once(&mut table, reference));
        }
        assert_eq!(table.find(GrantReference(499)), None);
        assert_eq!(table.find(GrantReference(u32::MAX)), None);
        assert_eq!(table.keep(GrantReference(8), 77), Err(77), "one mapping of a reference is enough");
        assert_eq!(table.find(GrantReference(8)), Some(&8));
    }

    #[test]
    fn those_used_longest_ago_make_room() {
        let mut table = table(4);
        for reference in [1, 2, 3, 4, 1, 2, 5] {
            use_once(&mut table, reference);
        }
        let kept: Vec<_> = (1..6).filter(|one| table.find(GrantReference(*one)).is_some()).collect();
        assert_eq!(kept, [1, 2, 4, 5]);
    }

    #[test]
    fn what_a_request_on_its_way_uses_stays() {
        let mut table = table(2);
        let slow = table.begin(1);
        table.keep(GrantReference(1), 1).expect("there is room");
        for reference in 2..100 {
            use_once(&mut table, reference);
            assert_eq!(table.find(GrantReference(1)), Some(&1), "{reference}");
        }
        table.end(slow);
        for reference in 200..205 {
            use_once(&mut table, reference);
        }
        assert_eq!(table.find(GrantReference(1)), None);
    }

    #[test]
    fn nothing_is_kept_without_room_of_ones_own_or_in_the_budget() {
        let mut none = table(0);
        none.make_room(5, drop);
        assert_eq!(none.keep(GrantReference(1), 1), Err(1));
        let budget = Budget::new(3);
        let mut tables = [KeptGrants::new(2, budget.clone()), KeptGrants::new(2, budget.clone())];
        let kept = |table: &mut KeptGrants<u32>| {
            (0..2).filter(|one| table.keep(GrantReference(*one), *one).is_ok()).count()
        };
        assert_eq!([kept(&mut tables[0]), kept(&mut tables[1])], [2, 1]);
        let [first, mut second] = tables;
        drop(first);
        assert_eq!(budget.0.get(), 2, "what is dropped is given back");
        assert_eq!(kept(&mut second), 1);
        assert_eq!(second.keep(GrantReference(REFERENCES as u32), 0), Err(0));
    }

    #[derive(Clone, Debug)]
    enum Step {
        /// A request for these references begins.
        Begin(Vec<u32>),
        /// One of those on their way ends.
        End(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => prop::collection::vec(0_u32..40, 1..6).prop_map(Step::Begin),
            2 => any::<usize>().prop_map(Step::End),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// Whatever comes and goes: what a request on its way found or kept is not let go, what is found is what was
        /// kept, and the bounds hold.
        #[test]
        fn nothing_in_use_is_let_go(steps in prop::collection::vec(step(), 1..200)) {
            let budget = Budget::new(10);
            let mut table = KeptGrants::new(12, budget.clone());
            let mut requests: Vec<(Epoch, Vec<u32>)> = vec![];
            let mut mapped = BTreeMap::new();
            for (serial, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Begin(references) => {
                        let mut let_go = vec![];
                        let mut used = vec![];
                        let epoch = table.begin(1);
                        table.make_room(references.len(), |one| let_go.push(one));
                        for one in let_go {
                            prop_assert!(!requests.iter().any(|(_, used)| used.contains(&one)));
                            mapped.retain(|_, mapping| *mapping != one);
                        }
                        for (index, one) in references.into_iter().enumerate() {
                            let fresh = (serial * 10 + index) as u32;
                            let found = table.find(GrantReference(one)).copied();
                            prop_assert_eq!(found, mapped.get(&one).copied());
                            if let Some(found) = found {
                                used.push(found);
                            } else if table.keep(GrantReference(one), fresh).is_ok() {
                                mapped.insert(one, fresh);
                                used.push(fresh);
                            }
                        }
                        requests.push((epoch, used));
                    }
                    Step::End(which) if !requests.is_empty() => {
                        let (epoch, _) = requests.remove(which % requests.len());
                        table.end(epoch);
                    }
                    Step::End(_) => {}
                }
                prop_assert_eq!(table.slots.len() + budget.0.get(), 10);
                prop_assert_eq!(table.slots.len(), mapped.len());
            }
        }
    }
}
