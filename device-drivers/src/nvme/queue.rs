//! A pair of queues: what is submitted, and what comes back.
//!
//! ```text
//!   submissions   64 bytes each; we write them, and tell the controller up to where
//!   completions   16 bytes each; the controller writes them, and we tell it up to where we have read
//! ```
//!
//! A completion is new if its phase bit is not what was there the last time round. Which commands are under way stands in
//! our own table, so a completion of one that is not is noticed.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{Ordering, fence};

use hypercall_abi::{Errno, PAGE_SIZE};
use pv_runtime::memory::{Page, PageRun, SharedMemory};

use super::command::{COMMAND_WORDS, Command, Status};

/// Bytes of a submission.
const COMMAND_BYTES: usize = COMMAND_WORDS * 4;
/// Words of a completion, and which of them is what.
const COMPLETION_WORDS: usize = 4;
const RESULT: usize = 0;
const QUEUE: usize = 2;
const STATUS: usize = 3;
/// In the word of a completion's status.
const PHASE: u32 = 1 << 16;
/// Entries of both queues at most: with more the completions would not fit into a page.
pub const ENTRIES_MAX: u16 = (PAGE_SIZE / (COMPLETION_WORDS * 4)) as u16;

/// The controller wrote something that no sound controller could have written. Give it up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It completed a command that it does not have.
    UnknownCommand(u16),
    /// It completed a command of another queue.
    OtherQueue(u16),
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownCommand(identifier) => {
                write!(formatter, "the controller completed command {identifier}, which it does not have")
            }
            Self::OtherQueue(queue) => {
                write!(formatter, "the controller completed a command of queue {queue} in another one")
            }
        }
    }
}

/// A command that came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completion {
    /// What it was submitted with.
    pub token: u32,
    /// What became of it.
    pub status: Status,
    /// The first word of the completion, whose meaning depends on the command.
    pub result: u32,
}

/// A pair of queues.
#[derive(Debug)]
pub struct QueuePair {
    number: u16,
    submissions: PageRun,
    completions: Page,
    entries: u16,
    /// Where the next submission goes, and up to where the controller has been told of them.
    tail: u16,
    told: u16,
    /// Where the next completion is expected, and its phase.
    head: u16,
    phase: u32,
    /// The tokens of commands under way, by their identifiers.
    under_way: Box<[Option<u32>]>,
    free: Vec<u16>,
}

impl QueuePair {
    /// Queues for up to `commands` commands at once, if memory for them can be had in one piece, and for fewer otherwise.
    ///
    /// # Errors
    ///
    /// `ENOMEM` if there is no memory at all.
    pub fn new(number: u16, commands: u16) -> Result<Self, Errno> {
        // One entry always stays free: full and empty must look different.
        let wanted = (commands + 1).min(ENTRIES_MAX);
        let pages = (usize::from(wanted) * COMMAND_BYTES).div_ceil(PAGE_SIZE);
        let submissions = PageRun::machine_contiguous(pages).or_else(|_| PageRun::new(1))?;
        let entries = wanted.min((submissions.size() / COMMAND_BYTES) as u16);
        Ok(Self {
            number,
            submissions,
            completions: Page::new()?,
            entries,
            tail: 0,
            told: 0,
            head: 0,
            phase: PHASE,
            under_way: (1..entries).map(|_| None).collect(),
            free: (0..entries - 1).collect(),
        })
    }

    /// Brings them into the state of new ones. The controller must not use them.
    pub fn clear(&mut self) {
        self.completions.clear();
        (self.tail, self.told, self.head, self.phase) = (0, 0, 0, PHASE);
        self.under_way.fill(None);
        self.free = (0..self.entries - 1).collect();
    }

    /// The number by which the controller knows them.
    pub fn number(&self) -> u16 {
        self.number
    }

    /// Entries of each.
    pub fn entries(&self) -> u16 {
        self.entries
    }

    /// Machine address of the submissions.
    pub fn submissions(&self) -> u64 {
        self.submissions.machine_frame(0).physical_address()
    }

    /// Machine address of the completions.
    pub fn completions(&self) -> u64 {
        self.completions.machine_frame().physical_address()
    }

    /// Commands that could be submitted now.
    #[inline]
    pub fn room(&self) -> usize {
        self.free.len()
    }

    /// The identifier that the next command will have, if there is room for it.
    #[inline]
    pub fn next_identifier(&self) -> Option<u16> {
        self.free.last().copied()
    }

    /// Submits a command, which the controller sees when it is [told](Self::tell). False if there is no room.
    #[inline]
    #[must_use]
    pub fn submit(&mut self, command: &Command, token: u32) -> bool {
        let Some(identifier) = self.free.pop() else { return false };
        self.under_way[usize::from(identifier)] = Some(token);
        let place = &self.submissions.words()[usize::from(self.tail) * COMMAND_WORDS..][..COMMAND_WORDS];
        for (word, value) in place.iter().zip(command.0) {
            word.store(value, Ordering::Relaxed);
        }
        place[0].store(command.0[0] | u32::from(identifier) << 16, Ordering::Relaxed);
        self.tail = self.after(self.tail);
        true
    }

    /// What to write to the doorbell of submissions, if there are any that the controller does not know of.
    #[inline]
    pub fn tell(&mut self) -> Option<u32> {
        if self.told == self.tail {
            return None;
        }
        self.told = self.tail;
        // Release: the submissions are there before the doorbell says so.
        fence(Ordering::Release);
        Some(self.tail.into())
    }

    /// Takes the next completion, if there is one.
    ///
    /// # Errors
    ///
    /// [`Fault`] if the controller completed what it does not have.
    #[inline]
    pub fn take(&mut self) -> Result<Option<Completion>, Fault> {
        let place =
            &self.completions.words()[usize::from(self.head) * COMPLETION_WORDS..][..COMPLETION_WORDS];
        // Acquire: the rest is read after the phase that vouches for it.
        let status = place[STATUS].load(Ordering::Acquire);
        if status & PHASE != self.phase {
            return Ok(None);
        }
        let queue = (place[QUEUE].load(Ordering::Relaxed) >> 16) as u16;
        if queue != self.number {
            return Err(Fault::OtherQueue(queue));
        }
        let (identifier, result) = (status as u16, place[RESULT].load(Ordering::Relaxed));
        let token = self.under_way.get_mut(usize::from(identifier)).and_then(Option::take);
        let token = token.ok_or(Fault::UnknownCommand(identifier))?;
        self.free.push(identifier);
        self.head = self.after(self.head);
        if self.head == 0 {
            self.phase ^= PHASE;
        }
        Ok(Some(Completion { token, status: Status::of(status), result }))
    }

    /// What to write to the doorbell of completions: up to where they were taken.
    #[inline]
    pub fn head(&self) -> u32 {
        self.head.into()
    }

    #[inline]
    fn after(&self, index: u16) -> u16 {
        if index + 1 == self.entries { 0 } else { index + 1 }
    }
}
