//! The console's and the store's rings: a stream of bytes each way, in one page.
//!
//! There are no messages here and no event indexes. Whoever has put bytes in or taken bytes out sends an
//! event, for the peer may be waiting for bytes or for room; some wait for more room than one byte, so "it
//! was not full" is no reason to keep silent.
//!
//! ```text
//!            consumer       producer
//!               │              │
//!    ┌──────────▼──────────────▼──────────┐      both count bytes since the beginning and wrap
//!    │   free   │  to be read  │   free   │      at 2^32; position in the buffer = index % size
//!    └──────────┴──────────────┴──────────┘
//! ```

use core::marker::PhantomData;
use core::sync::atomic::Ordering;

use crate::error::{AreaTooSmall, AttachError, Corrupt, PeerIndex};
use crate::memory::{RingMemory, WORD_SIZE};
use crate::outcome::NotifyPeer;

/// Where one stream of bytes lies in its page. All offsets are in bytes and whole words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamLayout {
    /// Where the buffer starts.
    pub buffer: usize,
    /// Bytes in the buffer, a power of two.
    pub size: u32,
    /// Where the index of the bytes taken out lies.
    pub consumer: usize,
    /// Where the index of the bytes put in lies.
    pub producer: usize,
}

impl StreamLayout {
    /// Bytes that an area needs to hold the buffer and both indexes.
    const fn end(&self) -> usize {
        let buffer_end = self.buffer + self.size as usize;
        let last_index = if self.consumer > self.producer { self.consumer } else { self.producer };
        let index_end = last_index + WORD_SIZE;
        if buffer_end > index_end { buffer_end } else { index_end }
    }

    /// Whether the layout can be worked with at all.
    const fn is_sound(&self) -> bool {
        self.size.is_power_of_two()
            && (self.size as usize).is_multiple_of(WORD_SIZE)
            && self.buffer.is_multiple_of(WORD_SIZE)
            && self.consumer.is_multiple_of(WORD_SIZE)
            && self.producer.is_multiple_of(WORD_SIZE)
    }
}

/// One end of a pair of streams: which of them it reads and which it writes.
pub trait StreamEnd {
    /// The stream that this end reads.
    const RECEIVE: StreamLayout;
    /// The stream that this end writes.
    const SEND: StreamLayout;
}

/// What a step on a stream did.
#[must_use = "a peer that is not notified may wait for ever"]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// Bytes moved. None means that the stream was empty (reading) or full (writing): wait for an event.
    pub count: usize,
    /// Whether the peer must be sent an event.
    pub notify: NotifyPeer,
}

impl Transfer {
    /// The peer must know of every byte moved.
    const fn of(count: usize) -> Self {
        Self { count, notify: NotifyPeer::when(count > 0) }
    }
}

/// One end of a pair of streams.
///
/// Our own two indexes live here. They are read from the page once, when the end is attached, since a
/// page may have been in use before (the domain builder or an earlier kernel may have talked already).
/// Afterwards they are only written.
#[derive(Debug)]
pub struct ByteRing<E, M> {
    pub(crate) memory: M,
    /// Bytes we have taken out of the stream we read.
    consumed: u32,
    /// Bytes we have put into the stream we write.
    produced: u32,
    end: PhantomData<fn() -> E>,
}

impl<E: StreamEnd, M: RingMemory> ByteRing<E, M> {
    /// Checks the layout while compiling.
    const NEEDED_BYTES: usize = {
        assert!(E::RECEIVE.is_sound() && E::SEND.is_sound());
        let (receive, send) = (E::RECEIVE.end(), E::SEND.end());
        if receive > send { receive } else { send }
    };

    /// Joins the streams in `memory` where they stand. A page of zeros is a pair of new, empty streams.
    pub fn attach(memory: M) -> Result<Self, AttachError> {
        let size_bytes = memory.size_words() * WORD_SIZE;
        if size_bytes < Self::NEEDED_BYTES {
            return Err(AreaTooSmall { size_bytes, needed_bytes: Self::NEEDED_BYTES }.into());
        }
        let consumed = memory.load(E::RECEIVE.consumer / WORD_SIZE, Ordering::Relaxed);
        let produced = memory.load(E::SEND.producer / WORD_SIZE, Ordering::Relaxed);
        let ring = Self { memory, consumed, produced, end: PhantomData };
        ring.readable()?;
        ring.writable()?;
        Ok(ring)
    }

