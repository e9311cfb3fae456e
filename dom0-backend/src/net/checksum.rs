//! The Internet checksum over frames in our buffers.
//!
//! The sum is one of 16-bit pairs whose carries come back in at the bottom, and it does not matter in which
//! byte order pairs are read as long as the result is stored in the same one. So memory is summed eight bytes
//! at a time, as it lies there.

use core::sync::atomic::{AtomicU64, Ordering};

use pv_runtime::memory::SharedMemory;

use super::buffers::{Buffers, Piece};
use super::headers::{Headers, Transport};

/// A sum in the making. Pairs are those of a frame: its bytes 0 and 1, 2 and 3 and so on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum(u64);

impl Sum {
    /// Adds a sum of which nothing was folded away.
    #[inline]
    fn add(&mut self, other: u64) {
        let (sum, carry) = self.0.overflowing_add(other);
        self.0 = sum + u64::from(carry);
    }

    /// Adds bytes that start at an even place of the frame.
    pub fn add_bytes(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.add(u64::from_le_bytes(word));
        }
    }

    /// Adds a number as it stands in a packet, at an even place.
    pub fn add_number(&mut self, number: u16) {
        self.add(u64::from(number.swap_bytes()));
    }

    /// The sum in 16 bits, in the byte order of memory.
    #[inline]
    pub const fn fold(self) -> u16 {
        let mut sum = (self.0 & 0xffff_ffff) + (self.0 >> 32);
        sum = (sum & 0xffff) + (sum >> 16);
        sum = (sum & 0xffff) + (sum >> 16);
        sum = (sum & 0xffff) + (sum >> 16);
        sum as u16
    }
}

/// Adds up eight bytes at a time.
#[inline]
fn sum_words(words: &[AtomicU64]) -> Sum {
    let mut sum = Sum::default();
    let (fours, rest) = words.as_chunks::<4>();
    for four in fours {
        for word in four {
            sum.add(word.load(Ordering::Relaxed));
        }
    }
    for word in rest {
        sum.add(word.load(Ordering::Relaxed));
    }
    sum
}

/// The sum of `length` bytes from `start` on of a page, pairs counted from the start of the page.
fn sum_page(words: &[AtomicU64], start: usize, length: usize) -> Sum {
    let end = start + length;
    if length == 0 {
        return Sum::default();
    }
    let (first, last) = (start / 8, (end - 1) / 8);
    let keep_from = u64::MAX << (start % 8 * 8);
    let keep_to = u64::MAX >> ((8 - (end - last * 8)) * 8);
    let load = |word: usize| words[word].load(Ordering::Relaxed);
    if first == last {
        return Sum(load(first) & keep_from & keep_to);
    }
    let mut sum = sum_words(&words[first + 1..last]);
    sum.add(load(first) & keep_from);
    sum.add(load(last) & keep_to);
    sum
}

/// The sum of a frame's bytes `start..start + length`, pairs counted from `start`. Bytes beyond the end of the
/// frame do not count.
pub fn sum_frame(buffers: &Buffers, pieces: &[Piece], start: usize, length: usize) -> Sum {
    let (mut skip, mut left, mut summed) = (start, length, 0);
    let mut sum = Sum::default();
    for piece in pieces {
        let available = usize::from(piece.length);
        if skip >= available {
            skip -= available;
            continue;
        }
        let part = (available - skip).min(left);
        let offset = usize::from(piece.offset) + skip;
        let page_sum = sum_page(buffers.page(piece.buffer).double_words(), offset, part).fold();
        // Pairs of the page and of the frame may be shifted against each other by a byte.
        let shifted = offset % 2 != summed % 2;
        sum.add(u64::from(if shifted { page_sum.swap_bytes() } else { page_sum }));
        summed += part;
        left -= part;
        skip = 0;
        if left == 0 {
            break;
        }
    }
    sum
}

/// The sum of the pseudo header for `transport_length` bytes. `frame` holds at least the IP header.
pub fn pseudo_header_sum(frame: &[u8], headers: &Headers, transport_length: usize) -> Sum {
    let mut sum = Sum::default();
    sum.add_bytes(frame.get(headers.addresses()).unwrap_or_default());
    sum.add_number(transport_length as u16);
    sum.add_number(u16::from(headers.protocol_number()));
    sum
}

