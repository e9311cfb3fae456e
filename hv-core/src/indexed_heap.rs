//! A binary heap whose elements know where they are.
//!
//! Timers and run queues need "the smallest key", "insert", and "this one's key changed, or it leaves", all in
//! O(log n), without a heap allocator and without a way to fail on a hot path. The storage grows by whole frames
//! in [`IndexedHeap::reserve`], which is called when a vCPU is created; from then on nothing can fail.

use crate::frame_object::FrameBox;
use hypercall_abi::Errno;

/// An element: a cheap handle to something that remembers its place in each heap that it may be in.
pub trait Indexed: Copy {
    /// Its place in the heap of this number, or [`NOWHERE`].
    fn place(self, heap: usize) -> u32;
    /// Called when its place in the heap of this number changes.
    fn set_place(self, heap: usize, place: u32);
}

/// The place of an element that is in no heap.
pub const NOWHERE: u32 = u32::MAX;

/// Entries in one chunk: what fits a frame.
const CHUNK: usize = 256;
/// Most chunks: 32,768 entries, one for every domain there can be.
const CHUNKS: usize = 128;

#[derive(Clone, Copy)]
struct Entry<E> {
    key: u64,
    element: E,
}

type Chunk<E> = FrameBox<[Option<Entry<E>>; CHUNK]>;

/// Elements in order of a `u64` key, the smallest first.
pub struct IndexedHeap<E> {
    chunks: [Option<Chunk<E>>; CHUNKS],
    /// What elements know it by.
    number: usize,
    length: u32,
    reserved: u32,
}

impl<E: Indexed> IndexedHeap<E> {
    /// An empty heap, number 0.
    pub const fn new() -> Self {
        Self::numbered(0)
    }

    /// An empty heap of this number.
    pub const fn numbered(number: usize) -> Self {
        Self { chunks: [const { None }; CHUNKS], number, length: 0, reserved: 0 }
    }

    /// Gives an empty heap another number.
    pub const fn set_number(&mut self, number: usize) {
        self.number = number;
    }

    /// True when it has no element.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Makes room for one more element for good.
    ///
    /// # Errors
    /// `ENOMEM` when memory or the heap's bound is reached.
    pub fn reserve(&mut self) -> Result<(), Errno> {
        let chunk = self.chunks.get_mut(self.reserved as usize / CHUNK).ok_or(Errno::ENOMEM)?;
        if chunk.is_none() {
            *chunk = Some(FrameBox::try_new([const { None }; CHUNK]).ok_or(Errno::ENOMEM)?);
        }
        self.reserved += 1;
        Ok(())
    }

    /// Gives back the room of one element.
    pub fn unreserve(&mut self) {
        self.reserved = self.reserved.saturating_sub(1);
    }

    /// Key and element with the smallest key.
    #[inline]
    pub fn first(&self) -> Option<(u64, E)> {
        if self.length == 0 {
            return None;
        }
        self.entry(0).map(|entry| (entry.key, entry.element))
    }

    /// Takes out the element with the smallest key.
    #[inline]
    pub fn pop(&mut self) -> Option<(u64, E)> {
        let first = self.first()?;
        self.remove(first.1);
        Some(first)
    }

    /// Puts `element` at `key`, whether or not it is in the heap already.
    ///
    /// Room must have been reserved; an element without room is left out, which [`Indexed::place`] shows.
    pub fn set(&mut self, element: E, key: u64) {
        let place = element.place(self.number);
        if place != NOWHERE {
            self.put(place, Entry { key, element });
            return self.restore_order(place);
        }
        if self.length < self.reserved {
            let end = self.length;
            self.length += 1;
            self.put(end, Entry { key, element });
            self.sift_up(end);
        }
    }

    /// Takes `element` out, if it is in.
    pub fn remove(&mut self, element: E) {
        let place = element.place(self.number);
        if place == NOWHERE {
            return;
        }
        element.set_place(self.number, NOWHERE);
        self.length -= 1;
        let last = self.slot(self.length).and_then(Option::take);
        if place == self.length {
            return;
        }
        if let Some(last) = last {
            self.put(place, last);
            if self.length > 1 {
                self.restore_order(place);
            }
        }
    }

    fn restore_order(&mut self, place: u32) {
        if !self.sift_up(place) {
            self.sift_down(place);
        }
    }

