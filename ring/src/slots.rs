//! What both halves share: where slots and indexes lie, and how a message is copied and published.

use core::marker::PhantomData;
use core::mem::{offset_of, size_of};
use core::sync::atomic::Ordering;

use hypercall_abi::io::ring::{SRING_HEADER_SIZE, SringHeader, ring_size};
use zerocopy::IntoBytes;

use crate::error::AreaTooSmall;
use crate::memory::{RingMemory, WORD_SIZE};
use crate::outcome::NotifyPeer;
use crate::protocol::{Message, Protocol};

/// Where one direction's indexes lie, in words.
#[derive(Clone, Copy)]
pub(crate) struct Direction {
    /// How many messages were published.
    pub producer: usize,
    /// When the reader of the messages wants an event.
    pub event: usize,
}

/// From the front end to the back end.
pub(crate) const REQUESTS: Direction = Direction {
    producer: offset_of!(SringHeader, req_prod) / WORD_SIZE,
    event: offset_of!(SringHeader, req_event) / WORD_SIZE,
};

/// From the back end to the front end.
pub(crate) const RESPONSES: Direction = Direction {
    producer: offset_of!(SringHeader, rsp_prod) / WORD_SIZE,
    event: offset_of!(SringHeader, rsp_event) / WORD_SIZE,
};

/// A slot, for its size only: as large as C makes a union of the two.
#[repr(C)]
union Slot<P: Protocol> {
    _request: P::Request,
    _response: P::Response,
}

/// The shared area of a ring, cut into slots.
#[derive(Debug)]
pub(crate) struct Slots<P: Protocol, M> {
    memory: M,
    /// Slots in the ring, a power of two.
    count: u32,
    protocol: PhantomData<fn() -> P>,
}

impl<P: Protocol, M: RingMemory> Slots<P, M> {
    /// Bytes from one slot to the next.
    const SLOT_SIZE: usize = {
        assert!(size_of::<P::Request>().is_multiple_of(WORD_SIZE), "a request must be whole words");
        assert!(size_of::<P::Response>().is_multiple_of(WORD_SIZE), "a response must be whole words");
        assert!(size_of::<Slot<P>>() > 0, "a slot must not be empty");
        size_of::<Slot<P>>()
    };

    /// Cuts `memory` into as many slots as Xen's macros would.
    pub fn new(memory: M) -> Result<Self, AreaTooSmall> {
        let size_bytes = memory.size_words() * WORD_SIZE;
        let count = ring_size(size_bytes, Self::SLOT_SIZE);
        if count == 0 {
            return Err(AreaTooSmall { size_bytes, needed_bytes: SRING_HEADER_SIZE + Self::SLOT_SIZE });
        }
        Ok(Self { memory, count, protocol: PhantomData })
    }

    /// Writes the header of an empty ring. Nobody else may be using the ring yet.
    pub fn initialise(&self) {
        self.memory.copy_in(0, SringHeader::INITIAL.as_bytes());
    }

    /// How many slots there are.
    #[inline]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// The slot, from 0 on, that the message with this index lies in.
    #[inline]
    pub fn slot_of(&self, index: u32) -> u32 {
        index & (self.count - 1)
    }

    /// The first word of the slot that the message with this index lies in.
    #[inline]
    fn first_word(&self, index: u32) -> usize {
        (SRING_HEADER_SIZE + self.slot_of(index) as usize * Self::SLOT_SIZE) / WORD_SIZE
    }

    /// Copies a message out, once.
    #[inline]
    pub fn read<T: Message>(&self, index: u32) -> T {
        let mut message = T::new_zeroed();
        self.memory.copy_out(self.first_word(index), message.as_mut_bytes());
        message
    }

    /// Copies what is in use of a request out, once; what `into` has behind that stays there.
    #[inline]
    pub fn read_request(&self, index: u32, into: &mut P::Request) {
        const { assert!(P::REQUEST_HEAD.is_multiple_of(WORD_SIZE)) };
        let first_word = self.first_word(index);
        self.memory.copy_out(first_word, &mut into.as_mut_bytes()[..P::REQUEST_HEAD]);
        let length = P::request_length(into).min(size_of::<P::Request>());
        if let Some(rest) = into.as_mut_bytes().get_mut(P::REQUEST_HEAD..length) {
            self.memory.copy_out(first_word + P::REQUEST_HEAD / WORD_SIZE, rest);
        }
    }

    /// Copies what is in use of a request in. The peer must not look at it before it is published.
    #[inline]
    pub fn write_request(&self, index: u32, request: &P::Request) {
        let length = P::request_length(request).min(size_of::<P::Request>());
        self.memory.copy_in(self.first_word(index), &request.as_bytes()[..length]);
    }

    /// Copies a message in. The peer must not look at it before it is published.
    #[inline]
    pub fn write<T: Message>(&self, index: u32, message: &T) {
        self.memory.copy_in(self.first_word(index), message.as_bytes());
    }

    /// How many messages the peer says it has published. Messages up to there may be read after this.
    #[inline]
    pub fn produced(&self, direction: Direction) -> u32 {
        // Acquire: the messages are read after the index that vouches for them.
        self.memory.load(direction.producer, Ordering::Acquire)
    }

    /// Publishes our messages up to `new`, `old` having been published before, and says whether the peer
    /// asked for an event in between.
    #[inline]
    pub fn publish(&self, direction: Direction, old: u32, new: u32) -> NotifyPeer {
        // Release: the messages are seen before the index that vouches for them.
        self.memory.store(direction.producer, new, Ordering::Release);
        // The index is seen before we look whether an event is wanted. The peer does the reverse: it asks
        // for an event and then looks at the index. So at least one of us sees what the other did.
        self.memory.full_fence();
        let event = self.memory.load(direction.event, Ordering::Relaxed);
        NotifyPeer::when(new.wrapping_sub(event) < new.wrapping_sub(old))
    }

    /// Asks for an event when the peer publishes the message before `event`. Look at the producer index
    /// once more after this, and before waiting.
    #[inline]
    pub fn ask_for_event(&self, direction: Direction, event: u32) {
        self.memory.store(direction.event, event, Ordering::Relaxed);
        // The counterpart of the fence in `publish`.
        self.memory.full_fence();
    }

    /// The memory itself.
    pub fn memory(&self) -> &M {
        &self.memory
    }

    /// Gives the memory back.
    pub fn into_memory(self) -> M {
        self.memory
    }
}