    /// How many bytes wait to be read.
    #[inline]
    pub fn readable(&self) -> Result<u32, Corrupt> {
        // Acquire: the bytes are read after the index that vouches for them.
        let found = self.memory.load(E::RECEIVE.producer / WORD_SIZE, Ordering::Acquire);
        let waiting = found.wrapping_sub(self.consumed);
        if waiting > E::RECEIVE.size {
            let (lowest, highest) = (self.consumed, self.consumed.wrapping_add(E::RECEIVE.size));
            return Err(Corrupt { index: PeerIndex::ByteProducer, found, lowest, highest });
        }
        Ok(waiting)
    }

    /// How many bytes there is room for.
    #[inline]
    pub fn writable(&self) -> Result<u32, Corrupt> {
        // Acquire: room is reused after the peer has read what was there.
        let found = self.memory.load(E::SEND.consumer / WORD_SIZE, Ordering::Acquire);
        let waiting = self.produced.wrapping_sub(found);
        if waiting > E::SEND.size {
            let (lowest, highest) = (self.produced.wrapping_sub(E::SEND.size), self.produced);
            return Err(Corrupt { index: PeerIndex::ByteConsumer, found, lowest, highest });
        }
        Ok(E::SEND.size - waiting)
    }

    /// Takes out as many bytes as there are and fit.
    pub fn read(&mut self, into: &mut [u8]) -> Result<Transfer, Corrupt> {
        let count = into.len().min(self.readable()? as usize);
        if count == 0 {
            return Ok(Transfer::of(0));
        }
        self.copy_out(&mut into[..count]);
        self.consumed = self.consumed.wrapping_add(count as u32);
        // Release: the bytes were read before the peer may reuse their room.
        self.memory.store(E::RECEIVE.consumer / WORD_SIZE, self.consumed, Ordering::Release);
        Ok(Transfer::of(count))
    }

    /// Puts in as many bytes as there is room for.
    pub fn write(&mut self, from: &[u8]) -> Result<Transfer, Corrupt> {
        let count = from.len().min(self.writable()? as usize);
        if count == 0 {
            return Ok(Transfer::of(0));
        }
        self.copy_in(&from[..count]);
        self.produced = self.produced.wrapping_add(count as u32);
        // Release: the bytes are seen before the index that vouches for them.
        self.memory.store(E::SEND.producer / WORD_SIZE, self.produced, Ordering::Release);
        Ok(Transfer::of(count))
    }

    /// The memory that the streams are in.
    pub fn memory(&self) -> &M {
        &self.memory
    }

    /// Gives the memory back.
    pub fn into_memory(self) -> M {
        self.memory
    }

    /// Starts over with empty streams: all four indexes are zero. The peer must not be using them.
    pub(crate) fn reset(&mut self) {
        (self.consumed, self.produced) = (0, 0);
        for stream in [E::RECEIVE, E::SEND] {
            self.memory.store(stream.consumer / WORD_SIZE, 0, Ordering::Relaxed);
            self.memory.store(stream.producer / WORD_SIZE, 0, Ordering::Relaxed);
        }
    }

    /// Copies bytes out from where we stand, reading each word of the buffer once.
    fn copy_out(&self, mut into: &mut [u8]) {
        let mut position = Position::of(E::RECEIVE, self.consumed);
        while !into.is_empty() {
            let count = position.bytes_left_in_word().min(into.len());
            let word = self.memory.load(position.word(), Ordering::Relaxed).to_ne_bytes();
            let (now, later) = into.split_at_mut(count);
            now.copy_from_slice(&word[position.within_word()..][..count]);
            position.advance(count);
            into = later;
        }
    }

    /// Copies bytes in from where we stand.
    ///
    /// A word of which only a part is ours to fill is read and written back. The other part is ours too:
    /// nobody but this end writes the buffer, so an honest peer sees no change there, and a peer that
    /// scribbled on it gets its own scribble back.
    fn copy_in(&self, mut from: &[u8]) {
        let mut position = Position::of(E::SEND, self.produced);
        while !from.is_empty() {
            let count = position.bytes_left_in_word().min(from.len());
            let (now, later) = from.split_at(count);
            let mut word = [0; WORD_SIZE];
            if count < WORD_SIZE {
                word = self.memory.load(position.word(), Ordering::Relaxed).to_ne_bytes();
            }
            word[position.within_word()..][..count].copy_from_slice(now);
            self.memory.store(position.word(), u32::from_ne_bytes(word), Ordering::Relaxed);
            position.advance(count);
            from = later;
        }
    }
}

