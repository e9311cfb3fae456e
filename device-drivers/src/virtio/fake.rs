//! The device's side, for tests: registers that are bytes, and a queue as a device sees it.
//!
//! On a host a page's machine frame is its address, so the fake finds every page that a driver tells it of.

use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::sync::atomic::Ordering;
use std::rc::Rc;

use hypercall_abi::{MachineFrame, PAGE_SIZE};
use pv_runtime::memory::{BuilderPage, SharedMemory};

use super::queue::Buffer;
use super::transport::QueueAddresses;
use crate::registers::Registers;

/// A window of this length is taken for the registers that all virtio devices have.
const COMMON_LENGTH: usize = 56;
const DEVICE_FEATURE_SELECT: usize = 0x00;
const DEVICE_FEATURE: usize = 0x04;
const DRIVER_FEATURE_SELECT: usize = 0x08;
const DRIVER_FEATURE: usize = 0x0c;
const DEVICE_STATUS: usize = 0x14;
const CONFIG_GENERATION: usize = 0x15;

/// A window of registers that remember what was written, with the few that behave in their own way.
#[derive(Default)]
pub struct FakeRegisters {
    bytes: RefCell<Vec<u8>>,
    features: u64,
    driver_features: [Cell<u32>; 2],
    refused_status: Cell<u8>,
    forced_status: Cell<u8>,
    /// How many reads of the generation still give a new one.
    generations: Cell<u32>,
    frozen: RefCell<Vec<usize>>,
}

impl FakeRegisters {
    /// A window of so many bytes, all zero.
    pub fn new(length: usize) -> Self {
        Self { bytes: RefCell::new(alloc::vec![0; length]), ..Self::default() }
    }

    /// The features that the device offers.
    pub fn with_features(mut self, features: u64) -> Self {
        self.features = features;
        self
    }

    /// The features that the driver accepted.
    pub fn driver_features(&self) -> u64 {
        let [low, high] = [0, 1].map(|half: usize| u64::from(self.driver_features[half].get()));
        low | high << 32
    }

    /// Sets a register.
    pub fn set_u16(&self, offset: usize, value: u16) {
        self.put(offset, &value.to_le_bytes());
    }

    /// Sets bytes.
    pub fn put(&self, offset: usize, bytes: &[u8]) {
        self.bytes.borrow_mut()[offset..][..bytes.len()].copy_from_slice(bytes);
    }

    /// Status bits that do not stick.
    pub fn refuse_status(&self, bits: u8) {
        self.refused_status.set(bits);
    }

    /// Status bits that are always set.
    pub fn force_status(&self, bits: u8) {
        self.forced_status.set(bits);
    }

    /// Lets the next reads of the configuration's generation differ.
    pub fn count_generations(&self, count: u32) {
        self.generations.set(count);
    }

    /// Makes a register ignore writes.
    pub fn freeze(&self, offset: usize) {
        self.frozen.borrow_mut().push(offset);
    }

    fn is_common(&self) -> bool {
        self.length() == COMMON_LENGTH
    }

    fn get<const N: usize>(&self, offset: usize) -> [u8; N] {
        assert_eq!(offset % N, 0, "an access must be aligned");
        self.bytes.borrow()[offset..][..N].try_into().expect("N bytes")
    }
}

impl Registers for FakeRegisters {
    fn length(&self) -> usize {
        self.bytes.borrow().len()
    }

    fn read_u8(&self, offset: usize) -> u8 {
        let [value] = self.get(offset);
        match offset {
            DEVICE_STATUS if self.is_common() => value | self.forced_status.get(),
            CONFIG_GENERATION if self.is_common() => {
                let left = self.generations.get();
                self.generations.set(left.saturating_sub(1));
                left as u8
            }
            _ => value,
        }
    }

    fn read_u16(&self, offset: usize) -> u16 {
        u16::from_le_bytes(self.get(offset))
    }

    fn read_u32(&self, offset: usize) -> u32 {
        match offset {
            DEVICE_FEATURE if self.is_common() => {
                (self.features >> (32 * self.read_u32(DEVICE_FEATURE_SELECT))) as u32
            }
            _ => u32::from_le_bytes(self.get(offset)),
        }
    }

    fn write_u8(&self, offset: usize, value: u8) {
        let refused = if offset == DEVICE_STATUS { self.refused_status.get() } else { 0 };
        self.put(offset, &[value & !refused]);
    }

    fn write_u16(&self, offset: usize, value: u16) {
        assert_eq!(offset % 2, 0, "an access must be aligned");
        if !self.frozen.borrow().contains(&offset) {
            self.set_u16(offset, value);
        }
    }

    fn write_u32(&self, offset: usize, value: u32) {
        assert_eq!(offset % 4, 0, "an access must be aligned");
        if offset == DRIVER_FEATURE && self.is_common() {
            let half = self.read_u32(DRIVER_FEATURE_SELECT) as usize;
            self.driver_features[half].set(value);
        }
        self.put(offset, &value.to_le_bytes());
    }
}

