//! The split virtqueue: a table of descriptors and two rings, each in a page of its own.
//!
//! ```text
//!   descriptors   16 bytes each: address, length, flags, next         we write
//!   available     flags, index, then descriptor numbers, used_event   we write
//!   used          flags, index, then (number, length), avail_event    the device writes
//! ```
//!
//! A request is a chain of descriptors, named by its first. What belongs to which chain, what is in flight and
//! what is free stands in our own table ([`Slot`]), so nothing that lies in the shared pages is ever read back,
//! except the device's answers; and each of those is checked against the table.

use alloc::boxed::Box;
use core::sync::atomic::{AtomicU32, Ordering, fence};

use hypercall_abi::Errno;
use pv_runtime::memory::{Page, SharedMemory};

use super::error::DeviceFault;
use super::transport::QueueAddresses;

/// The most descriptors a queue can have: with more, the table would not fit into a page.
pub const QUEUE_SIZE_MAX: u16 = 256;
/// Words that a descriptor takes.
pub const DESCRIPTOR_WORDS: usize = 4;

const DESCRIPTOR_NEXT: u32 = 1;
const DESCRIPTOR_WRITE: u32 = 2;
const DESCRIPTOR_INDIRECT: u32 = 4;

/// In the flags of the available ring: we want no interrupt.
const NO_INTERRUPT: u32 = 1;
/// In the flags of the used ring: the device wants no doorbell.
const NO_NOTIFY: u32 = 1;

/// No slot: ends the list of free ones.
const NONE: u16 = u16::MAX;

/// A piece of memory for the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffer {
    /// Machine address of the first byte.
    pub address: u64,
    /// Bytes.
    pub length: u32,
    /// Whether the device writes it rather than reads it. Those that it reads come first in a chain.
    pub is_written: bool,
}

/// There are fewer free descriptors than the chain needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueFull;

/// Whether the doorbell must be rung.
#[must_use = "a device that is not notified may never look"]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotifyDevice {
    /// Ring it.
    Yes,
    /// The device is at work, or there is nothing new.
    No,
}

/// A chain that came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Used {
    /// What it was added with.
    pub token: u32,
    /// Bytes that the device says it wrote. It may say anything.
    pub written: u32,
}

/// What we know of a descriptor.
#[derive(Clone, Copy, Debug)]
struct Slot {
    /// The next one of the chain, or of the free list.
    next: u16,
    /// Descriptors in the chain that starts here and is in flight; otherwise 0.
    chain: u16,
    /// The chain's token.
    token: u32,
}

/// A queue of requests to a device.
#[derive(Debug)]
pub struct Virtqueue {
    descriptors: Page,
    available: Page,
    used: Page,
    slots: Box<[Slot]>,
    /// What stands in the words of the available ring, two entries each.
    available_words: Box<[u32]>,
    free_head: u16,
    free_count: u16,
    /// Chains in flight.
    in_flight: u16,
    /// The index of the next chain in the available ring.
    available_index: u16,
    /// Up to which index the device has been shown chains.
    published_index: u16,
    /// Up to which index completions have been taken.
    used_index: u16,
    event_index: bool,
    /// [`NO_INTERRUPT`] or nothing, where the device goes by that flag.
    interrupt_flag: u32,
}

impl Virtqueue {
    /// A queue of `size` descriptors. `event_index` says whether that feature was agreed on.
    ///
    /// # Errors
    ///
    /// `ENOMEM` if there are no pages for it, `EINVAL` if `size` is not a power of two between 2 and
    /// [`QUEUE_SIZE_MAX`].
    pub fn new(size: u16, event_index: bool) -> Result<Self, Errno> {
        if !size.is_power_of_two() || !(2..=QUEUE_SIZE_MAX).contains(&size) {
            return Err(Errno::EINVAL);
        }
        let link = |index| Slot { next: if index + 1 < size { index + 1 } else { NONE }, chain: 0, token: 0 };
        Ok(Self {
            descriptors: Page::new()?,
            available: Page::new()?,
            used: Page::new()?,
            slots: (0..size).map(link).collect(),
            available_words: (0..size / 2).map(|_| 0).collect(),
            free_head: 0,
            free_count: size,
            in_flight: 0,
            available_index: 0,
            published_index: 0,
            used_index: 0,
            event_index,
            interrupt_flag: 0,
        })
    }

    /// What to tell the device.
    pub fn addresses(&self) -> QueueAddresses {
        QueueAddresses {
            descriptors: self.descriptors.machine_frame().physical_address(),
            available: self.available.machine_frame().physical_address(),
            used: self.used.machine_frame().physical_address(),
        }
    }