/// A place in a stream's buffer.
struct Position {
    layout: StreamLayout,
    /// Bytes from the start of the buffer.
    offset: usize,
}

impl Position {
    /// Where the byte with this index lies.
    fn of(layout: StreamLayout, index: u32) -> Self {
        Self { layout, offset: (index % layout.size) as usize }
    }

    /// The word of the memory that holds this place.
    fn word(&self) -> usize {
        (self.layout.buffer + self.offset) / WORD_SIZE
    }

    /// Which byte of its word this is.
    fn within_word(&self) -> usize {
        self.offset % WORD_SIZE
    }

    /// Bytes from here to the end of the word.
    fn bytes_left_in_word(&self) -> usize {
        WORD_SIZE - self.within_word()
    }

    /// Goes on, no further than the end of the word, and from the buffer's end to its start.
    fn advance(&mut self, count: usize) {
        self.offset = (self.offset + count) % self.layout.size as usize;
    }
}

#[cfg(test)]
mod tests {
    use std::vec;
    use std::vec::Vec;

    use super::*;
    use crate::console::{BackEnd, ConsoleBack, ConsoleFront, FrontEnd};
    use crate::tests::{SharedPages, pages, peek, poke};

    /// The word of `in_prod`.
    const IN_PROD: usize = 769;
    /// The word of `out_cons`.
    const OUT_CONS: usize = 770;
    /// The word of `out_prod`.
    const OUT_PROD: usize = 771;

    /// Both ends of a console, and its memory.
    fn console() -> (ConsoleFront<SharedPages>, ConsoleBack<SharedPages>, SharedPages) {
        let page = pages(1);
        (ByteRing::attach(page.clone()).unwrap(), ByteRing::attach(page.clone()).unwrap(), page)
    }

    /// Writes what fits for sure.
    fn write_all<E: StreamEnd>(ring: &mut ByteRing<E, SharedPages>, text: &[u8]) {
        assert_eq!(ring.write(text).unwrap().count, text.len());
    }

    /// Reads this many bytes that are there.
    fn skip<E: StreamEnd>(ring: &mut ByteRing<E, SharedPages>, count: usize) {
        assert_eq!(ring.read(&mut vec![0; count]).unwrap().count, count);
    }

    /// Reads all there is, in pieces of this size.
    fn read_all<E: StreamEnd>(ring: &mut ByteRing<E, SharedPages>, piece: usize) -> Vec<u8> {
        let mut all = Vec::new();
        let mut buffer = vec![0; piece];
        loop {
            let count = ring.read(&mut buffer).unwrap().count;
            if count == 0 {
                return all;
            }
            all.extend_from_slice(&buffer[..count]);
        }
    }

    #[test]
    fn text_goes_both_ways() {
        let (mut front, mut back, _) = console();
        assert_eq!(front.write(b"login: "), Ok(Transfer { count: 7, notify: NotifyPeer::Yes }));
        assert_eq!(back.write(b"root\n"), Ok(Transfer { count: 5, notify: NotifyPeer::Yes }));
        assert_eq!(read_all(&mut back, 3), b"login: ");
        assert_eq!(read_all(&mut front, 100), b"root\n");
    }

    #[test]
    fn bytes_lie_where_the_header_file_says() {
        let (mut front, mut back, page) = console();
        write_all(&mut front, b"abcde");
        write_all(&mut back, b"z");
        assert_eq!(peek(&page, 256), u32::from_le_bytes(*b"abcd"));
        assert_eq!(peek(&page, 257), u32::from(b'e'));
        assert_eq!(peek(&page, 0), u32::from(b'z'));
        assert_eq!((peek(&page, OUT_PROD), peek(&page, IN_PROD)), (5, 1));
    }

    #[test]
    fn pieces_of_any_size_pass_the_end_of_the_buffer_unharmed() {
        let (mut front, mut back, _) = console();
        let text: Vec<u8> = (0..5000_u32).map(|byte| (byte % 251) as u8).collect();
        for write_size in 1..14 {
            for (number, piece) in text.chunks(write_size).enumerate() {
                write_all(&mut front, piece);
                assert_eq!(read_all(&mut back, number % 7 + 1), piece);
            }
        }
    }

