//! Numbered frames of one direction: made at one end, and at the other compared.
//!
//! All have the same data but for their number, which stands at the beginning and at the end. Their type is one that every
//! other receiver passes over.

use alloc::format;
use alloc::vec;
use alloc::vec::Vec;

use smoltcp::wire::{EthernetAddress, EthernetFrame, EthernetProtocol};

use crate::apps::Failure;
use crate::apps::pattern::Pattern;

/// A type that is set aside for experiments.
const EXPERIMENTAL: u16 = 0x88b5;
/// Bytes of an Ethernet header.
const HEADER: usize = 14;
/// Bytes of a number.
const NUMBER: usize = 8;
/// Bytes behind the header: so many that nobody has to fill a frame up, and no more than every interface takes.
const LEAST: usize = 46;
const MOST: usize = 1500;
/// What the data is.
const SEED: u64 = 0x00f7_a3e5;

/// The frames of one direction, as one end knows them.
pub(super) struct Frames {
    /// The frame that comes next.
    frame: Vec<u8>,
    number: u64,
}

/// How closely frames are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compare {
    /// Lengths and numbers.
    Numbers,
    /// Every byte.
    All,
}

impl Frames {
    /// Frames with so many bytes behind the header.
    ///
    /// # Errors
    ///
    /// If frames cannot have so many.
    pub(super) fn new(from: EthernetAddress, to: EthernetAddress, bytes: usize) -> Result<Self, Failure> {
        if !(LEAST..=MOST).contains(&bytes) {
            return Err(Failure::new(format!("a packet has {LEAST} to {MOST} bytes")));
        }
        let mut frame = vec![0; HEADER + bytes];
        let mut header = EthernetFrame::new_unchecked(&mut frame[..]);
        header.set_dst_addr(to);
        header.set_src_addr(from);
        header.set_ethertype(EthernetProtocol::from(EXPERIMENTAL));
        Pattern::new(SEED).fill(header.payload_mut());
        let mut frames = Self { frame, number: 0 };
        frames.write_number();
        Ok(frames)
    }

    /// Bytes of a frame.
    pub(super) fn length(&self) -> usize {
        self.frame.len()
    }

    /// How many there were.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Writes the next frame.
    pub(super) fn fill(&mut self, frame: &mut [u8]) {
        frame.copy_from_slice(&self.frame);
        self.advance();
    }

    /// Whether a frame is the next one, or none of these at all. It is passed over in the second case.
    pub(super) fn accept(&mut self, frame: &[u8], compare: Compare) -> bool {
        if frame.get(HEADER - 2..HEADER) != Some(&EXPERIMENTAL.to_be_bytes()) {
            return true;
        }
        let numbers = |frame: &[u8]| [read_number(frame, HEADER), read_number(frame, frame.len() - NUMBER)];
        let is_next = match compare {
            _ if frame.len() != self.frame.len() => false,
            Compare::Numbers => numbers(frame) == numbers(&self.frame),
            Compare::All => frame == self.frame,
        };
        self.advance();
        is_next
    }

    fn advance(&mut self) {
        self.number += 1;
        self.write_number();
    }

    fn write_number(&mut self) {
        let end = self.frame.len() - NUMBER;
        for place in [HEADER, end] {
            self.frame[place..place + NUMBER].copy_from_slice(&self.number.to_le_bytes());
        }
    }
}

fn read_number(frame: &[u8], place: usize) -> u64 {
    let mut bytes = [0; NUMBER];
    bytes.copy_from_slice(&frame[place..place + NUMBER]);
    u64::from_le_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends() -> (Frames, Frames) {
        let frames = || Frames::new(EthernetAddress([2; 6]), EthernetAddress([4; 6]), 64).expect("a size");
        (frames(), frames())
    }

    fn next(frames: &mut Frames) -> Vec<u8> {
        let mut frame = vec![0; frames.length()];
        frames.fill(&mut frame);
        frame
    }

    #[test]
    fn what_is_sent_is_what_is_expected() {
        let (mut sent, mut expected) = ends();
        for compare in [Compare::Numbers, Compare::All, Compare::All] {
            assert!(expected.accept(&next(&mut sent), compare));
        }
        assert_eq!((sent.number(), expected.number(), sent.length()), (3, 3, 78));
    }

    #[test]
    fn what_is_missing_twice_or_cut_off_is_noticed() {
        for compare in [Compare::Numbers, Compare::All] {
            let (mut sent, mut expected) = ends();
            let first = next(&mut sent);
            assert!(!expected.accept(&next(&mut sent), compare), "one is missing");
            let (_, mut expected) = ends();
            assert!(expected.accept(&first, compare) && !expected.accept(&first, compare), "twice");
            let (_, mut expected) = ends();
            assert!(!expected.accept(&first[..77], compare), "cut off");
        }
    }

    #[test]
    fn a_wrong_byte_is_noticed_where_all_are_compared() {
        for place in [0, 13 + NUMBER, 40, 77] {
            let (mut sent, mut expected) = ends();
            let mut frame = next(&mut sent);
            frame[place] ^= 1;
            assert!(!expected.accept(&frame, Compare::All), "{place}");
        }
    }

    #[test]
    fn other_frames_are_passed_over() {
        let (mut sent, mut expected) = ends();
        assert!(expected.accept(&[0; 60], Compare::All) && expected.accept(&[], Compare::All));
        assert!(expected.accept(&next(&mut sent), Compare::All));
    }

    #[test]
    fn sizes_are_those_that_travel_as_they_are() {
        let with = |bytes| Frames::new(EthernetAddress([2; 6]), EthernetAddress([4; 6]), bytes).is_ok();
        assert_eq!([45, 46, 1500, 1501].map(with), [false, true, true, false]);
    }
}