    /// Descriptors in all.
    pub fn size(&self) -> u16 {
        self.slots.len() as u16
    }

    /// Descriptors that are free.
    #[inline]
    pub fn free_descriptors(&self) -> u16 {
        self.free_count
    }

    /// Chains that have not come back.
    #[inline]
    pub fn in_flight(&self) -> u16 {
        self.in_flight
    }

    /// Adds a chain, which the device sees after [`publish`](Self::publish). An empty chain adds nothing.
    ///
    /// # Errors
    ///
    /// [`QueueFull`] if there are fewer free descriptors than `chain` has buffers.
    #[inline]
    pub fn add(&mut self, chain: &[Buffer], token: u32) -> Result<(), QueueFull> {
        if chain.len() > usize::from(self.free_count) {
            return Err(QueueFull);
        }
        let head = self.free_head;
        let mut index = head;
        for (position, buffer) in chain.iter().enumerate() {
            let next = self.slots[usize::from(index)].next;
            let link = (position + 1 < chain.len()).then_some(next);
            self.write_descriptor(index, buffer, write_flag(buffer), link);
            index = next;
        }
        if !chain.is_empty() {
            self.take_chain(head, index, chain.len() as u16, token);
        }
        Ok(())
    }

    /// Adds a chain that stands in a table elsewhere, as [`write_in_table`] writes it, of `count` descriptors.
    /// It takes one descriptor here. The feature must have been agreed on.
    ///
    /// # Errors
    ///
    /// [`QueueFull`] if no descriptor is free.
    #[inline]
    pub fn add_indirect(&mut self, table_address: u64, count: u16, token: u32) -> Result<(), QueueFull> {
        let head = self.free_head;
        let Some(slot) = self.slots.get(usize::from(head)) else { return Err(QueueFull) };
        let after = slot.next;
        let length = u32::from(count) * (DESCRIPTOR_WORDS * size_of::<u32>()) as u32;
        let table = Buffer { address: table_address, length, is_written: false };
        self.write_descriptor(head, &table, DESCRIPTOR_INDIRECT, None);
        self.take_chain(head, after, 1, token);
        Ok(())
    }

    #[inline]
    fn write_descriptor(&self, index: u16, buffer: &Buffer, flags: u32, next: Option<u16>) {
        let first = usize::from(index) * DESCRIPTOR_WORDS;
        write_descriptor(&self.descriptors.words()[first..], buffer, flags, next);
    }

    /// Takes the chain of `count` slots from the free list, which goes on with `after`, and queues it.
    #[inline]
    fn take_chain(&mut self, head: u16, after: u16, count: u16, token: u32) {
        self.free_head = after;
        self.free_count -= count;
        self.in_flight += 1;
        let slot = &mut self.slots[usize::from(head)];
        slot.chain = count;
        slot.token = token;
        let entry = usize::from(self.available_index) % self.slots.len();
        let (word, shift) = (entry / 2, entry % 2 * 16);
        let value = self.available_words[word] & !(0xffff << shift) | u32::from(head) << shift;
        self.available_words[word] = value;
        self.available.words()[1 + word].store(value, Ordering::Relaxed);
        self.available_index = self.available_index.wrapping_add(1);
    }

    /// Shows the device what was added, and says whether it wants to be told.
    #[inline]
    pub fn publish(&mut self) -> NotifyDevice {
        let (old, new) = (self.published_index, self.available_index);
        if old == new {
            return NotifyDevice::No;
        }
        self.published_index = new;
        self.store_available_index();
        // The index is seen before we look whether the device waits (section 2.7.13.4.1).
        fence(Ordering::SeqCst);
        let wanted = if self.event_index {
            let event = self.avail_event();
            new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
        } else {
            self.used_word(0) & NO_NOTIFY == 0
        };
        if wanted { NotifyDevice::Yes } else { NotifyDevice::No }
    }

    /// Takes the next completion, if there is one.
    ///
    /// # Errors
    ///
    /// [`DeviceFault`] if the device completed what it does not have. Nothing it says can be trusted then.
    #[inline]
    pub fn take_used(&mut self) -> Result<Option<Used>, DeviceFault> {
        let produced = self.produced();
        if produced == self.used_index {
            return Ok(None);
        }
        if produced.wrapping_sub(self.used_index) > self.in_flight {
            return Err(DeviceFault::UsedTooMuch { found: produced, expected: self.used_index });
        }
        let entry = usize::from(self.used_index) % self.slots.len();
        let (descriptor, written) = (self.used_word(1 + 2 * entry), self.used_word(2 + 2 * entry));
        let token = self.release(descriptor)?;
        self.used_index = self.used_index.wrapping_add(1);
        Ok(Some(Used { token, written }))
    }