    /// Moves an entry towards the root while it is smaller than its parent; says whether it moved.
    fn sift_up(&mut self, mut place: u32) -> bool {
        let start = place;
        while place > 0 {
            let parent = (place - 1) / 2;
            if self.key(parent) <= self.key(place) {
                break;
            }
            self.swap(parent, place);
            place = parent;
        }
        place != start
    }

    fn sift_down(&mut self, mut place: u32) {
        loop {
            let left = 2 * place + 1;
            if left >= self.length {
                return;
            }
            let right = left + 1;
            let smaller = if right < self.length && self.key(right) < self.key(left) { right } else { left };
            if self.key(place) <= self.key(smaller) {
                return;
            }
            self.swap(place, smaller);
            place = smaller;
        }
    }

    fn swap(&mut self, one: u32, other: u32) {
        if let (Some(first), Some(second)) = (self.entry(one), self.entry(other)) {
            self.put(one, second);
            self.put(other, first);
        }
    }

    fn put(&mut self, place: u32, entry: Entry<E>) {
        entry.element.set_place(self.number, place);
        if let Some(slot) = self.slot(place) {
            *slot = Some(entry);
        }
    }

    fn key(&self, place: u32) -> u64 {
        self.entry(place).map_or(u64::MAX, |entry| entry.key)
    }

    fn entry(&self, place: u32) -> Option<Entry<E>> {
        self.chunks.get(place as usize / CHUNK)?.as_ref()?[place as usize % CHUNK]
    }

    fn slot(&mut self, place: u32) -> Option<&mut Option<Entry<E>>> {
        Some(&mut self.chunks.get_mut(place as usize / CHUNK)?.as_mut()?[place as usize % CHUNK])
    }
}

impl<E: Indexed> Default for IndexedHeap<E> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::TestMachine;
    use proptest::prelude::*;
    use std::{cell::Cell, vec::Vec};

    std::thread_local! {
        static PLACES: [Cell<u32>; 64] = const { [const { Cell::new(NOWHERE) }; 64] };
    }

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct Item(usize);

    impl Indexed for Item {
        fn place(self, _heap: usize) -> u32 {
            PLACES.with(|places| places[self.0].get())
        }
        fn set_place(self, _heap: usize, place: u32) {
            PLACES.with(|places| places[self.0].set(place));
        }
    }

    fn heap_for(elements: usize) -> IndexedHeap<Item> {
        PLACES.with(|places| places.iter().for_each(|place| place.set(NOWHERE)));
        let mut heap = IndexedHeap::new();
        for _ in 0..elements {
            heap.reserve().expect("the test machine has memory");
        }
        heap
    }

    #[test]
    fn pops_in_order_of_keys() {
        let _machine = TestMachine::new(256);
        let mut heap = heap_for(5);
        for (item, key) in [(0, 30), (1, 10), (2, 20), (3, 50), (4, 40)] {
            heap.set(Item(item), key);
        }
        let order: Vec<_> = core::iter::from_fn(|| heap.pop()).map(|(key, _)| key).collect();
        assert_eq!(order, [10, 20, 30, 40, 50]);
    }

    #[test]
    fn without_reserved_room_an_element_stays_out() {
        let _machine = TestMachine::new(256);
        let mut heap = heap_for(1);
        heap.set(Item(0), 1);
        heap.set(Item(1), 0);
        assert_eq!(heap.first(), Some((1, Item(0))));
        assert_eq!(Item(1).place(0), NOWHERE);
    }

    proptest! {
        #[test]
        fn behaves_like_a_sorted_list(steps in prop::collection::vec((0usize..64, 0u64..1000, any::<bool>()), 1..300)) {
            let _machine = TestMachine::new(256);
            let mut heap = heap_for(64);
            let mut model: Vec<(u64, usize)> = Vec::new();
            for (item, key, insert) in steps {
                model.retain(|entry| entry.1 != item);
                if insert {
                    model.push((key, item));
                    heap.set(Item(item), key);
                } else {
                    heap.remove(Item(item));
                }
                prop_assert_eq!(heap.first().map(|first| first.0), model.iter().map(|entry| entry.0).min());
            }
            model.sort_unstable();
            let popped: Vec<_> = core::iter::from_fn(|| heap.pop()).map(|(key, _)| key).collect();
            prop_assert_eq!(popped, model.iter().map(|entry| entry.0).collect::<Vec<_>>());
        }
    }
}
