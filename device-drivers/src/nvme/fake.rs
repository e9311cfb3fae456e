//! A controller with one namespace, for tests: it carries commands out when a doorbell is rung, or when the test says so,
//! and lies if it is told to.

use alloc::collections::VecDeque;
use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

use super::command::COMMAND_WORDS;
use super::registers::{
    ADMIN_COMPLETIONS, ADMIN_QUEUES, ADMIN_SUBMISSIONS, CAPABILITIES, CONFIGURATION, ENABLE, FATAL, READY,
    SHUT_DOWN, SHUT_DOWN_DONE, STATUS, VERSION,
};
use crate::registers::Registers;
use crate::virtio::fake::{read_memory, write_memory};

const PAGE: u64 = 4096;

/// One side's view of a pair of queues.
#[derive(Clone, Copy, Debug, Default)]
struct Queue {
    submissions: u64,
    completions: u64,
    entries: u32,
    submission: u32,
    completion: u32,
    is_odd_round: bool,
}

/// A command as the controller took it.
#[derive(Clone, Copy, Debug)]
pub struct Taken {
    words: [u32; COMMAND_WORDS],
}

impl Taken {
    /// Its number.
    pub fn identifier(&self) -> u16 {
        (self.words[0] >> 16) as u16
    }

    fn operation(&self) -> u32 {
        self.words[0] & 0xff
    }

    fn address(&self, word: usize) -> u64 {
        u64::from(self.words[word]) | u64::from(self.words[word + 1]) << 32
    }

    /// The pieces of memory for so many bytes.
    fn memory(&self, bytes: u64) -> Vec<(u64, u64)> {
        let (first, others) = (self.address(6), self.address(8));
        let in_first = (PAGE - first % PAGE).min(bytes);
        let pages = (bytes - in_first).div_ceil(PAGE);
        let mut list = vec![0; pages as usize * 8];
        if pages > 1 {
            read_memory(others, &mut list);
        } else if pages == 1 {
            list.copy_from_slice(&others.to_le_bytes());
        }
        let mut left = bytes - in_first;
        let mut pieces = vec![(first, in_first)];
        for address in list.chunks(8).map(|bytes| u64::from_le_bytes(bytes.try_into().expect("eight"))) {
            assert_eq!(address % PAGE, 0, "pages behind the first begin at their beginning");
            pieces.push((address, left.min(PAGE)));
            left -= left.min(PAGE);
        }
        pieces
    }
}

/// The controller.
pub struct FakeController {
    registers: RefCell<Vec<u8>>,
    queues: RefCell<[Queue; 2]>,
    /// Requests that wait for the test, if they do.
    pub pending: RefCell<VecDeque<Taken>>,
    /// Whether they do.
    pub holds: Cell<bool>,
    /// Whether it goes on when it is told to stop.
    pub is_stuck: Cell<bool>,
    /// The status of the next requests.
    pub statuses: RefCell<VecDeque<u16>>,
    /// Operation codes and bytes of the requests that it carried out.
    pub log: RefCell<Vec<(u32, u64)>>,
    /// Times that it was started.
    pub starts: Cell<u32>,
    /// What is on its namespace.
    pub medium: RefCell<Vec<u8>>,
    /// Base-two logarithm of the bytes in a block.
    pub block_exponent: Cell<u8>,
    /// The code for the most bytes of a command.
    pub transfer_exponent: Cell<u8>,
    /// Commands of administration that it fails, by operation code.
    pub refused: RefCell<Vec<u32>>,
}

impl FakeController {
    /// A controller of queues with so many entries and a namespace of so many bytes, each of whose sectors holds its number.
    pub fn new(entries: u16, bytes: usize) -> Rc<Self> {
        let fake = Self {
            registers: RefCell::new(vec![0; 0x1000]),
            queues: RefCell::default(),
            pending: RefCell::default(),
            holds: Cell::default(),
            is_stuck: Cell::default(),
            statuses: RefCell::default(),
            log: RefCell::default(),
            starts: Cell::default(),
            medium: RefCell::new((0..bytes).map(|byte| (byte / 512) as u8).collect()),
            block_exponent: Cell::new(9),
            transfer_exponent: Cell::new(7),
            refused: RefCell::default(),
        };
        // It knows the commands of disks, and takes half a second at most to start.
        fake.set(CAPABILITIES, &(u64::from(entries - 1) | 1 << 24 | 1 << 37).to_le_bytes());
        fake.set(VERSION, &0x1_0400_u32.to_le_bytes());
        Rc::new(fake)
    }

    /// Sets a register.
    pub fn set(&self, offset: usize, bytes: &[u8]) {
        self.registers.borrow_mut()[offset..][..bytes.len()].copy_from_slice(bytes);
    }

    fn get(&self, offset: usize) -> u32 {
        let bytes = self.registers.borrow()[offset..][..4].try_into().expect("four bytes");
        u32::from_le_bytes(bytes)
    }

    /// Says that it cannot go on.
    pub fn fail(&self) {
        self.set(STATUS, &(self.get(STATUS) | FATAL).to_le_bytes());
    }

    fn configure(&self, value: u32) {
        self.set(CONFIGURATION, &value.to_le_bytes());
        let mut status = if value & ENABLE != 0 || self.is_stuck.get() { READY } else { 0 };
        if value & SHUT_DOWN != 0 {
            status |= SHUT_DOWN_DONE;
        }
        let was_ready = self.get(STATUS) & READY != 0;
        self.set(STATUS, &status.to_le_bytes());
        if status & READY == 0 {
            self.pending.borrow_mut().clear();
        } else if !was_ready {
            self.starts.set(self.starts.get() + 1);
            let address = |offset| u64::from(self.get(offset)) | u64::from(self.get(offset + 4)) << 32;
            let admin = Queue {
                submissions: address(ADMIN_SUBMISSIONS),
                completions: address(ADMIN_COMPLETIONS),
                entries: (self.get(ADMIN_QUEUES) & 0xfff) + 1,
                ..Queue::default()
            };
            *self.queues.borrow_mut() = [admin, Queue::default()];
        }
    }