    /// Puts the chain that starts at `descriptor` back among the free ones, and gives its token.
    #[inline]
    fn release(&mut self, descriptor: u32) -> Result<u32, DeviceFault> {
        let slot = self.slots.get_mut(descriptor as usize).filter(|slot| slot.chain > 0);
        let slot = slot.ok_or(DeviceFault::UnknownRequest { descriptor })?;
        let (count, token) = (core::mem::take(&mut slot.chain), slot.token);
        let mut last = descriptor as usize;
        for _ in 1..count {
            last = usize::from(self.slots[last].next);
        }
        self.slots[last].next = self.free_head;
        self.free_head = descriptor as u16;
        self.free_count += count;
        self.in_flight -= 1;
        Ok(token)
    }

    /// Asks for an interrupt when `count` completions are there to be taken (0 counts as 1), and says whether so
    /// many are there already: then take them rather than wait. A device that does not know event indexes
    /// interrupts at each one.
    #[must_use = "waiting although there is something to take may wait for ever"]
    pub fn ask_for_interrupt(&mut self, count: u16) -> bool {
        let count = count.max(1);
        if self.event_index {
            let event = self.used_index.wrapping_add(count - 1);
            self.available.words()[1 + self.available_words.len()].store(u32::from(event), Ordering::Relaxed);
        } else {
            self.interrupt_flag = 0;
            self.store_available_index();
        }
        // The wish is seen before we look at the index.
        fence(Ordering::SeqCst);
        self.produced().wrapping_sub(self.used_index) >= count
    }

    /// Asks for no more interrupts. One that is under way may still come.
    pub fn refuse_interrupts(&mut self) {
        // With event indexes an interrupt comes once for each wish, so there is nothing to take back.
        if !self.event_index {
            self.interrupt_flag = NO_INTERRUPT;
            self.store_available_index();
        }
    }

    /// Writes flags and index of the available ring, which share a word.
    #[inline]
    fn store_available_index(&self) {
        let word = u32::from(self.published_index) << 16 | self.interrupt_flag;
        // Release: descriptors and ring entries are seen before the index that vouches for them.
        self.available.words()[0].store(word, Ordering::Release);
    }

    #[inline]
    fn produced(&self) -> u16 {
        // Acquire: completions are read after the index that vouches for them.
        (self.used.words()[0].load(Ordering::Acquire) >> 16) as u16
    }

    #[inline]
    fn used_word(&self, word: usize) -> u32 {
        self.used.words()[word].load(Ordering::Relaxed)
    }

    #[inline]
    fn avail_event(&self) -> u16 {
        self.used_word(1 + 2 * self.slots.len()) as u16
    }

    /// The tokens of all chains that have not come back, for when the device is given up.
    pub fn tokens_in_flight(&self) -> impl Iterator<Item = u32> {
        self.slots.iter().filter(|slot| slot.chain > 0).map(|slot| slot.token)
    }
}

#[inline]
fn write_flag(buffer: &Buffer) -> u32 {
    if buffer.is_written { DESCRIPTOR_WRITE } else { 0 }
}

#[inline]
fn write_descriptor(words: &[AtomicU32], buffer: &Buffer, flags: u32, next: Option<u16>) {
    let link = next.map_or(0, |next| DESCRIPTOR_NEXT | u32::from(next) << 16);
    let values = [buffer.address as u32, (buffer.address >> 32) as u32, buffer.length, flags | link];
    for (word, value) in words[..DESCRIPTOR_WORDS].iter().zip(values) {
        word.store(value, Ordering::Relaxed);
    }
}

/// Writes descriptor `index` of a table for [`Virtqueue::add_indirect`], whose chain begins with descriptor 0 and goes
/// on with descriptor `next` after this one.
///
/// # Panics
///
/// If `words` has no room for it.
#[inline]
pub fn write_in_table(words: &[AtomicU32], index: u16, buffer: &Buffer, next: Option<u16>) {
    write_descriptor(&words[usize::from(index) * DESCRIPTOR_WORDS..], buffer, write_flag(buffer), next);
}

#[cfg(test)]
mod tests {
    use super::super::fake::FakeQueue;
    use super::*;
    use alloc::vec::Vec;

