//! Doubly linked lists of frames, strung through the frame table.
//!
//! A frame is on at most one list: its owner's, or one of the allocator's. Whoever holds the lock around a list
//! may follow and change the links of the frames on it.

use super::table::{FrameInfo, info};
use core::sync::atomic::Ordering;
use hypercall_abi::MachineFrame;

/// No frame: the end of a list.
const NONE: u32 = u32::MAX;

/// A list of frames.
pub struct FrameList {
    first: u32,
}

fn entry(number: u32) -> Option<&'static FrameInfo> {
    info(MachineFrame(u64::from(number)))
}

impl FrameList {
    /// An empty list.
    pub const fn new() -> Self {
        Self { first: NONE }
    }

    /// The first frame.
    pub fn first(&self) -> Option<MachineFrame> {
        (self.first != NONE).then_some(MachineFrame(u64::from(self.first)))
    }

    /// The frame behind `frame`, which must be on this list.
    pub fn after(&self, frame: MachineFrame) -> Option<MachineFrame> {
        let next = info(frame)?.next.load(Ordering::Relaxed);
        (next != NONE).then_some(MachineFrame(u64::from(next)))
    }

    /// Puts a frame that is on no list in front.
    pub fn push(&mut self, frame: MachineFrame) {
        let Some(info) = info(frame) else { return };
        info.previous.store(NONE, Ordering::Relaxed);
        info.next.store(self.first, Ordering::Relaxed);
        if let Some(second) = entry(self.first) {
            second.previous.store(frame.0 as u32, Ordering::Relaxed);
        }
        self.first = frame.0 as u32;
    }

    /// Takes a frame of this list out.
    pub fn remove(&mut self, frame: MachineFrame) {
        let Some(info) = info(frame) else { return };
        let (next, previous) = (info.next.load(Ordering::Relaxed), info.previous.load(Ordering::Relaxed));
        if let Some(after) = entry(next) {
            after.previous.store(previous, Ordering::Relaxed);
        }
        match entry(previous) {
            Some(before) => before.next.store(next, Ordering::Relaxed),
            None => self.first = next,
        }
    }

    /// Takes the first frame out.
    pub fn pop(&mut self) -> Option<MachineFrame> {
        let frame = self.first()?;
        self.remove(frame);
        Some(frame)
    }
}