/// The checksum of a frame's protocol above IP, in the byte order of memory. Whatever stands in its place now
/// does not matter: it is `found`, and is left out.
pub fn transport_checksum(
    buffers: &Buffers,
    pieces: &[Piece],
    frame: &[u8],
    headers: &Headers,
    found: u16,
) -> u16 {
    let mut sum = pseudo_header_sum(frame, headers, headers.transport_length);
    let body = sum_frame(buffers, pieces, headers.transport_start, headers.transport_length);
    sum.add(u64::from(body.fold()));
    // Taking a number out of such a sum is adding its complement.
    sum.add(u64::from(!found));
    let checksum = !sum.fold();
    // Zero would say that there is no checksum; all ones means the same number.
    if checksum == 0 && headers.transport == Transport::Udp { 0xffff } else { checksum }
}

#[cfg(test)]
mod tests {
    use super::super::frames::*;
    use super::super::headers::HEADERS_MAX;
    use super::*;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    /// Puts a frame into buffers, in pieces of the given lengths and offsets.
    fn scatter(frame: &[u8], cuts: &[(u16, u16)]) -> (Buffers, Vec<Piece>) {
        // The longest frame in the shortest pieces.
        let mut buffers = Buffers::new(3000 / 40 + 1);
        let (mut pieces, mut rest) = (Vec::new(), frame);
        let mut cuts = cuts.iter().cycle();
        while !rest.is_empty() {
            let &(offset, length) = cuts.next().expect("a cycle does not end");
            let buffer = buffers.take().expect("below the limit");
            let length = usize::from(length).min(rest.len());
            let (part, after) = rest.split_at(length);
            SharedMemory::copy_in(buffers.page(buffer), offset.into(), part);
            pieces.push(Piece { buffer, offset, length: length as u16 });
            rest = after;
        }
        (buffers, pieces)
    }

    #[test]
    fn blank_checksums_are_completed() {
        for frame in [tcp_v4(1000), udp_v4(33), tcp_v6(1), udp_v6_with_extension_and_tag(200), tcp_v4(0)] {
            for junk in [None, Some([0, 0]), Some([0xff, 0xff]), Some([0x12, 0x34])] {
                let mut sent = blank(frame.clone());
                let headers = Headers::parse(&sent, sent.len()).expect("understood");
                let field = headers.checksum()..headers.checksum() + 2;
                if let Some(junk) = junk {
                    sent[field.clone()].copy_from_slice(&junk);
                }
                let found = u16::from_le_bytes(sent[field.clone()].try_into().expect("two bytes"));
                let (buffers, pieces) = scatter(&sent, &[(16, 4080)]);
                let head = &sent[..sent.len().min(HEADERS_MAX)];
                let checksum = transport_checksum(&buffers, &pieces, head, &headers, found);
                sent[field].copy_from_slice(&checksum.to_le_bytes());
                assert!(is_right(&sent));
            }
        }
    }

    #[test]
    fn a_udp_checksum_is_never_zero() {
        // A datagram whose checksum comes out as zero: chosen by trying.
        let mut frame = udp_v4(2);
        let found = (0..=u16::MAX).find(|word| {
            frame[42..44].copy_from_slice(&word.to_be_bytes());
            let blanked = blank(frame.clone());
            ones_sum(&blanked[34..]) == 0xffff
        });
        assert!(found.is_some());
        let sent = blank(frame);
        let headers = Headers::parse(&sent, sent.len()).expect("understood");
        let (buffers, pieces) = scatter(&sent, &[(16, 4080)]);
        let in_place = u16::from_le_bytes(sent[40..42].try_into().expect("two bytes"));
        assert_eq!(transport_checksum(&buffers, &pieces, &sent, &headers, in_place), 0xffff);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// However a frame is cut and wherever its pieces lie, the sum is that of its bytes in a row.
        #[test]
        fn sums_do_not_depend_on_where_bytes_lie(
            frame in proptest::collection::vec(any::<u8>(), 1..3000),
            cuts in proptest::collection::vec((0_u16..2000, 40_u16..2000), 1..5),
            start in 0_usize..3000,
            length in 0_usize..3000,
        ) {
            let (buffers, pieces) = scatter(&frame, &cuts);
            let start = start % frame.len();
            let length = length.min(frame.len() - start);
            let sum = sum_frame(&buffers, &pieces, start, length).fold();
            prop_assert_eq!(sum.swap_bytes() % 0xffff, ones_sum(&frame[start..start + length]) % 0xffff);
        }
    }
}