    fn queue(size: u16, event_index: bool) -> (Virtqueue, FakeQueue) {
        let queue = Virtqueue::new(size, event_index).expect("a host has memory");
        let device = FakeQueue::new(size, queue.addresses());
        (queue, device)
    }

    fn buffer(number: u64) -> Buffer {
        Buffer { address: number << 12, length: number as u32, is_written: number % 2 == 1 }
    }

    fn chain(length: u64) -> Vec<Buffer> {
        (0..length).map(buffer).collect()
    }

    fn complete_one(device: &mut FakeQueue, written: u32) {
        let taken = device.take().expect("there is a chain");
        device.complete(taken.head.into(), written);
    }

    #[test]
    fn a_chain_reaches_the_device_and_comes_back() {
        let (mut queue, mut device) = queue(8, true);
        queue.add(&chain(3), 77).expect("there is room");
        assert!(device.take().is_none(), "not published yet");
        assert_eq!(queue.publish(), NotifyDevice::Yes);
        let taken = device.take().expect("published");
        assert_eq!(taken.buffers, chain(3));
        assert_eq!(queue.free_descriptors(), 5);
        assert_eq!(queue.take_used(), Ok(None));
        device.complete(taken.head.into(), 512);
        assert_eq!(queue.take_used(), Ok(Some(Used { token: 77, written: 512 })));
        assert_eq!((queue.free_descriptors(), queue.in_flight()), (8, 0));
    }

    #[test]
    fn an_indirect_chain_takes_one_descriptor() {
        let (mut queue, mut device) = queue(2, true);
        let table = Page::new().expect("a host has memory");
        let count = 50;
        for (index, buffer) in (0..).zip(chain(count.into())) {
            write_in_table(table.words(), index, &buffer, (index + 1 < count).then_some(index + 1));
        }
        let address = table.machine_frame().physical_address();
        queue.add_indirect(address, count, 1).expect("there is room");
        assert_eq!(queue.free_descriptors(), 1);
        assert_eq!(queue.publish(), NotifyDevice::Yes);
        assert_eq!(device.take().expect("published").buffers, chain(50));
    }

    #[test]
    fn a_full_queue_takes_nothing_and_stays_whole() {
        let (mut queue, mut device) = queue(4, true);
        queue.add(&chain(3), 1).expect("there is room");
        assert_eq!(queue.add(&chain(2), 2), Err(QueueFull));
        queue.add(&chain(1), 3).expect("there is room");
        assert_eq!(queue.add_indirect(0, 1, 4), Err(QueueFull));
        assert_eq!(queue.publish(), NotifyDevice::Yes);
        complete_one(&mut device, 0);
        complete_one(&mut device, 0);
        assert_eq!(queue.take_used().map(|used| used.map(|used| used.token)), Ok(Some(1)));
        assert_eq!(queue.take_used().map(|used| used.map(|used| used.token)), Ok(Some(3)));
        assert_eq!(queue.free_descriptors(), 4);
    }

    #[test]
    fn indexes_run_on_beyond_sixteen_bits() {
        let (mut queue, mut device) = queue(4, true);
        for token in 0..70_000 {
            queue.add(&chain(2), token).expect("there is room");
            device.set_avail_event(token as u16);
            assert_eq!(queue.publish(), NotifyDevice::Yes, "chain {token}");
            complete_one(&mut device, token);
            assert_eq!(queue.take_used(), Ok(Some(Used { token, written: token })));
        }
    }

    #[test]
    fn the_doorbell_is_rung_only_when_asked_for() {
        let (mut queue, device) = queue(8, true);
        device.set_avail_event(2);
        for expected in [NotifyDevice::No, NotifyDevice::No, NotifyDevice::Yes, NotifyDevice::No] {
            queue.add(&chain(1), 0).expect("there is room");
            assert_eq!(queue.publish(), expected);
        }
        assert_eq!(queue.publish(), NotifyDevice::No, "nothing new");
    }

    #[test]
    fn without_event_indexes_flags_decide() {
        let (mut queue, mut device) = queue(8, false);
        queue.add(&chain(1), 0).expect("there is room");
        assert_eq!(queue.publish(), NotifyDevice::Yes);
        device.set_used_flags(1);
        queue.add(&chain(1), 0).expect("there is room");
        queue.refuse_interrupts();
        assert_eq!(queue.publish(), NotifyDevice::No);
        assert_eq!((device.available_flags(), device.available_index()), (1, 2));
        assert!(!queue.ask_for_interrupt(1));
        assert_eq!((device.available_flags(), device.available_index()), (0, 2));
        complete_one(&mut device, 0);
        assert!(queue.ask_for_interrupt(1), "a completion that came first must not be waited for");
    }