    #[test]
    fn a_full_buffer_takes_what_fits_and_then_nothing() {
        let (mut front, mut back, _) = console();
        assert_eq!(front.write(&[1; 3000]).unwrap().count, 2048);
        assert_eq!(front.write(&[2; 10]), Ok(Transfer { count: 0, notify: NotifyPeer::No }));
        assert_eq!(back.read(&mut [0; 3]), Ok(Transfer { count: 3, notify: NotifyPeer::Yes }));
        assert_eq!(front.write(&[2; 10]).unwrap().count, 3);
        let left = read_all(&mut back, 4096);
        assert_eq!((&left[..2045], &left[2045..]), (&[1; 2045][..], &[2; 3][..]));
    }

    #[test]
    fn an_empty_stream_gives_nothing_and_wakes_nobody() {
        let (mut front, mut back, _) = console();
        let nothing = Ok(Transfer { count: 0, notify: NotifyPeer::No });
        assert_eq!(front.read(&mut [0; 10]), nothing);
        assert_eq!(front.write(b""), nothing);
        assert_eq!(back.read(&mut []), nothing);
    }

    #[test]
    fn more_bytes_than_the_buffer_holds_are_corrupt() {
        let (_, mut back, page) = console();
        poke(&page, OUT_PROD, 2048);
        assert_eq!(back.readable(), Ok(2048));
        poke(&page, OUT_PROD, 2049);
        let error = Corrupt { index: PeerIndex::ByteProducer, found: 2049, lowest: 0, highest: 2048 };
        assert_eq!(back.read(&mut [0; 10]), Err(error));
    }

    #[test]
    fn a_producer_that_goes_back_is_corrupt() {
        let (mut front, mut back, page) = console();
        write_all(&mut front, b"12345");
        assert_eq!(read_all(&mut back, 10).len(), 5);
        poke(&page, OUT_PROD, 4);
        let error = Corrupt { index: PeerIndex::ByteProducer, found: 4, lowest: 5, highest: 2053 };
        assert_eq!(back.readable(), Err(error));
    }

    #[test]
    fn a_consumer_ahead_of_the_producer_is_corrupt() {
        let (mut front, _, page) = console();
        write_all(&mut front, b"12345");
        poke(&page, OUT_CONS, 6);
        let lowest = 5_u32.wrapping_sub(2048);
        let error = Corrupt { index: PeerIndex::ByteConsumer, found: 6, lowest, highest: 5 };
        assert_eq!(front.write(b"6"), Err(error));
    }

    #[test]
    fn our_indexes_are_not_read_back() {
        let (mut front, mut back, page) = console();
        write_all(&mut front, b"12345");
        poke(&page, OUT_PROD, 1000);
        write_all(&mut front, b"67");
        assert_eq!(peek(&page, OUT_PROD), 7);
        skip(&mut back, 2);
        poke(&page, OUT_CONS, 1000);
        skip(&mut back, 2);
        assert_eq!(peek(&page, OUT_CONS), 4);
    }

    #[test]
    fn an_end_goes_on_where_the_one_before_it_stopped() {
        let (mut front, back, page) = console();
        write_all(&mut front, b"boot");
        drop((front, back));
        poke(&page, OUT_CONS, 1);
        let mut front = ByteRing::<FrontEnd, _>::attach(page.clone()).unwrap();
        let mut back = ByteRing::<BackEnd, _>::attach(page).unwrap();
        write_all(&mut front, b" on");
        assert_eq!(read_all(&mut back, 10), b"oot on");
    }

    #[test]
    fn indexes_may_wrap() {
        let page = pages(1);
        poke(&page, OUT_PROD, u32::MAX - 1);
        poke(&page, OUT_CONS, u32::MAX - 1);
        let mut front = ByteRing::<FrontEnd, _>::attach(page.clone()).unwrap();
        let mut back = ByteRing::<BackEnd, _>::attach(page.clone()).unwrap();
        write_all(&mut front, b"around");
        assert_eq!((read_all(&mut back, 4), peek(&page, OUT_PROD)), (b"around".to_vec(), 4));
    }

    #[test]
    fn a_page_that_makes_no_sense_is_not_joined() {
        let page = pages(1);
        poke(&page, IN_PROD, 1025);
        assert!(matches!(ConsoleFront::attach(page.clone()), Err(AttachError::Corrupt(_))));
        assert!(matches!(ConsoleBack::attach(page.clone()), Err(AttachError::Corrupt(_))));
        let error = AreaTooSmall { size_bytes: 3084, needed_bytes: 3088 };
        assert_eq!(ConsoleFront::attach(&page[..771]).unwrap_err(), AttachError::TooSmall(error));
    }
}