    fn ring(&self, doorbell: usize, value: u32) {
        let number = doorbell / 2;
        if doorbell % 2 == 1 {
            return;
        }
        while self.queues.borrow()[number].submission != value {
            let taken = self.take(number);
            if number == 0 {
                self.administer(&taken);
            } else if self.holds.get() {
                self.pending.borrow_mut().push_back(taken);
            } else {
                self.serve(&taken);
            }
        }
    }

    fn take(&self, number: usize) -> Taken {
        let queue = &mut self.queues.borrow_mut()[number];
        let mut bytes = [0; COMMAND_WORDS * 4];
        read_memory(queue.submissions + 64 * u64::from(queue.submission), &mut bytes);
        queue.submission = (queue.submission + 1) % queue.entries;
        let word = |index: usize| u32::from_le_bytes(bytes[4 * index..][..4].try_into().expect("four bytes"));
        Taken { words: core::array::from_fn(word) }
    }

    /// Completes a command, or pretends to.
    pub fn complete(&self, number: usize, claimed_queue: u16, identifier: u16, status: u16) {
        let queue = &mut self.queues.borrow_mut()[number];
        let phase = u32::from(!queue.is_odd_round) << 16;
        let words =
            [0, 0, u32::from(claimed_queue) << 16, u32::from(identifier) | phase | u32::from(status) << 17];
        let place = queue.completions + 16 * u64::from(queue.completion);
        for (index, word) in (0..).zip(words) {
            write_memory(place + 4 * index, &word.to_le_bytes());
        }
        queue.completion = (queue.completion + 1) % queue.entries;
        queue.is_odd_round ^= queue.completion == 0;
    }

    fn administer(&self, command: &Taken) {
        let status = u16::from(self.refused.borrow().contains(&command.operation()));
        match command.operation() {
            0x06 => self.describe(command),
            0x05 => {
                let queue = Queue {
                    completions: command.address(6),
                    entries: (command.words[10] >> 16) + 1,
                    ..Queue::default()
                };
                self.queues.borrow_mut()[1] = queue;
            }
            0x01 => self.queues.borrow_mut()[1].submissions = command.address(6),
            _ => {}
        }
        self.complete(0, 0, command.identifier(), status);
    }

    fn describe(&self, command: &Taken) {
        let place = command.address(6);
        match command.words[10] {
            0 => {
                let exponent = self.block_exponent.get();
                let blocks = self.medium.borrow().len() as u64 >> exponent;
                write_memory(place, &blocks.to_le_bytes());
                write_memory(place + 128, &[0, 0, exponent, 0]);
            }
            1 => {
                write_memory(place + 4, b"FAKE-1              ");
                write_memory(place + 77, &[self.transfer_exponent.get()]);
                write_memory(place + 525, &[1]);
            }
            _ => write_memory(place, &1_u32.to_le_bytes()),
        }
    }

    /// Carries a request out.
    pub fn serve(&self, command: &Taken) {
        let status = self.statuses.borrow_mut().pop_front().unwrap_or(0);
        if status == 0 {
            self.transfer(command);
        }
        self.complete(1, 1, command.identifier(), status);
    }

    /// Carries the oldest request out that waits for the test.
    pub fn serve_one(&self) {
        let command = self.pending.borrow_mut().pop_front().expect("a request");
        self.serve(&command);
    }

    fn transfer(&self, command: &Taken) {
        let exponent = self.block_exponent.get();
        let bytes = (u64::from(command.words[12] & 0xffff) + 1) << exponent;
        let is_flush = command.operation() == 0;
        self.log.borrow_mut().push((command.operation(), if is_flush { 0 } else { bytes }));
        if is_flush {
            return;
        }
        let mut place = (command.address(10) << exponent) as usize;
        for (address, length) in command.memory(bytes) {
            let part = &mut self.medium.borrow_mut()[place..][..length as usize];
            match command.operation() {
                1 => read_memory(address, part),
                2 => write_memory(address, part),
                other => panic!("operation {other}"),
            }
            place += length as usize;
        }
    }
}

/// The registers of a controller, or its doorbells.
pub struct Window {
    /// Whose.
    pub controller: Rc<FakeController>,
    /// Whether it is the doorbells.
    pub is_doorbells: bool,
}

impl Registers for Window {
    fn length(&self) -> usize {
        0x1000
    }

    fn read_u32(&self, offset: usize) -> u32 {
        assert!(!self.is_doorbells, "doorbells are not read");
        self.controller.get(offset)
    }

    fn write_u32(&self, offset: usize, value: u32) {
        match offset {
            _ if self.is_doorbells => self.controller.ring(offset / 4, value),
            CONFIGURATION => self.controller.configure(value),
            _ => self.controller.set(offset, &value.to_le_bytes()),
        }
    }

    fn read_u8(&self, offset: usize) -> u8 {
        panic!("a read of one byte at {offset}")
    }

    fn read_u16(&self, offset: usize) -> u16 {
        panic!("a read of two bytes at {offset}")
    }

    fn write_u8(&self, offset: usize, _value: u8) {
        panic!("a write of one byte at {offset}")
    }

    fn write_u16(&self, offset: usize, _value: u16) {
        panic!("a write of two bytes at {offset}")
    }
}