    #[test]
    fn an_interrupt_is_asked_for_after_so_many() {
        let (mut queue, mut device) = queue(8, true);
        for _ in 0..5 {
            queue.add(&chain(1), 0).expect("there is room");
        }
        assert_eq!(queue.publish(), NotifyDevice::Yes);
        complete_one(&mut device, 0);
        queue.take_used().expect("a sound device").expect("a completion");
        assert!(!queue.ask_for_interrupt(3));
        assert_eq!(device.used_event(), 3);
        assert!(!queue.ask_for_interrupt(0));
        assert_eq!(device.used_event(), 1);
    }

    #[test]
    fn a_device_that_completes_what_it_does_not_have_is_found_out() {
        for descriptor in [1, 7, 8, 255, 65_536, u32::MAX] {
            let (mut queue, mut device) = queue(8, true);
            queue.add(&chain(2), 0).expect("there is room");
            assert_eq!(queue.publish(), NotifyDevice::Yes);
            device.complete(descriptor, 0);
            assert_eq!(queue.take_used(), Err(DeviceFault::UnknownRequest { descriptor }));
        }
    }

    #[test]
    fn a_device_that_completes_twice_is_found_out() {
        let (mut queue, mut device) = queue(8, true);
        queue.add(&chain(1), 5).expect("there is room");
        queue.add(&chain(1), 6).expect("there is room");
        assert_eq!(queue.publish(), NotifyDevice::Yes);
        device.complete(0, 0);
        device.complete(0, 0);
        assert_eq!(queue.take_used().map(|used| used.map(|used| used.token)), Ok(Some(5)));
        assert_eq!(queue.take_used(), Err(DeviceFault::UnknownRequest { descriptor: 0 }));
    }

    #[test]
    fn a_device_that_completes_more_than_it_has_is_found_out() {
        let (mut queue, mut device) = queue(8, true);
        queue.add(&chain(1), 0).expect("there is room");
        assert_eq!(queue.publish(), NotifyDevice::Yes);
        device.set_used_index(2);
        assert_eq!(queue.take_used(), Err(DeviceFault::UsedTooMuch { found: 2, expected: 0 }));
    }

    #[test]
    fn what_never_came_back_is_known() {
        let (mut queue, mut device) = queue(8, true);
        for token in [10, 11, 12] {
            queue.add(&chain(2), token).expect("there is room");
        }
        assert_eq!(queue.publish(), NotifyDevice::Yes);
        complete_one(&mut device, 0);
        queue.take_used().expect("a sound device").expect("a completion");
        let mut left: Vec<_> = queue.tokens_in_flight().collect();
        left.sort_unstable();
        assert_eq!(left, [11, 12]);
    }

    #[test]
    fn odd_sizes_are_refused() {
        for size in [0, 1, 3, 100, 512] {
            assert_eq!(Virtqueue::new(size, true).err(), Some(Errno::EINVAL));
        }
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig { failure_persistence: None, ..proptest::prelude::ProptestConfig::default() })]

        /// Whatever is added and in whatever order it comes back, every chain returns once, with its token,
        /// and all descriptors are free in the end.
        #[test]
        fn every_chain_returns_once(steps in proptest::collection::vec((1_u64..6, 0_usize..4), 1..300)) {
            let (mut queue, mut device) = queue(16, true);
            let (mut held, mut expected) = (Vec::new(), Vec::new());
            for (token, (length, completions)) in steps.into_iter().enumerate() {
                if queue.add(&chain(length), token as u32).is_ok() {
                    let _ = queue.publish();
                    let taken = device.take().expect("just published");
                    assert_eq!(taken.buffers, chain(length));
                    held.push(taken.head);
                    expected.push((taken.head, token as u32));
                }
                for _ in 0..completions.min(held.len()) {
                    let head = held.swap_remove((token * 7) % held.len());
                    device.complete(head.into(), 1);
                    let position = expected.iter().position(|known| known.0 == head).expect("known");
                    let (_, token) = expected.swap_remove(position);
                    assert_eq!(queue.take_used(), Ok(Some(Used { token, written: 1 })));
                }
            }
            let left: u64 = u64::from(queue.size() - queue.free_descriptors());
            assert_eq!(left == 0, held.is_empty());
        }
    }
}