impl Registers for Rc<FakeRegisters> {
    fn length(&self) -> usize {
        (**self).length()
    }
    fn read_u8(&self, offset: usize) -> u8 {
        (**self).read_u8(offset)
    }
    fn read_u16(&self, offset: usize) -> u16 {
        (**self).read_u16(offset)
    }
    fn read_u32(&self, offset: usize) -> u32 {
        (**self).read_u32(offset)
    }
    fn write_u8(&self, offset: usize, value: u8) {
        (**self).write_u8(offset, value);
    }
    fn write_u16(&self, offset: usize, value: u16) {
        (**self).write_u16(offset, value);
    }
    fn write_u32(&self, offset: usize, value: u32) {
        (**self).write_u32(offset, value);
    }
}

/// The page that holds a machine address, and the place in it.
fn locate(address: u64) -> (BuilderPage, usize) {
    let page = BuilderPage::find(MachineFrame::containing(address)).expect("every frame is found on a host");
    (page, address as usize % PAGE_SIZE)
}

/// Reads memory as a device does, a page at a time.
pub fn read_memory(address: u64, into: &mut [u8]) {
    let (page, offset) = locate(address);
    let (here, behind) = into.split_at_mut(into.len().min(PAGE_SIZE - offset));
    page.copy_out(offset, here);
    if !behind.is_empty() {
        read_memory(address + here.len() as u64, behind);
    }
}

/// Writes memory as a device does, a page at a time.
pub fn write_memory(address: u64, from: &[u8]) {
    let (page, offset) = locate(address);
    let (here, behind) = from.split_at(from.len().min(PAGE_SIZE - offset));
    page.copy_in(offset, here);
    if !behind.is_empty() {
        write_memory(address + here.len() as u64, behind);
    }
}

/// A queue as the device sees it.
pub struct FakeQueue {
    size: u16,
    addresses: QueueAddresses,
    taken: u16,
    completed: u16,
}

/// A chain that the device took.
pub struct Taken {
    /// Its first descriptor.
    pub head: u16,
    /// Its buffers, those of an indirect table in place.
    pub buffers: Vec<Buffer>,
}

impl FakeQueue {
    /// The device's side of a queue of `size` descriptors.
    pub fn new(size: u16, addresses: QueueAddresses) -> Self {
        Self { size, addresses, taken: 0, completed: 0 }
    }

    fn u16_at(address: u64) -> u16 {
        let mut bytes = [0; 2];
        read_memory(address, &mut bytes);
        u16::from_le_bytes(bytes)
    }

    /// The index that the driver has published.
    pub fn available_index(&self) -> u16 {
        Self::u16_at(self.addresses.available + 2)
    }

    /// The driver's flags.
    pub fn available_flags(&self) -> u16 {
        Self::u16_at(self.addresses.available)
    }

    /// After which completion the driver wants an interrupt.
    pub fn used_event(&self) -> u16 {
        Self::u16_at(self.addresses.available + 4 + 2 * u64::from(self.size))
    }

    /// Asks for the doorbell when the chain with this index is published.
    pub fn set_avail_event(&self, index: u16) {
        write_memory(self.addresses.used + 4 + 8 * u64::from(self.size), &index.to_le_bytes());
    }

    /// Asks for no doorbell, where the device goes by flags.
    pub fn set_used_flags(&self, flags: u16) {
        write_memory(self.addresses.used, &flags.to_le_bytes());
    }

    /// Takes the next chain.
    pub fn take(&mut self) -> Option<Taken> {
        if self.taken == self.available_index() {
            return None;
        }
        let entry = u64::from(self.taken % self.size);
        let head = Self::u16_at(self.addresses.available + 4 + 2 * entry);
        self.taken = self.taken.wrapping_add(1);
        let mut buffers = Vec::new();
        Self::follow(self.addresses.descriptors, head, &mut buffers);
        Some(Taken { head, buffers })
    }

    fn follow(table: u64, first: u16, buffers: &mut Vec<Buffer>) {
        let mut next = Some(first);
        while let Some(index) = next {
            let mut bytes = [0; 16];
            read_memory(table + 16 * u64::from(index), &mut bytes);
            let address = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes"));
            let length = u32::from_le_bytes(bytes[8..12].try_into().expect("four bytes"));
            let flags = u16::from_le_bytes([bytes[12], bytes[13]]);
            next = (flags & 1 != 0).then(|| u16::from_le_bytes([bytes[14], bytes[15]]));
            if flags & 4 != 0 {
                Self::follow(address, 0, buffers);
            } else {
                buffers.push(Buffer { address, length, is_written: flags & 2 != 0 });
            }
        }
    }

    /// Completes a chain, or pretends to.
    pub fn complete(&mut self, head: u32, written: u32) {
        let entry = u64::from(self.completed % self.size);
        let place = self.addresses.used + 4 + 8 * entry;
        write_memory(place, &head.to_le_bytes());
        write_memory(place + 4, &written.to_le_bytes());
        self.set_used_index(self.completed.wrapping_add(1));
    }

    /// Publishes any index.
    pub fn set_used_index(&mut self, index: u16) {
        self.completed = index;
        write_memory(self.addresses.used + 2, &index.to_le_bytes());
        core::sync::atomic::fence(Ordering::SeqCst);
    }
}
